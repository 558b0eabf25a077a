"""BuildKit's control service, asked by a client over a real socket."""

import io
import json
import os
import stat
import tarfile
import threading
import time
import uuid

import grpc
import pytest

from kedge.daemon.wire import control, llb
from tests.daemon.driver import Driver

DOCKERFILE = "dockerfile.v0"


def exporter(kind, **attrs):
    return control.Exporter(Type=kind, Attrs=attrs)


def test_workers_tell_platforms_and_labels(connect):
    answer = connect().control.unary("ListWorkers", control.ListWorkersRequest())
    (worker,) = answer.record
    assert worker.platforms[0].OS == "linux"
    assert worker.Labels["of.a"] == "test"
    assert worker.ID


def test_info_names_the_api_version(connect):
    info = connect().control.unary("Info", control.InfoRequest()).buildkitVersion
    assert info.package == "kedge"
    assert info.version.startswith("v")


def test_a_build_takes_from_the_client_only_what_it_needs_and_sends_the_result(connect, context):
    client = connect(directories={"context": context, "dockerfile": context})
    _response, status = client.solve(Frontend=DOCKERFILE, Exporters=[exporter("tar")])
    with tarfile.open(fileobj=io.BytesIO(client.received["0"])) as archive:
        assert archive.extractfile("b.txt").read() == b"hello\n"
    assert "unused.bin" not in client.requested
    names = {vertex.name for vertex in status.vertexes}
    assert "[internal] load build definition from Dockerfile" in names
    assert any(name.startswith("[1/1] COPY") for name in names)


def test_a_build_for_several_platforms_asks_its_client_once_for_each_ignore_file(connect, context):
    """Also for one of a directory that is not lent."""
    client = connect(directories={"context": context, "dockerfile": context, "more": context})
    attrs = {"context:more": "local:more", "context:other": "local:other"}
    client.solve(Frontend=DOCKERFILE, FrontendAttrs=attrs | {"platform": "linux/amd64,linux/arm64,linux/s390x"})
    assert [client.asked.count((name, ".dockerignore")) for name in ("context", "more", "other")] == [1, 1, 1]


def test_the_second_build_moves_no_file_that_did_not_change(connect, context):
    first = connect(directories={"context": context, "dockerfile": context})
    first.solve(Frontend=DOCKERFILE)
    (context / "a.txt").write_text("changed\n")
    second = connect(directories={"context": context, "dockerfile": context})
    second._channel  # noqa: B018 - the same folder's key, another session
    second.solve(Frontend=DOCKERFILE, Exporters=[exporter("tar")])
    third = connect(directories={"context": context, "dockerfile": context})
    third.solve(Frontend=DOCKERFILE)
    assert b"changed\n" in second.received["0"]


def test_an_image_archive_has_the_digests_that_the_response_tells(connect, context):
    client = connect(directories={"context": context, "dockerfile": context})
    response, _ = client.solve(Frontend=DOCKERFILE, Exporters=[exporter("oci")])
    with tarfile.open(fileobj=io.BytesIO(client.received["0"])) as archive:
        index = json.load(archive.extractfile("index.json"))
    assert index["manifests"][0]["digest"] == response.ExporterResponse["containerimage.digest"]


def test_an_error_carries_the_lines_at_fault(connect, context):
    (context / "Dockerfile").write_text("FROM scratch\nCOPPY a b\n")
    client = connect(directories={"context": context, "dockerfile": context})
    with pytest.raises(grpc.RpcError) as caught:
        client.solve(Frontend=DOCKERFILE)
    assert "unknown instruction: COPPY (did you mean COPY?)" in caught.value.details()
    trailer = dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
    assert b"errdefs.Source+json" in trailer
    assert b'"line": 2' in trailer


def test_a_frontend_that_cannot_be_had_points_at_the_line_that_names_it(connect, context):
    (context / "Dockerfile").write_text("# syntax=127.0.0.1:1/no/frontend\nFROM scratch\n")
    client = connect(directories={"context": context, "dockerfile": context})
    with pytest.raises(grpc.RpcError) as caught:
        client.solve(Frontend=DOCKERFILE)
    trailer = dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
    assert b"errdefs.Source+json" in trailer
    assert b'"line": 1' in trailer


def test_a_graph_is_built_without_a_frontend(connect):
    from kedge.daemon.buildkit.definition import encode
    from kedge.model.graph import Edge, Vertex
    from kedge.model.ops import File, MakeDir, MakeFile

    make = File((MakeDir("/d", 0o755, False, -1, -1), MakeFile("/d/f", b"graph", 0o644, 0, 0)))
    client = connect()
    client.solve(Definition=encode(Edge(Vertex(make))), Exporters=[exporter("tar")])
    with tarfile.open(fileobj=io.BytesIO(client.received["0"])) as archive:
        assert archive.extractfile("d/f").read() == b"graph"


def test_a_graph_has_the_config_that_its_exporter_is_given(connect):
    from kedge.daemon.buildkit.definition import encode
    from kedge.model.graph import Edge, Vertex
    from kedge.model.ops import File, MakeFile

    client = connect()
    made = Edge(Vertex(File((MakeFile("/x", b"hi", 0o644, -1, 0),))))
    config = json.dumps({"os": "linux", "architecture": "arm64", "config": {"Cmd": ["/x"], "Labels": {"a": "1"}}})
    client.solve(Definition=encode(made), Exporters=[exporter("oci", **{"containerimage.config": config})])
    with tarfile.open(fileobj=io.BytesIO(client.received["0"])) as archive:
        manifest = json.load(archive.extractfile("manifest.json"))[0]
        found = json.load(archive.extractfile(manifest["Config"]))
    assert (found["architecture"], found["config"]) == ("arm64", {"Cmd": ["/x"], "Labels": {"a": "1"}})
    assert len(found["rootfs"]["diff_ids"]) == 1


def test_files_whose_times_are_not_to_be_trusted_are_taken_anew(connect, context):
    """`local.differ=none`: content may change and leave size and time as they were."""
    from kedge.daemon.buildkit.definition import encode
    from kedge.model.graph import Edge, Vertex
    from kedge.model.ops import Source

    client = connect(directories={"context": context})

    def build(*attrs):
        source = Source("local://context", (("local.followpaths", '["a.txt"]'), *attrs))
        client.solve(Definition=encode(Edge(Vertex(source))), Exporters=[exporter("tar")])
        with tarfile.open(fileobj=io.BytesIO(client.received["0"])) as archive:
            return archive.extractfile("a.txt").read()

    times = (context / "a.txt").stat()
    assert build() == b"hello\n"
    (context / "a.txt").write_bytes(b"HELLO\n")
    os.utime(context / "a.txt", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert build() == b"hello\n"
    assert build(("local.differ", "none")) == b"HELLO\n"


def test_a_graph_takes_what_the_client_uploads_by_its_session(connect):
    from kedge.daemon.buildkit.definition import encode
    from kedge.model.graph import Edge, Vertex
    from kedge.model.ops import Source

    client = connect(uploads={"/one": b"sent"})
    source = Source("http://buildkit-session/one", (("http.filename", "f"),))
    client.solve(Definition=encode(Edge(Vertex(source))), Exporters=[exporter("tar")])
    with tarfile.open(fileobj=io.BytesIO(client.received["0"])) as archive:
        assert archive.extractfile("f").read() == b"sent"
    with pytest.raises(grpc.RpcError):
        client.solve(Definition=encode(Edge(Vertex(Source("http://buildkit-session/two")))))


def test_a_definition_of_nothing_is_built_at_once(connect):
    """It has no op, and yet is one: nobody is going to drive this build."""
    client = connect()
    client.solve(Definition=llb.Definition(), Exporters=[exporter("tar")])
    with tarfile.open(fileobj=io.BytesIO(client.received["0"])) as archive:
        assert archive.getnames() == []


def test_a_client_drives_its_build_through_the_gateway(connect, context):
    from kedge.daemon.wire import gateway

    client = connect(directories={"context": context, "dockerfile": context})
    driver = Driver(client, Exporters=[exporter("tar")])
    pong = driver.call("Ping", gateway.PingRequest())
    assert {cap.ID for cap in pong.LLBCaps} >= {"file.base", "exec.meta.base"}
    asked = gateway.SolveRequest(Frontend=DOCKERFILE, allowResultReturn=True, allowResultArrayRef=True)
    solved = driver.call("Solve", asked).result
    assert driver.call("ReadFile", gateway.ReadFileRequest(Ref=solved.ref.id, FilePath="/b.txt")).Data == b"hello\n"
    listed = driver.call("ReadDir", gateway.ReadDirRequest(Ref=solved.ref.id, DirPath="/"))
    assert [entry.path for entry in listed.entries] == ["b.txt"]
    with pytest.raises(grpc.RpcError):
        driver.call("ReadFile", gateway.ReadFileRequest(Ref=solved.ref.id, FilePath="/../../etc/passwd"))
    assert not isinstance(driver.end(solved), Exception)
    assert b"hello\n" in client.received["0"]


def test_a_graph_of_a_lent_directory_can_be_read_and_exported(connect, context):
    from kedge.daemon.wire import gateway
    from kedge.model.graph import Edge, Vertex
    from kedge.model.ops import Source

    client = connect(directories={"context": context})
    driver = Driver(client, Exporters=[exporter("tar")])
    lent = Edge(Vertex(Source("local://context", (("local.followpaths", '["a.txt"]'),))))
    solved = driver.solve(lent, evaluate=False)
    assert driver.call("ReadFile", gateway.ReadFileRequest(Ref=solved.ref.id, FilePath="a.txt")).Data == b"hello\n"
    driver.end(solved)
    with tarfile.open(fileobj=io.BytesIO(client.received["0"])) as archive:
        assert archive.getnames() == ["a.txt"]


def test_a_client_that_goes_away_ends_its_build(connect, service):
    from kedge.daemon.wire import gateway

    client = connect()
    request = client.request()
    call = client.control._call(client._channel.unary_unary, "Solve").future(request)
    names = (("buildkit-controlapi-buildid", request.Ref),)
    client.bridge.unary("Ping", gateway.PingRequest(), metadata=names)
    call.cancel()
    other = connect()
    for _ in range(100):
        events = list(
            other.control.listen("ListenBuildHistory", control.BuildHistoryRequest(Ref=request.Ref, EarlyExit=True))
        )
        if events and events[0].type == control.COMPLETE:
            break
        time.sleep(0.05)
    assert events[0].type == control.COMPLETE
    assert events[0].record.error.message


def test_history_keeps_what_a_build_told(connect, context):
    client = connect(directories={"context": context, "dockerfile": context})
    request = client.request(Frontend=DOCKERFILE)
    client.control.unary("Solve", request, timeout=60)
    (event,) = client.control.listen("ListenBuildHistory", control.BuildHistoryRequest(Ref=request.Ref, EarlyExit=True))
    assert event.record.numTotalSteps > 0
    assert client.status(request.Ref).vertexes
    client.control.unary("UpdateBuildHistory", control.UpdateBuildHistoryRequest(Ref=request.Ref, Delete=True))
    with pytest.raises(grpc.RpcError):
        list(client.control.listen("ListenBuildHistory", control.BuildHistoryRequest(Ref=request.Ref, EarlyExit=True)))


def test_disk_usage_and_prune_agree(connect, context):
    client = connect(directories={"context": context, "dockerfile": context})
    client.solve(Frontend=DOCKERFILE)
    used = client.control.unary("DiskUsage", control.DiskUsageRequest()).record
    assert used
    gone = list(client.control.listen("Prune", control.PruneRequest(all=True)))
    assert {one.ID for one in gone}
    left = client.control.unary("DiskUsage", control.DiskUsageRequest(filter=["type==regular"])).record
    assert not [one for one in left if not one.InUse]


@pytest.mark.parametrize("ref", ["", "../../etc/x", "a/b", "a\0b", "x" * 1000, "é"])
def test_a_ref_that_could_be_a_path_is_refused(connect, ref):
    with pytest.raises(grpc.RpcError) as caught:
        connect().control.unary("Solve", control.SolveRequest(Ref=ref, Frontend=DOCKERFILE), timeout=20)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "attrs",
    [
        {"context": "/etc"},
        {"context": "file:///etc"},
        {"context:x": "/etc"},
        {"context:x": "etc"},
        {"context:x": "target:/etc"},
        {"cache-imports": "[null"},
        {"platform": "\0"},
        {"shm-size": "-1"},
        {"ulimit": "nofile=x"},
        {"add-hosts": "x"},
        {"force-network-mode": "bridge"},
        {"requestid": "frontend.nonsense"},
        {"frontend.caps": "nonsense"},
    ],
)
def test_attributes_that_mean_this_machine_or_nothing_are_refused(connect, context, attrs):
    client = connect(directories={"context": context, "dockerfile": context})
    with pytest.raises(grpc.RpcError):
        client.solve(Frontend=DOCKERFILE, FrontendAttrs=attrs)


def test_a_layout_is_the_clients_never_a_directory_of_this_machine(connect, context):
    digest = "sha256:" + "0" * 64
    (context / "Dockerfile").write_text("FROM base\n")
    client = connect(directories={"context": context, "dockerfile": context})
    with pytest.raises(grpc.RpcError) as caught:
        client.solve(Frontend=DOCKERFILE, FrontendAttrs={"context:base": f"oci-layout:///etc@{digest}"})
    assert "client's image layout" in caught.value.details()


@pytest.mark.parametrize("name", ["security.insecure", "network.host", "device", "nonsense"])
def test_privileges_that_are_not_granted_are_refused(connect, name):
    with pytest.raises(grpc.RpcError) as caught:
        connect().solve(Frontend=DOCKERFILE, Entitlements=[name])
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_a_graph_that_takes_a_privilege_without_asking_is_refused(connect):
    op = llb.Op()
    op.exec.meta.args.append("id")
    op.exec.mounts.add(dest="/", input=-1, output=0)
    op.exec.security = llb.INSECURE
    definition = chain(op)
    with pytest.raises(grpc.RpcError) as caught:
        connect().solve(Definition=definition)
    assert "security.insecure is not allowed" in caught.value.details()


def chain(op):
    import hashlib

    data = op.SerializeToString()
    definition = llb.Definition()
    getattr(definition, "def").append(data)
    last = llb.Op(inputs=[llb.Input(digest="sha256:" + hashlib.sha256(data).hexdigest())])
    getattr(definition, "def").append(last.SerializeToString())
    return definition


def test_another_session_of_nobody_is_not_found(connect):
    with pytest.raises(grpc.RpcError) as caught:
        connect().solve(Session=uuid.uuid4().hex, Frontend=DOCKERFILE)
    assert "no active session" in caught.value.details()


def test_a_session_id_can_be_held_once(connect, service):
    client = connect()
    client.control.unary("Info", control.InfoRequest())
    time.sleep(0.2)
    metadata = (("x-docker-expose-session-uuid", client.id),)
    again = client.control.stream("Session", iter(()), metadata=metadata)
    with pytest.raises(grpc.RpcError):
        next(again)


@pytest.mark.parametrize("path", ["../x", "/abs/../..", "a/../../x", "", "a\0b", "missing/child"])
def test_a_hostile_client_writes_nowhere_else(connect, service, context, path, monkeypatch):
    from kedge.daemon.wire import fsutil
    from tests.daemon import client as module

    def hostile(self, requests, context):
        yield fsutil.Packet(type=fsutil.Packet.PACKET_STAT, stat=fsutil.RawStat(path=path.encode(), mode=0o644, size=1))
        yield fsutil.Packet(type=fsutil.Packet.PACKET_STAT)
        for packet in requests:
            if packet.type == fsutil.Packet.PACKET_ERR:
                return

    monkeypatch.setattr(module._FileSync, "DiffCopy", hostile)
    client = connect(directories={"context": context, "dockerfile": context})
    with pytest.raises(grpc.RpcError) as caught:
        client.solve(Frontend=DOCKERFILE)
    assert "the client sends" in caught.value.details()


def test_the_socket_is_for_its_owner_and_group(service):
    mode = os.stat(service.folder / "b.sock").st_mode
    assert stat.S_IMODE(mode) == 0o660


def test_garbage_does_not_end_the_service(connect):
    client = connect()
    for method in ("Solve", "Status", "DiskUsage", "Prune", "ListenBuildHistory", "UpdateBuildHistory"):
        call = client._channel.unary_unary(f"/moby.buildkit.v1.Control/{method}")
        for data in (b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x0f", os.urandom(200)):
            with pytest.raises(grpc.RpcError):
                call(data, timeout=10)
    assert client.control.unary("Info", control.InfoRequest()).buildkitVersion.package


def busybox_context(tmp_path, command):
    import shutil

    program = shutil.which("busybox")
    if not program:
        pytest.skip("busybox is not installed (apt-get install busybox-static)")
    shutil.copy(program, tmp_path / "busybox")
    (tmp_path / "Dockerfile").write_text(
        f"FROM scratch\nCOPY busybox /bin/busybox\nRUN {json.dumps(['/bin/busybox', 'sh', '-c', command])}\n"
    )
    return tmp_path


def test_two_clients_share_a_step_that_runs(connect, tmp_path):
    context = busybox_context(tmp_path, f"sleep 1; cat /proc/sys/kernel/random/uuid > /x; echo {uuid.uuid4()}")
    clients = [connect(directories={"context": context, "dockerfile": context}) for _ in range(2)]
    builds = [
        threading.Thread(target=client.solve, kwargs={"Frontend": DOCKERFILE, "Exporters": [exporter("tar")]})
        for client in clients
    ]
    for build in builds:
        build.start()
    for build in builds:
        build.join(60)
    found = []
    for client in clients:
        with tarfile.open(fileobj=io.BytesIO(client.received["0"])) as archive:
            found.append(archive.extractfile("x").read())
    assert found[0] == found[1]


def test_a_secret_reaches_its_step_and_nothing_else(connect, tmp_path):
    context = busybox_context(tmp_path, "true")
    text = (context / "Dockerfile").read_text()
    mounted = text.replace("RUN [", "RUN --mount=type=secret,id=s,required=true [")
    (context / "Dockerfile").write_text(mounted.replace('"true"', '"/bin/busybox wc -c < /run/secrets/s > /n"'))
    lent = {"s": b"the secret"}
    client = connect(directories={"context": context, "dockerfile": context}, lent=lent)
    _, status = client.solve(Frontend=DOCKERFILE, Exporters=[exporter("tar")])
    with tarfile.open(fileobj=io.BytesIO(client.received["0"])) as archive:
        assert archive.extractfile("n").read().strip() == b"10"
    assert b"the secret" not in client.received["0"]
    assert b"the secret" not in status.SerializeToString()
    stranger = connect(directories={"context": context, "dockerfile": context})
    (context / "Dockerfile").write_text((context / "Dockerfile").read_text().replace("/n", "/m"))
    with pytest.raises(grpc.RpcError) as caught:
        stranger.solve(Frontend=DOCKERFILE)
    assert "secret s: not found" in caught.value.details()


def test_what_a_client_streams_once_is_a_source_of_all_its_graphs_and_of_nobody_elses(connect):
    from kedge.daemon.wire import gateway
    from kedge.model.graph import Edge, Vertex
    from kedge.model.ops import Copy, File, Source
    from tests.daemon.driver import Driver

    data = os.urandom(5000)
    given = Edge(Vertex(Source("http://buildkit-session/one", (("http.filename", "context"),))))
    copied = Edge(Vertex(File((Copy("/context", "/copy", -1, 0, 0),)), (given,)))
    driver = Driver(connect(uploads={"/one": data}))
    for edge, path in (given, "/context"), (copied, "/copy"):
        ref = driver.solve(edge).ref.id
        assert driver.call("ReadFile", gateway.ReadFileRequest(Ref=ref, FilePath=path)).Data == data
    driver.end()
    other = Driver(connect())
    with pytest.raises(grpc.RpcError):
        other.solve(given)
    other.end()
