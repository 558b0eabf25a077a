"""Caches from and to elsewhere for graphs that come without a Dockerfile: `buildctl build --import-cache`."""

import json
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest

from kedge.daemon.buildkit.definition import encode
from kedge.daemon.wire import control, gateway
from kedge.model.digest import sha256
from kedge.model.graph import Edge, Vertex
from kedge.model.ops import Copy, File, MakeFile
from kedge.registry.fake import FakeRegistry
from tests.daemon.client import Client
from tests.daemon.conftest import RunningService
from tests.daemon.driver import Driver

pytestmark = pytest.mark.namespace


@pytest.fixture
def registry():
    with FakeRegistry() as running:
        yield running


@pytest.fixture
def elsewhere():
    """Makes a client of another service, which has nothing."""
    folder = Path(
        subprocess.run(["mktemp", "-d", "/tmp/kedge-test-XXXXXX"], capture_output=True, text=True).stdout[:-1]
    )
    running, clients = RunningService(folder), []

    def make(**lent):
        clients.append(Client(running.address, folder / "client" / "s", **lent))
        return clients[-1]

    yield make
    for client in clients:
        client.close()
    running.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def other(elsewhere):
    return elsewhere()


def graph(text):
    made = Edge(Vertex(File((MakeFile("/f", text.encode(), 0o644, -1, 0),))))
    return Edge(Vertex(File((Copy("/f", "/g", -1, 0, 0),)), (made,)))


def cached(status):
    return {vertex.name for vertex in status.vertexes if vertex.cached}


def test_a_graph_solved_by_one_service_is_a_hit_at_another(connect, other, registry):
    edge = graph(uuid.uuid4().hex)
    attrs = {"ref": f"{registry.address}/cache:1", "mode": "max", "registry.insecure": "true"}
    to = control.CacheOptions(Exports=[control.CacheOptionsEntry(Type="registry", Attrs=attrs)])
    response, _ = connect().solve(Definition=encode(edge), Cache=to)
    assert "cache.manifest" in response.ExporterResponse
    source = control.CacheOptions(Imports=[control.CacheOptionsEntry(Type="registry", Attrs=attrs)])
    _, status = other.solve(Definition=encode(edge), Cache=source)
    assert "copy /f /g" in cached(status)


@pytest.mark.parametrize("push", [False, True])
@pytest.mark.parametrize("drive", [False, True])
@pytest.mark.parametrize("kind", ["graph", "dockerfile"])
def test_a_cache_whose_layers_are_gone_costs_a_second_start_and_nothing_else(
    connect, elsewhere, registry, tmp_path, kind, drive, push
):
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY a /x/\nCOPY a /y/\n")
    (tmp_path / "a").write_text(uuid.uuid4().hex)
    folders = {"context": tmp_path, "dockerfile": tmp_path}
    attrs = {"ref": f"{registry.address}/cache:1", "mode": "max", "registry.insecure": "true"}
    cache = control.CacheOptionsEntry(Type="registry", Attrs=attrs)
    edge = encode(graph(uuid.uuid4().hex))
    asked = {"Definition": edge} if kind == "graph" else {"Frontend": "dockerfile.v0"}
    connect(directories=folders).solve(**asked, Cache=control.CacheOptions(Exports=[cache]))
    blobs = registry.repository("cache").blobs
    for digest in [digest for digest, data in blobs.items() if data[:1] != b"{"]:
        del blobs[digest]

    client = elsewhere(directories=folders)
    pushed = {"name": f"{registry.address}/image:1", "push": "true", "registry.insecure": "true"}
    output = control.Exporter(Type="image", Attrs=pushed) if push else control.Exporter(Type="oci")
    fields = {"Exporters": [output], "Cache": control.CacheOptions(Imports=[cache])}
    if drive:
        driver = Driver(client, **fields)
        wanted = {"allowResultReturn": True, "allowResultArrayRef": True, "Evaluate": True}
        answer = driver.end(driver.call("Solve", gateway.SolveRequest(**asked, **wanted)).result)
        assert "containerimage.digest" in answer.ExporterResponse
        status = client.status(driver.request.Ref)
    else:
        _, status = client.solve(**asked, **fields)
    assert any("starting again" in vertex.name for vertex in status.vertexes)
    assert registry.repository("image").tags if push else client.received["0"]
    client.solve(**asked, Exporters=fields["Exporters"])


def test_graphs_returned_together_make_one_cache(connect, other, registry):
    first, second = graph(uuid.uuid4().hex), graph(uuid.uuid4().hex)
    attrs = {"ref": f"{registry.address}/cache:2", "mode": "max", "registry.insecure": "true"}
    to = control.CacheOptions(Exports=[control.CacheOptionsEntry(Type="registry", Attrs=attrs)])
    driver = Driver(connect(), Cache=to)
    refs = {key: driver.solve(edge, evaluate=False).ref for key, edge in (("linux/amd64", first), ("b", second))}
    driver.end(gateway.Result(refs=gateway.RefMap(refs=refs)))
    source = [gateway.CacheOptionsEntry(Type="registry", Attrs=attrs)]
    importing = Driver(other)
    for edge in (first, second):
        importing.call("Solve", gateway.SolveRequest(Definition=encode(edge), Evaluate=True, CacheImports=source))
    importing.end()
    seen = [vertex for vertex in other.status(importing.request.Ref).vertexes if vertex.name == "copy /f /g"]
    assert len({vertex.digest for vertex in seen if vertex.cached}) == 2


def test_what_a_cache_had_travels_on_with_graphs_that_came_from_it(connect, other, registry):
    """Also where only the last step of a graph was looked up."""
    graphs = {"linux/amd64": graph(uuid.uuid4().hex), "b": graph(uuid.uuid4().hex)}
    written = []
    for number, client in enumerate((connect(), other)):
        attrs = {"ref": f"{registry.address}/cache:{number}", "mode": "max", "registry.insecure": "true"}
        to = control.CacheOptionsEntry(Type="registry", Attrs=attrs)
        driver = Driver(client, Cache=control.CacheOptions(Exports=[to]))
        source = attrs | {"ref": f"{registry.address}/cache:0"}
        imports = [gateway.CacheOptionsEntry(Type="registry", Attrs=source)] * number
        refs = {}
        for key, edge in graphs.items():
            asked = gateway.SolveRequest(
                Definition=encode(edge), Evaluate=True, CacheImports=imports, allowResultReturn=True,
                allowResultArrayRef=True,
            )  # fmt: skip
            refs[key] = driver.call("Solve", asked).result.ref
        driver.end(gateway.Result(refs=gateway.RefMap(refs=refs)))
        kept = registry.repositories["cache"]
        config = json.loads(kept.manifests[kept.tags[str(number)]][1])["config"]["digest"]
        document = json.loads(kept.blobs[config])
        written.append({one["digest"] for one in document["records"] if one.get("layers")})
    assert written[0] == written[1]
    assert len(written[0]) == 3  # both copy alike


def test_a_graph_is_solved_when_its_files_are_asked_for(connect):
    bad = Edge(Vertex(File((Copy("/none", "/g", -1, 0, 0),)), (graph(uuid.uuid4().hex),)))
    driver = Driver(connect())
    promised = driver.solve(bad, evaluate=False)
    assert promised.ref.id
    with pytest.raises(Exception, match="/none"):
        driver.call("Evaluate", gateway.EvaluateRequest(Ref=promised.ref.id))
    with pytest.raises(Exception, match="/none"):
        driver.solve(bad)
    assert "/none" in str(driver.end(promised))


def test_what_failed_can_be_looked_into(connect):
    import json

    from kedge.daemon.wire import status

    text = uuid.uuid4().hex
    made = MakeFile("/f", text.encode(), 0o644, -1, -1)
    bad = Edge(Vertex(File((made, Copy("/none", "/g", 1, 0, 0))), (graph("x"),)))
    driver = Driver(connect())
    with pytest.raises(Exception, match="/no/such") as caught:
        driver.solve(Edge(Vertex(File((made, MakeFile("/no/such", b"", 0o644, 0, 0))))))
    told = status.Status.FromString(dict(caught.value.trailing_metadata())["grpc-status-details-bin"])
    (data,) = (json.loads(one.value) for one in told.details if one.type_url.endswith("errdefs.Solve+json"))
    assert len(data["mountIDs"]) == 2
    assert data["file"] == {"index": "1"}
    assert len(data["op"]["file"]["actions"]) == 2
    read = driver.call("ReadFile", gateway.ReadFileRequest(Ref=data["mountIDs"][1], FilePath="/f"))
    assert read.Data.decode() == text
    with pytest.raises(Exception, match="/none"):
        driver.solve(bad)


def test_a_dockerfile_that_fails_is_told_of_when_its_files_are_asked_for(connect, tmp_path):
    """As of BuildKit's frontend, for `buildx debug`; what is no Dockerfile fails at once."""
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY none /g\n")
    driver = Driver(connect(directories={"context": tmp_path, "dockerfile": tmp_path}))
    request = {"Frontend": "dockerfile.v0", "allowResultReturn": True, "allowResultArrayRef": True}
    promised = driver.call("Solve", gateway.SolveRequest(**request)).result
    assert b'"linux"' in promised.metadata["refs.platforms"]
    with pytest.raises(Exception, match="none") as caught:
        driver.call("Evaluate", gateway.EvaluateRequest(Ref=promised.ref.id))
    assert b"errdefs.Solve" in dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
    with pytest.raises(Exception, match="none"):
        driver.call("Solve", gateway.SolveRequest(**request, Evaluate=True))
    assert "none" in str(driver.end(promised))
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPPY none /g\n")
    other = Driver(connect(directories={"context": tmp_path, "dockerfile": tmp_path}))
    with pytest.raises(Exception, match="COPPY"):
        other.call("Solve", gateway.SolveRequest(**request))


def test_an_error_points_at_all_places_that_its_sender_tells_of(connect):
    import json

    from kedge.daemon.wire import status

    told = encode(Edge(Vertex(File((MakeFile("/no/such", b"", 0o644, -1, 0),)))))
    name = sha256(getattr(told, "def")[0])
    for number, (file, line) in enumerate((("one", 7), ("two", 8))):
        told.Source.infos.add(filename=file, data=b"text", language=f"of {file}")
        place = told.Source.locations[name].locations.add(sourceIndex=number)
        place.ranges.add(start={"line": line}, end={"line": line})
    driver = Driver(connect())
    solved = driver.call(
        "Solve", gateway.SolveRequest(Definition=told, allowResultReturn=True, allowResultArrayRef=True)
    )
    assert getattr(solved.result.ref, "def") == told  # as it was given
    with pytest.raises(Exception, match="/no/such") as caught:
        driver.call("Evaluate", gateway.EvaluateRequest(Ref=solved.result.ref.id))
    details = status.Status.FromString(dict(caught.value.trailing_metadata())["grpc-status-details-bin"]).details
    places = [json.loads(one.value) for one in details if one.type_url.endswith("errdefs.Source+json")]
    assert [(one["info"]["language"], one["ranges"][0]["start"]["line"]) for one in places] == [
        ("of two", 8),
        ("of one", 7),
    ]
