"""From a container, its image and what was asked for to all that a start needs.

Owns the joining of these three. Does not start anything.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from kedge.containers import health
from kedge.containers.log import LogLimits
from kedge.containers.request import ContainerRequest, mounts_of, process_of, root_of
from kedge.containers.supervised import Launch, RestartPolicy, signal_number
from kedge.containers.volumes import Volumes, uses_of
from kedge.model.graph import Snapshot
from kedge.model.image import Healthcheck, ImageConfig
from kedge.model.value import dataclass, field
from kedge.sandbox.container import Container

if TYPE_CHECKING:
    from kedge.storage.store import Store


@dataclass(frozen=True, slots=True)
class Care:
    """What the service does for a container besides running it. Empty means what the image says."""

    once: bool = False  # its input ends with the first client's
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    health: Healthcheck | None = None
    log: LogLimits = field(default_factory=LogLimits)
    stop_signal: str = ""


def launch_of(
    store: "Store",
    container: Container,
    config: ImageConfig,
    snapshot: Snapshot,
    lowers: tuple[Path, ...],
    request: ContainerRequest,
    care: Care,
) -> Launch:
    """The start of a container. Raises InvalidInput, NotFound, StoreError."""
    process = process_of(store, snapshot, config, request, container.record.id[:12])
    uses = uses_of(container.home)
    mounts = (root_of(container, lowers, request.readonly), *mounts_of(request, uses, Volumes(store.root)))
    check = health.merged(care.health, config.healthcheck)
    return Launch(
        process,
        mounts,
        interactive=request.interactive,
        once=care.once,
        published=request.published if process.network == "private" else (),
        health=check,
        health_command=health.command_of(check, config.shell) if check else (),
        restart=care.restart,
        stop_signal=signal_number(care.stop_signal or config.stop_signal or "SIGTERM"),
        log=care.log,
    )
