"""The Engine API's listener when it is full."""

import socket
import threading
from pathlib import Path

import pytest

from kedge.daemon.engine import server


def test_a_full_service_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_MOST", 1)
    path = tmp_path / "s"
    service = server.Server([server.listen(path)], lambda exchange: None)
    running = threading.Thread(target=service.run)
    running.start()
    clients = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    for client in clients:
        client.connect(str(path))
    running.join(0.5)
    assert running.is_alive()
    service.stop()
    running.join(30)
    assert not running.is_alive()
    service.close(5)
    for client in clients:
        client.close()
