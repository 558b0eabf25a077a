"""Secrets: their syntax, and what is never taken as one."""

import os
import threading

import pytest

from kedge.model.errors import InvalidInput
from kedge.session.secrets import LARGEST_SECRET, Secret, parse_secret, read_secret


@pytest.mark.parametrize(
    ("text", "path", "env"),
    [
        ("id=a,src=/x/y", "/x/y", ""),
        ("id=a,source=y", "y", ""),
        ("type=file,id=a,src=y", "y", ""),
        ("id=a,env=TOKEN", None, "TOKEN"),
        ("type=env,id=a,src=TOKEN", None, "TOKEN"),
        ("id=SET", None, "SET"),
        ("id=UNSET", "UNSET", ""),
        ("type=file,id=SET", "SET", ""),
        ('"id=a","src=/x,y"', "/x,y", ""),
    ],
)
def test_syntax(text, path, env):
    secret = parse_secret(text, {"SET": "1"})
    assert (str(secret.path) if secret.path else None, secret.env) == (path, env)


@pytest.mark.parametrize("text", ["", "src=/x", "id=a,mode=3", "id", "id=a,type=socket", '"id=a'])
def test_bad_syntax_is_an_error_of_the_user(text):
    with pytest.raises(InvalidInput, match="--secret"):
        parse_secret(text, {})


def test_a_file_is_read_when_asked_and_not_before(tmp_path):
    secret = parse_secret(f"id=a,src={tmp_path}/s", {})
    with pytest.raises(InvalidInput, match="cannot read"):
        read_secret(secret, {})
    (tmp_path / "s").write_bytes(b"\0bytes\n")
    assert read_secret(secret, {}) == b"\0bytes\n"


def test_an_unset_variable_is_no_secret():
    assert read_secret(Secret("a", env="NO"), {}) is None
    assert read_secret(Secret("a", env="YES"), {"YES": "v"}) == b"v"


def test_a_directory_a_device_and_a_huge_file_are_refused(tmp_path):
    (tmp_path / "huge").write_bytes(bytes(LARGEST_SECRET + 1))
    for path in (tmp_path, "/dev/zero", tmp_path / "huge"):
        with pytest.raises(InvalidInput):
            read_secret(parse_secret(f"id=a,src={path}", {}), {})


def test_a_fifo_of_the_shell_is_read_to_its_end(tmp_path):
    fifo = tmp_path / "f"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(b"from a command"))
    writer.start()
    while True:  # the writer opens only with a reader there, a non-blocking reader may come first
        data = read_secret(Secret("a", fifo), {})
        if data:
            break
    writer.join()
    assert data == b"from a command"
