"""Volumes on disk: names, users, and what removal keeps."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kedge.containers.volumes import VolumeRecord, Volumes, VolumeUse, keep_uses
from kedge.model.errors import Conflict, InvalidInput, NotFound, StoreError
from kedge.storage.copy import _Copier
from kedge.storage.store import Store
from kedge.storage.tree import Tree


def test_a_volume_is_made_once_and_found_again(tmp_path: Path) -> None:
    volumes = Volumes(tmp_path)
    with volumes.locked():
        made = volumes.create("data", (("a", "b"),))
        (made.path / "f").write_text("kept")
        assert volumes.create("data") == made
    assert Volumes(tmp_path).get("data") == made
    assert volumes.list() == [made]
    assert volumes.remove("data") > 0
    with pytest.raises(NotFound):
        volumes.get("data")
    assert not made.path.exists()


def test_what_a_killed_removal_leaves_goes_with_the_stores_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with Store.open(tmp_path) as store:
        volumes = Volumes(tmp_path)
        with volumes.locked():
            (volumes.create("data").path / "kept").write_text("x")
        with monkeypatch.context() as patched:
            patched.setattr("kedge.storage.disk.remove_tree", killed)
            with pytest.raises(KeyboardInterrupt):
                volumes.remove("data")
        assert volumes.list() == []
        store.prune()
    assert list(tmp_path.rglob("kept")) == []


@pytest.mark.parametrize("name", ["..", "a/b", ".hidden", "a", "a b", "x" * 300, "a\0b", "_data", ".lock"])
def test_a_name_is_never_a_path(tmp_path: Path, name: str) -> None:
    volumes = Volumes(tmp_path)
    with volumes.locked(), pytest.raises(InvalidInput):
        volumes.create(name)
    with pytest.raises(NotFound):
        volumes.get(name)


def test_what_a_container_uses_stays_and_what_was_made_for_it_goes_with_it(tmp_path: Path) -> None:
    volumes, home = Volumes(tmp_path), tmp_path / "containers" / "c1"
    home.mkdir(parents=True)
    with volumes.locked():
        own, named = volumes.create(), volumes.create("named")
        uses = (VolumeUse(own.name, "/a", anonymous=True), VolumeUse(named.name, "/b"))
        keep_uses(home, uses)
    assert own.anonymous
    for record in (own, named):
        with pytest.raises(Conflict, match="c1"):
            volumes.remove(record.name)
    (home / "mounts.json").unlink()
    volumes.forget(uses)
    assert [each.name for each in volumes.list()] == ["named"]


def test_a_removal_and_a_use_never_meet(tmp_path: Path) -> None:
    """Either the volume is gone before the container takes it, or the container has it and it stays."""
    volumes = Volumes(tmp_path)
    for number in range(20):
        home = tmp_path / "containers" / f"c{number}"
        home.mkdir(parents=True)
        with volumes.locked():
            volumes.create("raced")
        outcome: list[str] = []

        def remove(outcome: list[str] = outcome) -> None:
            try:
                volumes.remove("raced")
                outcome.append("removed")
            except Conflict:
                outcome.append("kept")

        thread = threading.Thread(target=remove)
        thread.start()
        with volumes.locked():
            record = volumes.create("raced")
            keep_uses(home, [VolumeUse("raced", "/d")])
        thread.join()
        assert record.path.exists(), outcome
        (home / "mounts.json").unlink()
        volumes.remove("raced")


KILLED = """
import os, sys
from pathlib import Path
from kedge.containers.volumes import Volumes
from kedge.storage import copy as copying
from kedge.storage.tree import Tree

base, moment = Path(sys.argv[1]), sys.argv[2]
volumes = Volumes(base / "store")
die = lambda: os.kill(os.getpid(), 9)
regular, rename = copying._Copier._regular, os.rename
done = []

def so_often(count, do):
    def once(*words, **more):
        if len(done) == count:
            die()
        done.append(do(*words, **more))
    return once

if moment == "copying":
    copying._Copier._regular = so_often(1, regular)
if moment == "moving":
    os.rename = so_often(2, rename)  # the whole copy, and a file
if moment == "discarding":
    Volumes._to_trash = lambda *_: die()
volumes.fill(volumes.get("data"), Tree(os.open(base / "image", os.O_PATH)), "/d")
"""


@pytest.fixture
def image(tmp_path: Path) -> Tree:
    made = tmp_path / "image" / "d"
    (made / "below").mkdir(parents=True)
    for name in ("a", "b", "c", "below/d"):
        (made / name).write_text(name)
    made.chmod(0o750)
    os.utime(made, (7, 7))
    (tmp_path / "store").mkdir()
    return Tree(os.open(tmp_path / "image", os.O_PATH))


def fill(volumes: Volumes, record: VolumeRecord, image: Tree) -> dict[str, str]:
    """As for a container that uses it; the files that it finds."""
    if volumes.is_empty(record):
        volumes.fill(record, image, "/d")
    return {str(path.relative_to(record.path)): path.read_text() for path in record.path.rglob("*") if path.is_file()}


WHOLE = {name: name for name in ("a", "b", "c", "below/d")}


@pytest.mark.parametrize("moment", ["copying", "moving", "discarding"])
def test_a_filling_that_was_killed_is_made_whole_for_the_next_container(
    tmp_path: Path, image: Tree, moment: str
) -> None:
    volumes = Volumes(tmp_path / "store")
    with volumes.locked():
        record = volumes.create("data")
    place = record.path.stat().st_ino
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path, moment], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert fill(volumes, record, image) == WHOLE
    assert (record.path.stat().st_mode & 0o7777, record.path.stat().st_ino) == (0o750, place)
    assert {path.name for path in record.path.parent.iterdir()} == {"_data", "record.json"}
    (record.path / "a").write_text("changed")
    assert fill(volumes, record, image)["a"] == "changed"
    os.close(image.fd)


def test_what_a_container_wrote_meanwhile_stays(tmp_path: Path, image: Tree) -> None:
    volumes = Volumes(tmp_path / "store")
    with volumes.locked():
        record = volumes.create("data")
    subprocess.run([sys.executable, "-c", KILLED, tmp_path, "moving"], check=False, timeout=120)
    moved = {path.name for path in record.path.iterdir()}
    assert len(moved) == 1
    for name in ("a", "b"):
        (record.path / name).write_text("a container's")
    assert fill(volumes, record, image) == WHOLE | dict.fromkeys(("a", "b"), "a container's")
    os.close(image.fd)


def test_a_filling_that_fails_leaves_the_volume_empty(
    tmp_path: Path, image: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes = Volumes(tmp_path / "store")
    with volumes.locked():
        record = volumes.create("data")
    with monkeypatch.context() as patched:
        patched.setattr(_Copier, "finish", raise_full)
        with pytest.raises(StoreError):
            fill(volumes, record, image)
    assert volumes.is_empty(record)
    assert {path.name for path in record.path.parent.iterdir()} == {"_data", "record.json"}
    assert fill(volumes, record, image) == WHOLE
    os.close(image.fd)


def raise_full(_: object) -> None:
    raise OSError(errno.ENOSPC, "no space")


def test_two_that_fill_at_once_both_find_all(tmp_path: Path, image: Tree) -> None:
    for number in range(20):
        with Volumes(tmp_path / "store").locked():
            record = Volumes(tmp_path / "store").create(f"v{number}")
        found: list[dict[str, str]] = []
        threads = [
            threading.Thread(target=lambda: found.append(fill(Volumes(tmp_path / "store"), record, image)))  # noqa: B023
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [WHOLE] * 3
    os.close(image.fd)
