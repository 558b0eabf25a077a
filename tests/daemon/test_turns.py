"""One user's calls leave threads to all others."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from kedge.daemon import server as server_module
from kedge.daemon.peer import Peer
from kedge.daemon.server import Server
from kedge.daemon.wire import health
from kedge.daemon.wire.calls import Calls, handler

PATIENCE = 60.0
HEALTH = health.services["Health"]
MOST = 16  # threads, half of which are for one user alone


class Slow:
    """Streams until it is let go, whether its client is there or not."""

    def __init__(self) -> None:
        self.go, self.begun = threading.Event(), threading.Semaphore(0)

    def Check(self, request: Any, context: Any) -> Any:
        return health.HealthCheckResponse()

    def Watch(self, request: Any, context: Any) -> Iterator[Any]:
        yield health.HealthCheckResponse()
        self.begun.release()
        self.go.wait(PATIENCE)


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def running(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(server_module, "_THREADS", MOST)
    server = Server(lambda line: None)
    server.add(handler(HEALTH, slow))
    server.start()
    yield server
    slow.go.set()
    server.stop(1)


@contextmanager
def user(server: Server, uid: int, folder: Path) -> Iterator[Calls]:
    """A client whose calls are those of a user."""
    path = folder / f"{uid}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def carry() -> None:
            connection, _ = listener.accept()
            server.carry(connection, Peer(uid=uid))

        threading.Thread(target=carry, daemon=True).start()
        with grpc.insecure_channel(f"unix:{path}") as channel:
            yield Calls(channel, HEALTH)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a name short enough for sockets."""
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        yield Path(path)


def check(calls: Calls) -> grpc.StatusCode:
    try:
        calls.unary("Check", health.HealthCheckRequest(), timeout=PATIENCE)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_who_takes_all_turns_keeps_nobody_out(running: Server, slow: Slow, folder: Path) -> None:
    with user(running, 1, folder) as greedy, user(running, 2, folder) as other:
        streams = [greedy.listen("Watch", health.HealthCheckRequest()) for _ in range(MOST // 2)]
        for _ in streams:
            assert slow.begun.acquire(timeout=PATIENCE)
        assert check(greedy) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert check(other) is grpc.StatusCode.OK
        for stream in streams:
            stream.cancel()
        assert check(greedy) is grpc.StatusCode.RESOURCE_EXHAUSTED  # its threads are still busy
        slow.go.set()
        end = time.monotonic() + PATIENCE
        while check(greedy) is not grpc.StatusCode.OK:
            assert time.monotonic() < end
        assert check(greedy) is grpc.StatusCode.OK


def test_calls_that_nobody_waits_for_give_their_turns_back(running: Server, slow: Slow, folder: Path) -> None:
    slow.go.set()
    with user(running, 1, folder) as calls:
        for _ in range(5 * MOST):
            stream = calls.listen("Watch", health.HealthCheckRequest())
            stream.cancel()
        end = time.monotonic() + PATIENCE
        while running._turns._room._taken and time.monotonic() < end:
            time.sleep(0.05)
        assert not running._turns._room._taken
        assert [check(calls) for _ in range(MOST)] == [grpc.StatusCode.OK] * MOST
