"""`docker cp`, `docker export`: a container's files as tar archives.

Owns the status header and Go's file modes. How files are reached safely is in `kedge.containers.files`.
"""

import base64
import json
import os
import posixpath
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kedge.containers.files import PathStatus, changed_paths, opened_root, pack, status, unpack_into
from kedge.containers.supervised import Supervised
from kedge.containers.volumes import uses_of
from kedge.daemon.engine.containers import described, known, layers_of
from kedge.daemon.engine.describe import moment
from kedge.daemon.engine.routes import Call
from kedge.daemon.engine.transfers import Outgoing
from kedge.model.errors import InvalidInput

_GO_TYPES = {  # io/fs.FileMode
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFBLK: 1 << 26,
}
_GO_BITS = {stat.S_ISUID: 1 << 23, stat.S_ISGID: 1 << 22, stat.S_ISVTX: 1 << 20}


@contextmanager
def _root(call: Call, one: Supervised) -> Iterator[int]:
    """The container's root, kept as it is (running or not) while the context lasts."""
    if one.running:
        with opened_root(one.container, (), one.pidfd) as root:
            yield root
        return
    with one.busy, call.engine.store() as store:
        _, _, lowers = layers_of(store, one)
        with opened_root(one.container, lowers) as root:
            yield root


@contextmanager
def _place(call: Call, one: Supervised) -> Iterator[tuple[int, str, str]]:
    """A root, the path in it that the client means, and what that is called where the path does not say it.

    Of a container that does not run, volumes are roots of their own.
    """
    path = call.query("path")
    if not path:
        raise InvalidInput("bad parameter: 'path' cannot be empty")
    clean = posixpath.normpath("/" + path.lstrip("/"))
    uses = [] if one.running else [u for u in uses_of(one.container.home) if f"{clean}/".startswith(f"{u.dest}/")]
    if not uses:
        with _root(call, one) as root:
            yield root, path, ""
        return
    use = max(uses, key=lambda each: len(each.dest))
    root = os.open(call.engine.supervisor.volumes.get(use.name).path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        end = "/." if path.endswith("/.") else "/" if path.endswith("/") else ""
        called = posixpath.basename(clean) if clean == use.dest and end != "/." else ""
        yield root, posixpath.join("/", use.subpath, clean[len(use.dest) :].lstrip("/")) + end, called
    finally:
        os.close(root)


def stat_path(call: Call) -> None:
    with _place(call, known(call)) as (root, path, called):
        found = status(root, path, called)
    call.exchange.send(200, headers=[_status_header(found)])


def get_archive(call: Call) -> None:
    with _place(call, known(call)) as (root, path, called):
        call.exchange.begin(200, "application/x-tar", [_status_header(status(root, path, called))])
        out: Any = Outgoing(call.exchange, "")
        pack(root, path, out, called=called)
    call.exchange.end()


def put_archive(call: Call) -> None:
    one = known(call)
    stream: Any = call.exchange
    if described(one).request.readonly:
        raise InvalidInput("container rootfs is marked read-only")
    with _place(call, one) as (root, path, _):
        unpack_into(root, path, stream)
    call.exchange.send(200)


def export(call: Call) -> None:
    with _root(call, known(call)) as root:
        out: Any = Outgoing(call.exchange, "application/octet-stream")
        pack(root, "/", out, one_file_system=True)
    call.exchange.end()


def changes(call: Call) -> None:
    """What the container wrote, by its upper directory: added and changed are told apart by the image's layers."""
    one = known(call)
    with call.engine.store() as store:
        _, _, lowers = layers_of(store, one)
    found = [{"Path": path, "Kind": kind} for path, kind in changed_paths(one.container.upper, lowers)]
    call.exchange.json(200, found or None)


def _status_header(found: PathStatus) -> tuple[str, str]:
    value = {
        "name": found.name,
        "size": found.size,
        "mode": go_mode(found.mode),
        "mtime": moment(found.mtime / 1e9),
        "linkTarget": found.link,
    }
    return "X-Docker-Container-Path-Stat", base64.b64encode(json.dumps(value).encode()).decode()


def go_mode(mode: int) -> int:
    """A mode of stat(2) as Go's FileMode."""
    bits = sum(ours for theirs, ours in _GO_BITS.items() if mode & theirs)
    return (mode & 0o777) | _GO_TYPES.get(stat.S_IFMT(mode), 0) | bits
