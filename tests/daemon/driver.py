"""A build that its client drives itself, for tests: the gateway's calls, and processes in containers."""

import threading
import uuid
from collections.abc import Iterator, Mapping
from queue import SimpleQueue
from typing import Any

from kedge.daemon.buildkit.definition import encode
from kedge.daemon.wire import gateway, llb
from kedge.model.graph import Edge
from tests.daemon.client import Client

PATIENCE = 120  # seconds


class Driver:
    """One build, from its Solve to its Return. After `end`, `answer` is Solve's, or the error it ended with."""

    def __init__(self, client: Client, **fields: Any) -> None:
        self.client, self.request = client, client.request(**fields)
        self.names = (("buildkit-controlapi-buildid", self.request.Ref),)
        self.answer: Any = None
        self._solving = threading.Thread(target=self._solve, daemon=True)
        self._solving.start()

    def _solve(self) -> None:
        try:
            self.answer = self.client.control.unary("Solve", self.request, timeout=PATIENCE)
        except Exception as error:
            self.answer = error

    def call(self, method: str, request: Any) -> Any:
        return self.client.bridge.unary(method, request, metadata=self.names, timeout=PATIENCE)

    def solve(self, edge: Edge, evaluate: bool = True) -> Any:
        """The result of a graph."""
        return self.call(
            "Solve",
            gateway.SolveRequest(
                Definition=encode(edge), Evaluate=evaluate, allowResultReturn=True, allowResultArrayRef=True
            ),
        ).result

    def container(self, *mounts: Any, **fields: Any) -> str:
        """A new container's id; a text as a mount is the reference of its root."""
        id = uuid.uuid4().hex
        all_ = [llb.Mount(dest="/", resultID=one) if isinstance(one, str) else one for one in mounts]
        self.call("NewContainer", gateway.NewContainerRequest(ContainerID=id, Mounts=all_, **fields))
        return id

    def end(self, result: Any = None) -> Any:
        self.call("Return", gateway.ReturnRequest(result=result or gateway.Result()))
        self._solving.join(PATIENCE)
        return self.answer


class Processes:
    """One ExecProcess call: starts processes and gathers what they say."""

    def __init__(self, driver: Driver) -> None:
        self._outgoing: SimpleQueue[Any] = SimpleQueue()
        self.stream = driver.client.bridge.stream("ExecProcess", self._messages(), metadata=driver.names)
        self.output: dict[tuple[str, int], bytes] = {}
        self.exits: dict[str, Any] = {}
        self.told: list[tuple[str, str]] = []  # (process, kind of message), as they came
        self.failure: Exception | None = None
        self._changed = threading.Condition()
        self._over = False
        threading.Thread(target=self._listen, daemon=True).start()

    def _messages(self) -> Iterator[Any]:
        while (message := self._outgoing.get()) is not None:
            yield message

    def _listen(self) -> None:
        try:
            for message in self.stream:
                with self._changed:
                    kind = message.WhichOneof("Input")
                    self.told.append((message.ProcessID, kind))
                    if kind == "File":
                        key = (message.ProcessID, message.File.Fd)
                        self.output[key] = self.output.get(key, b"") + message.File.Data
                    elif kind == "Exit":
                        self.exits[message.ProcessID] = message.Exit
                    self._changed.notify_all()
        except Exception as error:
            self.failure = error
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def send(self, id: str, **what: Any) -> None:
        self._outgoing.put(gateway.ExecMessage(ProcessID=id, **what))

    def start(
        self,
        container: str,
        *args: str,
        fds: tuple[int, ...] = (0, 1, 2),
        meta: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> str:
        id = uuid.uuid4().hex
        told = gateway.InitMessage(ContainerID=container, Meta=llb.Meta(args=args, **(meta or {})), Fds=fds, **more)
        self.send(id, Init=told)
        return id

    def give(self, id: str, data: bytes, end: bool = False) -> None:
        self.send(id, File=gateway.FdMessage(Fd=0, Data=data, EOF=end))

    def wait_for(self, id: str, kind: str) -> None:
        self._wait(lambda: (id, kind) in self.told)

    def wait_for_output(self, id: str, text: bytes) -> None:
        self._wait(lambda: text in self.output.get((id, 1), b""))

    def wait(self, id: str) -> Any:
        """The Exit message of a process, when all is said of it."""
        self.wait_for(id, "Done")
        return self.exits[id]

    def run(self, container: str, *args: str, **more: Any) -> tuple[int, bytes]:
        """Exit code and output of a process that gets no input."""
        id = self.start(container, *args, fds=(1, 2), **more)
        exit = self.wait(id)
        return exit.Code, self.output.get((id, 1), b"") + self.output.get((id, 2), b"")

    def end(self) -> None:
        """Say no more; wait until the other side does not either."""
        self._outgoing.put(None)
        self._wait(lambda: self._over)

    def wait_for_failure(self) -> Any:
        self._wait(lambda: self._over)
        return self.failure

    def _wait(self, is_so: Any) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: is_so() or self._over, PATIENCE) or not is_so():
                raise AssertionError(f"never heard; told {self.told}, failed with {self.failure}")
