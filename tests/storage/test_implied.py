"""Directories that a layer's tar only implies look as they do in the layers below."""

import gzip
import io
import os
import stat
import tarfile
from collections.abc import Callable

import pytest

from kedge.kernel import identity
from kedge.model.digest import sha256
from kedge.model.graph import Layer, Snapshot
from kedge.model.image import OCI_LAYER_GZIP, Descriptor
from kedge.storage.gc import PruneOptions
from kedge.storage.layer_records import IMPLIED
from kedge.storage.store import Store
from tests.storage.conftest import needs_mounts

pytestmark = needs_mounts
Make = Callable[..., Layer]


def blob(*entries: tuple[str, int]) -> tuple[bytes, bytes]:
    """A layer's tar, and the same compressed. Names that end in a slash are directories, of that mode and mtime 5."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, mode in entries:
            entry = tarfile.TarInfo(name.rstrip("/"))
            entry.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            entry.mode, entry.mtime = mode, 5
            archive.addfile(entry)
    return out.getvalue(), gzip.compress(out.getvalue(), 1, mtime=0)


@pytest.fixture
def layer(store: Store) -> Make:
    """`layer((name, mode)…)`: a declared layer whose tar has these entries, in this order."""

    def make(*entries: tuple[str, int]) -> Layer:
        tar, data = blob(*entries)
        store.blobs.put(data)
        return store.layers.declare(sha256(tar), Descriptor(OCI_LAYER_GZIP, sha256(data), len(data)))

    return make


def modes(store: Store, snapshot: Snapshot, *names: str) -> list[str]:
    with store.layers.mounted(snapshot) as tree:
        return [oct(stat.S_IMODE(os.stat(name, dir_fd=tree.fd).st_mode)) for name in names]


def test_an_implied_directory_keeps_the_mode_it_has_below(store: Store, layer: Make) -> None:
    base = layer(("tmp/", 0o1777), ("home/", 0o755), ("home/me/", 0o700))
    above = layer(("tmp/x", 0o644), ("home/me/.profile", 0o600), ("new/f", 0o644))
    names = ("tmp", "home", "home/me", "new")
    assert modes(store, (base, above), *names) == ["0o1777", "0o755", "0o700", "0o755"]
    assert modes(store, (above,), "tmp") == ["0o755"]
    with store.layers.mounted((base, above)) as tree:
        assert os.stat("tmp/x", dir_fd=tree.fd).st_size == 0
        assert os.stat("tmp", dir_fd=tree.fd).st_mtime == 5


def test_the_nearest_layer_below_decides_and_one_further_up_overrules(store: Store, layer: Make) -> None:
    base, nearer = layer(("d/", 0o700)), layer(("d/", 0o711))
    implying, above = layer(("d/f", 0o644)), layer(("d/", 0o750))
    assert modes(store, (base, nearer, implying), "d") == ["0o711"]
    assert modes(store, (nearer, base, implying), "d") == ["0o700"]
    assert modes(store, (base, implying, above), "d") == ["0o750"]
    assert modes(store, (base, implying, layer(("d/g", 0o644))), "d") == ["0o700"]


def test_directories_with_an_entry_stay_as_they_are_around_it(store: Store, layer: Make) -> None:
    base = layer(("a/", 0o700), ("a/b/", 0o711))
    above = layer(("a/", 0o750), ("a/b/f", 0o644))
    assert modes(store, (base, above), "a", "a/b") == ["0o750", "0o711"]


def test_what_is_hidden_below_is_not_asked(store: Store, layer: Make) -> None:
    base, implying = layer(("d/", 0o700), ("e/", 0o700)), layer(("d/f", 0o644), ("e/f", 0o644))
    removed = layer((".wh.d", 0o644), ("e", 0o644))
    assert modes(store, (base, removed, implying), "d", "e") == ["0o755", "0o755"]
    emptied = layer(("top/.wh..wh..opq", 0o644))
    assert modes(store, (layer(("top/d/", 0o700)), emptied, layer(("top/d/f", 0o644))), "top/d") == ["0o755"]


def test_a_symlink_below_is_replaced(store: Store, layer: Make) -> None:
    with store.layers.draft() as draft:
        os.symlink("usr/bin", draft.upper / "bin")
        linked = draft.commit()
    assert modes(store, (linked, layer(("bin/sh", 0o755))), "bin") == ["0o755"]


def test_owner_and_attributes_come_along(store: Store, layer: Make) -> None:
    if identity.current().single_id:
        pytest.skip("one id only")
    with store.layers.draft() as draft:
        (draft.upper / "d").mkdir()
        os.chown(draft.upper / "d", 3, 4)
        try:
            os.setxattr(draft.upper / "d", "user.note", b"kept")
        except OSError:
            pytest.skip("a file system without extended attributes")
        base = draft.commit()
    with store.layers.mounted((base, layer(("d/f", 0o644)))) as tree:
        found = os.stat("d", dir_fd=tree.fd)
        assert (found.st_uid, found.st_gid) == (3, 4)
        assert os.getxattr(f"/proc/self/fd/{tree.fd}/d", "user.note") == b"kept"


def test_nothing_is_put_in_where_nothing_differs(store: Store, layer: Make) -> None:
    base, above = layer(("usr/", 0o755), ("usr/bin/", 0o755)), layer(("usr/bin/x", 0o755))
    assert len(store.layers.directories((base, above))) == 2


def test_stacks_share_one_layer_and_a_step_sees_it(store: Store, layer: Make) -> None:
    bases = [layer(("tmp/", 0o1777), (name, 0o644)) for name in ("one", "two")]
    above = layer(("tmp/x", 0o644))
    puts = {store.layers.directories((base, above))[2] for base in bases}
    assert len(puts) == 1
    with store.layers.draft((bases[0], above)) as draft, draft.tree() as tree:
        assert stat.S_IMODE(os.stat("tmp", dir_fd=tree.fd).st_mode) == 0o1777


def test_a_pruned_one_is_made_again(store: Store, layer: Make) -> None:
    base, above = layer(("tmp/", 0o1777)), layer(("tmp/x", 0o644))
    put = store.layers.directories((base, above))[2]
    assert put.is_dir()
    store.close()
    with Store.open(store.root) as other:
        found = next(each for each in other.usage() if each.description.startswith(IMPLIED))
        other.prune(PruneOptions(ids=(found.id,)))
        assert not put.exists()
        assert modes(other, (base, above), "tmp") == ["0o1777"]


def test_it_stays_while_an_image_is_there_that_may_need_it(store: Store, layer: Make) -> None:
    from tests.storage.test_gc import image

    base, above = layer(("tmp/", 0o1777)), layer(("tmp/x", 0o644))
    put = store.layers.directories((base, above))[2]
    image(store, "kept", base, above)
    store.close()
    with Store.open(store.root) as other:
        other.prune(PruneOptions(all=True))
        assert put.is_dir()
        assert other.verify() == []
