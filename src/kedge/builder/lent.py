"""A build's definition out of directories that a remote client lends: only what is needed of them is asked for.

Owns which files that is, as BuildKit's frontend/dockerui asks for them. Does not know how a session brings them.
"""

import os
from pathlib import Path

from kedge.builder.definition import (
    IGNORE_FILE,
    LARGEST_DOCKERFILE,
    LARGEST_IGNORE_FILE,
    Definition,
    Found,
    decode_found,
    decode_ignore_file,
    read_inside,
)
from kedge.builder.parts import Parts
from kedge.builder.steps import step
from kedge.model.errors import NotFound
from kedge.session.session import Wanted


def load_lent(parts: Parts) -> Definition:
    """The Dockerfile and the ignore file of a context that the session lends. Raises KedgeError."""
    name = parts.remote.context_lent
    found, own_ignore = _dockerfile(parts)
    if not name:
        return Definition(decode_found(found), found.name)
    with step(parts.report, parts.trunk.cancel, f"[internal] load {IGNORE_FILE}") as work:
        shown, data = found.name + IGNORE_FILE, own_ignore
        if data is None:
            shown, data = IGNORE_FILE, lent_ignore_file(parts, name, f"{name}-{IGNORE_FILE}")
        work.status("transferring context:", len(data), len(data), done=True)
    return Definition(decode_found(found), found.name, decode_ignore_file(shown, data))


def _dockerfile(parts: Parts) -> tuple[Found, bytes | None]:
    request = parts.request
    name = request.dockerfile or "Dockerfile"
    follow = [name, name + IGNORE_FILE]
    if os.path.basename(name) == "Dockerfile":
        follow.append(os.path.join(os.path.dirname(name), "dockerfile"))
    with step(parts.report, parts.trunk.cancel, f"[internal] load build definition from {name}") as work:
        if request.dockerfile_text is not None:
            return Found(name, request.dockerfile_text), None
        lent = parts.remote.dockerfile_lent
        folder = parts.session.directory(lent, Wanted(follow=tuple(follow), hint=lent))
        for candidate in follow[:1] + follow[2:]:
            data = read_inside(folder, candidate, LARGEST_DOCKERFILE)
            if data is not None:
                work.status("transferring dockerfile:", len(data), len(data), done=True)
                ignore = read_inside(folder, name + IGNORE_FILE, LARGEST_IGNORE_FILE)
                return Found(name, data), ignore
        raise NotFound(f"failed to read dockerfile: open {name}: no such file or directory")


def lent_ignore_file(parts: Parts, name: str, hint: str) -> bytes:
    """The ignore file of a lent directory; empty when there is none."""
    try:
        folder: Path = parts.session.directory(name, Wanted(follow=(IGNORE_FILE,), hint=hint))
        return read_inside(folder, IGNORE_FILE, LARGEST_IGNORE_FILE) or b""
    except NotFound:
        return b""  # a directory that is not lent matters only if something is taken from it
