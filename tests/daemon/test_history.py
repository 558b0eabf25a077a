"""What is kept of ended builds, and the documents that clients read through containerd's content service."""

import base64
import json
import os
import shutil
import subprocess

import grpc
import pytest

from kedge.daemon.buildkit.records import Documents
from kedge.daemon.peer import Peer
from kedge.daemon.wire import content, control
from kedge.daemon.wire.calls import Calls

DOCKERFILE = "dockerfile.v0"
OCI = control.Exporter(Type="oci")
CONTENT = content.services["Content"]


def record_of(client, ref):
    asked = control.BuildHistoryRequest(Ref=ref, EarlyExit=True)
    (event,) = client.control.listen("ListenBuildHistory", asked)
    return event.record


def build(client, **fields):
    request = client.request(**({"Frontend": DOCKERFILE} | fields))
    client.control.unary("Solve", request, timeout=120)
    return record_of(client, request.Ref)


def read(client, descriptor):
    """A document's bytes, asked for as containerd's proxy does."""
    calls = Calls(client._channel, CONTENT)
    assert calls.unary("Info", content.InfoRequest(digest=descriptor.digest)).info.size == descriptor.size
    asked = content.ReadContentRequest(digest=descriptor.digest, size=descriptor.size)
    return b"".join(part.data for part in calls.listen("Read", asked))


def test_a_record_tells_how_its_result_was_made(connect, context):
    client = connect(directories={"context": context, "dockerfile": context})
    record = build(client, FrontendAttrs={"build-arg:WHO": "somebody"})
    (told,) = record.Result.Attestations
    assert dict(told.annotations) == {"in-toto.io/predicate-type": "https://slsa.dev/provenance/v1"}
    value = json.loads(read(client, told))
    metadata = value["runDetails"]["metadata"]
    (source,) = metadata["buildkit_metadata"]["source"]["infos"]
    assert base64.b64decode(source["data"]) == (context / "Dockerfile").read_bytes()
    assert metadata["invocationID"] == record.Ref
    assert value["buildDefinition"]["externalParameters"]["request"]["args"] == {"build-arg:WHO": "somebody"}


def test_a_graphs_record_names_no_frontend(connect):
    from kedge.daemon.buildkit.definition import encode
    from kedge.model.graph import Edge, Vertex
    from kedge.model.ops import File, MakeDir

    client = connect()
    graph = encode(Edge(Vertex(File((MakeDir("/d", 0o755, False, -1, 0),)))))
    (told,) = build(client, Frontend="", Definition=graph).Result.Attestations
    value = json.loads(read(client, told))
    assert "frontend" not in value["buildDefinition"]["externalParameters"]["request"]
    assert value["runDetails"]["metadata"]["buildkit_completeness"] == {"request": False, "resolvedDependencies": True}
    assert value["buildDefinition"]["internalParameters"]["buildConfig"]["llbDefinition"][0]["op"]


def test_a_record_has_the_documents_of_the_images_that_were_made(connect, context):
    client = connect(directories={"context": context, "dockerfile": context})
    attrs = {"platform": "linux/amd64,linux/arm64", "attest:sbom": ""}
    record = build(client, FrontendAttrs=attrs, Exporters=[control.Exporter(Type="cacheonly"), OCI])
    assert list(record.Result.Results) == [1]
    assert record.Result.Results[1] == record.Result.ResultDeprecated
    assert set(record.Results) == {"linux/amd64", "linux/arm64"}
    for result in record.Results.values():
        kinds = [one.annotations["in-toto.io/predicate-type"] for one in result.Attestations]
        assert kinds == ["https://slsa.dev/provenance/v1", "https://spdx.dev/Document"]
        assert json.loads(read(client, result.Attestations[1]))["predicate"]["spdxVersion"]
    index = json.loads(read(client, record.Result.Results[1]))
    for one in index["manifests"]:
        manifest = json.loads(read(client, control.Descriptor(digest=one["digest"], size=one["size"])))
        config = manifest["config"]
        read(client, control.Descriptor(digest=config["digest"], size=config["size"]))


def test_a_records_log_is_what_status_tells_of_it(connect, context):
    client = connect(directories={"context": context, "dockerfile": context})
    record = build(client)
    data, at, merged = read(client, record.logs), 0, control.StatusResponse()
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        merged.MergeFromString(data[at + 4 : at + 4 + size])
        at += 4 + size
    assert merged == client.status(record.Ref)


def test_a_failed_build_has_no_result(connect, context):
    (context / "Dockerfile").write_text("FROM scratch\nCOPY nothing /\n")
    client = connect(directories={"context": context, "dockerfile": context})
    request = client.request(Frontend=DOCKERFILE, Exporters=[OCI])
    with pytest.raises(grpc.RpcError):
        client.control.unary("Solve", request, timeout=60)
    record = record_of(client, request.Ref)
    assert read(client, record.externalError)
    assert not record.HasField("Result")


def test_documents_go_with_their_record_and_stay_for_another(connect, context):
    client = connect(directories={"context": context, "dockerfile": context})
    one, other = (build(client, Exporters=[OCI]) for _ in range(2))
    assert one.Result.Results[0].digest == other.Result.Results[0].digest
    client.control.unary("UpdateBuildHistory", control.UpdateBuildHistoryRequest(Ref=one.Ref, Delete=True))
    assert read(client, other.Result.Results[0])
    with pytest.raises(grpc.RpcError) as caught:
        read(client, one.Result.Attestations[0])
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "sha256:..", "sha256:" + "0" * 64, "é"])
def test_only_documents_of_records_are_content(connect, digest):
    with pytest.raises(grpc.RpcError) as caught:
        read(connect(), control.Descriptor(digest=digest))
    assert caught.value.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)


class _Aborted(Exception):
    pass


class _Context:
    def abort(self, code, text):
        raise _Aborted(code)


def test_documents_are_read_by_their_own_user_only_also_after_a_restart(tmp_path):
    peer, other = Peer(uid=1000), Peer(uid=1001)
    told = Documents(tmp_path, lambda context: peer).put("ref", peer.realm, "text/plain", b"mine")
    asked = content.ReadContentRequest(digest=told.digest)
    for asking in peer, other:
        documents = Documents(tmp_path, lambda context, asking=asking: asking)
        with pytest.raises(_Aborted):
            list(documents.Read(asked, _Context()))
        documents.load("ref", peer.realm)
        if asking is peer:
            assert b"".join(part.data for part in documents.Read(asked, _Context())) == b"mine"
        else:
            with pytest.raises(_Aborted):
                list(documents.Read(asked, _Context()))


def test_a_restarted_service_knows_its_records_and_drops_what_belongs_to_none(tmp_path):
    from kedge.daemon.buildkit.config import ServiceConfig
    from kedge.daemon.buildkit.history import History

    peer = Peer(uid=1000)
    folder = tmp_path / "service" / "history"
    documents = Documents(folder, lambda context: peer)
    told = documents.put("kept", peer.realm, "text/plain", b"mine")
    documents.put("lost", peer.realm, "text/plain", b"nobody's")
    record = control.BuildHistoryRecord(Ref="kept", logs=told)
    (folder / "kept.record").write_bytes(peer.realm.encode() + b"\n" + record.SerializeToString())
    history = History(ServiceConfig(tmp_path), lambda context: peer)
    asked = content.ReadContentRequest(digest=told.digest)
    assert b"".join(part.data for part in history.documents.Read(asked, _Context())) == b"mine"
    assert sorted(path.name for path in folder.iterdir()) == ["kept", "kept.record"]


@pytest.mark.skipif(not shutil.which("docker-buildx", path="/tmp/peers/bin:" + os.environ["PATH"]), reason="no buildx")
def test_buildx_shows_lists_exports_and_removes_records(service, connect, context, tmp_path):
    program = shutil.which("docker-buildx", path="/tmp/peers/bin:" + os.environ["PATH"])
    environment = os.environ | {"HOME": str(tmp_path / "home")}
    (tmp_path / "home").mkdir()

    def buildx(*words):
        run = subprocess.run([program, *words], env=environment, capture_output=True, text=True, timeout=120)
        assert run.returncode == 0, run.stderr
        return run.stdout

    buildx("create", "--name", "kedge", "--driver", "remote", service.address, "--use")
    connect().control.unary("Info", control.InfoRequest())
    buildx("build", "-q", "--sbom=true", "--output", f"type=oci,dest={tmp_path / 'image.tar'}", str(context))
    ref = json.loads(buildx("history", "ls", "--format", "json").splitlines()[0])["ref"].rpartition("/")[2]
    for wanted, there in (f"ref={ref[:8]}", True), ("status=completed", True), ("status!=completed", False):
        assert (ref in buildx("history", "ls", "--filter", wanted, "--format", "json")) == there
    assert ref in buildx("history", "ls", "--filter", "duration<1h", "--filter", "startedAt>1h", "--format", "json")
    shown = json.loads(buildx("history", "inspect", "--format", "json", ref))
    assert shown["Status"] == "completed"
    assert "https://slsa.dev/provenance/v1" in {one["Type"] for one in shown["Attachments"]}
    provenance = json.loads(buildx("history", "inspect", "attachment", ref, "--type", "provenance"))
    assert provenance["runDetails"]["metadata"]["buildkit_metadata"]["source"]["infos"]
    index = json.loads(buildx("history", "inspect", "attachment", ref, "--type", "index"))
    assert index["manifests"]
    sbom = json.loads(buildx("history", "inspect", "attachment", ref, "--type", "sbom"))
    assert sbom["predicate"]["spdxVersion"]
    assert "spans" in buildx("history", "trace", ref) or shutil.which("xdg-open")
    buildx("history", "export", "--finalize", "--output", str(tmp_path / "bundle"), ref)
    assert (tmp_path / "bundle").stat().st_size
    buildx("history", "rm", ref)
    assert ref not in buildx("history", "ls", "--format", "json")
