"""Which files of a tree a COPY means: one answer for the checksum that decides and the copy that follows.

Owns wildcards, the include, exclude and context filters, and the order (parents first, names sorted). Does not read
content. A directory that no filter chose is met only right before something chosen below it, as `parent_only`.
"""

import os
import posixpath
import stat
from collections.abc import Iterator

from kedge.kernel import paths
from kedge.model.errors import Excluded, KedgeError, NotFound, SourceError
from kedge.model.patterns import Patterns, glob_match
from kedge.model.suggest import nearest
from kedge.model.value import dataclass
from kedge.storage.tree import Tree

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Found:
    """One file met on a walk.

    `path` is relative to the walk's start ("" for itself), `real` to the tree's root. `directory_fd` holds it as
    `name`; the descriptor is only valid until the next step.
    """

    path: str
    real: str
    status: os.stat_result
    directory_fd: int
    name: str
    parent_only: bool = False


def clean(path: str) -> str:
    """`path` as an absolute path without `.`, `..` and empty parts."""
    return posixpath.normpath("/" + path.lstrip("/"))


def has_wildcards(text: str) -> bool:
    """Does Go's filepath.Match treat any character of it as special, an escaped one aside?"""
    escaped = False
    for character in text:
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character in "*?[":
            return True
    return False


def expand(tree: Tree, pattern: str, follow: bool) -> list[str]:
    """The paths that `pattern` matches, sorted; without wildcards in it, just itself.

    The part before the first wildcard is resolved through symlinks (its last one only if `follow`); below it no
    symlink is followed, and each `*` stays within a directory.
    """
    parts = [part for part in clean(pattern).split("/") if part]
    first = next((index for index, part in enumerate(parts) if has_wildcards(part)), None)
    if first is None:
        return ["/" + "/".join(parts)]
    try:
        start = paths.resolve_in_root(tree.fd, "/".join(parts[:first]), follow_last=follow)
        fd = paths.open_in_root(tree.fd, start, _DIRECTORY)
    except OSError:
        return []
    try:
        return _matches(tree, fd, start.rstrip("/"), parts[first:])
    finally:
        os.close(fd)


def _matches(tree: Tree, fd: int, above: str, parts: list[str]) -> list[str]:
    found: list[str] = []
    for name in sorted(os.listdir(fd)):
        path = f"{above}/{name}"
        if not glob_match(parts[0], name) or is_left_out(tree, path):
            continue
        if len(parts) == 1:
            found.append(path)
            continue
        try:
            below = os.open(name, _DIRECTORY, dir_fd=fd)
        except OSError:
            continue  # no directory
        try:
            found += _matches(tree, below, path, parts[1:])
        finally:
            os.close(below)
    return found


def is_left_out(tree: Tree, real: str) -> bool:
    """Whether the context's filter hides a path altogether: itself and all that might be below it."""
    relative = real.strip("/")
    if tree.patterns is None or not relative or not tree.patterns.matches(relative):
        return False
    return not tree.patterns.may_match_below(relative)


def locate(tree: Tree, path: str, follow: bool) -> str:
    """`path` with its parents (and with `follow`, itself) resolved in the tree. Raises NotFound, with the reason."""
    try:
        real = paths.resolve_in_root(tree.fd, path, follow_last=follow)
        os.close(paths.open_in_root(tree.fd, real, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError as error:
        raise _not_there(tree, path, error) from None
    if is_left_out(tree, real):
        raise missing(tree, real)
    return real


def _not_there(tree: Tree, path: str, error: OSError) -> KedgeError:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return missing(tree, path)
    return SourceError(f"cannot open {path}: {error.strerror}")


def missing(tree: Tree, path: str) -> NotFound:
    """The error for a path that is not there, or hidden: then with the pattern that hides it."""
    relative = path.strip("/")
    if isinstance(tree.patterns, Patterns) and relative and tree.patterns.matches(relative):
        return Excluded(f"{path}: not found", tree.patterns.deciding(relative) or "")
    return NotFound(f"{path}: not found", hint=_advice(tree, path))


def _advice(tree: Tree, path: str) -> str:
    """What a missing path may have meant: the link that led astray, or a name beside it."""
    at = ""
    for name in path.strip("/").split("/"):
        try:
            parent = paths.open_in_root(tree.fd, at or "/", _DIRECTORY & ~os.O_NOFOLLOW)
        except OSError:
            return ""
        try:
            beside = os.listdir(parent)
            if name not in beside:
                shown = [one for one in sorted(beside) if not is_left_out(tree, f"{at}/{one}")]
                found = nearest(name, shown)
                return f"Did you mean {at}/{found}?" if found else ""
            target = os.readlink(name, dir_fd=parent) if _is_link(name, parent) else ""
        finally:
            os.close(parent)
        at = f"{at}/{name}"
        if target and not _leads_somewhere(tree, at):
            return f"{at} is a link to {target}, which is looked for in the same tree only, never outside of it."
    return ""


def _is_link(name: str, directory_fd: int) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=directory_fd, follow_symlinks=False).st_mode)


def _leads_somewhere(tree: Tree, path: str) -> bool:
    try:
        os.close(paths.open_in_root(tree.fd, path, os.O_PATH | os.O_CLOEXEC))
    except OSError:
        return False
    return True


class Filters:
    """The include and exclude patterns of a COPY, relative to what it copies."""

    def __init__(self, include: tuple[str, ...], exclude: tuple[str, ...]) -> None:
        self._include = Patterns(include) if include else None
        self._exclude = Patterns(exclude) if exclude else None
        self.choose_all = self._include is None and self._exclude is None
        self._prefixes = [_literal_prefix(pattern) for pattern in include if not pattern.startswith("!")]

    def chooses(self, path: str) -> bool:
        """Is the file, or directory itself, meant?"""
        if self._include is not None and not self._include.matches(path):
            return False
        return self._exclude is None or not self._exclude.matches(path)

    def may_choose_below(self, path: str) -> bool:
        """Can anything below the directory be meant?"""
        if self._exclude is not None and self._exclude.matches(path) and not self._exclude.may_match_below(path):
            return False
        if self._include is None or self._include.matches(path):
            return True
        return any(_on_one_line(path, prefix) for prefix in self._prefixes)


def _literal_prefix(pattern: str) -> str:
    parts: list[str] = []
    for part in clean(pattern).strip("/").split("/"):
        if has_wildcards(part) or "\\" in part:
            break
        parts.append(part)
    return "/".join(parts)


def _on_one_line(path: str, prefix: str) -> bool:
    """Whether one of the two is the other or above it."""
    return not prefix or path == prefix or path.startswith(prefix + "/") or prefix.startswith(path + "/")


@dataclass(slots=True)
class _Level:
    """A directory on the way down: its descriptor, the names left in it (last one first), itself until it is met."""

    fd: int
    prefix: str
    real: str
    names: list[str]
    pending: Found | None


def walk(tree: Tree, real: str, filters: Filters) -> Iterator[Found]:
    """What is chosen of the file or directory at `real` (as `locate` gives it) and below, parents first.

    Raises SourceError for what cannot be read.
    """
    above, _, name = real.rpartition("/")
    levels: list[_Level] = []
    everything = tree.patterns is None and filters.choose_all
    try:
        try:
            fd = paths.open_in_root(tree.fd, above or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            levels.append(_Level(fd, "", "", [], None))
            start = Found("", real, os.stat(name or ".", dir_fd=fd, follow_symlinks=False), fd, name or ".")
            start.parent_only = _hidden(tree, real)
            yield from _visit(levels, start, not start.parent_only)
            while len(levels) > 1:
                level = levels[-1]
                if level.names and everything and level.pending is None:
                    yield from _files(levels, level, tree.in_place)
                elif level.names:
                    yield from _step(tree, filters, levels, level, level.names.pop())
                else:
                    os.close(levels.pop().fd)
        except OSError as error:
            raise SourceError(f"cannot read {error.filename or real}: {error.strerror}") from error
    finally:
        for level in levels:
            os.close(level.fd)


def _step(tree: Tree, filters: Filters, levels: list[_Level], level: _Level, name: str) -> Iterator[Found]:
    path, real = level.prefix + name, f"{level.real}/{name}"
    hidden = _hidden(tree, real)
    chosen = not hidden and filters.chooses(path)
    if not chosen and ((hidden and is_left_out(tree, real)) or not filters.may_choose_below(path)):
        return  # not even looked at where nothing below can matter: the client may not be allowed to
    status = _status(name, level.fd, tree.in_place)
    if status and (chosen or stat.S_ISDIR(status.st_mode)):
        yield from _visit(levels, Found(path, real, status, level.fd, name, not chosen), chosen)


def _status(name: str, fd: int, in_place: bool) -> os.stat_result | None:
    """None for a name that a merged tree lists and has not: a whiteout of what no layer below has (a diff's)."""
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        if in_place:
            raise
        return None


def _files(levels: list[_Level], level: _Level, in_place: bool) -> Iterator[Found]:
    """`_step` over names where no filter says anything, until a directory was met: most files of most trees."""
    names, prefix, real, fd = level.names, level.prefix, level.real, level.fd
    while names:
        name = names.pop()
        status = _status(name, fd, in_place)
        if status is None:
            continue
        found = Found(prefix + name, f"{real}/{name}", status, fd, name)
        if stat.S_ISDIR(found.status.st_mode):
            yield from _visit(levels, found, True)
            return
        yield found


def _visit(levels: list[_Level], found: Found, chosen: bool) -> Iterator[Found]:
    """Meet `found` if chosen, after the parents that were waiting; go down into it if it is a directory."""
    if chosen:
        for level in levels:
            if level.pending is not None:
                yield level.pending
                level.pending = None
        yield found
    if stat.S_ISDIR(found.status.st_mode):
        fd = os.open(found.name, _DIRECTORY, dir_fd=found.directory_fd)
        prefix = found.path + "/" if found.path else ""
        levels.append(_Level(fd, prefix, found.real.rstrip("/"), [], None if chosen else found))
        levels[-1].names = sorted(os.listdir(fd), reverse=True)


def _hidden(tree: Tree, real: str) -> bool:
    relative = real.strip("/")
    return tree.patterns is not None and bool(relative) and tree.patterns.matches(relative)
