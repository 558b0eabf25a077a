"""What a client is told when it makes a container: what is not granted, and what will not be as it expects.

Owns these texts. Does not know how anything is done.
"""

from typing import TYPE_CHECKING

from kedge.containers.request import ContainerRequest, network_of
from kedge.kernel.identity import has_capability
from kedge.model.errors import InvalidInput, Unsupported
from kedge.model.value import replace
from kedge.sandbox import cgroups
from kedge.sandbox.network import has_way_out
from kedge.sandbox.process import Limits

if TYPE_CHECKING:
    from kedge.daemon.engine.service import Engine


def allowed(engine: "Engine", request: ContainerRequest) -> None:
    """Raises Unsupported for rights that this service does not grant, InvalidInput for those it has not itself."""
    if request.privileged and "security.insecure" not in engine.granted:
        raise Unsupported(
            "privileged containers are not allowed by this service",
            hint="Start it with `kedge serve --allow security.insecure`, or add single capabilities with --cap-add",
        )
    for name in sorted(request.capabilities or ()):
        if not has_capability(name):
            raise InvalidInput(f"the capability {name.upper()} cannot be added: this service has not got it itself")


def granted_limits(request: ContainerRequest) -> ContainerRequest:
    """The request without limits that cannot be had here: its client was told when it made the container."""
    discarded = request.limits != Limits() and cgroups.why_not(request.limits)
    return replace(request, limits=Limits()) if discarded else request


def warnings_of(request: ContainerRequest) -> list[str]:
    """Warnings of the answer to create."""
    found = []
    if request.limits != Limits() and (why := cgroups.why_not(request.limits)):
        found.append(f"Your machine does not let Kedge limit resources. Limits are discarded: {why}")
    if network_of(request) == "private" and not has_way_out():
        what = "published ports" if request.published else "network rights"
        found.append(f"For its {what} the container has a network of its own, which has no way out of this machine")
    return found
