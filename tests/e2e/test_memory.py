"""A layer's size is not a command's memory: the large one that bench/memory.py measures, small enough for a test."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Kedge, write_tree

LAYER = 128 << 20  # bytes; held whole anywhere, it would break the limit
# In a small process of its own: a new program's peak is never below that of the process it was forked from.
MEASURE = """
import os, sys
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
_, status, usage = os.wait4(pid, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status) and 1)
"""
LIMIT = 120 << 10  # KiB, as getrusage(2) counts


def peak(kedge: Kedge, *words: str) -> int:
    """The largest resident set of a command, in KiB."""
    environment = os.environ | {"KEDGE_ROOT": str(kedge.store), "KEDGE_CONFIG": str(kedge.config)}
    command = [sys.executable, "-c", MEASURE, *kedge.command, *words]
    return int(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout.split()[-1])


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tree(tmp_path_factory.mktemp("large"), {"Dockerfile": "FROM scratch\nCOPY large /large\n"})
    with (folder / "large").open("wb") as file:
        for _ in range(LAYER >> 20):
            file.write(os.urandom(1 << 20))
    return folder


@pytest.mark.parametrize("compression", ["gzip", "zstd", "estargz"])
def test_an_archive(shared: Kedge, context: Path, tmp_path: Path, compression: str) -> None:
    output = f"type=oci,compression={compression},dest={tmp_path}/x.tar"
    assert peak(shared, "build", "-q", "-o", output, str(context)) < LIMIT


@pytest.mark.parametrize("level", [12, 15, 22])
def test_an_archive_at_a_high_level(shared: Kedge, tmp_path: Path, level: int) -> None:
    """What these levels take they have taken after some windows; a whole layer would take minutes."""
    folder = write_tree(tmp_path / "c", {"Dockerfile": "FROM scratch\nCOPY large /large\n"})
    (folder / "large").write_bytes(os.urandom(24 << 20))
    output = f"type=oci,compression=zstd,compression-level={level},dest={tmp_path}/x.tar"
    assert peak(shared, "build", "-q", "-o", output, str(folder)) < LIMIT


def test_a_push_and_a_pull(shared: Kedge, mirror: Path, context: Path, registry: str, tmp_path: Path) -> None:
    name = f"{registry}/memory/large:1"
    assert peak(shared, "build", "-q", "--push", "-t", name, str(context)) < LIMIT
    other = Kedge(tmp_path / "store", mirror)
    assert peak(other, "pull", "-q", name) < LIMIT
    assert peak(other, "export", "-o", str(tmp_path / "x.tar"), name) < LIMIT
