"""Frontends that are images: a process that is handed the build's attributes, and drives it over its own streams.

Owns the process: what it is given (BuildKit's variables and files), its gateway, which reaches this one build and
nothing else, and how its end is judged. Does not know what it asks for.
"""

import json
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final

from kedge.builder.parts import Parts
from kedge.builder.steps import step
from kedge.daemon.buildkit.bridge import Bridge
from kedge.daemon.buildkit.definition import encode
from kedge.daemon.buildkit.errors import Refused, UnknownFrontendCap
from kedge.daemon.buildkit.jobs import Job, Result
from kedge.daemon.buildkit.metadata import resolve_image
from kedge.daemon.buildkit.workers import worker_json
from kedge.daemon.server import Server
from kedge.daemon.wire import gateway
from kedge.daemon.wire.calls import handler
from kedge.model.errors import KedgeError
from kedge.model.graph import Edge, Hints, Snapshot, Vertex
from kedge.model.image import ImageConfig
from kedge.model.ops import Source
from kedge.sandbox.process import Content, MountPoint, Overlay, Process, Signaller, Stdio
from kedge.sources.handler import Work

MOST_NESTED: Final = 8  # frontends that call each other
GRACE: Final = 3.0  # seconds that a frontend may take to end once it has answered
_TAIL: Final = 4096  # bytes of what it said, in the error
_INPUTS: Final = "moby.buildkit.frontend.inputs"
_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def run_frontend(
    job: Job,
    source: str,
    attrs: Mapping[str, str],
    inputs: Mapping[str, Any],
    policies: Sequence[Any] = (),
    caller: Bridge | None = None,
) -> Result:
    """What a frontend's image makes of the attributes. Raises KedgeError, also what it returns as an error."""
    from kedge.daemon.buildkit.solving import solve_edge

    depth = caller.depth + 1 if caller else 1
    if depth > MOST_NESTED:
        raise Refused(f"more than {MOST_NESTED} frontends call each other")
    named = attrs.get(f"context:{source}", "")
    wanted = named.removeprefix("docker-image://") if named.startswith("docker-image://") else source
    image = resolve_image(job, wanted, None, "default", "", policies)
    config = ImageConfig.from_bytes(image.config)
    _require_caps(config, attrs, bool(inputs))
    name = image.reference if "@" in image.reference else f"{image.reference}@{image.digest}"
    edge = Edge(Vertex(Source(f"docker-image://{name}"), hints=Hints(f"docker-image://{name}")))
    root = solve_edge(job, edge, policies)
    bridge = Bridge(job, inputs, depth)
    job.add(bridge)
    try:
        _run(job, root.origin.parts, source, edge, root.snapshot, _process(job, config, attrs), bridge)
        return bridge.wait()
    finally:
        bridge.containers.close()


def _require_caps(config: ImageConfig, attrs: Mapping[str, str], has_inputs: bool) -> None:
    """Raise UnknownFrontendCap for what is asked of the frontend and its image does not promise."""
    promised = _caps(dict(config.labels).get("moby.buildkit.frontend.caps", ""))
    asked = _caps(attrs.get("frontend.caps", "")) + [_INPUTS] * has_inputs
    for cap in asked:
        if cap not in promised:
            raise UnknownFrontendCap(cap)


def _caps(text: str) -> list[str]:
    return [name for one in text.split(",") if (name := one.partition("+")[0])]


def _process(job: Job, config: ImageConfig, attrs: Mapping[str, str]) -> Process:
    """As BuildKit starts it: root, in its own file system, told by variables."""
    env = list(config.env)
    if not any(entry.startswith("PATH=") for entry in env):
        env.append(_PATH)
    env += [f"BUILDKIT_FRONTEND_OPT_{number}={key}={attrs[key]}" for number, key in enumerate(sorted(attrs))]
    env += [
        f"BUILDKIT_SESSION_ID={job.request.Session}",
        f"BUILDKIT_WORKERS={json.dumps([worker_json(job.config)])}",
        "BUILDKIT_EXPORTEDPRODUCT=buildkit",
    ]
    alone = dict(config.labels).get("moby.buildkit.frontend.network.none", "").lower() in ("1", "t", "true")
    return Process(
        args=tuple(config.entrypoint or ("/run",)),
        env=tuple(env),
        cwd=config.working_dir or "/",
        network="none" if alone else "sandbox",
    )


def _run(job: Job, parts: Parts, name: str, edge: Edge, snapshot: Snapshot, process: Process, bridge: Bridge) -> None:
    """Run the process until it has answered and ended. Raises what it failed with, unless it told that itself."""
    told = encode(edge).SerializeToString()
    with (
        step(parts.report, parts.trunk.cancel, f"[frontend] {name[:200]}") as work,
        parts.store.layers.draft(snapshot) as draft,
    ):
        points = (
            MountPoint("/", Overlay(tuple(map(str, draft.lowers)), str(draft.upper), str(draft.work))),
            MountPoint("/run/config/buildkit/metadata/frontend.bin", Content(told, 0o400), readonly=True),
        )
        code, tail = _Running(job, bridge).run(parts, process, points, work)
        if bridge.returned is None or (code and not isinstance(bridge.returned, BaseException)):
            said = tail.decode(errors="replace").strip()
            bridge.returned = KedgeError(
                f"the frontend {name[:200]} ended with exit code {code}"
                + ("" if code else " and without a result")
                + (f": {said}" if said else "")
            )


class _Running:
    """One frontend's process, with a gateway on its standard input and output."""

    def __init__(self, job: Job, bridge: Bridge) -> None:
        self._job, self._bridge = job, bridge
        self._ended = threading.Event()
        self._send: Signaller | None = None
        self._stopped = False

    def run(self, parts: Parts, process: Process, points: tuple[MountPoint, ...], work: Work) -> tuple[int, bytes]:
        """Its exit code, 0 if it was ended for taking too long after its answer; and the last that it said."""
        from kedge.daemon.buildkit.gateway import Gateway

        tail = bytearray()

        def output(_: int, data: bytes) -> None:
            work.log(data, 2)
            tail.extend(data)
            del tail[:-_TAIL]

        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ExitStack() as stack:
            stack.callback(self._has_ended)
            server = Server(lambda line: None)
            stack.callback(server.stop, 0)
            server.add(handler(gateway.services["LLBBridge"], Gateway(lambda context: self._bridge)))
            server.start()
            threading.Thread(target=server.carry, args=(ours, self._job.peer), name="frontend", daemon=True).start()
            fd = theirs.detach()
            threading.Thread(target=self._end_after_answer, name="frontend", daemon=True).start()
            stdio = Stdio(stdin=fd, stdout=fd, output=output, on_start=self._on_start)
            try:
                code = parts.executor.run(process, points, stdio, parts.trunk.cancel)
            finally:
                os.close(fd)
        return (0 if self._stopped else code), bytes(tail)

    def _on_start(self, send: Signaller, _: int) -> None:
        self._send = send

    def _has_ended(self) -> None:
        self._ended.set()
        self._bridge.stop()

    def _end_after_answer(self) -> None:
        """End it when it has nothing more to do: it has answered, or nobody wants to hear it any more."""
        self._bridge.settled.wait()
        if not self._ended.wait(GRACE) and self._send is not None:
            self._stopped = True
            self._send(9)
