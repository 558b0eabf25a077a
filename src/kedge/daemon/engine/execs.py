"""One more process in a container: `docker exec`.

Owns the four calls of it. How a process enters a container is the business of `kedge.containers` and the sandbox.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from kedge.containers.request import process_of
from kedge.containers.streams import Streams
from kedge.daemon.engine.attach import Line, kind_of
from kedge.daemon.engine.containers import described, known, layers_of, read_size
from kedge.daemon.engine.fields import Fields
from kedge.daemon.engine.routes import Call
from kedge.model.errors import InvalidInput, KedgeError, Unsupported
from kedge.model.value import replace

_SDK_PAUSE: Final = 0.03  # seconds


def exec_create(call: Call) -> None:
    one, body = known(call), call.fields
    command = body.texts("Cmd", word=True) or ()
    if not command:
        raise InvalidInput("No exec command specified")
    if body.flag("Privileged"):
        raise Unsupported("privileged commands are not supported")
    asked = described(one).request
    wish = replace(
        asked,
        command=command,
        entrypoint=(),
        env=(*asked.env, *(body.texts("Env") or ())),
        user=body.text("User") or asked.user,
        workdir=body.text("WorkingDir") or asked.workdir,
        terminal=body.flag("Tty"),
    )
    with call.engine.store() as store:
        image, snapshot, _ = layers_of(store, one)
        process = process_of(store, snapshot, image.config, wish, one.record.id[:12])
    streams = Streams(wish.terminal, body.flag("AttachStdin"))
    if not body.flag("AttachStdin"):
        streams.close_input()
    _set_size(streams, body)
    made = call.engine.supervisor.execs.prepare(one, process, streams, dict(body.raw))
    call.exchange.json(201, {"Id": made.id})


def _set_size(streams: Streams, body: Fields) -> None:
    if size := read_size(body):
        streams.resize(*size)


def exec_start(call: Call) -> None:
    execs, body = call.engine.supervisor.execs, call.fields
    each = execs.find(call["id"])
    execs.require_ready(each)
    _set_size(each.streams, body)
    runner = threading.Thread(target=_quietly(lambda: execs.run(each)), name="exec", daemon=True)
    if body.flag("Detach"):
        runner.start()
        call.exchange.send(200)
        return
    settings = Fields(each.settings)
    wanted = {stream for stream, name in ((1, "AttachStdout"), (2, "AttachStderr")) if settings.flag(name)}
    line = Line(call.exchange, each.streams, wanted or {1, 2})
    keys = settings.text("DetachKeys")
    line.join(kind_of(call, each.streams.terminal))
    if call.header("user-agent").startswith("docker-sdk-python"):
        # It loses what arrives together with the response's head (its HTTP library reads ahead). Docker is never so
        # fast.
        time.sleep(_SDK_PAUSE)
    runner.start()
    line.serve(settings.flag("AttachStdin"), keys)


def _quietly(do: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        with suppress(KedgeError):
            do()

    return run


def exec_inspect(call: Call) -> None:
    each = call.engine.supervisor.execs.find(call["id"])
    settings = Fields(each.settings)
    call.exchange.json(
        200,
        {
            "ID": each.id,
            "ContainerID": each.container,
            "Running": each.running,
            "ExitCode": each.exit_code,
            "Pid": each.pid,
            "OpenStdin": settings.flag("AttachStdin"),
            "OpenStdout": settings.flag("AttachStdout"),
            "OpenStderr": settings.flag("AttachStderr"),
            "CanRemove": False,
            "DetachKeys": settings.text("DetachKeys"),
            "ProcessConfig": {
                "tty": each.process.terminal,
                "entrypoint": each.process.args[0],
                "arguments": list(each.process.args[1:]),
                "privileged": False,
            },
        },
    )


def exec_resize(call: Call) -> None:
    rows, columns = call.number("h"), call.number("w")
    if not (0 <= rows < 1 << 16 and 0 <= columns < 1 << 16):
        raise InvalidInput("a terminal's size is out of range")
    call.engine.supervisor.execs.find(call["id"]).streams.resize(rows, columns)
    call.exchange.send(200)
