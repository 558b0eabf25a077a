"""Attaching to a container by WebSocket."""

import base64
import os
import socket
import struct

import pytest

from tests.daemon.engine.conftest import Docker, Service

HANDSHAKE = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n"


def opened(service: Service, path: str, handshake: str) -> tuple[socket.socket, bytes]:
    """A connection after its handshake, and the answer's head."""
    connection = service.connect()
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{handshake}\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        piece = connection.recv(1)
        assert piece, head
        head += piece
    return connection, head


def frame(kind: int, data: bytes, masked: bool = True) -> bytes:
    mask = os.urandom(4)
    size = struct.pack(">BB", 0x80 | kind, (0x80 if masked else 0) | min(len(data), 126))
    size += struct.pack(">H", len(data)) if len(data) > 125 else b""
    return size + (mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data)) if masked else data)


def answer(connection: socket.socket) -> tuple[int, bytes]:
    def take(count: int) -> bytes:
        data = b""
        while len(data) < count:
            data += connection.recv(count - len(data))
        return data

    first, length = take(2)
    if length >= 126:
        length = int.from_bytes(take(2 if length == 126 else 8), "big")
    return first & 15, take(length)


@pytest.fixture
def cat(docker: Docker) -> str:
    id = docker("create", "-i", "busybox", "cat").strip()
    docker("start", id)
    return id


def test_bytes_go_both_ways(service: Service, docker: Docker, cat: str) -> None:
    key = base64.b64encode(b"0123456789abcdef").decode()
    connection, head = opened(service, f"/v1.41/containers/{cat}/attach/ws?stream=1", HANDSHAKE.format(key))
    with connection:
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"Sec-WebSocket-Accept: BACScCJPNqyz+UBoqMH89VmURoA=\r\n" in head
        connection.sendall(frame(9, b"are you there"))
        assert answer(connection) == (10, b"are you there")
        connection.sendall(frame(1, b"hello "))
        assert answer(connection) == (2, b"hello ")
        long = b"x" * 3000
        connection.sendall(frame(2, long))
        got = b""
        while len(got) < len(long):
            got += answer(connection)[1]
        assert got == long
        docker("stop", "-t", "0", cat)
        assert answer(connection) == (8, struct.pack(">H", 1000))
        assert connection.recv(1) == b""
    docker("rm", cat)


@pytest.mark.parametrize(
    ("sent", "code"),
    [(frame(2, b"naked", masked=False), 1002), (b"\x82\xff" + b"\x7f" * 8, 1009), (frame(11, b"x"), 1002),
     (b"\xf2" + frame(2, b"x")[1:], 1002)],
    ids=["unmasked", "huge", "unknown", "extension"],
)  # fmt: skip
def test_what_is_no_frame_ends_it(service: Service, docker: Docker, cat: str, sent: bytes, code: int) -> None:
    key = base64.b64encode(b"0123456789abcdef").decode()
    connection, _ = opened(service, f"/containers/{cat}/attach/ws", HANDSHAKE.format(key))
    with connection:
        connection.sendall(sent)
        assert answer(connection) == (8, struct.pack(">H", code))
    docker("rm", "-f", cat)


def test_a_handshake_that_is_none_is_refused(service: Service, docker: Docker, cat: str) -> None:
    for handshake in ("", HANDSHAKE.format("short"), HANDSHAKE.format("AAAAAAAAAAAAAAAAAAAAAA==").replace("13", "8")):
        connection, head = opened(service, f"/containers/{cat}/attach/ws", handshake)
        with connection:
            assert head.startswith(b"HTTP/1.1 400 "), head
    docker("rm", "-f", cat)
