"""What files of a tree hold, as BuildKit digests it: so that a cache key made there is met here.

Owns BuildKit's content checksum (cache/contenthash: a tar header in the old tarsum form, then the content; directories
over their sorted entries). Kedge's own keys use `checksum`, which is faster; this is for caches that travel only.
"""

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence

from kedge.model.digest import Digest
from kedge.model.errors import NotFound, SourceError
from kedge.model.patterns import Patterns, glob_match
from kedge.model.value import dataclass
from kedge.storage import ownership
from kedge.storage.copy_metadata import read_metadata
from kedge.storage.copy_selection import Filters, Found, clean, has_wildcards, locate, walk
from kedge.storage.tree import Tree

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TYPES = {stat.S_IFREG: "0", stat.S_IFLNK: "2", stat.S_IFCHR: "3", stat.S_IFBLK: "4", stat.S_IFDIR: "5",
          stat.S_IFIFO: "6", stat.S_IFSOCK: "0"}  # fmt: skip
_EMPTY = hashlib.sha256().digest().hex()


@dataclass(frozen=True, slots=True)
class ContentSelector:
    """Files of an input that decide, as BuildKit's opsutils.Selector."""

    path: str = ""
    wildcard: bool = False
    follow: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    required: tuple[str, ...] = ()

    @property
    def filtered(self) -> bool:
        return self.wildcard or bool(self.include) or bool(self.exclude)


def content_digest(tree: Tree, selectors: Sequence[ContentSelector]) -> Digest:
    """The digest of all selected files. Raises NotFound for what is not there, SourceError for what cannot be read."""
    digests = [_selected(tree, selector) for selector in selectors or (ContentSelector(),)]
    return Digest("sha256:" + hashlib.sha256(b"\0".join(digest.encode() for digest in digests)).hexdigest())


def _selected(tree: Tree, selector: ContentSelector) -> str:
    path = clean(selector.path)
    if not selector.filtered:
        return _whole(tree, locate(tree, path, selector.follow))
    entries = list(_included(tree, path, selector))
    for needed in selector.required:
        if not any(name.startswith(needed) for name, _ in entries):
            raise NotFound(f"{needed}: not found")
    if not entries:
        return "sha256:" + _EMPTY
    if len(entries) == 1 and os.path.basename(path) == os.path.basename(entries[0][0]):
        return entries[0][1]
    start = _literal_start(path) if selector.wildcard else path
    hashed = hashlib.sha256()
    for name, digest in entries:
        trimmed = name.removeprefix("" if start == "/" else start)
        hashed.update(_key(trimmed) or b"\0")
        hashed.update(digest.encode())
    return "sha256:" + hashed.hexdigest()


# ---- whole files and directories -------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Open:
    """A directory whose entries are being met."""

    path: str
    hashed: "hashlib._Hash"


def _whole(tree: Tree, real: str) -> str:
    """The digest of the file or directory at `real`, in one walk: a directory is finished when something beside it is
    met.
    """
    stack: list[_Open] = []
    result = ""

    def close(path: str) -> None:
        nonlocal result
        while stack and not (path.startswith(stack[-1].path + "/") or (stack[-1].path == "" and path)):
            done = stack.pop()
            digest = "sha256:" + done.hashed.hexdigest()
            if stack:
                stack[-1].hashed.update(_key("/" + done.path.rpartition("/")[2]) + digest.encode())
            else:
                result = digest

    for found in walk(tree, real, Filters((), ())):
        close(found.path)
        header = _header_of(tree, found)
        if stat.S_ISDIR(found.status.st_mode):
            entry = _Open(found.path, hashlib.sha256())
            entry.hashed.update(b"\0" + header.encode())
            stack.append(entry)
        elif stack:
            stack[-1].hashed.update(_key("/" + found.path.rpartition("/")[2]) + header.encode())
        else:
            return header
    close("")
    while stack:  # the start itself
        done = stack.pop()
        result = "sha256:" + done.hashed.hexdigest()
        if stack:
            stack[-1].hashed.update(_key("/" + done.path.rpartition("/")[2]) + result.encode())
    return result


def _header_of(tree: Tree, found: Found) -> str:
    """The digest of one file; the root of a client's directory has none of its own."""
    if tree.in_place and found.real.strip("/") == "":
        return "sha256:" + _EMPTY
    return file_digest(found, tree.in_place)


def file_digest(found: Found, in_place: bool) -> str:
    """Header and content of a single file, or a directory's header."""
    status, mode = found.status, found.status.st_mode
    meta = read_metadata(found.directory_fd, found.name, status, in_place, ownership.policy())
    link = os.readlink(found.name, dir_fd=found.directory_fd) if stat.S_ISLNK(mode) else ""
    permissions = 0o777 if stat.S_ISLNK(mode) else mode & 0o7777
    size = status.st_size if stat.S_ISREG(mode) else 0
    fields = [
        "name", "mode", str(permissions), "uid", str(meta.uid), "gid", str(meta.gid), "size", str(size),
        "typeflag", _TYPES[stat.S_IFMT(mode)], "linkname", link, "uname", "gname", "devmajor", "0", "devminor", "0",
    ]  # fmt: skip
    hashed = hashlib.sha256("".join(fields).encode("utf-8", "surrogateescape"))
    for key, value in meta.xattrs:
        if key == "security.capability" or not key.startswith(("security.", "system.")):
            hashed.update(key.encode("utf-8", "surrogateescape") + value)
    if size:
        _feed(found, hashed)
    return "sha256:" + hashed.hexdigest()


def _feed(found: Found, hashed: "hashlib._Hash") -> None:
    try:
        fd = os.open(found.name, _READ, dir_fd=found.directory_fd)
        try:
            while chunk := os.read(fd, 1 << 20):
                hashed.update(chunk)
        finally:
            os.close(fd)
    except OSError as error:
        raise SourceError(f"cannot read {found.real}: {error.strerror}") from error


def _key(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape").replace(b"/", b"\0")


# ---- wildcards, include and exclude ----------------------------------------------------------------------------------


def _literal_start(path: str) -> str:
    """The path before the first part with a wildcard."""
    parts: list[str] = []
    for part in path.strip("/").split("/"):
        if has_wildcards(part):
            break
        parts.append(part)
    return "/" + "/".join(parts)


def _included(tree: Tree, path: str, selector: ContentSelector) -> Iterator[tuple[str, str]]:
    """(path as it was asked for, digest) of every file meant and of every directory above one."""
    start = _literal_start(path) if selector.wildcard else path
    shown = "" if start == "/" else start
    try:
        real = locate(tree, start, selector.follow and selector.wildcard)
    except NotFound:
        return
    include = Patterns(selector.include) if selector.include else None
    exclude = Patterns(selector.exclude) if selector.exclude else None
    matched = ""
    waiting: list[tuple[str, str]] = []  # directories above, not yet told
    above: list[str] = []
    for found in walk(tree, real, Filters((), ())):
        name = f"{shown}/{found.path}" if found.path else shown
        directory = stat.S_ISDIR(found.status.st_mode)
        if directory and not found.path and (selector.wildcard or path == "/") and shown == "":
            continue  # the root's own metadata does not count
        if selector.wildcard:
            if not (matched and name.startswith(matched + "/")):
                if not glob_match(path, name):
                    continue
                matched = name
            candidate = name.removeprefix(matched).lstrip("/")
        else:
            candidate = name.removeprefix(shown).lstrip("/")
        while above and not name.startswith(above[-1] + "/"):
            gone = above.pop()
            if waiting and waiting[-1][0] == gone:
                waiting.pop()
        follows = not above and selector.follow and stat.S_ISLNK(found.status.st_mode)
        chosen = (include is None or include.matches(candidate)) and (exclude is None or not exclude.matches(candidate))
        if not chosen and not directory:
            continue
        digest = _whole(tree, locate(tree, found.real, True)) if follows else _header_of(tree, found)
        if directory:
            above.append(name)
            waiting.append((name, digest))
            if not chosen:
                continue
            yield from waiting
            waiting.clear()
        else:
            yield from waiting
            waiting.clear()
            yield name, digest
