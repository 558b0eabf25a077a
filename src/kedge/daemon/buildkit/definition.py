"""LLB definitions as graphs: strict reading of what anybody may send.

A definition is a list of marshalled ops; each is named by the SHA-256 of its bytes, and inputs name others so. The last
op has no meaning of its own, its only input is the edge wanted. Every field may be missing, negative, huge or point
nowhere: then InvalidInput is raised and nothing else happens (CVE-2024-23650, CVE-2026-15792).

Owns the order and the hints; `ops` knows each op's fields. `encode` is the way back.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from google.protobuf.message import DecodeError

from kedge.daemon.buildkit.encoding import encode_op
from kedge.daemon.buildkit.ops import name_of, output_count, read_op
from kedge.daemon.wire import errdefs, llb
from kedge.model.digest import Digest
from kedge.model.errors import InvalidInput, InvalidPlatform, Location, SourceFile
from kedge.model.graph import Edge, Hints, Vertex, walk
from kedge.model.platform import Platform, parse_platform
from kedge.model.value import dataclass, field

MOST_OPS: Final = 50_000
MOST_BYTES: Final = 64 << 20
_LONGEST_NAME: Final = 4096
_MOST_PLACES: Final = 20  # of one vertex


@dataclass(frozen=True, slots=True)
class Decoded:
    """A graph, and for each of its vertices (by our digest) the name that its sender knows it by.

    `places` are all that the sender tells of a location: errdefs.Source messages, of any language.
    """

    edge: Edge | None
    names: Mapping[Digest, str] = field(default_factory=dict)
    places: Mapping[Location, tuple[Any, ...]] = field(default_factory=dict)


def decode_bytes(data: bytes) -> Decoded:
    """The graph of a marshalled definition; raises InvalidInput."""
    if len(data) > MOST_BYTES:
        raise InvalidInput("invalid definition: it is too large")
    try:
        return decode(llb.Definition.FromString(data))
    except DecodeError:
        raise InvalidInput("invalid definition: it cannot be read") from None


def decode_edge(data: bytes) -> Edge:
    """The edge that a marshalled definition wants; raises InvalidInput, also for scratch."""
    edge = decode_bytes(data).edge
    if edge is None:
        raise InvalidInput("invalid definition: it is empty")
    return edge


def decode(definition: Any) -> Decoded:
    """The graph of a pb.Definition; `edge` is None for scratch. Raises InvalidInput."""
    if not definition.ByteSize():
        return Decoded(None)
    if len(_ops(definition)) > MOST_OPS:
        raise InvalidInput(f"invalid definition: it has more than {MOST_OPS} ops")
    if not _ops(definition):
        return Decoded(None)
    return _Decoder(definition).run()


def _ops(definition: Any) -> Sequence[bytes]:
    ops: Sequence[bytes] = getattr(definition, "def")  # a word of Python's own
    return ops


class _Decoder:
    def __init__(self, definition: Any) -> None:
        self._definition = definition
        self._ops: dict[str, Any] = {}
        self._vertices: dict[str, Vertex] = {}
        self._last = ""
        self._places: dict[Location, tuple[Any, ...]] = {}

    def run(self) -> Decoded:
        """Read all, then build from the sources up; a deep graph recurses nowhere."""
        for data in _ops(self._definition):
            self._last = "sha256:" + hashlib.sha256(data).hexdigest()
            try:
                self._ops[self._last] = llb.Op.FromString(data)
            except DecodeError:
                raise InvalidInput("invalid definition: an op cannot be read") from None
        last = self._ops[self._last]
        if last.WhichOneof("op") is not None or len(last.inputs) != 1:
            raise InvalidInput("invalid definition: the last op must be nothing but one input")
        self._visit(last.inputs[0].digest)
        edge = self._edge(last.inputs[0])
        return Decoded(edge, {vertex.digest: name for name, vertex in self._vertices.items()}, self._places)

    def _visit(self, top: str) -> None:
        stack: list[tuple[str, bool]] = [(top, False)]
        open_: set[str] = set()  # on the way from the top to here
        while stack:
            digest, expanded = stack.pop()
            if digest in self._vertices:
                continue
            if digest not in self._ops:
                raise InvalidInput(f"invalid definition: input {digest[:80]!r} is missing")
            if expanded:
                open_.discard(digest)
                self._vertices[digest] = self._vertex(digest)
                continue
            stack.append((digest, True))
            open_.add(digest)
            for below in {one.digest for one in self._ops[digest].inputs}:
                if below in open_:
                    raise InvalidInput("invalid definition: the graph has a cycle")
                stack.append((below, False))

    def _edge(self, told: Any) -> Edge:
        vertex = self._vertices.get(told.digest)
        if vertex is None:
            raise InvalidInput(f"invalid definition: input {told.digest[:80]!r} is missing")
        if not 0 <= told.index < output_count(vertex.op):
            raise InvalidInput(f"invalid definition: there is no output {told.index} of {vertex.hints.name[:80]!r}")
        return Edge(vertex, told.index)

    def _vertex(self, digest: str) -> Vertex:
        told = self._ops[digest]
        inputs = tuple(self._edge(one) for one in told.inputs)
        platform = read_platform(told.platform) if told.HasField("platform") else None
        op = read_op(told, len(inputs))
        return Vertex(op, inputs, platform, self._hints(digest, name_of(op, inputs)))

    def _hints(self, digest: str, default: str) -> Hints:
        if digest not in self._definition.metadata:
            return Hints(default, location=self._location(digest))
        told = self._definition.metadata[digest]
        name = (told.description.get("llb.customname") or default)[:_LONGEST_NAME]
        group = told.progress_group.id if told.HasField("progress_group") else ""
        return Hints(name, told.ignore_cache, group, self._location(digest), internal=name.startswith("[internal]"))

    def _location(self, digest: str) -> Location | None:
        source = self._definition.Source
        if digest not in source.locations:
            return None
        known = [
            (source.infos[one.sourceIndex], one.ranges)
            for one in source.locations[digest].locations
            if 0 <= one.sourceIndex < len(source.infos) and one.ranges
        ]
        if not known:
            return None
        info, ranges = known[0]
        text = info.data.decode("utf-8", "surrogateescape")
        lines = text.count("\n") + 1
        first = min(max(ranges[0].start.line, 1), lines)
        last = min(max(ranges[-1].end.line, first), lines)
        location = Location(SourceFile(info.filename[:1000] or "Dockerfile", text), first, last)
        told = tuple(errdefs.Source(info=info, ranges=ranges) for info, ranges in known[:_MOST_PLACES])
        self._places.setdefault(location, told)
        return location


def read_platform(told: Any) -> Platform | None:
    """A pb.Platform; None for an empty one. Raises InvalidInput."""
    if not told.OS and not told.Architecture:
        return None
    try:
        text = "/".join(part for part in (told.OS, told.Architecture, told.Variant) if part)
        platform = parse_platform(text)
    except InvalidPlatform as error:
        raise InvalidInput(f"invalid platform: {error.message}") from None
    return Platform(platform.os, platform.architecture, platform.variant, told.OSVersion[:100])


# ---- the way back ----------------------------------------------------------------------------------------------------


def encode(edge: Edge | None, names: dict[Digest, str] | None = None) -> Any:
    """The definition that stands for a graph. `names` takes what each vertex is called in it.

    Raises UnicodeEncodeError for a graph with bytes that are no text.
    """
    definition = llb.Definition()
    ops = getattr(definition, "def")
    if edge is None:
        return definition
    known: dict[Digest, str] = names if names is not None else {}
    files: dict[SourceFile, int] = {}
    for vertex in walk(edge):
        known[vertex.digest] = _add(definition, ops, vertex, known)
        if vertex.hints.location:
            _add_place(definition, known[vertex.digest], vertex.hints.location, files)
    last = llb.Op(inputs=[llb.Input(digest=known[edge.vertex.digest], index=edge.output)])
    data = last.SerializeToString(deterministic=True)
    ops.append(data)
    definition.metadata["sha256:" + hashlib.sha256(data).hexdigest()].SetInParent()
    return definition


def _add_place(definition: Any, name: str, place: Location, files: dict[SourceFile, int]) -> None:
    if place.file not in files:
        files[place.file] = len(files)
        data = place.file.text.encode("utf-8", "surrogateescape")
        definition.Source.infos.add(filename=place.file.name, data=data, language="Dockerfile")
    told = definition.Source.locations[name].locations.add(sourceIndex=files[place.file])
    told.ranges.add(start={"line": place.start}, end={"line": place.end})


def _add(definition: Any, ops: Any, vertex: Vertex, known: Mapping[Digest, str]) -> str:
    told = encode_op(vertex.op)
    for edge in vertex.inputs:
        told.inputs.add(digest=known[edge.vertex.digest], index=edge.output)
    if vertex.platform:
        told.platform.CopyFrom(platform_message(vertex.platform))
    data = told.SerializeToString(deterministic=True)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    ops.append(data)
    metadata = definition.metadata[digest]
    metadata.SetInParent()
    if vertex.hints.name:
        metadata.description["llb.customname"] = vertex.hints.name
    metadata.ignore_cache = vertex.hints.no_cache
    if vertex.hints.group:
        metadata.progress_group.id = vertex.hints.group
        metadata.progress_group.name = vertex.hints.group
    return digest


def platform_message(platform: Platform) -> Any:
    """A platform as a message."""
    return llb.Platform(
        OS=platform.os, Architecture=platform.architecture, Variant=platform.variant, OSVersion=platform.os_version
    )
