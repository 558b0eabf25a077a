"""The Python API: `kedge.build`.

Owns the way from a program's words to a BuildRequest, and where the build runs: in this process if it may mount, else
in a child that holds a user namespace, since unshare(2) refuses a process with threads. Does not know how anything is
built.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from kedge.builder.request import BuildRequest, BuildResult, Output
from kedge.model.event import Event, Report, silent

if TYPE_CHECKING:
    from kedge.session.secrets import Secret


def build(
    context: str | os.PathLike[str] | BinaryIO | bytes | None = ".",
    *,
    dockerfile: str | os.PathLike[str] = "",
    dockerfile_text: str | bytes | None = None,
    target: str = "",
    tags: Sequence[str] = (),
    build_args: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    platforms: Sequence[str] = (),
    build_contexts: Mapping[str, str] | None = None,
    secrets: Mapping[str, bytes | str | os.PathLike[str]] | None = None,
    no_cache: bool = False,
    pull: bool = False,
    outputs: Sequence[Output] = (),
    store: str | os.PathLike[str] | None = None,
    on_event: Callable[[Event], None] | None = None,
    **other: Any,
) -> BuildResult:
    """Build an image; `docker build` as a function. Blocks until it is done.

    `context` is a directory, a git or http URL, a tar (a stream or bytes), or None for none. `secrets` maps ids to
    bytes or to a file's path. `on_event` is called for everything that happens, from several threads. `other` are
    further fields of `BuildRequest`. The result has `id`, `layers`, `size` and `warnings`.

    Raises KedgeError: StepFailed for a step that failed (`exit_code`, `tail`), DockerfileError and others with
    `location` (file and line) and `stage`.
    """
    request = BuildRequest(
        context=context if isinstance(context, (str, bytes)) or context is None else _context(context),
        dockerfile=os.fspath(dockerfile),
        dockerfile_text=dockerfile_text.encode() if isinstance(dockerfile_text, str) else dockerfile_text,
        target=target,
        tags=tuple(tags),
        build_args=_pairs(build_args),
        labels=_pairs(labels),
        platforms=tuple(platforms),
        named_contexts=_pairs(build_contexts),
        no_cache=no_cache,
        pull=pull,
        outputs=tuple(outputs),
        store=Path(store) if store is not None else None,
        **other,
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


def session_for(secrets: "Sequence[Secret]") -> Any:
    """What this process lends."""
    from kedge.session.credentials import DockerCredentials
    from kedge.session.local import LocalSession

    return LocalSession(secrets=secrets, credentials=DockerCredentials(), environ=os.environ)


def _context(context: Any) -> Any:
    return context if hasattr(context, "read") else Path(context)


def _pairs(mapping: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((mapping or {}).items()))


def _secret(id: str, value: bytes | str | os.PathLike[str]) -> "Secret":
    from kedge.session.secrets import Secret

    return Secret(id, data=value) if isinstance(value, bytes) else Secret(id, Path(value))
