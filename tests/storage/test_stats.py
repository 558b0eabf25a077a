"""The stat cache: right whatever is read ahead."""

import os
import random
from pathlib import Path

from kedge.model.digest import sha256
from kedge.storage.store import Store


def old_files(folder: Path, count: int) -> list[os.stat_result]:
    for number in range(count):
        file = folder / str(number)
        file.write_bytes(str(number).encode())
        os.utime(file, ns=(10**9 + number, 10**9 + number))
    return [os.stat(folder / str(number)) for number in range(count)]


def test_every_file_is_known_in_any_order_and_again(root: Path, tmp_path: Path) -> None:
    stats = old_files(tmp_path, 300)
    later = max(status.st_ctime_ns for status in stats) + 10**10
    with Store.open(root) as store:
        for number, status in enumerate(stats):
            store.stats.put(status, sha256(str(number).encode()), later)
    for seed in (None, 1, 2):
        order = list(enumerate(stats))
        if seed:
            random.Random(seed).shuffle(order)
        with Store.open(root) as store:
            for _ in range(2):
                assert [store.stats.get(status) for _, status in order] == [sha256(str(n).encode()) for n, _ in order]


def test_a_file_that_changed_after_its_row_was_read_ahead_is_not_known(root: Path, tmp_path: Path) -> None:
    stats = sorted(old_files(tmp_path, 20), key=lambda status: status.st_ino)
    later = max(status.st_ctime_ns for status in stats) + 10**10
    with Store.open(root) as store:
        for status in stats[::2]:
            store.stats.put(status, sha256(b"x"), later)
    with Store.open(root) as store:
        assert [store.stats.get(status) is not None for status in stats[:10]] == [True, False] * 5
        changed = next(file for file in tmp_path.glob("*[0-9]") if file.stat().st_ino == stats[10].st_ino)
        changed.write_bytes(b"longer than it was")
        assert store.stats.get(changed.stat()) is None
