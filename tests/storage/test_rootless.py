"""The store as an ordinary user: in a user namespace, with one id or with those of /etc/subuid."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from kedge.kernel.identity import subordinate_ids

PROGRAM = """
import ctypes, concurrent.futures.thread, importlib, os, pathlib, pkgutil, pwd, shutil, sqlite3, stat, subprocess, sys
import isal.isal_zlib, tarfile, zstandard  # now: the user may not be able to read where Python is
import kedge.storage, tests.storage.test_gc
for module in pkgutil.iter_modules(kedge.storage.__path__):
    importlib.import_module("kedge.storage." + module.name)
from kedge.kernel import identity, syscalls
if {uid}:
    os.setgroups([]); os.setgid({uid}); os.setuid({uid})
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # else /proc/self belongs to root
if {single}:
    identity._run_mappers = lambda *_: False
identity.enter_user_namespace()
me = identity.current()
assert not me.privileged
assert me.single_id == {single}, me
from kedge.storage.store import Store
from tests.storage.conftest import layer_blob, names_in
from tests.storage.test_gc import image
root = pathlib.Path({root!r})
with Store.open(root) as store:
    data, blob, diff_id = layer_blob({{"d/": b"", "d/a": b"1", "d/b": b"2", ".wh.x": b""}})
    store.blobs.put(data)
    below = store.layers.declare(diff_id, blob)
    store.layers.directory(below)
    with store.layers.draft((below,)) as draft:
        with draft.tree() as tree:
            os.unlink("d/a", dir_fd=tree.fd)
            os.close(os.open("d/c", os.O_CREAT | os.O_WRONLY, dir_fd=tree.fd))
        top = draft.commit()
    with store.layers.mounted((below, top)) as tree:
        assert names_in(tree.fd, "d") == ["b", "c"], names_in(tree.fd, "d")
    from kedge.storage import overlay
    overlay._mount_one_by_one = overlay._mount_by_string
    with store.layers.mounted((below, top)) as tree:
        assert names_in(tree.fd, "d") == ["b", "c"]
    made = store.layers.blob(top, "zstd")
    image(store, "x", below, top)
    assert store.verify() == []
with Store.open(root) as store:
    store.prune()
    assert store.verify() == []
    assert not store.blobs.has(made.digest)
    assert sum(usage.size for usage in store.usage()) == int(
        subprocess.run(["du", "-s", "-B1", root], check=True, capture_output=True, text=True).stdout.split()[0])
    store.images.remove("x")
with Store.open(root) as store:
    store.prune()
    assert os.listdir(root / "layers") == []
print("well")
"""


@pytest.mark.parametrize("single", [True, False], ids=["one id", "subordinate ids"])
def test_everything_works_in_a_user_namespace(single: bool) -> None:
    uid = 1000 if os.geteuid() == 0 else 0  # 0: as we are
    place = Path(subprocess.run(["mktemp", "-d"], check=True, capture_output=True, text=True).stdout.strip())
    try:
        if uid:
            os.chown(place, uid, uid)
        program = textwrap.dedent(PROGRAM).format(uid=uid, single=single, root=str(place / "store"))
        tests = str(Path(__file__).resolve().parents[2])
        command = [sys.executable, "-c", program]
        if not single:
            command = [*_with_subordinate_ids(place, uid), *command]
        path = os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
        if "cannot map ids" in done.stderr or "Unsupported" in done.stderr:
            pytest.skip(f"user namespaces do not work here: {done.stderr.strip().splitlines()[-1]}")
        assert done.stdout == "well\n", done.stderr
    finally:
        subprocess.run(["rm", "-rf", str(place)], check=False)


def _with_subordinate_ids(place: Path, uid: int) -> list[str]:
    """Words before a command that give it an /etc/subuid and /etc/subgid, seen by it only. None for whoever has ids."""
    if not shutil.which("newuidmap"):
        pytest.skip("newuidmap is not installed (apt-get install uidmap)")
    if not uid:
        if not subordinate_ids("/etc/subuid", os.geteuid()):
            pytest.skip("this user has no subordinate ids in /etc/subuid")
        return []
    if not shutil.which("unshare"):
        pytest.skip("needs unshare (of util-linux) to lend subordinate ids to a user")
    table = place / "subids"
    table.write_text(f"{uid}:200000:65536\n")
    script = 'mount --bind "$0" /etc/subuid && mount --bind "$0" /etc/subgid && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, str(table)]


def test_a_store_of_root_is_not_used_by_others_and_the_other_way_round(root: Path) -> None:
    from kedge.model.errors import StoreError
    from kedge.storage.database import Database
    from kedge.storage.store import Store

    with Store.open(root) as store:
        store.images.list()
    other = {"trusted.overlay.": "user.overlay.", "user.overlay.": "trusted.overlay."}
    database = Database(root / "kedge.db", other[store._database._flavour])
    with pytest.raises(StoreError, match="was made by"):
        database.rows("SELECT 1")
