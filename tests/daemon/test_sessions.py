"""What a client's session may cost the service, and when it is over."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from kedge.daemon.peer import Peer
from kedge.daemon.sessions import receive, registry, watch
from kedge.daemon.sessions.registry import Sessions
from kedge.daemon.sessions.tunnel import Tunnel, socket_pieces
from kedge.daemon.wire import fsutil, secrets
from kedge.daemon.wire.calls import Calls, handler
from kedge.model.errors import Conflict, InvalidInput, NotFound
from tests.daemon.transfers import Told


def metadata(id: str, *more: tuple[str, str]) -> list[tuple[str, str]]:
    return [(registry.ID, id), *more]


def test_a_session_ends_when_nobody_takes_it_up() -> None:
    sessions, peer = Sessions(), Peer(uid=1000)
    sessions.serve(metadata("one"), peer, iter(())).close()
    with pytest.raises(NotFound):
        sessions.get("one", peer, patience=0)
    sessions.serve(metadata("one"), peer, iter(())).close()


def test_one_client_cannot_take_all_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MOST_OF_ONE", 2)
    sessions, never = Sessions(), threading.Event()

    def nothing() -> Iterator[bytes]:
        never.wait()
        yield from ()

    held = [sessions.serve(metadata(id), Peer(uid=1000), nothing()) for id in ("a", "b")]
    with pytest.raises(Conflict, match="2 sessions"):
        sessions.serve(metadata("c"), Peer(uid=1000), nothing())
    held.append(sessions.serve(metadata("c"), Peer(uid=1001), nothing()))
    held.pop(0).close()
    held.append(sessions.serve(metadata("d"), Peer(uid=1000), nothing()))
    for one in held:
        one.close()
    never.set()


def test_a_client_that_says_nothing_any_more_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection is open, yet nobody is there: a machine that sleeps."""
    monkeypatch.setattr(watch, "TURN", 0.01)
    sessions, peer, never, closed = Sessions(), Peer(uid=1000), threading.Event(), threading.Event()

    def nothing() -> Iterator[bytes]:
        never.wait()
        yield from ()

    pump = sessions.serve(metadata("silent"), peer, nothing())
    sessions.get("silent", peer).on_close(closed.set)
    assert closed.wait(60)
    with pytest.raises(NotFound):
        sessions.get("silent", peer, patience=0)
    pump.close()
    never.set()


def test_a_client_with_nothing_to_say_answers_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that does not know the question, as any gRPC server answers it."""
    monkeypatch.setattr(watch, "TURN", 0.1)
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_insecure_port(f"unix:{tmp_path}/s")
    server.start()
    sessions, peer, answers, done = Sessions(), Peer(uid=1000), list[bytes](), threading.Event()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{tmp_path}/s")

        def incoming() -> Iterator[bytes]:
            for data in socket_pieces(client):
                answers.append(data)
                if len(answers) > 8:
                    done.set()
                yield data

        # twenty turns: a loaded machine may be late for some of them
        pump = sessions.serve(metadata("quiet", (watch.CUSTOM, "2000")), peer, incoming())

        def carry() -> None:
            for data in pump:
                client.sendall(data)

        threading.Thread(target=carry, daemon=True).start()
        assert done.wait(60)
        assert not sessions.get("quiet", peer).closed.is_set()
        sessions.close()
        server.stop(0)


class _Far:
    """A session of which a test says whether anything came."""

    channel = None
    patience = 3

    def __init__(self, *heard: bool) -> None:
        self._heard = list(heard)

    def heard(self) -> bool:
        return self._heard.pop(0)


def test_silence_is_counted_from_the_last_byte() -> None:
    ended, asked = list[_Far](), list[object]()
    over = threading.Event()

    def end(one: _Far) -> None:
        ended.append(one)
        over.set()

    class Unanswered:
        def done(self) -> bool:
            return False

        def ask(self, path: str) -> "Unanswered":
            asked.append(path)
            return self

    one, watching = _Far(False, False, False, True, False, False, False, False), watch.Watch(end)
    one.channel = Unanswered()  # type: ignore[assignment]
    for _ in range(7):
        watching.turn([one])
    assert (ended, len(asked)) == ([], 1)  # a question without an answer is not asked again
    watching.turn([one])
    assert over.wait(60)


def test_a_session_that_ends_while_it_is_asked_does_not_end_the_watch() -> None:
    """Nor does one for whose end there is no thread."""
    tunnel, ended, over = Tunnel(), list[_Far](), threading.Event()
    tunnel.close()
    closed = _Far(*[False] * 8)
    closed.channel = tunnel.channel  # type: ignore[assignment]

    def end(one: _Far) -> None:
        ended.append(one)
        over.set()

    watching = watch.Watch(end)
    for _ in range(3):
        watching.turn([closed])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", _no_thread)
        watching.turn([closed])
        assert ended == []
    watching.turn([closed])
    assert over.wait(60)


def _no_thread(self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize(
    ("text", "turns"), [("", 60), ("2000", 2), ("1", 2), ("90000", 90), ("-5", 60), ("9" * 40, 60)]
)
def test_a_client_may_choose_how_soon_it_is_given_up(text: str, turns: int) -> None:
    assert watch.read_patience(text) == turns


def test_a_message_of_any_size_is_not_taken_from_a_client(tmp_path: Path) -> None:
    class Secrets:
        def GetSecret(self, request: Any, context: Any) -> Any:
            return secrets.GetSecretResponse(data=bytes(20 << 20))

    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers((handler(secrets.services["Secrets"], Secrets()),))
    server.add_insecure_port(f"unix:{tmp_path}/s")
    server.start()
    tunnel = Tunnel()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{tmp_path}/s")

        def carry() -> None:
            for data in tunnel.pump(socket_pieces(client)):
                client.sendall(data)

        threading.Thread(target=carry, daemon=True).start()
        with pytest.raises(grpc.RpcError) as caught:
            Calls(tunnel.channel, secrets.services["Secrets"]).unary("GetSecret", secrets.GetSecretRequest(ID="x"))
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        tunnel.close()
        server.stop(0)


def test_names_of_a_context_do_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receive, "MOST_TOLD", 10_000)

    def packets() -> Iterator[Any]:
        for number in range(1000):
            told = fsutil.RawStat(path=f"{number:04}".encode(), mode=0o644, xattrs={"user.x": bytes(100)})
            yield fsutil.Packet(type=fsutil.Packet.PACKET_STAT, stat=told)
        yield fsutil.Packet(type=fsutil.Packet.PACKET_STAT)

    with pytest.raises(InvalidInput, match="names"):
        receive.receive(Told(packets()), tmp_path, lambda current, done: None)
