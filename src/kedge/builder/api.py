"""The Python API: `kedge.build`.

Owns the way from a program's words to a BuildRequest, and where the build runs: in this process if it may mount, else
in a child that holds a user namespace, since unshare(2) refuses a process with threads. Does not know how anything is
built.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, TypeAlias

from kedge.builder.request import BuildRequest, BuildResult, CacheSpec, Output
from kedge.model.event import Event, Report, silent
from kedge.model.ops import Pairs, Ulimit

if TYPE_CHECKING:
    from kedge.session.secrets import Secret
    from kedge.session.session import Session

Texts: TypeAlias = Mapping[str, str] | None  # None: none
AnyPath: TypeAlias = str | os.PathLike[str]


def build(
    context: AnyPath | BinaryIO | bytes | None = ".",
    *,
    # ---- what is built
    dockerfile: AnyPath = "",
    dockerfile_text: str | bytes | None = None,
    target: str = "",
    build_args: Texts = None,
    build_contexts: Texts = None,
    platforms: Sequence[str] = (),
    multi_platform: bool = False,
    source_date_epoch: int | None = None,
    # ---- what it becomes
    tags: Sequence[str] = (),
    labels: Texts = None,
    annotations: Texts = None,
    attestations: Texts = None,
    outputs: Sequence[Output] = (),
    call: Literal["build", "check", "outline", "targets", "lint"] = "build",
    # ---- what is used of earlier builds
    no_cache: bool = False,
    no_cache_filter: Sequence[str] = (),
    pull: bool = False,
    cache_from: Sequence[CacheSpec] = (),
    cache_to: Sequence[CacheSpec] = (),
    cache_mount_from: Sequence[CacheSpec] = (),
    cache_mount_to: Sequence[CacheSpec] = (),
    store: AnyPath | None = None,
    # ---- what steps get
    secrets: Mapping[str, bytes | AnyPath] | None = None,
    entitlements: Sequence[str] = (),
    network: Literal["", "default", "none", "host"] = "",
    add_hosts: Texts = None,
    hostname: str = "",
    env: Texts = None,
    memory: int = 0,
    cpus: float = 0.0,
    shm_size: int = 0,
    ulimits: Mapping[str, tuple[int, int]] | None = None,
    cgroup_parent: str = "",
    max_parallelism: int = 0,
    # ---- how it is told
    on_event: Callable[[Event], None] | None = None,
) -> BuildResult:
    """Build an image; `docker build` as a function. Blocks until it is done.

    What is built: `context` is a directory, a git or http URL, a tar (a stream or bytes), or None for none;
    `dockerfile` a path, as given or in the context; `dockerfile_text` replaces it. `target` names a stage, the last one
    by default. `build_args` are the stages' arguments; `build_contexts` map names to directories, URLs,
    `docker-image://` or `oci-layout://` references. `platforms` as `linux/arm64`; `multi_platform` makes an index even
    of one. `source_date_epoch`, in seconds, is the time of all that has one.

    What it becomes: `outputs` say where it goes, the store by default, under `tags`. `attestations` maps `provenance`
    and `sbom` to their attributes (`mode=max`). Another `call` than `build` makes nothing: see `answer` of the result.

    What is used of earlier builds: nothing with `no_cache`, nothing of the stages in `no_cache_filter`. `pull` asks for
    the newest base images. `cache_mount_…` carry the directories of `RUN --mount=type=cache`. `store` is the store's
    directory, KEDGE_ROOT or the user's own by default.

    What steps get: `secrets` maps ids to bytes or to a file's path. `entitlements` grants `network.host`,
    `security.insecure` or `device`. `add_hosts` maps names to addresses. The proxies in `env` reach steps. `memory` and
    `shm_size` in bytes and `cpus`, for each step; `ulimits` maps names (`nofile`) to soft and hard limits.
    `max_parallelism` steps run at once. Zeros mean no limit.

    `on_event` is called for everything that happens, from several threads. The result has `id`, `layers`, `size` and
    `warnings`.

    Raises KedgeError: StepFailed for a step that failed (`exit_code`, `tail`), DockerfileError and others with
    `location` (file and line) and `stage`.
    """
    request = BuildRequest(
        context=_context(context),
        dockerfile=os.fspath(dockerfile),
        dockerfile_text=dockerfile_text.encode() if isinstance(dockerfile_text, str) else dockerfile_text,
        target=target,
        tags=tuple(tags),
        build_args=_pairs(build_args),
        labels=_pairs(labels),
        annotations=_pairs(annotations),
        platforms=tuple(platforms),
        named_contexts=_pairs(build_contexts),
        no_cache=no_cache,
        no_cache_filter=tuple(no_cache_filter),
        pull=pull,
        network=network,
        add_hosts=_pairs(add_hosts),
        shm_size=shm_size,
        ulimits=tuple(Ulimit(name, soft, hard) for name, (soft, hard) in sorted((ulimits or {}).items())),
        memory=memory,
        cpus=cpus,
        cgroup_parent=cgroup_parent,
        hostname=hostname,
        multi_platform=multi_platform,
        outputs=tuple(outputs),
        cache_from=tuple(cache_from),
        cache_to=tuple(cache_to),
        cache_mount_from=tuple(cache_mount_from),
        cache_mount_to=tuple(cache_mount_to),
        attestations=_pairs(attestations),
        entitlements=tuple(entitlements),
        call=call,
        source_date_epoch=source_date_epoch,
        max_parallelism=max_parallelism,
        store=Path(store) if store is not None else None,
        env=_pairs(env),
    )
    return run(request, [_secret(id, value) for id, value in (secrets or {}).items()], on_event or silent)


def run(request: BuildRequest, secrets: "Sequence[Secret]", report: Report) -> BuildResult:
    """Build in this process, or in a child with a user namespace if this one may not mount."""
    from kedge.kernel.identity import can_mount

    if can_mount():
        from kedge.builder.course import build as build_here

        return build_here(request, session_for(secrets), report)
    from kedge.builder.child import build_in_child

    return build_in_child(request, secrets, report)


def session_for(secrets: "Sequence[Secret]") -> "Session":
    """What this process lends."""
    from kedge.session.credentials import DockerCredentials
    from kedge.session.local import LocalSession

    return LocalSession(secrets=secrets, credentials=DockerCredentials(), environ=os.environ)


def _context(context: AnyPath | BinaryIO | bytes | None) -> Path | str | BinaryIO | bytes | None:
    return Path(context) if isinstance(context, os.PathLike) else context


def _pairs(mapping: Texts) -> Pairs:
    return tuple(sorted((mapping or {}).items()))


def _secret(id: str, value: bytes | AnyPath) -> "Secret":
    from kedge.session.secrets import Secret

    return Secret(id, data=value) if isinstance(value, bytes) else Secret(id, Path(value))
