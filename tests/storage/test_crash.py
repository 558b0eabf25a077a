"""kill -9 at any instant: what was recorded is there, what was not is gone, and the next one goes on."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kedge.model.digest import sha256
from kedge.storage.store import Store
from tests.storage.test_gc import disk, total
from tests.storage.test_results import key

WORK = """
import os, pathlib, sys, random
from kedge.model.cachekey import CacheKey
from kedge.model.digest import sha256
from kedge.model.image import Descriptor
from kedge.storage.gc import PruneOptions
from kedge.storage.images import ImageRecord
from kedge.storage.store import Store

sys.path.insert(0, {tests!r})
from tests.storage.conftest import layer_blob
from tests.storage.test_gc import image
random.seed({seed})
print("ready", flush=True)
number = 0
while True:
    with Store.open(pathlib.Path({root!r})) as store:
        for _ in range(5):
            number += 1
            with store.layers.draft() as draft:
                for n in range(5):
                    (draft.upper / f"f{{n}}").write_bytes(random.randbytes(5000))
                layer = draft.commit()
            store.results.put(CacheKey(sha256(f"{seed} {{number}}".encode())), [(layer,)])
            print("result", number, layer, flush=True)
            digest = store.blobs.put(random.randbytes(50000))
            print("blob", digest, flush=True)
            data, blob, diff_id = layer_blob({{f"g{{n}}": random.randbytes(5000) for n in range(20)}})
            store.blobs.put(data)
            store.layers.directory(store.layers.declare(diff_id, blob))
            store.layers.blob(layer, "gzip")
        image(store, f"image-{seed}-{{number}}", layer)
        print("image", f"image-{seed}-{{number}}", flush=True)
        with store.logs.writer(digest, "RUN") as log:
            log.write(b"x" * 1000)
        with store.cache_mounts.use(f"id{{number}}", "shared", prepare=lambda d: (d / "x").touch()):
            pass
        if number % 20 == 0:
            store.prune(PruneOptions(kinds=("log", "cache-mount")))
"""


def killed(root: Path, seed: int, seconds: float) -> list[list[str]]:
    """What a process reported as done before it was killed."""
    tests = str(Path(__file__).resolve().parents[2])
    program = WORK.format(root=str(root), seed=seed, tests=tests)
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert child.stdout
    assert child.stdout.readline() == "ready\n"
    time.sleep(seconds)
    os.killpg(child.pid, signal.SIGKILL)
    out = child.stdout.read()
    child.wait()
    child.stdout.close()
    return [line.split() for line in out.splitlines() if line.count(" ") in (1, 2)]


def check(root: Path, seed: int, done: list[list[str]]) -> None:
    with Store.open(root) as store:
        assert store.verify() == []
        assert os.listdir(root / "drafts") + os.listdir(root / "trash") == []
        assert [name for name in os.listdir(root / "ingest") if "." in name] == []
        for what, *rest in done:
            if what == "result":
                assert store.results.results(key(f"{seed} {rest[0]}")) == [(rest[1],)]
                assert len(os.listdir(store.layers.directory(rest[1]))) == 5  # type: ignore[arg-type]
            elif what == "blob":
                assert sha256(store.blobs.read(rest[0])) == rest[0]  # type: ignore[arg-type]
            elif what == "image":
                assert store.images.get(rest[0]) is not None
    with Store.open(root) as store:
        assert total(store) == disk(root)


@pytest.mark.parametrize("part", range(5))
def test_a_store_survives_being_killed_at_random_instants(root: Path, part: int) -> None:
    chance = random.Random(part)
    for attempt in range(10):
        seed = part * 100 + attempt
        check(root, seed, killed(root, seed, chance.uniform(0, 0.25)))


def test_two_processes_killed_on_one_store_leave_it_sound(root: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    for attempt in range(3):
        with ThreadPoolExecutor(2) as pool:
            seeds = [1000 + attempt * 2, 1001 + attempt * 2]
            done = list(pool.map(lambda seed: killed(root, seed, 0.3 + seed % 7 / 20), seeds))
        for seed, each in zip(seeds, done, strict=True):
            check(root, seed, each)


def test_a_complete_download_whose_process_died_is_not_fetched_again(root: Path) -> None:
    from tests.storage.conftest import layer_blob
    from tests.storage.test_layers import Remote

    data, blob, diff_id = layer_blob({"a": b"1"})
    with Store.open(root) as store:
        (root / "ingest" / blob.digest[7:]).write_bytes(data)
        store.fetch = remote = Remote(data)
        store.layers.directory(store.layers.declare(diff_id, blob, "a://"))
        assert remote.asked == []
