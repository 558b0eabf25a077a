"""Our own HTTP/2 and gRPC, both ends: over a socket, and byte by byte."""

import gzip
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import grpc
import pytest
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from kedge.daemon.listening import Room
from kedge.daemon.peer import Peer
from kedge.daemon.wire import content, http2, http2_server, secrets
from kedge.daemon.wire.calls import Calls, handler
from kedge.daemon.wire.channel import CallError, Channel
from kedge.daemon.wire.framing import TooLarge, Unframer, Unreadable, framed
from kedge.daemon.wire.serving import Services

SERVICE = content.services["Content"]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PEER = Peer(uid=1000, pid=1)


class Content:
    """A service: `Info` may fail or wait, `Read` sends what is asked for, `Write` answers each request."""

    def __init__(self) -> None:
        self.waits, self.ended = threading.Event(), threading.Event()
        self.seen: Any = None

    def Info(self, request: Any, context: Any) -> Any:
        self.seen = (context.caller, dict(context.invocation_metadata()))
        if request.digest == "bug":
            raise ZeroDivisionError
        if request.digest == "wait":
            assert context.add_callback(self.ended.set)
            self.waits.set()
            self.ended.wait(60)
        if request.digest != "there":
            details = (("grpc-status-details-bin", b"\0details" * 3000),)
            context.abort_with_status(Failure(grpc.StatusCode.NOT_FOUND, "no “such” 100 %\n", details))
        return content.InfoResponse(info=content.Info(digest="there", size=3))

    def Read(self, request: Any, context: Any) -> Iterator[Any]:
        for _ in range(request.size):
            yield content.ReadContentResponse(data=bytes(1 << 20))

    def Write(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        yield content.WriteContentResponse(offset=-1)
        for request in requests:
            yield content.WriteContentResponse(offset=len(request.data), digest="x" * request.total)


class Failure:
    def __init__(self, code: grpc.StatusCode, details: str, trailing_metadata: Any) -> None:
        self.code, self.details, self.trailing_metadata = code, details, trailing_metadata


class Line:
    """A client and a server of ours, and the socket between them."""

    def __init__(self, implementation: Any) -> None:
        self.pool = ThreadPoolExecutor(32)
        self.services = Services(self.pool, Room(64))
        self.services.add(handler(SERVICE, implementation))
        self.channel = Channel()
        self.server = self.services.connect(PEER)
        self.ends = socket.socketpair()
        self.threads = [
            threading.Thread(target=work, daemon=True)
            for end, connection in zip(self.ends, (self.channel.connection, self.server), strict=True)
            for work in (lambda end=end, connection=connection: carry(connection.output(), end),
                         lambda end=end, connection=connection: bring(end, connection))
        ]  # fmt: skip
        for thread in self.threads:
            thread.start()
        self.calls = Calls(self.channel, SERVICE)

    def close(self) -> None:
        self.channel.close()
        self.services.disconnect(self.server)
        for end in self.ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()
        for end in self.ends:
            end.close()
        self.pool.shutdown()


def carry(output: Iterator[bytes], end: socket.socket) -> None:
    with suppress(OSError):
        for data in output:
            end.sendall(data)
        end.shutdown(socket.SHUT_RDWR)


def bring(end: socket.socket, connection: http2.Connection) -> None:
    with suppress(OSError):
        while data := end.recv(1 << 16):
            connection.feed(data)
    connection.close()


@contextmanager
def line(implementation: Any) -> Iterator[Line]:
    made = Line(implementation)
    try:
        yield made
    finally:
        made.close()


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


# ---- calls -----------------------------------------------------------------------------------------------------------


def test_a_method_is_told_who_calls_and_with_what() -> None:
    with line(service := Content()) as one:
        metadata = (("Some-Key", "a"), ("some-bin", b"\0\xff"))
        assert one.calls.unary("Info", content.InfoRequest(digest="there"), metadata=metadata).info.size == 3
    caller, told = service.seen
    assert caller == PEER
    assert (told["some-key"], told["some-bin"]) == ("a", b"\0\xff")


def test_an_error_arrives_as_it_was_said() -> None:
    """With details that fill several frames, and words that a header cannot have as they are."""
    with line(Content()) as one:
        for _ in range(3):
            with pytest.raises(CallError) as caught:
                one.calls.unary("Info", content.InfoRequest(digest="x"))
            assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "no “such” 100 %\n")
        with pytest.raises(CallError) as caught:
            one.calls.unary("Info", content.InfoRequest(digest="bug"))
        assert (caught.value.code(), caught.value.details()) == (
            grpc.StatusCode.UNKNOWN,
            "ZeroDivisionError in the service",
        )
        with pytest.raises(CallError) as caught:
            Calls(one.channel, secrets.services["Secrets"]).unary("GetSecret", secrets.GetSecretRequest(ID="x"))
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        assert one.calls.unary("Info", content.InfoRequest(digest="there")).info.size == 3


def test_more_than_a_window_goes_both_ways() -> None:
    with line(Content()) as one:
        answers = list(one.calls.listen("Read", content.ReadContentRequest(size=9)))
        assert [len(answer.data) for answer in answers] == [1 << 20] * 9
        requests = (content.WriteContentRequest(data=bytes(size)) for size in (5 << 20, 0, 1, 5 << 20))
        sizes = [answer.offset for answer in one.calls.stream("Write", requests)]
        assert sizes == [-1, 5 << 20, 0, 1, 5 << 20]


def test_two_that_both_talk_first_do_not_wait_for_each_other() -> None:
    """Neither listens before it has said more than the windows hold."""
    with line(Content()) as one:
        call = one.calls.open("Write")
        for _ in range(300):
            assert call.send(content.WriteContentRequest(data=bytes(50_000), total=40_000))
        call.end()
        assert [len(answer.digest) for answer in call] == [0, *[40_000] * 300]


def test_many_calls_share_a_connection() -> None:
    with line(Content()) as one, ThreadPoolExecutor(16) as clients:

        def work(number: int) -> int:
            if number % 3:
                return int(one.calls.unary("Info", content.InfoRequest(digest="there")).info.size)
            return sum(len(answer.data) for answer in one.calls.listen("Read", content.ReadContentRequest(size=3)))

        found = list(clients.map(work, range(200)))
        assert found == [3 if number % 3 else 3 << 20 for number in range(200)]
        until(lambda: one.server.is_idle)


def test_a_call_can_be_given_up_and_its_method_is_told() -> None:
    with line(service := Content()) as one:
        call = one.calls.open("Info")
        call.send(content.InfoRequest(digest="wait"))
        until(service.waits.is_set)
        call.cancel()
        assert service.ended.wait(60)
        with pytest.raises(CallError) as caught:
            next(call)
        assert caught.value.code() == grpc.StatusCode.CANCELLED
        assert not call.send(content.InfoRequest())


def test_a_call_has_so_many_seconds() -> None:
    with line(service := Content()) as one:
        with pytest.raises(CallError) as caught:
            one.calls.unary("Info", content.InfoRequest(digest="wait"), timeout=0.05)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert service.ended.wait(60)


def test_calls_fail_when_the_connection_ends() -> None:
    with line(service := Content()) as one:
        call = one.calls.open("Info")
        call.send(content.InfoRequest(digest="wait"))
        until(service.waits.is_set)
        one.ends[0].shutdown(socket.SHUT_RDWR)
        with pytest.raises(CallError) as caught:
            next(call)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert service.ended.wait(60)
        until(lambda: one.channel.connection.closed)
        with pytest.raises(CallError):
            one.calls.open("Info")


def test_a_server_that_stops_lets_calls_end() -> None:
    with line(service := Content()) as one:
        call = one.calls.open("Info")
        call.send(content.InfoRequest(digest="wait"))
        until(service.waits.is_set)
        stopping = threading.Thread(target=one.services.stop, args=(60,))
        stopping.start()
        until(lambda: one.channel.connection._going)
        with pytest.raises(CallError):
            one.calls.open("Info")
        service.ended.set()
        with pytest.raises(CallError) as caught:
            next(call)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND  # what it says after it waited
        stopping.join(60)
        assert not stopping.is_alive()


def test_a_server_that_stops_breaks_off_those_that_do_not_end() -> None:
    with line(service := Content()) as one:
        call = one.calls.open("Info")
        call.send(content.InfoRequest(digest="wait"))
        until(service.waits.is_set)
        one.services.stop(0.05)
        with pytest.raises(CallError):
            next(call)
        assert service.ended.wait(60)


def test_who_does_not_read_makes_the_sender_wait_not_the_memory_grow() -> None:
    connection = http2.Client()
    stream = connection.open([(":path", "/x")])
    settings = frame(4, 0, 0, struct.pack(">HI", 4, (1 << 31) - 1)) + frame(8, 0, 0, struct.pack(">I", 1 << 30))
    connection.feed(settings)
    sender = threading.Thread(target=lambda: stream.send(bytes(64 << 20)), daemon=True)
    sender.start()
    until(lambda: stream._blocked)
    assert connection._held < 2 << 20
    carried = 0
    for data in connection.output():
        carried += len(data)
        if carried > 64 << 20:
            break
    sender.join(60)
    assert not sender.is_alive()


def test_words_that_are_no_utf8_arrive_all_the_same() -> None:
    class Odd:
        def Info(self, request: Any, context: Any) -> Any:
            context.abort(grpc.StatusCode.INTERNAL, "file \udcff")

    with line(Odd()) as one, pytest.raises(CallError) as caught:
        one.calls.unary("Info", content.InfoRequest())
    assert caught.value.details() == "file ?"


def test_one_answer_is_waited_for_where_there_should_be_one() -> None:
    class Chatty:
        def __init__(self) -> None:
            self.ended = threading.Event()

        def Write(self, requests: Any, context: Any) -> Iterator[Any]:
            context.add_callback(self.ended.set)
            while not self.ended.is_set():
                yield content.WriteContentResponse()

    with line(service := Chatty()) as one:
        path = f"/{SERVICE.full_name}/Write"
        with pytest.raises(CallError) as caught:
            one.channel.unary_unary(path, content.WriteContentRequest.SerializeToString)(content.WriteContentRequest())
        assert caught.value.code() == grpc.StatusCode.INTERNAL
        assert service.ended.wait(60)


def test_a_user_who_has_all_the_calls_that_he_may_is_told() -> None:
    with line(service := Content()) as one:
        one.services._room = Room(2)
        call = one.calls.open("Info")
        call.send(content.InfoRequest(digest="wait"))
        until(service.waits.is_set)
        with pytest.raises(CallError) as caught:
            one.calls.unary("Info", content.InfoRequest(digest="there"))
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        service.ended.set()
        with pytest.raises(CallError):
            next(call)
        until(lambda: one.server.is_idle and not one.services._room._taken)
        assert one.calls.unary("Info", content.InfoRequest(digest="there")).info.size == 3


def test_a_message_that_is_cut_off_is_an_error() -> None:
    channel = Channel()
    call = channel.open("/x")
    encoder = Encoder()
    head = encoder.encode([(":status", "200"), ("content-type", "application/grpc")])
    tail = encoder.encode([("grpc-status", "0")])
    channel.connection.feed(frame(1, 4, 1, head) + frame(0, 0, 1, b"\0\0\0\0\5ab") + frame(1, 5, 1, tail))
    with pytest.raises(CallError, match="cut off"):
        next(call)


# ---- frames ----------------------------------------------------------------------------------------------------------


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def said(connection: http2.Connection) -> list[tuple[int, int, int, bytes]]:
    """The frames that wait to be sent."""
    data, found = b"".join(connection._out).removeprefix(PREFACE), []
    while data:
        size = int.from_bytes(data[:3], "big")
        found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
        data = data[9 + size :]
    return found


SETTINGS = frame(4, 0, 0)


@pytest.mark.parametrize(
    ("bytes_", "code"),
    [
        (frame(0, 0, 1, bytes(16_385)), 6),  # larger than allowed
        (frame(0, 0, 3, b"x"), 1),  # of a stream that there never was
        (frame(0, 0, 2, b"x"), 1),  # of one that a server opens
        (frame(1, 4, 2, b""), 1),
        (frame(5, 4, 1, bytes(4)), 1),  # a promise that was not asked for
        (frame(9, 4, 1, b""), 1),  # more headers without headers
        (frame(1, 0, 1, b"") + frame(6, 0, 0, bytes(8)), 1),  # headers interrupted
        (frame(1, 4, 1, b"\xff\xff\xff\xff\xff"), 9),  # no header compression
        (frame(6, 0, 0, bytes(7)), 6),
        (frame(3, 0, 1, bytes(3)), 6),
        (frame(4, 0, 0, bytes(5)), 1),
        (frame(4, 0, 0, struct.pack(">HI", 4, 1 << 31)), 3),
        (frame(8, 0, 0, bytes(4)), 1),  # a window that does not grow
        (frame(8, 0, 0, struct.pack(">I", (1 << 31) - 1)), 3),
        (frame(8, 0, 1, struct.pack(">I", (1 << 31) - 1)), 3),
        (frame(0, 8, 1, b"\x05abc"), 1),  # more padding than frame
        (frame(7, 0, 0, bytes(4)), 1),
        (b"".join(frame(0, 0, 1, bytes(16_384)) for _ in range(129)), 3),  # more than the window, unread
        (frame(1, 0, 1, bytes(16_384)) + b"".join(frame(9, 0, 1, bytes(16_384)) for _ in range(65)), 11),
    ],
)
def test_a_server_that_breaks_the_protocol_is_left(bytes_: bytes, code: int) -> None:
    connection = http2.Client()
    stream = connection.open([(":path", "/x")])
    connection.feed(SETTINGS + bytes_)
    kind, _, _, payload = said(connection)[-1]
    assert (kind, struct.unpack(">II", payload)[1]) == (7, code)
    assert connection.closed
    assert stream.receive() == b"" or stream.error is not None
    connection.feed(bytes_)
    assert b"".join(connection.output())  # what is left to say, and then an end


def test_headers_without_end_are_not_taken() -> None:
    connection = http2.Client()
    stream = connection.open([(":path", "/x")])
    connection.feed(SETTINGS + frame(1, 4, 1, b"\x88") * 100)
    assert connection.closed
    assert stream.error is not None


def test_a_client_that_reads_no_answer_is_left() -> None:
    connection = http2_server.Server(lambda stream: stream.finish([("x", "y" * 100_000)]))
    connection.feed(PREFACE + SETTINGS)
    for number in range(1, 2001, 2):
        connection.feed(frame(1, 5, number, b"\x82"))
    assert connection.closed
    assert connection._held < 18 << 20


def test_a_sender_is_free_once_its_stream_has_ended() -> None:
    connection = http2.Client()
    stream = connection.open([(":path", "/x")])
    taken = list[bool]()
    sender = threading.Thread(target=lambda: taken.append(stream.send(bytes(1 << 20))), daemon=True)
    sender.start()
    until(lambda: stream._blocked)
    stream.end()
    sender.join(60)
    assert taken == [False]


@pytest.mark.parametrize("setting", [(3, 0), (4, 0)])
def test_a_call_has_so_many_seconds_also_to_be_sent(setting: tuple[int, int]) -> None:
    channel = Channel()
    channel.connection.feed(frame(4, 0, 0, struct.pack(">HI", *setting)))
    with pytest.raises(CallError) as caught:
        channel.unary_unary("/x")(b"request", timeout=0.05)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_what_is_unread_in_all_streams_is_bounded() -> None:
    connection = http2_server.Server(lambda stream: None)
    connection.feed(PREFACE + SETTINGS)
    for number in range(1, 201, 2):
        connection.feed(frame(1, 4, number, b"\x82") + frame(0, 0, number, bytes(16_000)) * 100)
        if connection.closed:
            break
    assert connection.closed  # more than the connection's window, which was not widened any more
    assert number > 80
    freed = http2_server.Server(lambda stream: None)
    freed.feed(PREFACE + SETTINGS)
    for number in range(1, 401, 2):
        freed.feed(frame(1, 4, number, b"\x82") + frame(0, 8, number, b"\xff" + bytes(15_999)) * 100)
        stream = freed._streams[number]
        assert len(stream.receive()) == 100 * (15_999 - 255)
    assert not freed.closed
    assert freed._unread == 0


def test_what_is_not_known_is_no_error() -> None:
    connection = http2.Client()
    stream = connection.open([(":path", "/x")])
    connection.feed(
        SETTINGS + frame(200, 255, 77, b"?") + frame(2, 0, 1, bytes(5)) + frame(4, 0, 0, bytes(4) + b"\xff\1")
    )
    connection.feed(frame(0, 8, 1, b"\x02abc\0\0") + frame(6, 0, 0, b"12345678") + frame(0, 1, 1))
    assert (stream.receive(), stream.receive(), stream.error) == (b"abc", b"", 0)
    assert (6, 1, 0, b"12345678") in said(connection)
    connection.feed(frame(0, 0, 1, b"late") + frame(8, 0, 1, bytes(3) + b"\1") + frame(3, 0, 1, bytes(4)))
    assert not connection.closed


def test_a_client_that_only_asks_and_never_reads_is_left() -> None:
    connection = http2_server.Server(lambda stream: None)
    connection.feed(PREFACE + SETTINGS)
    for _ in range(400):
        connection.feed(frame(6, 0, 0, bytes(8)) * 1000)
    assert connection.closed
    assert connection._held < 4 << 20


def test_a_client_has_only_so_many_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2_server, "_MOST_STREAMS", 3)
    begun = list[http2_server.Asked]()
    connection = http2_server.Server(begun.append)
    connection.feed(PREFACE + SETTINGS + b"".join(frame(1, 5, number, b"\x82") for number in range(1, 11, 2)))
    assert [stream.id for stream in begun] == [1, 3, 5]
    assert {one[2] for one in said(connection) if one[0] == 3} == {7, 9}
    begun[0].finish([("grpc-status", "0")])
    connection.feed(frame(1, 5, 11, b"\x82"))
    assert [stream.id for stream in begun] == [1, 3, 5, 11]


def test_a_server_is_for_http2_only() -> None:
    connection = http2_server.Server(lambda stream: None)
    connection.feed(b"GET / HTTP/1.1\r\n")
    assert connection.closed
    slow = http2_server.Server(lambda stream: None)
    for byte in PREFACE + SETTINGS:
        slow.feed(bytes((byte,)))
    assert not slow.closed


def test_windows_that_shrink_hold_back() -> None:
    """A peer may lower all windows below nothing; then nothing is sent until it has raised them enough."""
    connection = http2.Client()
    stream = connection.open([(":path", "/x")])
    assert stream.send(bytes(1000))
    connection.feed(frame(4, 0, 0, struct.pack(">HI", 4, 10)))
    sender = threading.Thread(target=lambda: stream.send(b"abc"), daemon=True)
    sender.start()
    until(lambda: stream._blocked)
    connection.feed(frame(8, 0, 1, struct.pack(">I", 990)))
    assert not [one for one in said(connection) if one[3] == b"abc"]
    connection.feed(frame(8, 0, 1, struct.pack(">I", 3)))
    sender.join(60)
    assert [one for one in said(connection) if one[3] == b"abc"]


@pytest.mark.parametrize("setting", [(3, 0), (4, 0)])
def test_a_question_does_not_wait(setting: tuple[int, int]) -> None:
    """Not even for a peer that takes no stream, or no byte; calls do, until the connection ends."""
    channel = Channel()
    channel.connection.feed(frame(4, 0, 0, struct.pack(">HI", *setting)))
    assert channel.ask("/x") is None
    failures = list[Exception]()

    def call() -> None:
        try:
            channel.unary_unary("/x")(b"request")
        except CallError as error:
            failures.append(error)

    caller = threading.Thread(target=call, daemon=True)
    caller.start()
    time.sleep(0.05)
    assert caller.is_alive()
    channel.close()
    caller.join(60)
    assert len(failures) == 1
    assert channel.ask("/x") is None


def test_bytes_that_come_one_by_one_take_no_more_memory_than_others() -> None:
    connection = http2.Client()
    stream = connection.open([(":path", "/x")])
    for _ in range(100):
        connection.feed(frame(0, 0, 1, b"x") * 1000)
    assert sys.getsizeof(stream._arrived) < 200_000
    assert stream.receive() == b"x" * 100_000


def test_headers_begin_a_call_once() -> None:
    begun = list[http2_server.Asked]()
    connection = http2_server.Server(begun.append)
    connection.feed(PREFACE + SETTINGS + frame(1, 4, 1) + frame(1, 4, 1) + frame(1, 5, 1, b"\x82"))
    assert [(stream.id, stream.receive()) for stream in begun] == [(1, b"")]
    connection.feed(frame(7, 0, 0, bytes(8)))  # what a client says when it goes
    assert begun[0].error is None


frames = st.tuples(
    st.integers(0, 11), st.integers(0, 255), st.integers(0, 6) | st.just(0x80000001), st.binary(max_size=40)
)


@given(st.lists(frames, max_size=30), st.binary(max_size=30), st.integers(1, 50), st.booleans())
@settings(deadline=None, max_examples=400)
def test_no_bytes_do_harm(told: list[Any], rest: bytes, size: int, serves: bool) -> None:
    begun = list[http2_server.Asked]()
    connection: Any = http2_server.Server(begun.append) if serves else http2.Client()
    streams = [] if serves else [connection.open([(":path", "/x")]) for _ in range(2)]
    data = (PREFACE if serves else b"") + SETTINGS + b"".join(frame(*one) for one in told) + rest
    for at in range(0, len(data), size):
        connection.feed(data[at : at + size])
    connection.close()
    for stream in (*streams, *begun):
        while stream.receive(time.monotonic() + 60):
            pass
        stream.cancel()
    assert len(b"".join(connection.output())) < 1 << 20


# ---- messages --------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=200), max_size=20), st.integers(1, 300))
def test_messages_come_out_as_they_went_in_however_they_are_cut(messages: list[bytes], size: int) -> None:
    reader, data = Unframer(200), b"".join(map(framed, messages))
    for at in range(0, len(data), size):
        reader.feed(data[at : at + size])
    assert ([reader.take() for _ in list(reader.ready)], reader.is_between) == (messages, True)


def test_a_message_may_be_compressed_but_no_bomb() -> None:
    def packed(data: bytes) -> bytes:
        data = gzip.compress(data)
        return struct.pack(">BI", 1, len(data)) + data

    reader = Unframer(1000)
    reader.encoding = "gzip"
    reader.feed(packed(b"x" * 1000))
    assert reader.take() == b"x" * 1000
    for wrong in (packed(bytes(1 << 18)), packed(b"x")[:-3] + b"xxx", struct.pack(">BI", 1, 3) + b"abc"):
        reader.feed(wrong)
        with pytest.raises(Unreadable):
            reader.take()
    with pytest.raises(TooLarge):
        Unframer(1000).feed(struct.pack(">BI", 0, 1001))
    plain = Unframer(1000)
    plain.feed(packed(b"x"))
    with pytest.raises(Unreadable, match="identity"):
        plain.take()
