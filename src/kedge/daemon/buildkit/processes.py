"""One client's conversation about the processes of its containers: ExecProcess, a stream of messages each way.

Owns the order of what is told (started, output, exit, ends of output, done), and that all of it ends when the client
goes away. Does not know what a process is made of (`containers`).
"""

import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

import grpc

from kedge.containers.streams import Streams
from kedge.daemon.buildkit.containers import Container, Containers, Running
from kedge.daemon.buildkit.errors import Refused, UnknownRef, own, status_message
from kedge.daemon.wire import gateway
from kedge.model.errors import Cancelled, Conflict, KedgeError

_MOST: Final = 10_000  # processes of one conversation
_MOST_WAITING: Final = 64  # messages that a client has not taken yet
_LONGEST_ID: Final = 512
_UNKNOWN: Final = 255  # the code of a process that came to none (pb.UnknownExitStatus)
_PIECE: Final = 1 << 20  # bytes of output in one message
_GRAIN: Final = 0.2  # seconds


class _Outbox:
    """Messages to the client, in order; who adds to a full one waits."""

    def __init__(self) -> None:
        self._messages: deque[Any] = deque()
        self._changed = threading.Condition()
        self._ended = self._gone = False

    def put(self, message: Any, give_up: threading.Event) -> None:
        """Add one; drop it when the client is gone, or takes none and it is no use to wait any more."""
        with self._changed:
            while len(self._messages) >= _MOST_WAITING and not self._gone and not give_up.is_set():
                self._changed.wait(_GRAIN)
            if not self._gone and len(self._messages) < 2 * _MOST_WAITING:
                self._messages.append(message)
                self._changed.notify_all()

    def take(self) -> Any:
        """The next one, waited for; None when there will be none."""
        with self._changed:
            while not self._messages and not self._ended:
                self._changed.wait()
            if self._gone or not self._messages:
                return None
            self._changed.notify_all()
            return self._messages.popleft()

    def end(self, gone: bool = False) -> None:
        """Nothing more comes; or nobody takes it."""
        with self._changed:
            self._ended, self._gone = True, self._gone or gone
            self._changed.notify_all()


class _Input:
    """What a process is given, written by a thread of its own: one that does not read holds up no other."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._pieces: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._ended = False
        threading.Thread(target=self._write, name="gateway-input", daemon=True).start()

    def put(self, data: bytes, give_up: Callable[[], bool]) -> None:
        with self._changed:
            while len(self._pieces) >= _MOST_WAITING and not self._ended and not give_up():
                self._changed.wait(_GRAIN)
            if not self._ended:
                self._pieces.append(data)
                self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _write(self) -> None:
        while True:
            with self._changed:
                while not self._pieces and not self._ended:
                    self._changed.wait()
                if not self._pieces:
                    break
                data = self._pieces.popleft()
                self._changed.notify_all()
            self._streams.write(data)
        self._streams.end_of_client_input()


class _Talk:
    """What is said of one process."""

    def __init__(self, id: str, told: Any, container: Container, outbox: _Outbox) -> None:
        self.id, self._container, self._outbox = id, container, outbox
        self._outputs = sorted({fd for fd in told.Fds if fd})
        if any(fd > 2 for fd in self._outputs):
            raise Refused("processes have the descriptors 0, 1 and 2")
        self._streams = Streams(bool(told.Tty), 0 in told.Fds)
        self._input = _Input(self._streams) if 0 in told.Fds else None
        self._running = Running(self._streams)
        self._heard = threading.Event()  # the client knows that it runs, and gets its output

    def begin(self, told: Any, on_done: Callable[[], None]) -> None:
        """Start it; returns when its program runs, or has failed."""

        def on_end() -> None:
            self._heard.wait()
            self._tell_end()
            on_done()

        self._streams.hold()
        try:
            self._container.start(told, self._running, on_end)
            self._tell(Started=gateway.StartedMessage())
            self._streams.attach(self._output)
        except BaseException:
            self._streams.finish()
            self.end_input()
            raise
        finally:
            self._streams.release()
            self._heard.set()

    def _output(self, stream: int, data: bytes) -> None:
        if stream in self._outputs:
            for start in range(0, len(data), _PIECE):
                self._tell(File=gateway.FdMessage(Fd=stream, Data=data[start : start + _PIECE]))

    def _tell_end(self) -> None:
        self.end_input()
        self._tell(Exit=_exit_message(self._running))
        for fd in self._outputs:
            self._tell(File=gateway.FdMessage(Fd=fd, EOF=True))
        self._tell(Done=gateway.DoneMessage())

    def _tell(self, **what: Any) -> None:
        self._outbox.put(gateway.ExecMessage(ProcessID=self.id, **what), self._container.cancelled)

    # ---- what the client says ----------------------------------------------------------------------------------------

    def write(self, told: Any) -> None:
        """Input, or its end."""
        if self._input is None or told.Fd != 0:
            raise Refused(f"fd {told.Fd} unavailable to write")
        if told.Data:
            self._input.put(told.Data, self._is_over)
        if told.EOF:
            self._input.end()

    def _is_over(self) -> bool:
        return self._running.ended.is_set() or self._container.cancelled.is_set()

    def end_input(self) -> None:
        """It takes no more."""
        if self._input is not None:
            self._input.end()

    def resize(self, told: Any) -> None:
        """Its terminal has another size."""
        self._streams.resize(min(told.Rows, 0xFFFF), min(told.Cols, 0xFFFF))

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._running.signal(number)

    def leave(self) -> None:
        """The client is gone: it ends, even if it is only about to start."""
        self.end_input()
        self._running.end()


def _exit_message(running: Running) -> Any:
    failure = running.failure
    if failure is None:
        return gateway.ExitMessage()
    code = running.code if running.error is None and running.code else _UNKNOWN
    return gateway.ExitMessage(Code=code, Error=status_message(failure))


class Conversation:
    """One ExecProcess call."""

    def __init__(self, containers: Containers) -> None:
        self._containers = containers
        self._outbox = _Outbox()
        self._talks: dict[str, _Talk] = {}
        self._lock = threading.Lock()
        self._left = False
        self._open = 1  # processes under way, and the client's side
        self._failure: KedgeError | None = None

    def serve(self, requests: Iterator[Any]) -> Iterator[Any]:
        """The answers to a client's messages, until it has no more to say and all its processes have ended."""
        threading.Thread(target=self._listen, args=(requests,), name="gateway-exec", daemon=True).start()
        try:
            while (message := self._outbox.take()) is not None:
                yield message
        finally:
            self.leave()
        if self._failure is not None:
            raise self._failure

    def leave(self) -> None:
        """The client has gone, or is not served any more: its processes end. Idempotent."""
        self._outbox.end(gone=True)
        with self._lock:
            self._left = True
            talks = list(self._talks.values())
        for talk in talks:
            talk.leave()

    def _listen(self, requests: Iterator[Any]) -> None:
        try:
            for message in requests:
                self._hear(message)
        except grpc.RpcError:
            self._outbox.end(gone=True)
        except Exception as error:
            # A call that was broken off makes its iterator raise what has no name; all else is ours.
            self._failure = own(error) if str(error) else Cancelled("the client went away")
            self._outbox.end(gone=True)
        finally:
            self._done()

    def _done(self) -> None:
        with self._lock:
            self._open -= 1
            if self._open == 0:
                self._outbox.end()

    def _hear(self, message: Any) -> None:
        id, kind = message.ProcessID, message.WhichOneof("Input")
        if not id or len(id) > _LONGEST_ID:
            raise Refused("ProcessID required")
        talk = self._talks.get(id)
        if kind == "Init":
            return self._begin(id, message.Init)
        if talk is None:
            raise UnknownRef(f"IO for process {id!r} not found")
        if kind == "File":
            talk.write(message.File)
        elif kind == "Resize":
            talk.resize(message.Resize)
        elif kind == "Signal":
            talk.signal(_signal(message.Signal.Name))
        else:
            raise Refused("a message that says nothing")

    def _begin(self, id: str, told: Any) -> None:
        if id in self._talks:
            raise Conflict(f"Process {id} already exists")
        if len(self._talks) >= _MOST:
            raise Conflict(f"this client has started {_MOST} processes")
        with self._lock:
            if self._left:
                raise Cancelled("the client went away")
            talk = self._talks[id] = _Talk(id, told, self._containers.get(told.ContainerID), self._outbox)
            self._open += 1
        try:
            talk.begin(told, self._done)
        except BaseException:
            self._done()
            raise


def _signal(name: str) -> int:
    """The number of a signal by Docker's name for it: `HUP`, `RTMIN+3`."""
    base, plus, more = name.partition("+")
    found = getattr(signal, f"SIG{base}", None)
    if not isinstance(found, signal.Signals) or (plus and not (more.isdecimal() and len(more) < 3)):
        raise Refused(f"Unknown signal {name[:40]}")
    return min(int(found) + int(more or 0), signal.NSIG - 1)
