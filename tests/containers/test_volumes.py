"""Volumes on disk: names, users, and what removal keeps."""

import threading
from pathlib import Path

import pytest

from kedge.containers.volumes import Volumes, VolumeUse, keep_uses
from kedge.model.errors import Conflict, InvalidInput, NotFound
from kedge.storage.store import Store


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
