"""The life of a build in the service: what is left when it cannot begin, when its client goes, when it has ended."""

import os
import threading
import traceback
import uuid
from collections.abc import Callable

import grpc
import pytest

from kedge.builder.request import BuildRequest
from kedge.daemon.buildkit import jobs as jobs_module
from kedge.daemon.buildkit import progress
from kedge.daemon.buildkit.config import ServiceConfig
from kedge.daemon.buildkit.control import Control
from kedge.daemon.buildkit.definition import encode
from kedge.daemon.buildkit.errors import UnknownRef
from kedge.daemon.buildkit.history import History
from kedge.daemon.buildkit.jobs import Jobs, Origin
from kedge.daemon.buildkit.reading import read_directory
from kedge.daemon.buildkit.solving import solve_definition
from kedge.daemon.peer import Peer
from kedge.daemon.sessions.registry import ClientSession, Sessions
from kedge.daemon.sessions.tunnel import Tunnel
from kedge.daemon.wire import control
from kedge.model.errors import Conflict, NotFound, StoreError
from kedge.model.event import LogEvent, StatusEvent, VertexEvent
from kedge.model.graph import Edge, Vertex
from kedge.model.ops import File, MakeDir

ME, OTHER = Peer(uid=1000), Peer(uid=1001)
DIRECTORY = encode(Edge(Vertex(File((MakeDir("/d", 0o755, False, -1, 0),)))))


class OneSession(Sessions):
    """A registry that knows one session, or none, and does not wait for others."""

    def __init__(self, session: ClientSession | None = None) -> None:
        super().__init__()
        self.session = session

    def get(self, id: str, peer: Peer, patience: float = 0) -> ClientSession:
        if self.session is None:
            raise NotFound("no active session")
        return self.session


@pytest.fixture
def session():
    one = ClientSession("s", "", ME, Tunnel())
    yield one
    one.close()


class Call:
    """A call's context: of a client that is there, or has gone before anybody looked."""

    def __init__(self, gone: bool = False) -> None:
        self.gone, self.callbacks = gone, list[Callable[[], None]]()
        self.code = grpc.StatusCode.OK

    def add_callback(self, callback: Callable[[], None]) -> bool:
        if not self.gone:
            self.callbacks.append(callback)
        return not self.gone

    def abort_with_status(self, status) -> None:
        self.code = status.code
        raise RuntimeError("aborted")


class Service:
    """Jobs, history and the control service over a store of their own, called without a connection."""

    def __init__(self, root, session=None) -> None:
        config = ServiceConfig(root)
        self.sessions, self.peer = OneSession(session), ME
        self.jobs = Jobs(config, self.sessions)
        self.history = History(config, lambda context: self.peer)
        self.control = Control(
            config, self.jobs, self.sessions, self.history, lambda context: self.peer, lambda _: None
        )

    def solve(self, call: Call, **fields) -> None:
        try:
            self.control.Solve(request(**fields), call)
        except RuntimeError:
            assert call.code is not grpc.StatusCode.OK

    def kinds(self, peer: Peer = ME) -> list[int]:
        asked = control.BuildHistoryRequest(EarlyExit=True)
        return [event.kind for event in self.history.listen(asked, peer, threading.Event())]


def request(**fields):
    return control.SolveRequest(**({"Ref": uuid.uuid4().hex} | fields))


def leases(root) -> list[str]:
    return [path.name for path in (root / "leases").iterdir()]


def test_a_build_whose_session_does_not_come_leaves_nothing_open(tmp_path):
    jobs = Jobs(ServiceConfig(tmp_path), OneSession())
    with pytest.raises(NotFound):
        jobs.start(request(Session="none"), ME)
    assert not (tmp_path / "leases").exists() or leases(tmp_path) == []


def test_a_session_that_closes_at_the_same_time_stops_its_build(tmp_path, session):
    session.close()
    service, call = Service(tmp_path, session), Call()
    service.solve(call, Session="s", Definition=DIRECTORY)
    assert call.code is grpc.StatusCode.CANCELLED


def test_a_session_does_not_hold_builds_that_ended(tmp_path, session):
    service = Service(tmp_path, session)
    service.solve(Call(), Session="s", Definition=DIRECTORY)
    assert session._on_close == []


def test_a_client_that_has_gone_before_its_build_began_ends_it(tmp_path):
    service, call = Service(tmp_path), Call(gone=True)
    thread = threading.Thread(target=service.solve, args=(call,), daemon=True)  # nobody will ever drive this build
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert call.code is grpc.StatusCode.CANCELLED
    assert leases(tmp_path) == []


def test_what_fails_at_the_end_leaves_no_build_behind(tmp_path, monkeypatch):
    def full(self) -> None:
        raise StoreError("the disk is full")

    service = Service(tmp_path)
    monkeypatch.setattr(jobs_module.LentCaches, "close", full)
    call, ref = Call(), uuid.uuid4().hex
    service.solve(call, Ref=ref, Definition=DIRECTORY)
    assert call.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert leases(tmp_path) == []
    assert service.jobs.running() == []
    assert service.kinds() == [control.COMPLETE]
    assert service.history.status(ref, ME)


def test_a_record_ends_though_what_it_tells_cannot_be_told(tmp_path, monkeypatch):
    monkeypatch.setattr("kedge.daemon.buildkit.history.statements", lambda image: 1 / 0)
    monkeypatch.setattr("kedge.daemon.buildkit.history._write_messages", lambda messages: 1 / 0)
    service, call = Service(tmp_path), Call()
    service.solve(call, Definition=DIRECTORY)
    assert call.code is grpc.StatusCode.INTERNAL
    assert service.kinds() == [control.COMPLETE]


def test_a_ref_of_another_users_build_is_refused(tmp_path):
    service = Service(tmp_path)
    ref = uuid.uuid4().hex
    service.solve(Call(), Ref=ref, Definition=DIRECTORY)
    service.peer = OTHER
    call = Call()
    service.solve(call, Ref=ref, Definition=DIRECTORY)
    assert call.code is grpc.StatusCode.ALREADY_EXISTS
    later = Service(tmp_path)  # which knows the build by its record only
    later.peer, call = OTHER, Call()
    later.solve(call, Ref=ref, Definition=DIRECTORY)
    assert call.code is grpc.StatusCode.ALREADY_EXISTS
    assert later.jobs.running() == []
    assert (later.kinds(ME), later.kinds(OTHER)) == ([control.COMPLETE], [])
    with pytest.raises(Conflict):
        service.jobs.start(request(Ref=ref), OTHER)


def test_ended_builds_are_kept_only_as_far_as_there_is_room(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs_module, "_KEPT_BYTES", 10_000)
    jobs = Jobs(ServiceConfig(tmp_path), OneSession())
    refs = []
    for _ in range(3):
        job = jobs.start(request(), ME)
        job.log.report(LogEvent("sha256:0", 1, b"x" * 6000, 0.0))
        job.finish()
        refs.append(job.ref)
    assert jobs.get(refs[-1], ME, 0).ref == refs[-1]
    with pytest.raises(UnknownRef):
        jobs.get(refs[0], ME, 0)


def test_a_log_of_many_small_pieces_is_bounded_and_its_steps_are_all_told(monkeypatch):
    monkeypatch.setattr(progress, "_MOST", 100_000)
    log = progress.EventLog()
    for _ in range(1000):
        log.report(LogEvent("sha256:0", 1, b"x", 0.0))
        log.report(StatusEvent("sha256:0", "s", 0.0))
        log.add(control.StatusResponse(warnings=[control.VertexWarning(short=b"w")]))
    log.report(VertexEvent("sha256:1", "last", started=1.0, completed=2.0))
    log.close()
    merged = control.StatusResponse()
    for message in log.listen():
        merged.MergeFrom(message)
    assert [one.name for one in merged.vertexes] == ["last"]
    assert 100 < len(merged.logs) + len(merged.statuses) + len(merged.warnings) < 1000
    assert log.size < 110_000


def test_a_driver_that_solves_often_holds_little(tmp_path):
    job = Jobs(ServiceConfig(tmp_path), OneSession()).start(request(), ME)
    solved, before = [], len(os.listdir("/proc/self/fd"))
    for number in range(50):
        graph = encode(Edge(Vertex(File((MakeDir(f"/{number}", 0o755, False, -1, 0),)))))
        solved.append(solve_definition(job, graph))
        solved[-1].evaluate()
    assert len(os.listdir("/proc/self/fd")) < before + 80
    outcome = solved[0].outcomes[""]
    with outcome.store.layers.mounted(outcome.snapshot) as tree:
        assert [one.path for one in read_directory(tree.fd, "/", "")] == ["0"]
    assert job.parts(BuildRequest()).executor is job.parts(BuildRequest()).executor
    job.finish()
    assert leases(tmp_path) == []


def test_an_error_that_many_ask_for_does_not_grow(tmp_path):
    def fail(origin):
        raise StoreError("no")

    job = Jobs(ServiceConfig(tmp_path), OneSession()).start(request(), ME)
    origin = Origin(job.parts(BuildRequest()), fail)
    lengths = set()
    for _ in range(5):
        with pytest.raises(StoreError) as caught:
            origin.solved  # noqa: B018 - asking raises
        lengths.add(len(traceback.extract_tb(caught.value.__traceback__)))
    job.finish()
    assert max(lengths) <= min(lengths) + 1


def test_a_trace_that_is_made_while_its_record_goes_brings_nothing_back(tmp_path, monkeypatch):
    service = Service(tmp_path)
    ref = uuid.uuid4().hex
    service.solve(Call(), Ref=ref, Definition=DIRECTORY)

    def slow(record, messages):
        service.history.delete(ref, ME)
        return b"{}"

    monkeypatch.setattr("kedge.daemon.buildkit.history.spans", slow)
    service.history.finalize(ref, ME)
    assert list((tmp_path / "service" / "history").iterdir()) == []
