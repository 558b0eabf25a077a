"""File actions on what they are for: drafts, where the kernel copies up, and the layers that drafts become."""

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from kedge.kernel import identity
from kedge.model import ops
from kedge.model.graph import Layer, Snapshot
from kedge.storage.compression import decompressed
from kedge.storage.copy import copy
from kedge.storage.file_actions import make_file, remove
from kedge.storage.store import Store
from kedge.storage.tar_read import unpack
from kedge.storage.tar_write import TarOptions, write_tar
from kedge.storage.tree import Tree

pytestmark = pytest.mark.skipif(not identity.current().privileged, reason="needs root: overlay mounts")


def change(store: Store, below: Snapshot, what: Callable[[int], object]) -> Layer:
    with store.layers.draft(below) as draft:
        with draft.tree() as tree:
            what(tree.fd)
        return draft.commit()


def names(store: Store, layer: Layer) -> list[str]:
    out = io.BytesIO()
    store.layers.write_tar(layer, out)
    out.seek(0)
    with tarfile.open(fileobj=out) as archive:
        return archive.getnames()


def merged(store: Store, snapshot: Snapshot) -> dict[str, str]:
    with store.layers.mounted(snapshot) as tree:
        root = Path(f"/proc/self/fd/{tree.fd}/.")
        return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture
def client(tmp_path: Path) -> Tree:
    directory = tmp_path / "client"
    (directory / "sub").mkdir(parents=True)
    (directory / "f").write_text("f")
    (directory / "sub/g").write_text("g")
    (directory / "sub/h").hardlink_to(directory / "sub/g")
    fd = os.open(directory, os.O_PATH)
    return Tree(fd, None, True)  # the descriptor goes with the process


def everything(source: Tree, dest: str = "/app/") -> Callable[[int], None]:
    action = ops.Copy("/", dest, contents_only=True, create_dest_path=True, always_replace=True)
    return lambda fd: copy(action, source, fd)


def test_a_copy_onto_scratch_is_one_layer_with_its_parents(store: Store, client: Tree) -> None:
    layer = change(store, (), everything(client, "/a/b/"))
    assert names(store, layer) == ["a", "a/b", "a/b/f", "a/b/sub", "a/b/sub/g", "a/b/sub/h"]


def test_a_copy_over_a_snapshot_brings_only_what_it_wrote(store: Store, client: Tree) -> None:
    base = change(store, (), everything(client))
    top = change(store, (base,), lambda fd: copy(ops.Copy("f", "/app/sub/g"), client, fd))
    assert names(store, top) == ["app", "app/sub", "app/sub/g"]
    assert merged(store, (base, top)) == {"app/f": "f", "app/sub/g": "f", "app/sub/h": "g"}


def test_what_is_removed_is_whited_out(store: Store, client: Tree) -> None:
    base = change(store, (), everything(client))
    top = change(store, (base,), lambda fd: remove(ops.Remove("/app/sub"), fd))
    assert names(store, top) == ["app", "app/.wh.sub"]
    assert merged(store, (base, top)) == {"app/f": "f"}


def test_a_directory_made_again_hides_what_was_there(store: Store, client: Tree) -> None:
    base = change(store, (), everything(client))
    gone = remove_then(lambda fd: make_file(ops.MakeFile("/app", b"", 0o644), fd))
    file = change(store, (base,), gone)
    only_f = remove_then(lambda fd: copy(ops.Copy("f", "/app/", create_dest_path=True), client, fd))
    assert merged(store, (base, file, change(store, (base, file), only_f))) == {"app/f": "f"}
    over = change(store, (base,), only_f)
    assert names(store, over) == ["app", "app/.wh..wh..opq", "app/f"]
    assert merged(store, (base, over)) == {"app/f": "f"}


def remove_then(what: Callable[[int], None]) -> Callable[[int], None]:
    def both(fd: int) -> None:
        remove(ops.Remove("/app"), fd)
        what(fd)

    return both


def test_a_layer_read_back_from_its_tar_is_the_same(store: Store, client: Tree, tmp_path: Path) -> None:
    base = change(store, (), everything(client))
    top = change(store, (base,), lambda fd: (remove(ops.Remove("/app/f"), fd), everything(client, "/app/sub/")(fd)))
    out = io.BytesIO()
    store.layers.write_tar(top, out, clamp=0)  # a whiteout's time is that of its making
    (tmp_path / "again").mkdir()
    fd = os.open(tmp_path / "again", os.O_RDONLY)
    unpack(io.BytesIO(out.getvalue()), fd, layer=True)
    os.close(fd)
    again = io.BytesIO()
    write_tar(tmp_path / "again", again, TarOptions(clamp=0))
    assert again.getvalue() == out.getvalue()


def test_layers_that_umoci_wrote_are_read(tmp_path: Path) -> None:
    if not shutil.which("umoci"):
        pytest.skip("umoci is not installed (apt-get install umoci)")
    source = tmp_path / "source"
    (source / ("long" * 30)).mkdir(parents=True)
    (source / ("long" * 30) / "café").write_text("text")
    (source / "link").symlink_to("/etc/passwd")
    (source / "other").hardlink_to(source / ("long" * 30) / "café")
    os.chown(source / "other", 70_000, 3_000_000)
    os.setxattr(source / "other", "user.note", b"hi")
    layout = tmp_path / "layout"
    for words in (["init", "--layout", str(layout)], ["new", "--image", f"{layout}:t"],
                  ["insert", "--image", f"{layout}:t", str(source), "/put"]):  # fmt: skip
        subprocess.run(["umoci", *words], check=True, capture_output=True)
    blobs = sorted((layout / "blobs/sha256").iterdir(), key=lambda path: path.read_bytes()[:2] == b"\x1f\x8b")
    (tmp_path / "root").mkdir()
    fd = os.open(tmp_path / "root", os.O_RDONLY)
    with blobs[-1].open("rb") as blob:
        unpack(decompressed(blob), fd, layer=True)
    os.close(fd)
    put = tmp_path / "root/put"
    assert (put / ("long" * 30) / "café").read_text() == "text"
    assert os.readlink(put / "link") == "/etc/passwd"
    assert ((put / "other").stat().st_gid, os.getxattr(put / "other", "user.note")) == (3_000_000, b"hi")


def test_a_whiteout_of_what_is_nowhere_below_is_no_file(store: Store) -> None:
    """A diff that removes a file, merged with what never had it: overlayfs lists the whiteout and does not have it."""
    with store.layers.draft() as draft:
        (draft.upper / "d").mkdir()
        os.mknod(draft.upper / "d" / "gone", 0o020000, os.makedev(0, 0))
        removal = draft.commit()
    base = change(store, (), lambda fd: make_file(ops.MakeFile("/f", b"x", 0o644, -1, 0), fd, None))
    with store.layers.mounted((base, removal)) as tree:
        source = Tree(tree.fd)
        made = change(store, (), everything(source, "/"))
    assert sorted(names(store, made)) == ["d/", "f"] or sorted(names(store, made)) == ["d", "f"]
