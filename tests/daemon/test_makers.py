"""Which request made a graph, for provenance."""

from types import SimpleNamespace

from kedge.builder.remote import Input, RemoteRequest
from kedge.daemon.buildkit.makers import Makers
from kedge.model.graph import Edge, Vertex
from kedge.model.ops import Source

EDGE = Edge(Vertex(Source("docker-image://a")))
ME, OTHER = SimpleNamespace(realm=1), SimpleNamespace(realm=2)


def test_a_graph_s_request_is_found_by_its_own_user_only() -> None:
    makers = Makers()
    makers.note(ME, EDGE, RemoteRequest(context="secret", target="base"))  # type: ignore[arg-type]
    found = makers.find(ME, EDGE)  # type: ignore[arg-type]
    assert found is not None
    assert (found.target, found.context) == ("base", None)
    assert makers.find(OTHER, EDGE) is None  # type: ignore[arg-type]
    assert makers.find(ME, None) is None  # type: ignore[arg-type]


def test_memory_is_bounded_in_number_and_depth() -> None:
    makers, request = Makers(), RemoteRequest()
    for number in range(1000):
        edge = Edge(Vertex(Source(f"docker-image://{number}")))
        makers.note(ME, edge, request)  # type: ignore[arg-type]
        request = RemoteRequest(inputs=(Input("x", edge, made_by=makers.find(ME, edge)),))  # type: ignore[arg-type]
    assert makers.find(ME, Edge(Vertex(Source("docker-image://0")))) is None  # type: ignore[arg-type]
    depth, at = 0, request
    while at.inputs and at.inputs[0].made_by:
        depth, at = depth + 1, at.inputs[0].made_by
    assert depth <= 3
