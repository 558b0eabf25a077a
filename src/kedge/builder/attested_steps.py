"""The steps of a build as provenance tells them: BuildKit's build definition, as the JSON that its readers parse.

Owns which of a graph's facts are told, and how: ops under the names of solver/pb/ops.proto, places in the Dockerfile,
and which layers a step's result has. Untold are contents of files, which may be large, and what is this machine's own
(proxies, addresses of hosts). Does not know what is kept secret: the predicate's maker redacts.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kedge.model import ops
from kedge.model.graph import Edge, Vertex, walk
from kedge.model.image import Descriptor
from kedge.model.ops import NO_INPUT
from kedge.model.platform import Platform
from kedge.model.value import dataclass

_KINDS = {"bind": 0, "secret": 1, "ssh": 2, "cache": 3, "tmpfs": 4}
_NETWORKS = {"sandbox": 0, "host": 1, "none": 2}
_SHARING = {"shared": 0, "private": 1, "locked": 2}
_OF_A_SESSION = ("local.session", "local.unique", "local.sharedkeyhint")


@dataclass(frozen=True, slots=True)
class Steps:
    """A graph's steps, inputs first; `ids` names each vertex. The last step only says which result is the build's."""

    told: tuple[Mapping[str, Any], ...]
    ids: Mapping[Vertex, str]

    @property
    def digests(self) -> dict[str, str]:
        """The steps by their vertices' digests, as the build's events have them."""
        return {vertex.digest: id for vertex, id in self.ids.items()}

    def locations(self) -> dict[str, Any]:
        """Which lines of the Dockerfile each step is from; those that are from none are told, too."""
        return {id: {"locations": _ranges(vertex)} if vertex.hints.location else {} for vertex, id in self.ids.items()}


def steps_of(edge: Edge) -> Steps:
    """The steps of what `edge` needs."""
    ids = {vertex: f"step{number}" for number, vertex in enumerate(walk(edge))}
    told = [_step(id, vertex, ids) for vertex, id in ids.items()]
    last = {"id": f"step{len(told)}", "op": {"op": {}}, "inputs": [f"{ids[edge.vertex]}:{edge.output}"]}
    return Steps((*told, last), ids)


def lent_to(vertices: Iterable[Vertex], kind: str) -> tuple[tuple[str, bool], ...]:
    """The secrets or agents (`kind` is secret or ssh) that steps ask for: id, and whether all can do without it."""
    found: dict[str, bool] = {}
    for op in (vertex.op for vertex in vertices if isinstance(vertex.op, ops.Exec)):
        uses = [
            (one.id, one.optional) for mount in op.mounts if (one := mount.secret if kind == "secret" else mount.ssh)
        ]
        uses += [(one.id, one.optional) for one in op.secret_env if kind == "secret"]
        for id, optional in uses:
            found[id] = found.get(id, True) and optional
    return tuple(sorted(found.items()))


def file_of(vertices: Iterable[Vertex]) -> tuple[str, bytes] | None:
    """Name and text of the file that steps say they are from."""
    place = next((vertex.hints.location for vertex in vertices if vertex.hints.location), None)
    return (place.file.name, place.file.text.encode("utf-8", "surrogateescape")) if place else None


def layers_of(
    edge: Edge, ids: Mapping[Vertex, str], layers: Sequence[Descriptor]
) -> tuple[tuple[str, tuple[Descriptor, ...]], ...]:
    """The layers of the results that the final image consists of, by `step:output`."""
    found: dict[str, tuple[Descriptor, ...]] = {}
    left = tuple(layers)
    current: Edge | None = edge
    while current is not None and left:
        vertex = current.vertex
        found[f"{ids[vertex]}:{current.output}"] = left
        below, added = _below(vertex)
        left, current = left[: len(left) - added], below
    return tuple(sorted(found.items()))


def _below(vertex: Vertex) -> tuple[Edge | None, int]:
    """What a step's result is on top of, and how many layers it adds."""
    op = vertex.op
    if isinstance(op, ops.Exec):
        return _input(vertex, op.root.input), 1
    if isinstance(op, ops.File) and op.actions:
        return _input(vertex, op.actions[0].input), 1
    if isinstance(op, ops.Merge) and op.inputs:
        return _input(vertex, op.inputs[0]), len(op.inputs) - 1
    return None, 0


def _input(vertex: Vertex, index: int) -> Edge | None:
    return vertex.inputs[index] if 0 <= index < len(vertex.inputs) else None


def _ranges(vertex: Vertex) -> list[dict[str, Any]]:
    location = vertex.hints.location
    assert location
    lines = range(location.start, location.end + 1)
    return [{"ranges": [{"start": {"line": line}, "end": {"line": line}} for line in lines]}]


def _step(id: str, vertex: Vertex, ids: Mapping[Vertex, str]) -> dict[str, Any]:
    op: dict[str, Any] = {"op": dict(_op(vertex.op))}
    if vertex.platform:
        op["platform"] = _platform(vertex.platform)
    return {
        "id": id,
        "name": vertex.hints.name,
        "op": op,
        "inputs": [f"{ids[edge.vertex]}:{edge.output}" for edge in vertex.inputs],
    }


def _platform(platform: Platform) -> dict[str, str]:
    return _without_empty(
        OS=platform.os, Architecture=platform.architecture, Variant=platform.variant, OSVersion=platform.os_version
    )


def _without_empty(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value not in ("", None, (), [], {}, 0, False)}


def _op(op: ops.Op) -> Iterator[tuple[str, Any]]:
    if isinstance(op, ops.Source):
        attrs = {key: value for key, value in op.attrs if key not in _OF_A_SESSION}
        yield "source", _without_empty(identifier=op.identifier, attrs=attrs)
    elif isinstance(op, ops.Exec):
        yield "exec", _exec(op)
    elif isinstance(op, ops.File):
        yield "file", {"actions": [_action(action) for action in op.actions]}
    elif isinstance(op, ops.Merge):
        yield "merge", {"inputs": [{"input": index} for index in op.inputs]}
    elif isinstance(op, ops.Diff):
        yield "diff", {"lower": {"input": op.lower}, "upper": {"input": op.upper}}
    elif isinstance(op, ops.Build):
        yield "build", {"builder": -1, "attrs": dict(op.attrs)}


def _exec(op: ops.Exec) -> dict[str, Any]:
    meta = _without_empty(
        args=list(op.args),
        env=list(op.env),
        cwd=op.cwd,
        user=op.user,
        hostname=op.hostname,
        cgroupParent=op.cgroup_parent,
        ulimit=[{"Name": one.name, "Soft": one.soft, "Hard": one.hard} for one in op.ulimits],
    )
    return _without_empty(
        meta=meta,
        mounts=[_mount(mount) for mount in op.mounts],
        network=_NETWORKS[op.network],
        security=int(op.security == "insecure"),
        secretenv=[_without_empty(ID=one.id, name=one.name, optional=one.optional) for one in op.secret_env],
        cdiDevices=[_without_empty(name=name, optional=optional) for name, optional in op.devices],
    )


def _mount(mount: ops.Mount) -> dict[str, Any]:
    told = {"input": mount.input, "dest": mount.dest, "output": mount.output}
    told |= _without_empty(selector=mount.selector, readonly=mount.readonly, mountType=_KINDS[mount.kind])
    if mount.cache:
        told["cacheOpt"] = _without_empty(ID=mount.cache.id, sharing=_SHARING[mount.cache.sharing])
    if mount.secret:
        told["secretOpt"] = _without_empty(ID=mount.secret.id, optional=mount.secret.optional)
    if mount.ssh:
        told["SSHOpt"] = _without_empty(ID=mount.ssh.id, optional=mount.ssh.optional)
    return told


def _action(action: ops.Action) -> dict[str, Any]:
    secondary = action.secondary if isinstance(action, ops.Copy) else NO_INPUT
    told = {"input": action.input, "secondaryInput": secondary, "output": action.output}
    return told | {"action": dict(_change(action))}


def _change(action: ops.Action) -> Iterator[tuple[str, Any]]:
    if isinstance(action, ops.Copy):
        yield (
            "copy",
            _without_empty(
                src=action.src,
                dest=action.dest,
                mode=action.mode,
                modeStr=action.mode_text,
                followSymlink=action.follow_symlinks,
                dirCopyContents=action.contents_only,
                attemptUnpackDockerCompatibility=action.unpack,
                createDestPath=action.create_dest_path,
                allowWildcard=action.wildcard,
                allowEmptyWildcard=action.allow_empty_wildcard,
                include_patterns=list(action.include),
                exclude_patterns=list(action.exclude),
                required_paths=list(action.required_paths),
                alwaysReplaceExistingDestPaths=action.always_replace,
                timestamp=action.timestamp,
            ),
        )
    elif isinstance(action, ops.MakeFile):
        yield "mkfile", {"path": action.path, "mode": action.mode, "timestamp": action.timestamp}
    elif isinstance(action, ops.MakeDir):
        made = _without_empty(path=action.path, makeParents=action.parents)
        yield "mkdir", made | {"mode": action.mode, "timestamp": action.timestamp}
    elif isinstance(action, ops.Remove):
        told = _without_empty(path=action.path, allowNotFound=action.allow_not_found, allowWildcard=action.wildcard)
        yield "rm", told
    elif isinstance(action, ops.Symlink):
        yield "symlink", {"oldpath": action.target, "newpath": action.path}
