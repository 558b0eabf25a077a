"""Agents lent to steps: the filter, keys, and the end of it all."""

import os
import shutil
import socket
import struct
import subprocess
import threading
from pathlib import Path

import pytest

from kedge.model.errors import InvalidInput
from kedge.session.local import LocalSession
from kedge.session.ssh import SshSpec, lent, parse_ssh


@pytest.fixture
def agent(tmp_path):
    """An agent that answers every request with its number plus 100."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "real.sock"))
    listener.listen()

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection):
        with connection:
            while head := connection.recv(4):
                body = connection.recv(struct.unpack(">I", head)[0])
                connection.sendall(struct.pack(">I", 1) + bytes([body[0] + 100]))

    threading.Thread(target=serve, daemon=True).start()
    yield tmp_path / "real.sock"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def ask(path, *requests):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        answers = []
        for request in requests:
            client.sendall(struct.pack(">I", len(request)) + request)
            size = struct.unpack(">I", client.recv(4))[0]
            answers.append(client.recv(size)[0])
        return answers


def test_listing_and_signing_pass_and_nothing_else_does(agent):
    with lent(SshSpec("default", (agent,)), 0, 0, 0o600) as path:
        assert ask(path, b"\x0b", b"\x0dx", b"\x11key", b"\x12", b"\x13", b"\x16", b"\x1b", b"") == [111, 113] + [5] * 6


def test_the_socket_has_the_owner_and_mode_asked_for_and_is_gone_afterwards(agent):
    uid, gid = (1234, 1235) if os.geteuid() == 0 else (os.getuid(), os.getgid())
    with lent(SshSpec("default", (agent,)), uid, gid, 0o640) as path:
        status = os.stat(path)
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (uid, gid, 0o640)
    assert not path.parent.exists()


def test_no_thread_is_left_behind(agent):
    before = threading.active_count()
    with lent(SshSpec("default", (agent,)), 0, 0, 0o600) as path:
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(path))
        client.sendall(struct.pack(">I", 1) + b"\x0b")
        client.recv(5)
    for _ in range(200):
        if threading.active_count() <= before + 1:  # the fake agent's own
            break
        threading.Event().wait(0.01)
    assert threading.active_count() <= before + 1
    client.close()


@pytest.mark.skipif(not shutil.which("ssh-agent") or not shutil.which("ssh-keygen"), reason="no openssh-client here")
def test_key_files_are_served_by_an_agent_of_our_own(tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    with lent(SshSpec("k", (tmp_path / "key",)), 0, 0, 0o600) as path:
        listed = subprocess.run(["ssh-add", "-l"], env=os.environ | {"SSH_AUTH_SOCK": str(path)}, capture_output=True)
        assert b"ED25519" in listed.stdout
        added = subprocess.run(
            ["ssh-add", tmp_path / "key"], env=os.environ | {"SSH_AUTH_SOCK": str(path)}, capture_output=True
        )
        assert added.returncode != 0
    with pytest.raises(InvalidInput, match="cannot be used"), lent(SshSpec("k", (tmp_path / "key.pub",)), 0, 0, 0o600):
        pass


def test_syntax():
    assert parse_ssh("default", {"SSH_AUTH_SOCK": "/s"}).paths[0].as_posix() == "/s"
    assert [p.name for p in parse_ssh("x=/a/b,/c/d", {}).paths] == ["b", "d"]
    for text in ("", "=x", "default"):
        with pytest.raises(InvalidInput):
            parse_ssh(text, {})


def test_an_id_nobody_lent_has_no_socket():
    with LocalSession().ssh("default", 0, 0, 0o600) as path:
        assert path is None


def test_a_path_that_cannot_even_be_looked_at_is_told():
    with (
        pytest.raises(InvalidInput, match="File name too long"),
        lent(SshSpec("default", (Path("x" * 300),)), 0, 0, 0o600),
    ):
        pass
