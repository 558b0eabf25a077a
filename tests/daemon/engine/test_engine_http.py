"""The service's border: who may connect, what is no HTTP, hostile requests, sizes, versions, the end."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kedge.daemon.engine.api import ROUTES, EngineService
from kedge.daemon.engine.routes import Ask
from kedge.model.settings import Settings
from tests.daemon.engine.conftest import Service, running

BOUNDED = settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


class Local(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("kedge", timeout=90)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(90)
        self.sock.connect(str(self._path))


def ask(service: Service, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """One request; its status and the JSON of its answer (or its bytes)."""
    connection = Local(service.socket)
    try:
        data = json.dumps(body).encode() if body is not None and not isinstance(body, bytes) else body
        if data is not None:
            headers.setdefault("Content_Type", "application/json")
        connection.request(method, path, data, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        answer = response.read()
        try:
            return response.status, json.loads(answer) if answer else None
        except ValueError:
            return response.status, answer
    finally:
        connection.close()


def raw(service: Service, data: bytes) -> bytes:
    """Everything that comes back for these bytes."""
    with service.connect() as connection:
        with suppress(OSError):  # refused before all of it was read
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        pieces = []
        with suppress(ConnectionResetError):
            while piece := connection.recv(1 << 16):
                pieces.append(piece)
        return b"".join(pieces)


def works(service: Service) -> bool:
    return ask(service, "GET", "/_ping")[1] == b"OK"


# ---- HTTP ------------------------------------------------------------------------------------------------------------


def test_several_requests_on_one_connection(service: Service) -> None:
    connection = Local(service.socket)
    for _ in range(3):
        connection.request("GET", "/v1.41/version")
        assert json.loads(connection.getresponse().read())["ApiVersion"] == "1.50"
    connection.request("HEAD", "/_ping")
    response = connection.getresponse()
    assert (response.status, response.read(), response.headers["Api-Version"]) == (200, b"", "1.50")
    connection.close()


def test_versions_are_negotiated(service: Service) -> None:
    assert ask(service, "GET", "/v1.24/info")[0] == 200
    status, answer = ask(service, "GET", "/v1.99/info")
    assert (status, "too new" in answer["message"]) == (400, True)
    status, answer = ask(service, "GET", "/v1.2/info")
    assert (status, "too old" in answer["message"]) == (400, True)


def test_unknown_paths_and_methods_have_dockers_error_shape(service: Service) -> None:
    for method, path in (
        ("GET", "/nothing"),
        ("PATCH", "/info"),
        ("GET", "/v1.41/../../etc/passwd"),
        ("GET", "//info"),
    ):
        assert ask(service, method, path) == (404, {"message": "page not found"})
    assert ask(service, "POST", "/networks/create", {"Name": "x"})[0] == 501
    assert ask(service, "GET", "/nodes")[0] == 503


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /info HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /auth HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"POST /auth HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /auth HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"GET /info HTTP/1.1\r\nHost: x\r\nA: b\r\n c\x00: d\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_no_http_is_refused(service: Service, data: bytes) -> None:
    answer = raw(service, data)
    assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")), answer
    assert not answer.startswith(b"HTTP/1.1 500"), answer
    assert works(service)


def test_sizes_are_bounded(service: Service) -> None:
    assert raw(service, b"GET /" + b"a" * (2 << 20) + b" HTTP/1.1\r\nHost: x\r\n\r\n")[:12] in (b"", b"HTTP/1.1 431")
    status, answer = ask(service, "POST", "/containers/create", b" " * (9 << 20))
    assert (status, "larger" in answer["message"]) == (400, True)
    deep = b"[" * 200_000
    assert ask(service, "POST", "/containers/create", deep)[0] == 400
    assert ask(service, "GET", "/images/json?filters=" + "%5B" * 5000)[0] == 400
    assert ask(service, "GET", "/images/json?" + "a=1&" * 5000)[0] == 400
    assert works(service)


def test_a_body_of_another_kind_is_refused(service: Service) -> None:
    status, answer = ask(service, "POST", "/containers/create", b'{"Image":"busybox"}', Content_Type="text/plain")
    assert (status, "Content-Type" in answer["message"]) == (400, True)


@given(st.binary(max_size=400))
@BOUNDED
def test_any_bytes_do_no_harm(service: Service, data: bytes) -> None:
    answer = raw(service, data)
    assert b"500 " not in answer.partition(b"\r\n")[0]


# ---- hostile requests ------------------------------------------------------------------------------------------------

SAFE = [route for route in ROUTES if route.pattern not in ("/events", "/images/create", "/session", "/grpc")]
NASTY = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["../../etc", "\0", "\ud800", "a" * 5000, "sha256:" + "0" * 64, "@sha256:", "-1", "9" * 50]),
    st.sampled_from([[], {}, [None], [{"": 0}], {"a": {"b": {"c": None}}}]),
)
NAMES = (
    "Image Cmd Entrypoint Env HostConfig Tty OpenStdin User WorkingDir Labels StopSignal Hostname AttachStdin Detach "
    "ConsoleSize username serveraddress Volumes ExposedPorts NetworkingConfig Healthcheck Privileged DetachKeys "
    "Name Driver DriverOpts Memory RestartPolicy StopTimeout StdinOnce"
).split()
HOST_NAMES = (
    "Binds Mounts NetworkMode Tmpfs Ulimits Memory NanoCpus ShmSize PortBindings RestartPolicy CapAdd SecurityOpt "
    "AutoRemove ExtraHosts Sysctls PidMode Devices ConsoleSize ReadonlyRootfs PidsLimit CpuQuota CpuPeriod "
    "CapDrop Dns DnsSearch DnsOptions GroupAdd Init LogConfig PublishAllPorts Privileged VolumesFrom"
).split()
DEEP = st.one_of(  # values of the right shape around wrong ones
    st.builds(lambda a, b: {"Name": a, "MaximumRetryCount": b}, st.sampled_from(["always", "on-failure", "x"]), NASTY),
    st.builds(lambda a, b: {"Test": ["CMD-SHELL", "x"], "Interval": a, "Retries": b}, NASTY, NASTY),
    st.builds(lambda a, b: {"80/tcp": [{"HostIp": a, "HostPort": b}]}, NASTY, NASTY),
    st.builds(lambda a: {a: [{}]}, st.sampled_from(["", "x", "-1/tcp", "70000", "80/sctp", "../../tcp", "80-90"])),
    st.builds(lambda a, b: [{"Type": a, "Source": b, "Target": "/x"}], st.sampled_from(["bind", "volume", "x"]), NASTY),
    st.builds(lambda a: [{"Type": "volume", "Target": "/x", "VolumeOptions": {"Subpath": a}}], NASTY),
    st.builds(lambda a: [f"{a}:/x"], st.sampled_from(["..", "a/../../b", ".x", "a\0", "x" * 300, "\ud800", "-"])),
    st.builds(lambda a, b: [{"PathOnHost": a, "CgroupPermissions": b}], st.sampled_from(["/dev/../etc", "x"]), NASTY),
    st.builds(lambda a: {"net.core.somaxconn": a, "kernel/../../x": "1", "kernel.panic": "1"}, NASTY),
    st.builds(lambda a: {"Type": "json-file", "Config": {"max-size": a, "max-file": a}}, NASTY),
    st.builds(lambda a: [a], st.sampled_from(["ALL", "CAP_", "cap_sys_admin", "\0", "9.9.9.9\nx", "x" * 5000])),
)
BODIES = st.one_of(
    NASTY,
    st.dictionaries(st.sampled_from(HOST_NAMES), DEEP, max_size=4).map(lambda d: {"Image": "busybox", "HostConfig": d}),
    st.dictionaries(st.sampled_from(NAMES), DEEP, max_size=4).map(lambda d: {"Image": "busybox"} | d),
    st.dictionaries(st.sampled_from(NAMES), NASTY, max_size=5).map(lambda d: {"Image": "busybox"} | d),
    st.dictionaries(st.sampled_from(HOST_NAMES), NASTY, max_size=5).map(
        lambda d: {"Image": "busybox", "HostConfig": d}
    ),
)
QUERIES = st.dictionaries(
    st.sampled_from(
        "t tag repo name filters platform signal h w path tail since until limit force all remote dockerfile "
        "buildargs labels ulimits target shmsize memory id names term condition fromImage version networkmode "
        "cachefrom container changes comment pause v one-shot".split()
    ),
    st.sampled_from(
        ["", "0", "-1", "9" * 40, "../../..", "/etc/passwd", "{}", "[]", "null", '{"a":1}', '{"a":["b"]}', "%",
         "\x00", "a:b@c", "SIGNOPE", "linux/amd64/v9/x", '{"os":1}', "x" * 3000, "ä", "host", "removed"]
    ),
    max_size=4,
)  # fmt: skip


@given(
    st.sampled_from(SAFE),
    st.sampled_from(["x", "..", "a%2Fb", "%00", "busybox", "0" * 64, "%ff", "a:b:c"]),
    QUERIES,
    BODIES,
)
@BOUNDED
def test_hostile_requests_are_refused(
    service: Service, route: Any, name: str, query: dict[str, str], body: Any
) -> None:
    import re
    from urllib.parse import urlencode

    if "prune" in route.pattern or route.method == "DELETE":
        name = "nosuch"
    path = re.sub(r"\{\w+(\.\.\.)?\}", lambda _: name, route.pattern)
    if "prune" in path:
        query = {}
    data = json.dumps(body).encode()
    try:
        status, answer = ask(
            service, route.method, f"{path}?{urlencode(query)}", data if route.method != "GET" else None
        )
    except (TimeoutError, http.client.HTTPException) as error:
        raise AssertionError((route.method, path, query, body)) from error
    # 501: what Kedge has not; 500 only for images and registries that do not answer.
    assert status < 500 or status in (501, 503) or b"internal" not in str(answer).encode(), (route, answer)
    assert status < 400 or route.method == "HEAD" or isinstance(answer, dict), (status, answer)


def test_the_service_lives_after_all_that(service: Service) -> None:
    assert works(service)
    for container in ask(service, "GET", "/containers/json?all=1")[1]:
        assert ask(service, "DELETE", f"/containers/{container['Id']}?force=1")[0] == 204


# ---- who may ---------------------------------------------------------------------------------------------------------


def test_the_socket_is_the_owners(service: Service) -> None:
    assert service.socket.stat().st_mode & 0o777 == 0o660


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_loosened_socket_lets_nobody_else_in(mirror: Path, tmp_path: Path) -> None:
    with running(tmp_path, mirror) as own:
        for folder in (tmp_path, *tmp_path.parents):
            if str(folder).startswith("/tmp/"):
                folder.chmod(0o755)
        own.socket.chmod(0o666)
        script = (
            "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
            "s.sendall(b'GET /info HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'); print(s.recv(1000).decode())"
        )
        words = ["setpriv", "--reuid=1234", "--regid=1234", "--clear-groups", "/usr/bin/env", "python3", "-c", script]
        done = subprocess.run([*words, str(own.socket)], capture_output=True, text=True, check=False)
        if "No such file" in done.stderr:
            pytest.skip("no python3 that anybody may run")
        assert "403 Forbidden" in done.stdout, done.stderr


def test_authorization_sees_what_the_handler_sees(tmp_path: Path) -> None:
    """A body is read once, before anyone decides on it (CVE-2024-41110)."""
    seen: list[Ask] = []

    def authorize(ask: Ask) -> str:
        seen.append(ask)
        return "no" if b"Evil" in (ask.body or b"") else ""

    own = EngineService(tmp_path / "store", Settings(), authorize=authorize)
    own.server.listen(f"unix://{tmp_path}/sock")
    own.server.start()
    try:
        service: Any = type("Own", (), {"socket": tmp_path / "sock"})
        body = {"Image": "Evil", "pad": "x" * (2 << 20)}
        assert ask(service, "POST", "/containers/create", body) == (403, {"message": "authorization denied: no"})
        chunked = Local(tmp_path / "sock")
        pieces, kind = iter([b'{"Image":', b'"Evil"}']), {"Content-Type": "application/json"}
        chunked.request("POST", "/containers/create", pieces, kind, encode_chunked=True)
        assert chunked.getresponse().status == 403
        chunked.close()
        assert ask(service, "POST", "/containers/create", {"Image": "good"})[0] == 404
        assert json.loads(seen[-1].body or b"") == {"Image": "good"}
    finally:
        own.close(1)


# ---- start and end ---------------------------------------------------------------------------------------------------


def test_the_socket_goes_with_the_service_and_a_stale_one_is_replaced(mirror: Path, tmp_path: Path) -> None:
    with running(tmp_path, mirror) as own:
        assert works(own)
        second = subprocess.run(
            [sys.executable, "-m", "kedge", "serve", "--listen", own_url(own)],
            env=own.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert second.returncode == 1
        assert "another service listens" in second.stderr
    assert not own.socket.exists()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(own.socket))
    with running(tmp_path, mirror) as own:
        assert works(own)


def own_url(service: Service) -> str:
    return f"unix://{service.socket}"


def test_systemds_sockets_are_taken(mirror: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    script = (
        "import os,socket,sys; s=socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(5);os.dup2(s.fileno(),3);"
        "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid())); os.set_inheritable(3, True);"
        "os.execv(sys.executable, [sys.executable, '-m', 'kedge', 'serve', '--listen', 'fd://'])"
    )
    environment = os.environ | {"KEDGE_ROOT": str(tmp_path / "store"), "KEDGE_CONFIG": str(mirror)}
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], env=environment, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        service: Any = type("Own", (), {"socket": path})
        assert ask(service, "GET", "/_ping") == (200, b"OK")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert path.exists()  # systemd's, not ours


def test_a_stop_ends_listeners_and_waiting_clients(mirror: Path, tmp_path: Path) -> None:
    with running(tmp_path, mirror) as own:
        idle, listening = own.connect(), own.connect()
        listening.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        assert listening.recv(100).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        own.process.send_signal(signal.SIGTERM)
        assert own.process.wait(60) == 0
        assert time.monotonic() - began < 30
        idle.close()
        listening.close()


def test_the_command_line_needs_nothing_of_the_service() -> None:
    """Without the extra, everything else works: no module of the service is imported by the command line."""
    script = (
        "import sys\nfor name in ('grpc', 'h11', 'google.protobuf'): sys.modules[name] = None\n"
        "from kedge.cli.start import command_names, load\n"
        "for name in command_names(): load(name)\n"
        "import kedge.builder.course, kedge.containers.supervisor\n"
        "from kedge.cli.start import run\nsys.exit(run(['serve', '--listen', 'unix:///nonexistent/x']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install '.[serve]'" in done.stderr


def test_the_reference_lists_every_path() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "reference" / "engine-api.md").read_text()
    swarm = ("/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs")
    assert [r for r in ROUTES if f"`{r.method} {r.pattern}`" not in page and r.pattern not in swarm] == []
