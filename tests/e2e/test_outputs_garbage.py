"""The store's size at the command line: `du` agrees with the disk, `prune` takes what it is told to, a cap is kept."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Kedge, write_tree


def on_disk(folder: Path) -> int:
    """Bytes that du(1) counts."""
    return int(
        subprocess.run(["du", "-s", "-B1", str(folder)], capture_output=True, text=True, check=True).stdout.split()[0]
    )


def usage(kedge: Kedge) -> list[dict[str, Any]]:
    return [json.loads(line) for line in kedge("du", "--format", "json").stdout.splitlines()]


def total(kedge: Kedge) -> int:
    """The sum that du shows, in bytes."""
    from kedge.storage.store import Store

    with Store.open(kedge.store) as store:
        return sum(each.size for each in store.usage())


@pytest.fixture
def filled(kedge: Kedge, tmp_path: Path) -> Kedge:
    """A store with an image, a cache mount, results nobody named, logs, and compressed blobs."""
    text = "FROM busybox\nRUN --mount=type=cache,target=/c dd if=/dev/urandom of=/c/x bs=1M count=2\nCOPY big /big\n"
    folder = write_tree(tmp_path / "c", {"Dockerfile": text + "RUN ln /big /twin\n"})
    (folder / "big").write_bytes(os.urandom(3 << 20))
    kedge.build(folder, "-t", "kept")
    (folder / "big").write_bytes(os.urandom(3 << 20))
    kedge.build(folder, "-o", f"type=oci,dest={tmp_path}/x.tar")
    return kedge


def test_du_agrees_with_the_disk(filled: Kedge) -> None:
    shown, there = total(filled), on_disk(filled.store)
    assert abs(shown - there) <= 64 << 10, (shown, there)
    assert {"layer", "blob", "cache-mount", "log", "store"} <= {each["Kind"] for each in usage(filled)}


def test_prune_keeps_what_an_image_needs(filled: Kedge) -> None:
    before = on_disk(filled.store)
    filled("prune", "--all", "--force")
    assert on_disk(filled.store) < before - (8 << 20)
    assert filled("run", "--rm", "kept", "ls", "/twin").stdout == "/twin\n"
    assert abs(total(filled) - on_disk(filled.store)) <= 64 << 10
    filled("rmi", "kept")
    filled("prune", "--all", "--force")
    assert {each["Kind"] for each in usage(filled)} <= {"store", "layer", "blob"}


@pytest.mark.parametrize(
    ("words", "gone", "left"),
    [
        (("--filter", "type=cache-mount"), {"cache-mount"}, {"layer", "blob"}),
        (("--filter", "until=24h"), set(), {"cache-mount", "layer", "blob"}),
        (("--filter", "type=blob"), set(), {"cache-mount", "layer"}),
    ],
)
def test_filters(filled: Kedge, words: tuple[str, ...], gone: set[str], left: set[str]) -> None:
    filled("prune", "--force", *words)
    kinds = {each["Kind"] for each in usage(filled)}
    assert not kinds & gone
    assert left <= kinds


def test_a_kind_that_there_is_not_is_told_before_anything_goes(filled: Kedge) -> None:
    done = filled("prune", "--force", "--filter", "kind=cachemount", check=False)
    assert done.returncode == 125
    assert "invalid filter kind=cachemount" in done.stderr
    assert "cache-mount" in done.stderr
    assert "cache-mount" in {each["Kind"] for each in usage(filled)}


def test_a_cap_is_never_exceeded(mirror: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(mirror.read_text() + '\n[store]\nmax-size = "24MB"\n')
    kedge = Kedge(tmp_path / "store", config)
    folder = write_tree(tmp_path / "c", {"Dockerfile": "FROM scratch\nCOPY big /big\n"})
    for number in range(6):
        (folder / "big").write_bytes(os.urandom(5 << 20))
        kedge.build(folder, "-t", "moving")
        assert on_disk(kedge.store) <= 24_000_000, number
    (folder / "big").write_bytes(os.urandom(30 << 20))
    done = kedge("build", folder, check=False)
    assert done.returncode != 0
    assert "max-size" in done.stderr
    assert on_disk(kedge.store) <= 24_000_000
