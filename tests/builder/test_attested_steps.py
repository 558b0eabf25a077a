"""What provenance tells of a graph's steps."""

from types import SimpleNamespace

from kedge.builder.attestations import _context, _material
from kedge.builder.attested_steps import layers_of, steps_of
from kedge.exporters.provenance import Material
from kedge.model.digest import digest_of
from kedge.model.errors import Location, SourceFile
from kedge.model.graph import Edge, Hints, Vertex
from kedge.model.image import Descriptor
from kedge.model.ops import Exec, File, MakeFile, Mount, Source

FILE = SourceFile("Dockerfile", "FROM a\nRUN x\\\n y\nCOPY <<f /\n")
BASE = Vertex(
    Source("docker-image://a", (("local.session", "s"),)), hints=Hints("FROM a", location=Location(FILE, 1, 1))
)
RUN = Vertex(Exec(("x",), (Mount("/", 0, 0),)), (Edge(BASE),), hints=Hints("RUN x", location=Location(FILE, 2, 3)))
TOP = Edge(Vertex(File((MakeFile("/f", b"secret bytes", 0o644),)), (Edge(RUN),)))
LAYERS = tuple(Descriptor("application/layer", digest_of(number), number) for number in range(4))


def test_steps_are_told_inputs_first_and_then_the_result() -> None:
    steps = steps_of(TOP)
    assert [one["inputs"] for one in steps.told] == [[], ["step0:0"], ["step1:0"], ["step2:0"]]
    assert [list(one["op"]["op"]) for one in steps.told] == [["source"], ["exec"], ["file"], []]
    assert "secret bytes" not in str(steps.told)
    assert "local.session" not in str(steps.told)


def test_a_step_s_lines_are_told_each() -> None:
    lines = {id: one.get("locations") for id, one in steps_of(TOP).locations().items()}
    assert [one["start"]["line"] for one in lines["step1"][0]["ranges"]] == [2, 3]
    assert lines["step2"] is None


def test_each_result_that_is_part_of_the_image_has_its_layers() -> None:
    found = dict(layers_of(TOP, steps_of(TOP).ids, LAYERS))
    assert {key: len(layers) for key, layers in found.items()} == {"step0:0": 2, "step1:0": 3, "step2:0": 4}


def told(identifier: str, *labels: tuple[str, str], attrs: tuple[tuple[str, str], ...] = ()) -> Material | None:
    vertex = Vertex(Source(identifier, attrs))
    contexts = (("base", "oci-layout://store@sha256:12"),)
    parts = SimpleNamespace(
        pins={vertex: SimpleNamespace(labels=labels)},
        request=SimpleNamespace(named_contexts=contexts),
    )
    return _material(parts, vertex)  # type: ignore[arg-type]


def test_a_repository_is_told_with_its_ref_and_without_credentials() -> None:
    full = (("git.fullurl", "http://user:pass@h/.git"),)
    found = told("git://h/.git#v1:src", ("repository", "http://h/.git"), ("commit", "a" * 64), attrs=full)
    assert found == Material("http://xxxxx:xxxxx@h/.git#v1", "a" * 64)


def test_a_layout_is_told_by_the_name_of_its_context() -> None:
    found = told("oci-layout://store@sha256:12", ("image", "store@sha256:12@sha256:12"))
    assert found == Material("pkg:oci/base?digest=sha256:12", "sha256:12")


def test_a_remote_context_is_a_material() -> None:
    assert _context("http://u:p@h/.git#v1:src", "abc") == Material("http://xxxxx:xxxxx@h/.git#v1", "abc")
    assert _context("", "") is None
