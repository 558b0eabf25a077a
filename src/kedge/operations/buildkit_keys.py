"""The cache keys BuildKit gives the vertices of a graph: what a cache that travels is looked up by.

Owns their making: Go's JSON of each op as BuildKit's CacheMap writes it (solver/llbsolver/ops), digests of selectors
and of a key's output. Kedge's own keys are made elsewhere and do not depend on these. Knows no store.
"""

import base64
import hashlib
import posixpath
from collections.abc import Iterable, Sequence
from typing import Any

from kedge.model.digest import Digest
from kedge.model.graph import Vertex
from kedge.model.ops import (
    NO_INPUT,
    NO_OUTPUT,
    Copy,
    Diff,
    Exec,
    File,
    MakeDir,
    MakeFile,
    Merge,
    Mount,
    Owner,
    Remove,
    Symlink,
)
from kedge.model.platform import Platform, normalize
from kedge.model.value import dataclass
from kedge.storage.contenthash import ContentSelector
from kedge.storage.copy_selection import has_wildcards

SOURCE_KEY = "buildkit.source.v0:"
CONTENT = -1  # the "output" of a record that stands for content


@dataclass(frozen=True, slots=True)
class Dependency:
    """How one input counts: by key under a `selector` (may be empty), or where `content` is not None, by that too."""

    selector: str = ""
    content: tuple[ContentSelector, ...] | None = None


@dataclass(frozen=True, slots=True)
class BuildkitKey:
    """What a vertex is known by there: any of `digests`. None for what is known by its files only, a client's."""

    digests: tuple[Digest, ...]
    inputs: tuple[Dependency, ...] = ()
    outputs: int = 1

    def records(self, output: int) -> list[Digest]:
        """The digests of the records for one output."""
        return [record_digest(digest, output) for digest in self.digests]


def record_digest(digest: Digest, output: int) -> Digest:
    """The digest that a record carries: of a key and an output, or of content (`CONTENT`)."""
    return _sha(f"{digest}@{output}".encode())


def source_key(names: Sequence[str]) -> BuildkitKey:
    """The key of a source that BuildKit's own source calls by any of these names."""
    return BuildkitKey(tuple(_sha((SOURCE_KEY + name).encode()) for name in names))


def buildkit_key(vertex: Vertex, host: Platform) -> BuildkitKey | None:
    """The key of a vertex that is no source; None for a kind whose key cannot be made here."""
    op, count = vertex.op, len(vertex.inputs)
    match op:
        case Exec():
            return _exec_key(op, vertex.platform or host, count)
        case File():
            return _file_key(op, count)
        case Merge():
            inputs = [_fields(("input", index)) for index in op.inputs]
            body = _object([("Type", go_json("buildkit.merge.v0")), ("Merge", _object([("inputs", _array(inputs))]))])
            return BuildkitKey((_sha(body.encode()),), (Dependency(),) * count)
        case Diff():
            sides = _object([("lower", _fields(("input", op.lower))), ("upper", _fields(("input", op.upper)))])
            body = _object([("Type", go_json("buildkit.diff.v0")), ("Diff", sides)])
            return BuildkitKey((_sha(body.encode()),), (Dependency(),) * count)
        case _:
            return None


# ---- exec ------------------------------------------------------------------------------------------------------------

_KINDS = {"bind": 0, "secret": 1, "ssh": 2, "cache": 3, "tmpfs": 4}
_SHARING = {"shared": 0, "private": 1, "locked": 2}
_NETWORKS = {"sandbox": 0, "host": 1, "none": 2}


def _exec_key(op: Exec, platform: Platform, count: int) -> BuildkitKey:
    normal = normalize(platform.os, platform.architecture, platform.variant)
    parts = [("Type", go_json("buildkit.exec.v0")), ("Exec", _exec(op))]
    parts += [("OS", go_json(normal.os)), ("Arch", go_json(normal.architecture))]
    parts += [("Variant", go_json(normal.variant))] if normal.variant else []
    inputs = tuple(_exec_input(op, index) for index in range(count))
    outputs = sum(mount.output >= 0 for mount in op.mounts)
    return BuildkitKey((_sha(_object(parts).encode()),), inputs, max(outputs, 1))


def _exec(op: Exec) -> str:
    codes = [] if op.valid_exit_codes in ((0,), ()) else list(op.valid_exit_codes)
    meta = _fields(
        ("args", op.args), ("env", op.env), ("cwd", op.cwd), ("user", op.user),
        ("extraHosts", _raw(_array(_fields(("Host", name)) for name, _ in op.extra_hosts), op.extra_hosts)),
        ("hostname", op.hostname),
        ("ulimit", _raw(_array(_fields(("Name", u.name), ("Soft", u.soft), ("Hard", u.hard)) for u in op.ulimits),
                        op.ulimits)),
        ("cgroupParent", op.cgroup_parent), ("removeMountStubsRecursive", True), ("validExitCodes", codes),
    )  # fmt: skip
    mounts = list(op.mounts)
    if op.shm_size:
        from kedge.model.ops import TmpfsOptions

        mounts.append(Mount("/dev/shm", kind="tmpfs", tmpfs=TmpfsOptions(op.shm_size)))
    plain = len(mounts) == 1 and mounts[0].dest == "/" and mounts[0].kind == "bind" and not mounts[0].readonly
    secrets = [_fields(("ID", s.id), ("name", s.name), ("optional", s.optional)) for s in op.secret_env]
    devices = [_fields(("name", name), ("optional", optional)) for name, optional in op.devices]
    return _fields(
        ("meta", _Raw(meta)),
        ("mounts", None if plain else _Raw(_array(map(_mount, mounts)))),
        ("network", _NETWORKS[op.network]),
        ("security", int(op.security == "insecure")),
        ("secretenv", _raw(_array(secrets), secrets)),
        ("cdiDevices", _raw(_array(devices), devices)),
    )


def _mount(mount: Mount) -> str:
    lent = mount.kind in ("secret", "ssh")
    file = mount.secret or mount.ssh
    given = file and _Raw(
        _fields(("ID", file.id), ("uid", file.uid), ("gid", file.gid), ("mode", file.mode), ("optional", file.optional))
    )
    size = _Raw(_fields(("size", mount.tmpfs.size if mount.tmpfs else 0)))
    return _fields(
        ("input", mount.input), ("dest", mount.dest), ("output", 0 if lent else mount.output),
        ("readonly", mount.readonly), ("mountType", _KINDS[mount.kind]),
        ("TmpfsOpt", size if mount.kind == "tmpfs" else None),
        ("cacheOpt", _Raw(_cache(mount)) if mount.cache else None),
        ("secretOpt", given if mount.kind == "secret" else None), ("SSHOpt", given if mount.kind == "ssh" else None),
    )  # fmt: skip


def _cache(mount: Mount) -> str:
    """Only the id a Dockerfile gives by itself, the mount's own place, is part of the key."""
    assert mount.cache
    own = mount.cache.id == mount.dest or mount.cache.id.partition("/")[2:] == (mount.dest,)
    return _fields(("ID", mount.cache.id)) if own and mount.cache.sharing == "shared" else "{}"


def _exec_input(op: Exec, index: int) -> Dependency:
    mounts = [m for m in op.mounts if m.input == index and m.kind not in ("secret", "ssh", "tmpfs")]
    paths = [posixpath.join("/", mount.selector) for mount in mounts]
    paths = [posixpath.normpath(path) for path in paths]
    if not paths:
        return Dependency()
    content: tuple[ContentSelector, ...] | None = None
    last = mounts[-1]
    if last.dest != "/" and (last.output == NO_OUTPUT or last.readonly or paths[-1] == "/"):
        chosen = _outermost(paths)
        content = () if "/" in chosen else tuple(ContentSelector(path, follow=True) for path in chosen)
    return Dependency(_sha("\0".join(paths).encode()), content)


def _outermost(paths: Iterable[str]) -> list[str]:
    """The paths that are not below another one, sorted."""
    paths = list(paths)
    if len(paths) <= 1:
        return paths
    every = set(paths)
    return sorted(
        path for path in every if not any(path != other and path.startswith(other.rstrip("/") + "/") for other in every)
    )


# ---- file ------------------------------------------------------------------------------------------------------------


def _file_key(op: File, count: int) -> BuildkitKey:
    chosen: dict[int, list[ContentSelector]] = {}
    by_key: set[int] = set()
    actions, indexes = [], []
    for action in op.actions:
        by_key.add(action.input)
        owner = None if isinstance(action, Remove) else action.owner
        if not isinstance(action, Symlink):
            _add_owner(owner, chosen)
        secondary = action.secondary if isinstance(action, Copy) else NO_INPUT
        actions.append(_action(action, count, chosen))
        indexes.append([action.input, secondary, action.output])
    body = [
        ("Type", go_json("buildkit.file.v0")),
        ("Actions", _array(go_json(base64.b64encode(a.encode()).decode()) for a in actions)),
    ]
    if not _usual(indexes):
        body.append(("indexes", _array(_array(map(str, row)) for row in indexes)))
    inputs = tuple(_file_input(chosen.get(i), i in by_key) for i in range(count))
    outputs = sum(action.output >= 0 for action in op.actions)
    return BuildkitKey((_sha(_object(body).encode()),), inputs, max(outputs, 1))


def _file_input(selectors: list[ContentSelector] | None, by_key: bool) -> Dependency:
    if selectors is None or by_key:
        return Dependency()
    paths = sorted((s.path.encode("utf-8", "surrogateescape") for s in selectors), reverse=True)
    return Dependency(_sha(b"\0".join(paths)), tuple(_distinct(selectors)))


def _distinct(selectors: list[ContentSelector]) -> list[ContentSelector]:
    plain = [s for s in selectors if not s.filtered]
    out = [ContentSelector(path) for path in _deduplicated([s.path for s in plain if not s.follow])]
    out += [ContentSelector(path, follow=True) for path in _deduplicated([s.path for s in plain if s.follow])]
    out += [s for s in selectors if s.filtered]
    return sorted(out, key=lambda s: s.path.encode("utf-8", "surrogateescape"))


def _deduplicated(paths: list[str]) -> list[str]:
    return _outermost(paths) if len(paths) > 1 else paths


def _add_owner(owner: Owner | None, chosen: dict[int, list[ContentSelector]]) -> None:
    if owner is None:
        return
    for part, file in ((owner.user, "/etc/passwd"), (owner.group, "/etc/group")):
        if isinstance(part, str):
            chosen.setdefault(owner.input, []).append(ContentSelector(file, follow=True))


def _action(action: Any, count: int, chosen: dict[int, list[ContentSelector]]) -> str:
    match action:
        case Copy():
            return _copy(action, count, chosen)
        case MakeFile():
            data = base64.b64encode(action.data).decode()
            return _fields(("path", action.path), ("mode", action.mode), ("data", data),
                           ("owner", _owner(action.owner)), ("timestamp", action.timestamp))  # fmt: skip
        case MakeDir():
            return _fields(("path", action.path), ("mode", action.mode), ("makeParents", action.parents),
                           ("owner", _owner(action.owner)), ("timestamp", action.timestamp))  # fmt: skip
        case Symlink():
            return _fields(("oldpath", action.target), ("newpath", action.path),
                           ("owner", _owner(action.owner)), ("timestamp", action.timestamp))  # fmt: skip
        case _:
            return _fields(
                ("path", action.path), ("allowNotFound", action.allow_not_found), ("allowWildcard", action.wildcard)
            )


def _copy(action: Copy, count: int, chosen: dict[int, list[ContentSelector]]) -> str:
    src = action.src
    if 0 <= action.secondary < count:
        wildcard = action.wildcard and has_wildcards(src)
        chosen.setdefault(action.secondary, []).append(
            ContentSelector(
                src, wildcard, action.follow_symlinks, action.include, action.exclude, action.required_paths
            )
        )
        src = posixpath.basename(src.rstrip("/")) or ("/" if src else ".")
    return _fields(
        ("src", src), ("dest", action.dest), ("owner", _owner(action.owner)), ("mode", action.mode),
        ("followSymlink", action.follow_symlinks), ("dirCopyContents", action.contents_only),
        ("attemptUnpackDockerCompatibility", action.unpack), ("createDestPath", action.create_dest_path),
        ("allowWildcard", action.wildcard), ("allowEmptyWildcard", action.allow_empty_wildcard),
        ("timestamp", action.timestamp), ("include_patterns", action.include), ("exclude_patterns", action.exclude),
        ("alwaysReplaceExistingDestPaths", action.always_replace), ("modeStr", action.mode_text),
        ("required_paths", action.required_paths),
    )  # fmt: skip


def _owner(owner: Owner | None) -> "_Raw | None":
    if owner is None:
        return None

    def part(value: int | str | None) -> "_Raw | None":
        if value is None:
            return None
        if isinstance(value, str):
            named = _Raw(_fields(("name", value), ("input", owner.input)))
            return _Raw(_object([("User", _fields(("byName", named)))]))
        return _Raw(_object([("User", _fields(("byId", value)))]))

    return _Raw(_fields(("user", part(owner.user)), ("group", part(owner.group))))


def _usual(indexes: list[list[int]]) -> bool:
    """The pattern of indexes that old versions of BuildKit did not hash, and none may since."""
    last = len(indexes) - 1
    for number, (first, second, output) in enumerate(indexes):
        if first != (0 if number == 0 else len(indexes) + number - 1) or second not in (-1, 1):
            return False
        if output != (0 if number == last else -1):
            return False
    return bool(indexes)


# ---- Go's JSON -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Raw:
    """JSON text to be put in as it is."""

    text: str


def _raw(text: str, there: Sequence[Any]) -> _Raw | None:
    return _Raw(text) if there else None


def _fields(*pairs: tuple[str, Any]) -> str:
    """An object of the fields that are not empty, in order: Go's `omitempty`."""
    return _object([(name, _value(value)) for name, value in pairs if _is_there(value)])


def _is_there(value: Any) -> bool:
    return value is not None and value is not False and value not in (0, "", (), [])


def _value(value: Any) -> str:
    if isinstance(value, _Raw):
        return value.text
    if isinstance(value, bool):
        return "true"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return go_json(value)
    return _array(map(_value, value))


def _object(pairs: Iterable[tuple[str, str]]) -> str:
    return "{" + ",".join(f"{go_json(name)}:{value}" for name, value in pairs) + "}"


def _array(values: Iterable[str]) -> str:
    return "[" + ",".join(values) + "]"


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def go_json(text: str) -> str:
    """A string as Go's encoding/json writes it: `<`, `>`, `&` and the line separators escaped, bad UTF-8 replaced."""
    out = []
    for character in text:
        code = ord(character)
        if character in _ESCAPES:
            out.append(_ESCAPES[character])
        elif code < 0x20 or character in "<>&\u2028\u2029":
            out.append(f"\\u{code:04x}")
        elif 0xD800 <= code <= 0xDFFF:
            out.append("\\ufffd")
        else:
            out.append(character)
    return '"' + "".join(out) + '"'


def _sha(data: bytes) -> Digest:
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())
