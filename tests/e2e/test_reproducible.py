"""The same Dockerfile, built twice in other stores, other directories, on other days: the same bytes.

"Another day" is files' other times, what a step writes of a later day, and, where faketime(1) is installed, another
clock for the builder itself. (A time namespace moves only monotonic clocks.)
"""

import http.server
import io
import json
import os
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import foreign
from tests.e2e.conftest import Kedge, write_tree

DAY = 86400
TEXT = """\
FROM busybox AS tools
RUN mkdir /made && for i in 9 3 7 1 5; do echo $i > /made/$i; done && ln -s 9 /made/link && ln /made/3 /made/hard
FROM busybox AS base
COPY tree /tree
WORKDIR /work
RUN --mount=type=bind,target=/context rm /tree/gone && touch -d "@$(cat /context/day)" /tree/a /work /touched
COPY --from=tools --chown=5:6 /made /work/again
FROM base
COPY --link tree/a /linked/a
LABEL made=twice
"""
FILES = {"tree/a": "a\n", "tree/b/c": "c\n", "tree/gone": "x", "tree/z": "z\n"}


def make_context(folder: Path, text: str, day: int) -> Path:
    """The same files, made in another order, of another day. `day` tells steps what a clock would."""
    names = sorted(FILES) if day % 2 else sorted(FILES, reverse=True)
    now = int(time.time()) + day * DAY
    write_tree(folder, {"Dockerfile": text, "day": str(now)} | {name: FILES[name] for name in names})
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (now, now))
    return folder


def twice(mirror: Path, tmp_path: Path, text: str, output: str) -> tuple[Path, Path]:
    made = []
    for day, place in enumerate(("one", "two/deeper")):
        kedge, out = Kedge(tmp_path / place / "store", mirror), tmp_path / place / "out"
        kedge.build(make_context(tmp_path / place / "context", text, day), "-o", output + str(out))
        made.append(out)
    return made[0], made[1]


@pytest.mark.usefixtures("bases")
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_builder_with_another_clock_writes_the_same(mirror: Path, tmp_path: Path, compression: str) -> None:
    if not shutil.which("faketime"):
        pytest.skip("faketime is not installed (apt-get install faketime)")
    made = []
    for place, clock in (("one", ()), ("two", ("faketime", "2033-03-03 03:03:03"))):
        kedge, out = Kedge(tmp_path / place / "store", mirror), tmp_path / place / "out"
        kedge.command = (*clock, *kedge.command)
        context = make_context(tmp_path / place / "context", TEXT, 0)
        kedge.build(context, "-o", f"type=oci,compression={compression},dest={out}")
        made.append(out.read_bytes())
    assert made[0] == made[1]


@pytest.mark.usefixtures("bases")
@pytest.mark.parametrize("compression", ["gzip", "zstd", "estargz", "uncompressed"])
def test_archives_are_the_same_to_the_byte(mirror: Path, tmp_path: Path, compression: str) -> None:
    one, two = twice(mirror, tmp_path, TEXT, f"type=oci,compression={compression},dest=")
    assert one.read_bytes() == two.read_bytes()
    if compression == "gzip" and shutil.which("diffoscope"):
        done = subprocess.run(["diffoscope", str(one), str(two)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[:3000]


@pytest.mark.usefixtures("bases")
def test_a_user_namespace_makes_no_difference(mirror: Path, tmp_path: Path) -> None:
    archives = []
    for name, command in (("root", None), ("inside", tuple(foreign.namespace_command()))):
        kedge = Kedge(tmp_path / name / "store", mirror, **({"command": command} if command else {}))
        context = make_context(tmp_path / name / "context", TEXT, 0)
        kedge.build(context, "-o", f"type=oci,dest={tmp_path / name}/out.tar")
        archives.append((tmp_path / name / "out.tar").read_bytes())
    assert archives[0] == archives[1]


@pytest.mark.usefixtures("bases")
def test_tars_of_the_files_are_the_same(mirror: Path, tmp_path: Path) -> None:
    one, two = twice(mirror, tmp_path, TEXT, "type=tar,dest=")
    assert one.read_bytes() == two.read_bytes()


EPOCH_TEXT = "FROM busybox\nARG SOURCE_DATE_EPOCH\nRUN echo $SOURCE_DATE_EPOCH > /e\n"


def test_an_epoch_is_the_time_of_everything_new(kedge: Kedge, tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "c", {"Dockerfile": EPOCH_TEXT})
    layout = tmp_path / "layout"
    kedge.build(folder, "-o", f"type=oci,tar=false,dest={layout}", SOURCE_DATE_EPOCH="1000000000")
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    blobs = layout / "blobs" / "sha256"
    manifest = json.loads((blobs / entry["digest"][7:]).read_text())
    config = json.loads((blobs / manifest["config"]["digest"][7:]).read_text())
    assert config["created"] == "2001-09-09T01:46:40Z"
    assert config["history"][-1]["created"] == "2001-09-09T01:46:40Z"
    with tarfile.open(blobs / manifest["layers"][-1]["digest"][7:]) as layer:
        member = layer.getmember("e")
        assert member.mtime == 1_000_000_000
        file = layer.extractfile(member)
        assert file is not None
        assert file.read() == b"1000000000\n"


@contextmanager
def serving(files: dict[str, tuple[bytes, str]]) -> Iterator[str]:
    """An HTTP server: path -> (data, Last-Modified or empty)."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data, modified = files.get(self.path, (b"", ""))
            self.send_response(200 if data else 404)
            self.send_header("Content-Length", str(len(data)))
            if modified:
                self.send_header("Last-Modified", modified)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("told", ["x", "1.5", "9" * 30, "9" * 5000])
def test_an_epoch_that_is_no_time_is_refused(kedge: Kedge, tmp_path: Path, told: str) -> None:
    folder = write_tree(tmp_path / "c", {"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
    said = kedge.build(folder, check=False, SOURCE_DATE_EPOCH=told)
    assert "is no number of seconds before the year 2262" in said
    assert "Traceback" not in said


def archive(day: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in (("Dockerfile", b"FROM scratch\nCOPY f /f\n"), ("f", b"x")):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(data), day * DAY
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def created(kedge: Kedge, *words: str, **environment: str) -> str:
    kedge("build", "--progress", "plain", "-t", "timed", *words, **environment)
    found: str = json.loads(kedge("inspect", "timed").stdout)[0]["Created"]
    return found


def test_context_takes_the_time_of_a_remote_context(kedge: Kedge) -> None:
    files = {
        "/dated.tar": (archive(1), "Sun, 09 Sep 2001 01:46:40 GMT"),
        "/plain.tar": (archive(11000), ""),
    }
    epoch = ("--build-arg", "SOURCE_DATE_EPOCH=context")
    with serving(files) as address:
        assert created(kedge, *epoch, f"{address}/dated.tar").startswith("2001-09-09T01:46:40")
        assert created(kedge, *epoch, f"{address}/plain.tar").startswith("2000-02-13T00:00:00")


def test_a_local_context_has_no_time(kedge: Kedge, tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "c", {"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
    kedge("build", "--build-arg", "SOURCE_DATE_EPOCH=context", "-o", f"type=oci,dest={tmp_path}/a.tar", folder)
    kedge("build", "-o", f"type=oci,dest={tmp_path}/b.tar", folder)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_a_stage_with_one_remote_add_gives_its_time(kedge: Kedge, tmp_path: Path) -> None:
    with serving({"/f": (b"data", "Sun, 09 Sep 2001 01:46:40 GMT")}) as address:
        text = f"ARG SOURCE_DATE_EPOCH=src\nFROM scratch AS src\nADD {address}/f /\nFROM scratch\nCOPY --from=src / /\n"
        folder = write_tree(tmp_path / "c", {"Dockerfile": text})
        assert created(kedge, str(folder)).startswith("2001-09-09T01:46:40")
        (folder / "Dockerfile").write_text(text.replace("FROM scratch AS src", "FROM busybox AS src"))
        done = kedge("build", folder, check=False)
        assert "one ADD of one http(s) or git source" in done.stderr
