"""`POST /build`: a build of the classic kind, from a tar or a URL to an image in the store.

Owns the query's parameters and the messages. Builds for BuildKit's clients come over `/grpc`. Does not know how
anything is built.
"""

import base64
import secrets
import threading
from contextlib import suppress
from typing import Any, Final

from kedge.builder.course import build
from kedge.builder.remote import RemoteRequest
from kedge.builder.request import BuildRequest, CacheSpec
from kedge.daemon.engine.classic import ClassicProgress
from kedge.daemon.engine.create import read_hosts, read_ulimit
from kedge.daemon.engine.credentials import from_config
from kedge.daemon.engine.fields import Fields, json_object, read_flag
from kedge.daemon.engine.messages import Messages
from kedge.daemon.engine.routes import Call
from kedge.model.digest import hex_part
from kedge.model.errors import InvalidInput, StepFailed, Unsupported
from kedge.model.event import silent
from kedge.model.reference import parse_reference
from kedge.session.local import LocalSession

_NETWORKS: Final[dict[str, Any]] = {
    "": "", "default": "", "bridge": "", "host": "host", "none": "none",
}  # fmt: skip


def build_image(call: Call) -> None:
    if call.query("version") == "2" and call.query("session"):
        _build_by_session(call)
        return
    request = read_request(call)
    session = LocalSession(credentials=from_config(call.header("x-registry-config")))
    exchange, id = call.exchange, call.query("buildid")
    stop = _Stop()
    if id:
        call.engine.builds.note(id, stop)
    try:
        with Messages(exchange) as messages, exchange.watched(stop):
            _build(call, request, session, messages, stop)
    finally:
        call.engine.builds.forget(id)


def _build_by_session(call: Call) -> None:
    """Version 2: BuildKit's way, with the context and all else from the client's session."""
    buildkit = call.engine.buildkit
    if buildkit is None:
        raise Unsupported("this service was started without BuildKit's API")
    remote = call.query("remote")
    if remote != "client-session":
        _remote(remote)  # said before anything else
    request = read_request(call, remote if remote != "client-session" else "https://session.invalid/")
    attrs = {f"build-arg:{key}": value for key, value in request.build_args}
    attrs |= {f"label:{key}": value for key, value in request.labels}
    optional = {
        "target": request.target,
        "filename": request.dockerfile,
        "context": "" if remote == "client-session" else remote,
        "platform": ",".join(request.platforms),
        "force-network-mode": request.network,
        "add-hosts": ",".join(f"{name}={address}" for name, address in request.add_hosts),
        "shm-size": str(request.shm_size or ""),
        "image-resolve-mode": "pull" if request.pull else "",
        "cache-from": ",".join(_cache_from(call)),
    }
    attrs |= {key: value for key, value in optional.items() if value}
    if request.no_cache:
        attrs["no-cache"] = ""
    ref = "".join(c for c in call.query("buildid") if c.isalnum())[:64] or secrets.token_hex(12)
    with Messages(call.exchange) as messages:

        def tell(status: bytes) -> None:
            messages(id="moby.buildkit.trace", aux=base64.b64encode(status).decode())

        names = ",".join(request.tags)
        id = buildkit.solve(call.exchange.peer, ref, call.query("session"), attrs, names, tell)
        messages(id="moby.image.id", aux={"ID": id})


class _Stop:
    """Stops the build, now or as soon as it can be stopped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stop: Any = None
        self._asked = False

    def bind(self, stop: Any) -> None:
        with self._lock:
            self._stop, asked = stop, self._asked
        if asked:
            stop()

    def __call__(self) -> None:
        with self._lock:
            self._asked, stop = True, self._stop
        if stop is not None:
            stop()


def _build(call: Call, request: BuildRequest, session: LocalSession, messages: Messages, stop: _Stop) -> None:
    quiet = call.flag("q")
    progress = ClassicProgress(messages.stream, request.target)
    try:
        result = build(request, session, silent if quiet else progress, stop.bind)
    except StepFailed as error:
        progress.fail()
        raise _as_classic(error) from None
    except BaseException:
        progress.fail()
        raise
    if quiet:
        messages.stream(f"{result.id}\n")
    else:
        progress.finish()
        messages(aux={"ID": result.id})
        messages.stream(f"Successfully built {hex_part(result.id)[:12]}\n")
        for name in result.tags:
            messages.stream(f"Successfully tagged {parse_reference(name).familiar}\n")
    call.engine.events.tell("image", "build", result.id, {"name": result.id})


def _as_classic(error: StepFailed) -> StepFailed:
    """In the classic builder's words."""
    command = error.message
    if error.location is not None:
        lines = error.location.file.text.split("\n")[error.location.start - 1 : error.location.end]
        text = " ".join(" ".join(line.rstrip("\\").split()) for line in lines)
        if text.upper().startswith("RUN "):
            command = f"The command '/bin/sh -c {text[4:].strip()}' returned a non-zero code: {error.exit_code}"
    return StepFailed(command, exit_code=error.exit_code)


def read_request(call: Call, remote: str = "") -> BuildRequest:
    """The build that the query asks for. Raises InvalidInput, Unsupported."""
    if call.flag("squash"):
        raise Unsupported("squash is not supported: multi-stage builds make lean images")
    outputs = call.query("outputs")
    if outputs and outputs != "null":
        raise Unsupported("the classic builder has no outputs: use buildx")
    network, arguments = call.query("networkmode"), _pairs(call.query("buildargs"), "buildargs")
    if network not in _NETWORKS:
        raise Unsupported(f"network {network[:60]!r} is not supported: there are default, host and none")
    period, quota = call.number("cpuperiod"), call.number("cpuquota")
    host = {"ExtraHosts": list(call.queries("extrahosts"))}
    context: Any = call.exchange
    remote = remote or call.query("remote")
    if remote:
        context = _remote(remote)
    return RemoteRequest(
        context=context,
        ignores=not remote,
        keeps_replaced=True,
        dockerfile=call.query("dockerfile"),
        target=call.query("target"),
        tags=tuple(str(parse_reference(name)) for name in call.queries("t") if name),
        build_args=arguments,
        labels=_pairs(call.query("labels"), "labels"),
        platforms=(call.query("platform"),) if call.query("platform") else (),
        no_cache=call.flag("nocache"),
        pull=call.flag("pull"),
        network=_NETWORKS[network],
        entitlements=("network.host",) if network == "host" else (),
        add_hosts=read_hosts(Fields(host)),
        shm_size=max(0, call.number("shmsize")),
        ulimits=tuple(read_ulimit(each) for each in _ulimits(call.query("ulimits"))),
        memory=max(0, call.number("memory")),
        cpus=quota / (period or 100_000) if quota > 0 else 0.0,
        cgroup_parent=call.query("cgroupparent"),
        cache_from=tuple(CacheSpec("registry", (("ref", name),)) for name in _cache_from(call)),
        cache_to=(CacheSpec("inline"),) if read_flag(dict(arguments).get("BUILDKIT_INLINE_CACHE", "")) else (),
        store=call.engine.root,
    )


def _cache_from(call: Call) -> tuple[str, ...]:
    """Images whose cache may be used: those that carry one (BUILDKIT_INLINE_CACHE). Others, and missing ones, do no
    harm.
    """
    text = call.query("cachefrom")
    names = Fields({"": None if not text or text == "null" else _json(text)}, "cachefrom").texts("") or ()
    return tuple(str(parse_reference(name)) for name in names if name)


def _json(text: str) -> Any:
    return json_object(f'{{"":{text}}}', "cachefrom").raw.get("")


def _ulimits(text: str) -> list[Fields]:
    if not text or text == "null":
        return []
    return json_object(f'{{"ulimits":{text}}}', "ulimits").objects("ulimits")


def _pairs(text: str, name: str) -> tuple[tuple[str, str], ...]:
    """A JSON object of strings. An argument without a value is one that the client's environment does not set."""
    fields = json_object("" if text == "null" else text, name)
    given = Fields({key: value for key, value in fields.raw.items() if value is not None})
    return tuple(sorted(Fields({name: given.raw}).mapping(name).items()))


def _remote(text: str) -> str:
    """A URL of a tar, a Dockerfile or a git repository: never a path of this machine."""
    from kedge.dockerfile.gitref import parse_git_reference

    if text.startswith(("http://", "https://")):
        return text
    with suppress(InvalidInput):
        if parse_git_reference(text, context=True) is not None and not text.startswith((".", "/", "file:")):
            return text
    raise InvalidInput(f"remote context {text[:200]!r} is no URL")


def cancel_build(call: Call) -> None:
    id = call.query("id")
    if not id:
        raise InvalidInput("build ID not provided")
    call.engine.builds.cancel(id)
    call.exchange.send(204)
