"""Where clients arrive: who is let in, how the sockets' files come and go, and the end."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kedge.daemon import listening
from kedge.daemon.listening import Arrival, Listener, Room, splice
from kedge.daemon.peer import Peer
from kedge.model.errors import Conflict, InvalidInput, KedgeError

PATIENCE = 60.0


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a name short enough for sockets."""
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        yield Path(path)


def connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(PATIENCE)
    connection.connect(str(path))
    return connection


def echo(arrival: Arrival) -> None:
    while data := arrival.connection.recv(100):
        arrival.connection.sendall(data)


def test_a_connection_is_answered_with_who_made_it(folder: Path) -> None:
    seen: list[Arrival] = []
    done = threading.Event()

    def answer(arrival: Arrival) -> None:
        assert arrival.entitled
        seen.append(arrival)
        done.set()

    listener = Listener(answer)
    listener.listen(f"unix://{folder}/new/s")
    listener.start()
    with connected(folder / "new" / "s"):
        assert done.wait(PATIENCE)
    listener.stop()
    listener.end(PATIENCE)
    assert (seen[0].peer.uid, seen[0].peer.gid, seen[0].peer.pid) == (os.geteuid(), os.getegid(), os.getpid())


def test_the_file_is_the_owners_and_the_groups_and_goes_with_the_stop(folder: Path) -> None:
    path = folder / "s"
    listener = Listener(echo)
    listener.listen(f"unix://{path}", str(os.getegid()))
    assert path.stat().st_mode & 0o777 == 0o660
    assert path.stat().st_gid == os.getegid()
    listener.start()
    listener.stop()
    assert not path.exists()
    listener.end(0)


def test_what_stands_at_the_path_is_left_alone_unless_it_is_dead(folder: Path) -> None:
    path = folder / "s"
    path.write_text("mine")
    listener = Listener(echo)
    with pytest.raises(Conflict, match="is no socket"):
        listener.listen(f"unix://{path}")
    assert path.read_text() == "mine"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(Conflict, match="already"):
            listener.listen(f"unix://{path}")
    listener.listen(f"unix://{path}")  # now its owner is dead
    listener.stop()
    listener.end(0)


@pytest.mark.parametrize(
    "address", ["", "/run/x.sock", "http://x", "fd://", "unix:///dev/null/x", "unix://" + "x" * 200]
)
def test_other_addresses_are_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LISTEN_PID", raising=False)
    listener = Listener(echo)
    with pytest.raises(KedgeError):
        listener.listen(address)
    listener.stop()
    listener.end(0)


def test_no_such_group(folder: Path) -> None:
    listener = Listener(echo)
    with pytest.raises(InvalidInput, match="no group nobody-has-this"):
        listener.listen(f"unix://{folder}/s", "nobody-has-this")
    assert not (folder / "s").exists()
    listener.stop()
    listener.end(0)


def test_the_end_waits_for_what_works_and_breaks_off_what_does_not_end(folder: Path) -> None:
    listener = Listener(echo)
    listener.listen(f"unix://{folder}/s")
    listener.start()
    quick, slow = connected(folder / "s"), connected(folder / "s")
    for each in (quick, slow):
        each.sendall(b"x")
        assert each.recv(1) == b"x"
    listener.stop()
    quick.sendall(b"still")
    assert quick.recv(5) == b"still"
    quick.close()
    listener.end(0.2)
    assert slow.recv(1) == b""
    slow.close()


def test_a_full_one_can_be_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_MOST", 1)
    listener = Listener(echo)
    listener.listen(f"unix://{folder}/s")
    listener.start()
    first, waiting = connected(folder / "s"), connected(folder / "s")
    first.sendall(b"x")
    assert first.recv(1) == b"x"
    stopping = threading.Thread(target=listener.stop, daemon=True)
    stopping.start()
    stopping.join(PATIENCE)
    assert not stopping.is_alive()
    listener.end(0)
    first.close()
    waiting.close()


def test_each_user_leaves_as_much_free_as_he_takes() -> None:
    room = Room(16)
    assert [sum(room.enter(user) for _ in range(20)) for user in (1, 2, None, 0, 3)] == [8, 4, 2, 1, 1]
    assert not room.enter(4)
    room.leave(2)
    assert not room.enter(1)
    assert room.enter(4)


def test_one_user_cannot_keep_another_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    greedy, other = Peer(1001), Peer(1002)
    who = iter([greedy] * 7 + [other] + [greedy] * 9)
    monkeypatch.setattr(listening, "peer_of", lambda _: next(who))
    monkeypatch.setattr(listening, "_MOST", 4)
    monkeypatch.setattr(listening, "_MOST_WAITING", 3)
    listener = Listener(echo)
    listener.listen(f"unix://{folder}/s")
    listener.start()
    connections = [connected(folder / "s") for _ in range(8)]
    with connections[-1] as others:  # the last that came
        others.sendall(b"mine")
        assert others.recv(4) == b"mine"
    for each in connections[5:7]:  # two are answered, three wait
        assert each.recv(1) == b""
    for index in (0, 1):
        connections[index].sendall(b"x")
        assert connections[index].recv(1) == b"x"
        connections[index].close()
    for index in (2, 3):  # in their order, when others have gone
        connections[index].sendall(b"y")
        assert connections[index].recv(1) == b"y"
    listener.stop()
    assert connections[4].recv(1) == b""
    for each in connections:
        each.close()
    listener.end(PATIENCE)


def test_a_splice_carries_what_is_left_after_one_side_has_ended() -> None:
    (near, left), (right, far) = socket.socketpair(), socket.socketpair()
    thread = threading.Thread(target=splice, args=(left, right), daemon=True)
    thread.start()
    near.sendall(b"question")
    near.shutdown(socket.SHUT_WR)
    assert far.recv(100) == b"question"
    assert far.recv(100) == b""
    far.sendall(b"answer")
    far.close()
    assert near.recv(100) == b"answer"
    assert near.recv(100) == b""
    thread.join(PATIENCE)
    assert not thread.is_alive()
    for each in (near, left, right):
        each.close()


def test_systemds_socket_still_takes_connections_after_the_service_has_ended(folder: Path) -> None:
    pytest.importorskip("grpc", reason="the extra `serve` is not installed")
    path = folder / "s"
    script = (
        "import os,sys; os.dup2(int(sys.argv[1]), 3); os.set_inheritable(3, True);"
        "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()));"
        "os.execv(sys.executable, [sys.executable, '-m', 'kedge.cli.buildkitd', '--root', sys.argv[2], '--addr', 'fd://'])"
    )
    with socket.socket(socket.AF_UNIX) as systemds:
        systemds.bind(str(path))
        systemds.listen(5)
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(systemds.fileno()), str(folder / "root")],
            pass_fds=[systemds.fileno()], stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            with connected(path) as client:
                client.sendall(
                    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
                )  # RFC 9113: an empty SETTINGS frame
                assert client.recv(9)
        finally:
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
        assert path.exists()
        connected(path).close()  # it waits in the queue for the next start
