"""Dockerfiles with bytes that are no text: BuildKit's messages hold text only, and clients must hear what happens."""

import grpc
import pytest

from kedge.daemon.wire import control, gateway
from tests.daemon.driver import Driver

DOCKERFILE = "dockerfile.v0"
OCI = control.Exporter(Type="oci")
BAD = {
    b'FROM scratch\nRUN ["/nothing", "\xff"]\n': "/nothing",
    b"FROM scratch\nCOPY missing\xff /\n": "not found",
    b"FROM scratch\nR\xffUN x\n": "unknown instruction",
    b"FROM scr\xffatch\n": "no image name",
    b"FROM scratch AS a\nFROM scratch\nCOPY --from=b\xff / /\n": "no image name",
}


def solve(client, drive):
    """Build it, driven or not; the request's ref, and the error if it is one."""
    if drive:
        driver = Driver(client, Exporters=[OCI])
        asked = gateway.SolveRequest(
            Frontend=DOCKERFILE, Evaluate=True, allowResultReturn=True, allowResultArrayRef=True
        )
        try:
            driver.end(driver.call("Solve", asked).result)
        except grpc.RpcError as error:
            driver.end()
            return driver.request.Ref, error
        return driver.request.Ref, driver.answer if isinstance(driver.answer, grpc.RpcError) else None
    request = client.request(Frontend=DOCKERFILE, Exporters=[OCI])
    try:
        client.control.unary("Solve", request, timeout=120)
    except grpc.RpcError as error:
        return request.Ref, error
    return request.Ref, None


@pytest.fixture
def build(connect, tmp_path):
    def make(text, drive):
        (tmp_path / "Dockerfile").write_bytes(text)
        client = connect(directories={"context": tmp_path, "dockerfile": tmp_path})
        ref, error = solve(client, drive)
        asked = control.BuildHistoryRequest(Ref=ref, EarlyExit=True)
        (event,) = client.control.listen("ListenBuildHistory", asked, timeout=60)
        assert event.type == control.COMPLETE
        return error, client.status(ref)

    return make


@pytest.mark.parametrize("drive", [False, True])
def test_an_image_is_made_of_them(build, drive):
    error, status = build(b'FROM scratch\nENV a=\xff\nLABEL \xff=b\nWORKDIR /\xfe\nCMD ["\xfd"]\n', drive)
    assert error is None
    assert any("WORKDIR /\ufffd" in one.name for one in status.vertexes)


@pytest.mark.parametrize("drive", [False, True])
@pytest.mark.parametrize("text", BAD)
def test_an_error_is_told(build, text, drive):
    error, _ = build(text, drive)
    assert error.code() is grpc.StatusCode.UNKNOWN
    assert BAD[text] in error.details()
