"""The codec between LLB definitions and graphs: nothing that anybody sends may do more than be refused."""

import contextlib
import hashlib
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kedge.daemon.buildkit.attributes import read_attributes
from kedge.daemon.buildkit.definition import decode, decode_bytes, encode
from kedge.daemon.buildkit.filters import read_filters
from kedge.daemon.buildkit.ops import read_op
from kedge.daemon.buildkit.usage import FIELDS
from kedge.daemon.wire import llb
from kedge.model import ops
from kedge.model.errors import InvalidInput, KedgeError, Unsupported
from kedge.model.graph import Edge, Hints, Vertex, walk
from kedge.model.platform import Platform

REFUSALS = (InvalidInput, Unsupported)


def definition_of(*operations, last=None):
    """Ops in order, and a last one that wants the final op's output."""
    definition = llb.Definition()
    digest = ""
    for op in operations:
        data = op.SerializeToString()
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        getattr(definition, "def").append(data)
    getattr(definition, "def").append((last or llb.Op(inputs=[llb.Input(digest=digest)])).SerializeToString())
    return definition


def name_of(op):
    return "sha256:" + hashlib.sha256(op.SerializeToString()).hexdigest()


def everything():
    """A graph with all seven ops and every field of them set."""
    image = Vertex(
        ops.Source("docker-image://docker.io/library/a:1", (("image.resolvemode", "pull"),)),
        platform=Platform("linux", "arm64"),
    )
    local = Vertex(ops.Source("local://context", (("local.followpaths", '["a"]'),)), hints=Hints("[internal] load"))
    step = ops.Exec(
        ("/bin/sh", "-c", "true"),
        (
            ops.Mount("/", 0, 0),
            ops.Mount("/ro", 1, -1, "sub", True, by_content=True),
            ops.Mount("/cache", kind="cache", cache=ops.CacheOptions("id", "locked")),
            ops.Mount("/tmpfs", kind="tmpfs", tmpfs=ops.TmpfsOptions(1 << 20)),
            ops.Mount("/run/secrets/s", kind="secret", secret=ops.SecretOptions("s", 1, 2, 0o440, True)),
            ops.Mount("/run/ssh", kind="ssh", ssh=ops.SshOptions("default", 1, 2, 0o600, True)),
            ops.Mount("/out", output=1),
        ),
        ("A=b", "C="),
        "/w",
        "me:us",
        "host",
        "none",
        "sandbox",
        (("HTTP_PROXY", "p"), ("http_proxy", "p")),
        (("name", "127.0.0.1"),),
        (ops.Ulimit("nofile", 1, 2),),
        "group",
        secret_env=(ops.SecretEnv("s", "S", True),),
        devices=(("vendor.com/gpu=0", True),),
        valid_exit_codes=(0, 3),
    )
    run = Vertex(step, (Edge(image), Edge(local)), Platform("linux", "arm64"), Hints("RUN true", True, "g"))
    file = ops.File(
        (
            ops.MakeDir("/d", 0o755, True, 0, -1, ops.Owner("u", 7, 0), 5),
            ops.MakeFile("/d/f", b"\0data", 0o644, 2, -1, ops.Owner(1, 2), 6),
            ops.Copy("/src*", "/dst", 3, 1, -1, None, 0o700, "", True, True, True, True, True, True, ("i",), ("e",),
                     ("r",), True, 7),
            ops.Symlink("/t", "/l", 4, -1, None, 8),
            ops.Remove("/x", True, True, 5, 0),
        )
    )  # fmt: skip
    files = Vertex(file, (Edge(run), Edge(local)))
    diff = Vertex(ops.Diff(0, 1), (Edge(image), Edge(files)))
    merge = Vertex(ops.Merge((0, 1)), (Edge(diff), Edge(run, 1)))
    nested = Vertex(ops.Build(0, (("llbbuild.filename", "x"),)), (Edge(merge),))
    return Edge(Vertex(ops.Passthrough((0, 1)), (Edge(nested), Edge(files))), 1)


def test_every_field_of_every_op_survives_the_way_there_and_back():
    edge = everything()
    names = {}
    decoded = decode(encode(edge, names))
    assert decoded.edge == edge
    assert {decoded.names[vertex.digest] for vertex in walk(edge)} == set(names.values())
    hints = {vertex.digest: vertex.hints for vertex in walk(decoded.edge)}
    assert all(hints[vertex.digest].no_cache == vertex.hints.no_cache for vertex in walk(edge))


def test_an_empty_definition_is_scratch():
    assert decode(llb.Definition()).edge is None


def test_a_deep_graph_recurses_nowhere():
    edge = Edge(Vertex(ops.File((ops.MakeDir("/0", 0o755, input=-1),))))
    for number in range(1, 5000):
        edge = Edge(Vertex(ops.File((ops.MakeDir(f"/{number}", 0o755),)), (edge,)))
    assert decode(encode(edge)).edge == edge


def test_a_wide_graph_of_shared_inputs_takes_linear_time():
    edge = Edge(Vertex(ops.Source("docker-image://a")))
    for _ in range(200):  # 2**200 paths
        edge = Edge(Vertex(ops.Merge((0, 1)), (edge, edge)))
    assert decode(encode(edge)).edge == edge


def test_a_missing_input_is_refused():
    op = llb.Op(inputs=[llb.Input(digest="sha256:" + "0" * 64)])
    op.merge.SetInParent()
    with pytest.raises(InvalidInput, match="missing"):
        decode(definition_of(op))


def test_a_negative_or_too_high_output_is_refused():
    source = llb.Op()
    source.source.identifier = "docker-image://a"
    for index in (-1, 1, 1 << 62, -(1 << 62)):
        with pytest.raises(InvalidInput, match="output"):
            decode(definition_of(source, last=llb.Op(inputs=[llb.Input(digest=name_of(source), index=index)])))


@pytest.mark.parametrize(
    "change",
    [
        lambda op: op.exec.ClearField("meta"),
        lambda op: op.exec.meta.ClearField("args"),
        lambda op: op.exec.ClearField("mounts"),
        lambda op: setattr(op.exec.mounts[0], "dest", ""),
        lambda op: setattr(op.exec.mounts[0], "input", 5),
        lambda op: setattr(op.exec.mounts[0], "input", -2),
        lambda op: setattr(op.exec.mounts[0], "output", 1 << 40),
        lambda op: setattr(op.exec.mounts[0], "mountType", 77),
        lambda op: op.exec.mounts.add(dest="/", input=-1),
        lambda op: op.exec.mounts.add(dest="/x", input=-1, output=0),
        lambda op: setattr(op.exec, "network", 9),
        lambda op: setattr(op.exec, "security", 9),
        lambda op: op.exec.meta.env.append("no equals sign"),
        lambda op: op.exec.meta.env.append("A=\0"),
        lambda op: op.exec.meta.extraHosts.add(Host="x", IP="not an address"),
        lambda op: op.exec.meta.extraHosts.add(Host="x\n127.0.0.1 y", IP="::1"),
        lambda op: op.exec.mounts.add(dest="/s", input=-1, mountType=llb.SECRET, secretOpt={"uid": (1 << 32) - 1}),
        lambda op: op.exec.mounts.add(dest="/t", input=-1, mountType=llb.TMPFS, TmpfsOpt={"size": -1}),
    ],
)
def test_an_exec_that_cannot_be_meant_is_refused(change):
    op = llb.Op()
    op.exec.meta.args.append("id")
    op.exec.mounts.add(dest="/", input=-1, output=0)
    decode(definition_of(op))
    change(op)
    with pytest.raises(REFUSALS):
        decode(definition_of(op))


@pytest.mark.parametrize(
    "identifier",
    ["", "x", "://", "docker-image://", "docker-image+other://a@b", "file:///etc", "local:///\0", "ext::sh"],
)
def test_a_source_of_no_known_kind_is_refused(identifier):
    op = llb.Op()
    op.source.identifier = identifier
    with pytest.raises(REFUSALS):
        decode(definition_of(op))


def test_a_relative_mount_is_below_the_working_directory():
    told = llb.Op(inputs=[llb.Input()])
    told.exec.meta.args.append("x")
    told.exec.meta.cwd = "/root"
    told.exec.mounts.add(dest="/", input=0, output=0)
    told.exec.mounts.add(dest="here/../there", input=-1, output=-1)
    assert [mount.dest for mount in read_op(told, 1).mounts] == ["/", "/root/there"]


def test_an_op_of_no_kind_is_refused():
    with pytest.raises(REFUSALS):
        decode(definition_of(llb.Op(platform={"OS": "linux"})))


def test_places_out_of_the_text_point_into_it():
    source = llb.Op()
    source.source.identifier = "docker-image://a"
    definition = definition_of(source)
    definition.Source.infos.add(filename="Dockerfile", data=b"FROM a\n")
    place = definition.Source.locations[name_of(source)].locations.add(sourceIndex=0)
    place.ranges.add(start={"line": -5}, end={"line": 1 << 30})
    location = decode(definition).edge.vertex.hints.location
    assert (location.start, location.end) == (1, 2)
    place.sourceIndex = 99
    assert decode(definition).edge.vertex.hints.location is None


# ---- fuzzing ---------------------------------------------------------------------------------------------------------

FUZZ = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


@FUZZ
@given(st.binary(max_size=400))
def test_any_bytes_are_a_graph_or_refused(data):
    with contextlib.suppress(REFUSALS):
        decode_bytes(data)


@FUZZ
@given(st.randoms(use_true_random=False))
def test_a_damaged_definition_is_a_graph_or_refused(chance: random.Random):
    data = bytearray(encode(everything()).SerializeToString())
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(data))
        match chance.randrange(3):
            case 0:
                data[at] = chance.randrange(256)
            case 1:
                del data[at : at + chance.randint(1, 20)]
            case _:
                data[at:at] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 10)))
    with contextlib.suppress(REFUSALS):
        decode_bytes(bytes(data))


@FUZZ
@given(st.randoms(use_true_random=False))
def test_an_op_with_any_field_wrong_is_read_or_refused(chance: random.Random):
    """Every field of every message, set to what it never should be; the op keeps its name in the graph."""
    definition = encode(everything())
    for data in getattr(definition, "def"):
        op = llb.Op.FromString(data)
        _spoil(op, chance)
        with contextlib.suppress(REFUSALS):
            read_op(op, chance.choice((0, 1, 2, 100_000)))


def _spoil(message, chance):
    fields = message.ListFields()
    for descriptor, value in chance.sample(fields, min(len(fields), 2)):
        repeated = not isinstance(value, (int, str, bytes, bool, float)) and not hasattr(value, "DESCRIPTOR")
        if repeated and hasattr(value, "add"):
            _spoil(chance.choice(list(value)), chance)
            if chance.random() < 0.3:
                message.ClearField(descriptor.name)
        elif hasattr(value, "DESCRIPTOR"):
            _spoil(value, chance)
            if chance.random() < 0.3:
                message.ClearField(descriptor.name)
        elif repeated:
            message.ClearField(descriptor.name)
        elif isinstance(value, bool):
            setattr(message, descriptor.name, not value)
        elif isinstance(value, int):
            small = descriptor.enum_type is not None or "32" in str(descriptor.type)
            for number in chance.sample(
                [-1, -(1 << 31), (1 << 31) - 1, 0] if small else [-(1 << 63), (1 << 63) - 1], 1
            ):
                try:
                    setattr(message, descriptor.name, number)
                except ValueError:
                    message.ClearField(descriptor.name)
        elif isinstance(value, str):
            setattr(message, descriptor.name, chance.choice(["", "\0", "../../..", "/" * 5000, "é" * 300, "-1", "a=b"]))
        else:
            setattr(message, descriptor.name, b"")


WORDS = st.text(max_size=30) | st.sampled_from(["../..", "\0", "true", "-1", "linux/amd64", "a=b,c", '"', "9" * 40])
KEYS = st.sampled_from(
    "filename target platform no-cache add-hosts ulimit shm-size memory cpuquota cpuperiod cgroup-parent hostname "
    "context force-network-mode image-resolve-mode multi-platform cache-from cache-imports requestid frontend.caps "
    "contextsubdir context:a build-arg:A label:x attest:sbom attest:provenance local-sessionid:context dockerfilekey "
    "contextkey".split()
)


@FUZZ
@given(st.dictionaries(KEYS | st.text(max_size=20), WORDS, max_size=6))
def test_any_attributes_are_read_or_refused(attrs):
    with contextlib.suppress(KedgeError):
        read_attributes(attrs)


@pytest.mark.parametrize("text", ["[" * 100_000, '[{"Type": [1]}]', '[{"Attrs": 1}]', "{}", "1", "[1]"])
def test_cache_imports_are_read_or_refused(text):
    with contextlib.suppress(InvalidInput):
        hash(read_attributes({"cache-imports": text}).request.cache_from)


@FUZZ
@given(st.text(alphabet='abcdtypeinuse=!~,"<> .*()[]', max_size=40))
def test_any_filter_is_read_or_refused(text):
    with contextlib.suppress(KedgeError):
        read_filters([text], FIELDS)
