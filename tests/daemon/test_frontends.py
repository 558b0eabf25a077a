"""Frontends that are images: their processes get a gateway on standard input and output.

The frontend of these tests is a shell that writes HTTP/2 frames made here: a call of the gateway, byte for byte.
"""

import io
import shutil
import struct
import subprocess
import tarfile
import threading
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest

from kedge.daemon.buildkit import frontends
from kedge.daemon.buildkit.bridge import Bridge
from kedge.daemon.buildkit.definition import encode
from kedge.daemon.wire import gateway, status
from kedge.model.graph import Edge, Vertex
from kedge.model.ops import File, MakeFile
from kedge.registry.fake import FakeRegistry
from tests.daemon.client import Client
from tests.daemon.conftest import RunningService
from tests.daemon.test_control import busybox_context, exporter

pytestmark = pytest.mark.namespace
DOCKERFILE = "dockerfile.v0"


def call(stream, method, request):
    """The frames of one unary call, its headers as literals (RFC 7541, 6.2.2)."""

    def text(word):
        return bytes([len(word)]) + word.encode()

    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": f"/moby.buildkit.v1.frontend.LLBBridge/{method}",
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    block = b"".join(b"\0" + text(name) + text(value) for name, value in fields.items())
    data = request.SerializeToString()
    return frame(1, 4, stream, block) + frame(0, 1, stream, struct.pack(">BI", 0, len(data)) + data)


def frame(kind, flags, stream, body):
    return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")


@pytest.fixture(scope="module")
def registry():
    with FakeRegistry() as running:
        yield running


@pytest.fixture(scope="module")
def frontend_service(registry):
    folder = Path(
        subprocess.run(["mktemp", "-d", "/tmp/kedge-test-XXXXXX"], capture_output=True, text=True).stdout[:-1]
    )
    (folder / "more.toml").write_text(f'[registry."{registry.address}"]\nhttp = true\n')
    running = RunningService(folder, "--config", str(folder / "more.toml"))
    yield running
    running.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def client(frontend_service, tmp_path):
    made = []

    def make(**lent):
        made.append(Client(frontend_service.address, frontend_service.folder / f"client-{len(made)}" / "s", **lent))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def image(client, registry, tmp_path):
    """Push an image whose entrypoint is a shell with this script; its reference."""

    def make(name, script, frames=b"", labels=""):
        context = busybox_context(tmp_path, "true")
        (context / "frames").write_bytes(frames)
        (context / "Dockerfile").write_text(
            "FROM scratch\nCOPY busybox /bin/sh\nCOPY busybox /bin/cat\nCOPY frames /frames\n"
            f'{labels}\nENV FROM_IMAGE=yes\nENTRYPOINT ["/bin/sh", "-c", "{script}"]\n'
        )
        reference = f"{registry.address}/{name}:1"
        lending = client(directories={"context": context, "dockerfile": context})
        lending.solve(Frontend=DOCKERFILE, Exporters=[exporter("image", name=reference, push="true")])
        return reference

    return make


def test_what_a_frontend_returns_is_built(client, image):
    made = encode(Edge(Vertex(File((MakeFile("/by", b"a frontend", 0o644, -1, 0),)))))
    solve = gateway.SolveRequest(Definition=made, allowResultReturn=True, Final=True)
    reference = image("returns", "cat /frames; cat > /dev/null", PREFACE + call(1, "Solve", solve))
    one = client()
    _, told = one.solve(Frontend="gateway.v0", FrontendAttrs={"source": reference}, Exporters=[exporter("tar")])
    with tarfile.open(fileobj=io.BytesIO(one.received["0"])) as archive:
        assert archive.extractfile("by").read() == b"a frontend"
    assert any(vertex.name == f"[frontend] {reference}" for vertex in told.vertexes)


def test_a_syntax_line_chooses_it_and_its_error_is_the_builds(client, image, tmp_path):
    error = status.Status(code=9, message="the frontend says no")
    frames = PREFACE + call(1, "Return", gateway.ReturnRequest(error=error))
    reference = image("refuses", "cat /frames; cat > /dev/null", frames)
    (tmp_path / "Dockerfile").write_text(f"# syntax={reference} more\nthis is no Dockerfile\n")
    with pytest.raises(grpc.RpcError, match="the frontend says no"):
        client(directories={"context": tmp_path, "dockerfile": tmp_path}).solve(Frontend=DOCKERFILE)
    with pytest.raises(grpc.RpcError, match="the frontend says no"):
        client().solve(Frontend=DOCKERFILE, FrontendAttrs={"build-arg:BUILDKIT_SYNTAX": reference})


def test_a_frontend_that_fails_tells_what_it_said(client, image):
    script = "echo $FROM_IMAGE $BUILDKIT_FRONTEND_OPT_0 $BUILDKIT_EXPORTEDPRODUCT >&2; exit 7"
    with pytest.raises(grpc.RpcError) as caught:
        client().solve(Frontend="gateway.v0", FrontendAttrs={"source": image("fails", script), "a": "b c"})
    assert "ended with exit code 7: yes a=b c buildkit" in caught.value.details()
    silent = image("silent", "cat /run/config/buildkit/metadata/frontend.bin > /dev/null || echo missing >&2")
    with pytest.raises(grpc.RpcError) as caught:
        client().solve(Frontend="gateway.v0", FrontendAttrs={"source": silent})
    assert caught.value.details().endswith("exit code 0 and without a result")


def test_a_frontend_that_speaks_no_http_is_told_so(client, image):
    with pytest.raises(grpc.RpcError, match="ended with exit code"):
        client().solve(
            Frontend="gateway.v0",
            FrontendAttrs={"source": image("garbage", "cat /frames; exit 3", b"\xff" * 5000)},
        )


def test_a_frontend_must_promise_what_is_asked_of_it(client, image):
    label = "LABEL moby.buildkit.frontend.caps=one,moby.buildkit.frontend.inputs"
    reference = image("promises", "exit 1", labels=label)
    with pytest.raises(grpc.RpcError) as caught:
        client().solve(Frontend="gateway.v0", FrontendAttrs={"source": reference, "frontend.caps": "one,two+forward"})
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "unsupported frontend capability two" in caught.value.details()


@pytest.mark.parametrize("source", ["", "../up", "no such image", "127.0.0.1:1/none"])
def test_what_is_no_image_is_refused(client, source):
    with pytest.raises(grpc.RpcError):
        client().solve(Frontend="gateway.v0", FrontendAttrs={"source": source})


def test_a_frontend_sees_no_other_clients_build(client, image):
    """Whatever id its calls name, its gateway knows one build."""
    ping = call(1, "ReadFile", gateway.ReadFileRequest(Ref="of another", FilePath="/etc/passwd"))
    frames = (
        PREFACE + ping + call(3, "Return", gateway.ReturnRequest(result=gateway.Result(refDeprecated="of another")))
    )
    reference = image("curious", "cat /frames; exec 0<&-; sleep 1; exit 1", frames)
    with pytest.raises(grpc.RpcError):
        client().solve(Frontend="gateway.v0", FrontendAttrs={"source": reference})


def test_a_frontend_whose_build_is_stopped_is_not_left_to_wait_for_an_answer(monkeypatch):
    monkeypatch.setattr(frontends, "GRACE", 0.01)
    bridge, sent = Bridge(SimpleNamespace(), {}), []
    running = frontends._Running(SimpleNamespace(), bridge)
    running._on_start(sent.append, 1)
    thread = threading.Thread(target=running._end_after_answer, daemon=True)
    thread.start()
    bridge.stop()
    thread.join(60)
    running._ended.set()
    assert not thread.is_alive()
    assert sent == [9]
