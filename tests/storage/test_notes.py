"""Notes, and stores made before there were any."""

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from kedge.storage import database, notes
from kedge.storage.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


def test_a_note_is_kept_for_the_next_user_of_the_store(store: Store) -> None:
    assert store.notes.get("a:1") is None
    store.notes.put("a:1", "one")
    store.notes.put("a:1", "two")
    with Store.open(store.root) as other:
        assert other.notes.get("a:1") == "two"


def test_the_oldest_half_goes_when_there_are_too_many(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "MOST", 10)
    for number in range(11):
        store.notes.put(f"a:{number}", "")
    assert store.notes.get("a:0") is None
    assert store.notes.get("a:10") == ""


def test_a_store_of_the_version_before_is_brought_up_to_date(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        store.notes.put("a:1", "lost")
    with sqlite3.connect(tmp_path / "store/kedge.db") as rows:
        upgrades = "".join(database._UPGRADES.values())
        for table in re.findall(r"CREATE TABLE (\w+)", upgrades):
            rows.execute(f"DROP TABLE {table}")
        for table, column in re.findall(r"ALTER TABLE (\w+) ADD COLUMN (\w+)", upgrades):
            rows.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        rows.execute("PRAGMA user_version=2")
    rows.close()
    with Store.open(tmp_path / "store") as store:
        assert store.notes.get("a:1") is None
        store.notes.put("a:1", "one")
        assert store.notes.get("a:1") == "one"
        assert store.verify() == []
