"""Random and damaged messages to the gateway: each is answered or refused, none finds a bug, and the service lives."""

import random

import grpc
import pytest

from kedge.daemon.wire import control, gateway, llb
from kedge.model.graph import Edge, Vertex
from kedge.model.ops import File, MakeFile
from tests.daemon.driver import Driver, Processes

pytestmark = pytest.mark.namespace
TIMES = 60


@pytest.fixture(params=[1, 2])
def chance(request):
    return random.Random(request.param)


def damaged(chance, message):
    """The message with some of its bytes changed, taken away or doubled, as far as it can still be read as one."""
    data = bytearray(message.SerializeToString())
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(3):
            case 0:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del data[at : at + chance.randint(1, 8)]
            case _:
                data[at:at] = data[at : at + chance.randint(1, 8)] or b"\0"
    try:
        return type(message).FromString(bytes(data))
    except Exception:
        return None


def harmless(error):
    assert isinstance(error, grpc.RpcError), error
    assert error.code() not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.DEADLINE_EXCEEDED), error


@pytest.fixture
def driver(connect):
    driver = Driver(connect(lent={"s": b"secret"}))
    yield driver
    driver.client.close()


@pytest.fixture
def ref(driver):
    return driver.solve(Edge(Vertex(File((MakeFile("/f", b"[1]", 0o644, -1, 0),))))).ref.id


def messages(ref):
    """One of each kind, as whole as can be."""
    mounts = [
        llb.Mount(dest="/", resultID=ref),
        llb.Mount(dest="/c", mountType=llb.CACHE, cacheOpt=llb.CacheOpt(ID="c", sharing=llb.SHARED)),
        llb.Mount(dest="/s", mountType=llb.SECRET, secretOpt=llb.SecretOpt(ID="s", mode=0o400)),
        llb.Mount(dest="/t", mountType=llb.TMPFS, TmpfsOpt=llb.TmpfsOpt(size=4096)),
    ]
    hosts = [llb.HostIP(Host="a", IP="1.2.3.4")]
    attested = gateway.Attestation(
        ref=gateway.Ref(id=ref),
        path="/f",
        inTotoPredicateType="https://a",
        inTotoSubjects=[gateway.InTotoSubject(kind=gateway.Raw, name="x", digest=["sha256:1"])],
    )
    result = gateway.Result(
        refs=gateway.RefMap(refs={"linux/amd64": gateway.Ref(id=ref)}),
        metadata={
            "refs.platforms": b'{"Platforms":[{"ID":"linux/amd64","Platform":{"os":"linux","architecture":"amd64"}}]}'
        },
        attestations={"linux/amd64": gateway.Attestations(attestation=[attested])},
    )
    return {
        "NewContainer": gateway.NewContainerRequest(
            ContainerID="one", Mounts=mounts, Network=llb.NONE, extraHosts=hosts, hostname="h"
        ),
        "ReadFileContainer": gateway.ReadFileRequest(
            Ref="one", FilePath="/f", MountIndex=0, Range=gateway.FileRange(Offset=1, Length=1)
        ),
        "ReadDirContainer": gateway.ReadDirRequest(Ref="one", DirPath="/", IncludePattern="*", MountIndex=1),
        "StatFileContainer": gateway.StatFileRequest(Ref="one", Path="/f", MountIndex=2),
        "ReleaseContainer": gateway.ReleaseContainerRequest(ContainerID="one"),
        "ReadFile": gateway.ReadFileRequest(Ref=ref, FilePath="/f"),
        "Evaluate": gateway.EvaluateRequest(Ref=ref),
        "Return": gateway.ReturnRequest(result=result),
    }


@pytest.mark.parametrize("method", [name for name in messages("") if name != "Return"])
def test_any_request_is_answered_or_refused(driver, ref, method, chance):
    whole = messages(ref)[method]
    for _ in range(TIMES):
        if (request := damaged(chance, whole)) is not None:
            try:
                driver.call(method, request)
            except grpc.RpcError as error:
                harmless(error)
    assert driver.client.control.unary("Info", control.InfoRequest()).buildkitVersion.package


def test_any_result_is_exported_or_fails_the_build(connect, chance):
    for _ in range(8):
        driver = Driver(connect(), Exporters=[control.Exporter(Type="oci")])
        ref = driver.solve(Edge(Vertex(File((MakeFile("/f", b"[1]", 0o644, -1, 0),))))).ref.id
        request = damaged(chance, messages(ref)["Return"]) or gateway.ReturnRequest()
        try:
            driver.call("Return", request)
        except grpc.RpcError as error:
            harmless(error)
        else:
            if isinstance(answer := driver.end(), Exception):
                harmless(answer)
        driver.client.close()


def test_any_message_of_a_conversation_is_taken_or_ends_it(driver, ref, chance):
    driver.call("NewContainer", messages(ref)["NewContainer"])
    init = gateway.InitMessage(
        ContainerID="one",
        Meta=llb.Meta(args=["/none", "x"], env=["A=1"], cwd="/", user="0:0"),
        Fds=[0, 1, 2],
        secretenv=[llb.SecretEnv(ID="s", name="S")],
    )
    told = [
        gateway.ExecMessage(ProcessID="p", Init=init),
        gateway.ExecMessage(ProcessID="p", File=gateway.FdMessage(Fd=0, Data=b"data", EOF=True)),
        gateway.ExecMessage(ProcessID="p", Resize=gateway.ResizeMessage(Rows=7, Cols=7)),
        gateway.ExecMessage(ProcessID="p", Signal=gateway.SignalMessage(Name="TERM")),
    ]
    for _ in range(TIMES // 2):
        processes = Processes(driver)
        for message in told:
            processes._outgoing.put(damaged(chance, message) if chance.random() < 0.5 else message)
        processes.end()
        if processes.failure is not None:
            harmless(processes.failure)
