"""`--load` against engines of the tests' own: what they are asked and sent. A real Podman: tests/e2e."""

import http.server
import io
import json
import socketserver
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kedge.exporters.archive import load_into
from kedge.exporters.assemble import Stage
from kedge.exporters.load import Engine, find_engine
from kedge.exporters.options import read_options
from kedge.model.errors import KedgeError
from kedge.model.graph import Layer
from kedge.model.image import History, ImageConfig
from kedge.model.platform import Platform
from kedge.storage.store import Store


@dataclass
class Told:
    """An engine: what it answers, and what it was told."""

    podman: bool = False
    driver: str = "overlay2"
    images: dict[str, list[str]] = field(default_factory=dict)
    loads: list[bytes] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    refusal: str = ""

    def answer(self, path: str) -> Any:
        if path == "/version":
            return {"Components": [{"Name": "Podman Engine" if self.podman else "Engine"}]}
        if path == "/info":
            return {"DriverStatus": [["driver-type", self.driver]]}
        if path == "/images/json":
            return [{"Id": name} for name in self.images]
        name = path.removeprefix("/images/").removesuffix("/json").replace("%3A", ":")
        return {"RootFS": {"Layers": self.images[name]}}


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    told: Told


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def address_string(self) -> str:
        return "unix"

    def do_GET(self) -> None:
        self._send(json.dumps(self.server.told.answer(self.path)).encode())

    def do_POST(self) -> None:
        told = self.server.told
        if "/tag?" in self.path:
            told.tags.append(self.path)
            return self._send(b"", 201)
        data = bytearray()
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        told.loads.append(bytes(data))
        refused = told.refusal and len(told.loads) == 1
        self._send(json.dumps({"error": told.refusal} if refused else {"stream": "Loaded"}).encode())

    def _send(self, data: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    server = _Server(str(tmp_path / "socket"), _Handler)
    server.told = Told()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.told
    finally:
        server.shutdown()
        server.server_close()


class Silent:
    def status(
        self, id: str, current: int = 0, total: int = 0, *, started: float | None = None, done: bool = False
    ) -> None:
        pass


def layer(store: Store, name: str) -> Layer:
    with store.layers.draft() as draft:
        (draft.upper / name).write_text(name)
        return draft.commit("test")


def stage_of(store: Store) -> Stage:
    config = ImageConfig(Platform("linux", "amd64"), history=tuple(History(f"RUN {n}") for n in range(3)))
    return Stage(config, tuple(layer(store, name) for name in "abc"))


def load(tmp_path: Path, store: Store, stage: Stage, *names: str) -> tuple[Engine, list[str]]:
    engine = find_engine({"DOCKER_HOST": f"unix://{tmp_path}/socket"})
    assert engine is not None
    load_into(engine, store, [stage], read_options((), names), Silent())
    diffs = [store.layers.diff_id(each, clamp=stage.clamp)[0] for each in stage.snapshot]
    return engine, [str(diff) for diff in diffs]


def sent(data: bytes) -> tuple[list[dict[str, Any]], set[str]]:
    """manifest.json of an archive ([] if there is none), and the names in it."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = set(archive.getnames())
        file = archive.extractfile("manifest.json") if "manifest.json" in names else None
        return (json.load(file) if file else []), names


def test_docker_gets_only_the_layers_above_those_it_has(told: Told, store: Store, tmp_path: Path) -> None:
    stage = stage_of(store)
    _, diffs = load(tmp_path, store, stage, "one:1", "two")
    told.images = {"sha256:aa": diffs[:2], "sha256:bb": ["sha256:" + "0" * 64, diffs[2]]}
    engine, _ = load(tmp_path, store, stage, "one:1", "two")
    assert engine.kind == "docker"
    ((first,), before), ((again,), after) = (sent(data) for data in told.loads)
    assert again == first
    assert again["RepoTags"] == ["one:1", "two:latest"]
    assert [path in before for path in first["Layers"]] == [True, True, True]
    assert [path in after for path in again["Layers"]] == [False, False, True], "a layer counts with those below it"


def test_a_containerd_store_gets_everything(told: Told, store: Store, tmp_path: Path) -> None:
    stage, told.driver = stage_of(store), "io.containerd.snapshotter.v1"
    _, diffs = load(tmp_path, store, stage, "x")
    told.images = {"sha256:aa": diffs}
    engine, _ = load(tmp_path, store, stage, "x")
    assert engine.kind == "containerd"
    (image,), names = sent(told.loads[1])
    assert set(image["Layers"]) <= names


def test_podman_gets_a_layout_of_plain_layers_and_is_told_other_names(told: Told, store: Store, tmp_path: Path) -> None:
    stage, told.podman = stage_of(store), True
    _, diffs = load(tmp_path, store, stage, "one:1", "two")
    told.images = {"sha256:aa": diffs[:1]}
    load(tmp_path, store, stage, "one:1", "two")
    image, names = sent(told.loads[1])
    assert image == []
    assert [f"blobs/{diff.replace(':', '/')}" in names for diff in diffs] == [False, True, True]
    assert "repo=docker.io%2Flibrary%2Ftwo&tag=latest" in told.tags[0]


def test_an_engine_that_lost_a_layer_is_given_all(told: Told, store: Store, tmp_path: Path) -> None:
    stage = stage_of(store)
    _, diffs = load(tmp_path, store, stage, "x")
    told.images = {"sha256:aa": diffs}
    told.loads.clear()
    told.refusal = "layer not found"
    load(tmp_path, store, stage, "x")
    (image,), names = sent(told.loads[1])
    assert set(image["Layers"]) <= names


def test_a_refusal_is_told_in_the_engines_words(told: Told, store: Store, tmp_path: Path) -> None:
    told.refusal = "no space left on device"
    with pytest.raises(KedgeError, match="docker could not load the image: no space left on device"):
        load(tmp_path, store, stage_of(store), "x")


def test_no_engine_is_none(tmp_path: Path) -> None:
    assert find_engine({"DOCKER_HOST": f"unix://{tmp_path}/nothing"}) is None
    assert find_engine({"DOCKER_HOST": "ssh://host"}) is None
