"""The service of an ordinary user, with Docker's own client."""

import os
import pwd
import shutil
import signal
import site
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROBE = "import sys, grpc, h11, isal, google.protobuf; assert sys.version_info >= (3, 11)"


def _user() -> int:
    """One with subordinate ids, if there is any."""
    if os.geteuid():
        return os.geteuid()
    with open("/etc/subuid") if os.path.exists("/etc/subuid") else open(os.devnull) as lines:
        for line in lines:
            try:
                return pwd.getpwnam(line.split(":")[0]).pw_uid
            except KeyError:
                continue
    return 1000


def test_an_ordinary_user_runs_enters_and_copies(mirror: Path) -> None:
    if not shutil.which("docker"):
        pytest.skip("Docker's client is not installed")
    user, home = _user(), Path(tempfile.mkdtemp(prefix="kedge-user-"))
    prefix = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if os.geteuid() == 0 else []
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(home), "KEDGE_ROOT": str(home / "store"), "XDG_RUNTIME_DIR": str(home),
        "KEDGE_CONFIG": str(home / "config.toml"), "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *site.getsitepackages()]),
        "DOCKER_HOST": f"unix://{home}/kedge.sock", "DOCKER_CONFIG": str(home / "docker"),
    }  # fmt: skip
    shutil.copy(mirror, home / "config.toml")
    if os.geteuid() == 0:
        shutil.chown(home, user, user)
        (home / "config.toml").chmod(0o644)

    def works(python: str) -> bool:
        words = [*prefix, "env", python, "-c", PROBE]
        return subprocess.run(words, env=environment, capture_output=True, check=False).returncode == 0

    pythons = [python for python in (sys.executable, "/usr/bin/python3") if works(python)]
    if not pythons:
        pytest.skip("no interpreter with the service's libraries that an ordinary user may run")
    service = subprocess.Popen([*prefix, "env", pythons[0], "-m", "kedge", "serve"], env=environment,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    try:
        deadline = time.monotonic() + 90
        while not (home / "kedge.sock").exists():
            if service.poll() is not None:
                pytest.skip(f"no user namespaces here: {service.stderr and service.stderr.read()}")
            assert time.monotonic() < deadline
            time.sleep(0.1)

        def docker(*words: str, stdin: bytes = b"") -> str:
            done = subprocess.run([*prefix, "docker", *words], env=environment, input=stdin, capture_output=True,
                                  timeout=120, check=False)  # fmt: skip
            assert done.returncode == 0, (words, done.stderr)
            return done.stdout.decode()

        docker("pull", "-q", "busybox")
        assert docker("run", "--rm", "busybox", "id", "-u") == "0\n"
        docker("run", "-d", "--name", "one", "busybox", "sleep", "60")
        assert docker("exec", "one", "sh", "-c", "echo in > /tmp/a; cat /tmp/a") == "in\n"
        docker("cp", "one:/tmp/a", str(home / "a"))
        assert (home / "a").read_text() == "in\n"
        docker("cp", str(home / "a"), "one:/tmp/b")
        docker("stop", "-t", "0", "one")
        docker("cp", "one:/tmp/b", str(home / "b"))
        care = ("--init", "--health-cmd", "wget -qO- http://127.0.0.1/f", "--health-interval", "50ms")
        serve = ("sh", "-c", "echo kept > /d/f; exec httpd -f -p 80 -h /d")
        docker("run", "-d", "--name", "two", "-v", "data:/d", "-p", "127.0.0.1::80", *care, "busybox", *serve)
        docker("pause", "two")
        assert "(Paused)" in docker("ps")
        docker("unpause", "two")
        deadline = time.monotonic() + 60
        while "(healthy)" not in docker("ps"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        address = ("127.0.0.1", int(docker("port", "two", "80").strip().rpartition(":")[2]))
        with socket.create_connection(address, 60) as connection:
            connection.sendall(b"GET /f HTTP/1.0\r\n\r\n")
            assert connection.makefile("rb").read().endswith(b"kept\n")
        docker("commit", "two", "of-two")
        docker("rm", "-f", "two")
        assert docker("run", "--rm", "-v", "data:/e:ro", "of-two", "cat", "/e/f") == "kept\n"
        docker("build", "-q", "-t", "own", "-", stdin=b"FROM busybox\nRUN echo built > /a\nCMD cat /a\n")
        assert docker("run", "--rm", "own") == "built\n"
    finally:
        service.send_signal(signal.SIGTERM)
        assert service.wait(60) in (0, 1)
        if service.stderr:
            service.stderr.close()
        subprocess.run(["rm", "-rf", str(home)], check=False)
