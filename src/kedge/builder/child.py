"""A build in a child process that holds a user namespace, for programs of ordinary users.

Owns the conversation: one pickled request down, pickled events and one result up, each with its length before it. Both
ends are this file, from the same installation; the pipes are private. Does not know how anything is built.
"""

import os
import pickle
import signal
import struct
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kedge.builder.request import BuildRequest, BuildResult
from kedge.model.errors import KedgeError
from kedge.model.event import Report
from kedge.model.value import replace

if TYPE_CHECKING:
    from kedge.session.secrets import Secret


def build_in_child(request: BuildRequest, secrets: "Sequence[Secret]", report: Report) -> BuildResult:
    """The result of the build, or its error raised here. An exception here, an interrupt too, stops the child first."""
    import subprocess

    request = _portable(request)
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = os.pathsep.join([home, *filter(None, [os.environ.get("PYTHONPATH", "")])])
    child = subprocess.Popen(
        [sys.executable, "-m", "kedge.builder.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,
    )
    with child:
        try:
            _send(child.stdin, (request, list(secrets)))
            return _listen(child.stdout, report)
        except BaseException:
            child.send_signal(signal.SIGINT)
            raise


def _listen(up: Any, report: Report) -> BuildResult:
    while True:
        kind, value = _receive(up)
        if kind == "event":
            report(value)
        elif kind == "result":
            result: BuildResult = value
            return result
        else:
            raise _thawed(value)


def _portable(request: BuildRequest) -> BuildRequest:
    """The request with its streams read: a child has its own descriptors."""
    context = request.context
    if context is not None and not isinstance(context, (str, bytes, os.PathLike)):
        request = replace(request, context=context.read())
    for output in request.outputs:
        if output.destination is not None and not isinstance(output.destination, os.PathLike):
            raise TypeError("an output to a stream needs a process that may mount: give it a path")
    return request


def _send(stream: Any, value: Any) -> None:
    data = pickle.dumps(value)
    stream.write(struct.pack(">Q", len(data)) + data)
    stream.flush()


def _receive(stream: Any) -> Any:
    head = stream.read(8)
    if len(head) < 8:
        raise KedgeError("the process that builds has died", hint="It may have run out of memory.")
    (size,) = struct.unpack(">Q", head)
    return pickle.loads(stream.read(size))


def _frozen(error: BaseException) -> tuple[type, tuple[Any, ...], dict[str, Any]]:
    return type(error), error.args, dict(error.__dict__)


def _thawed(frozen: tuple[type[BaseException], tuple[Any, ...], dict[str, Any]]) -> BaseException:
    """The error as it was; its class's constructor may want more than what is kept in `args`."""
    kind, args, fields = frozen
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


def main() -> None:
    """The child: enter the namespace before anything else, then build."""
    import threading

    down, up = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing else may write into the conversation
    lock = threading.Lock()

    def tell(kind: str, value: Any) -> None:
        with lock:
            _send(up, (kind, value))

    try:
        request, secrets = _receive(down)
        from kedge.kernel.identity import enter_user_namespace

        enter_user_namespace()
        from kedge.builder.api import session_for
        from kedge.builder.course import build

        result = build(request, session_for(secrets), lambda event: tell("event", event))
        tell("result", replace(result, metadata=dict(result.metadata), misses=dict(result.misses)))
    except BaseException as error:
        tell("error", _frozen(error))


if __name__ == "__main__":
    main()
