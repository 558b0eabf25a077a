"""oci-layout://: directories and archives of images that nobody vouches for."""

import gzip
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kedge.model.digest import digest_of, sha256
from kedge.model.errors import IntegrityError, KedgeError, NotFound, Unsupported
from kedge.model.image import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, Index, Manifest, canonical_json
from kedge.model.ops import Source
from kedge.model.platform import Platform
from kedge.registry.client import Registry
from kedge.sources.fetch import store_fetch
from kedge.sources.handler import Work
from kedge.sources.oci_layout import OciLayoutSource, open_layout, split_layout_name
from kedge.storage.store import Store

AMD = Platform("linux", "amd64")
WORK = Work(digest_of("test"))
NAME = "org.opencontainers.image.ref.name"


def put(root: Path, data: bytes, kind: str) -> Descriptor:
    digest = sha256(data)
    path = root / "blobs" / digest.replace(":", "/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return Descriptor(kind, digest, len(data))


def add_image(root: Path, *tags: str, text: str = "world") -> Descriptor:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo("hello")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text.encode()))
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [sha256(out.getvalue())]}}
    layer = put(root, gzip.compress(out.getvalue(), mtime=0), OCI_LAYER_GZIP)
    manifest = Manifest(put(root, canonical_json(config), OCI_CONFIG), (layer,))
    target = put(root, manifest.to_bytes(), OCI_MANIFEST)
    index = root / "index.json"
    known = Index.from_bytes(index.read_bytes()).manifests if index.exists() else ()
    named = (Descriptor(target.media_type, target.digest, target.size, ((NAME, tag),)) for tag in tags or ("",))
    index.write_bytes(Index((*known, *named)).to_bytes())
    (root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return target


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    root = tmp_path / "layout"
    root.mkdir()
    return root


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Registry() as registry, Store.open(tmp_path / "store", store_fetch(registry)) as opened:
        yield opened


def archived(layout: Path) -> Path:
    path = layout.with_suffix(".tar")
    with tarfile.open(path, "w") as archive:
        for file in sorted(layout.rglob("*")):
            archive.add(file, file.relative_to(layout), recursive=False)
    return path


@pytest.mark.parametrize("form", ["directory", "archive"])
def test_an_image_is_built_upon_from_a_layout(layout: Path, store: Store, form: str) -> None:
    target = add_image(layout, "v1")
    path = layout if form == "directory" else archived(layout)
    source = OciLayoutSource(store, AMD)
    op = Source(f"oci-layout://{path}:v1")
    assert source.resolve(f"{path}:v1", AMD).target == target
    (layer,) = source.fetch(op, AMD, source.pin(op, AMD, WORK), WORK)
    assert (store.layers.directory(layer) / "hello").read_text() == "world"
    assert not store.verify()


def test_names_are_found(layout: Path) -> None:
    first, second = add_image(layout, "v1", "latest"), add_image(layout, "v2", text="moon")
    with open_layout(str(layout)) as opened:
        assert opened.find("v2") == second
        assert opened.find() == first  # latest
        assert opened.find(digest=second.digest) == second
        with pytest.raises(NotFound, match="no image v3") as caught:
            opened.find("v3")
        assert caught.value.hint == "It has: v1, latest, v2."


def test_the_only_image_needs_no_name(layout: Path) -> None:
    target = add_image(layout)
    with open_layout(str(layout)) as opened:
        assert opened.find() == target


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("/a/b:v1", ("/a/b", "v1", None)),
        ("/a:b/c", ("/a:b/c", "", None)),
        ("/a/b", ("/a/b", "", None)),
        ("/a/b@sha256:" + "a" * 64, ("/a/b", "", "sha256:" + "a" * 64)),
        ("/a/b:v1@sha256:" + "a" * 64, ("/a/b", "v1", "sha256:" + "a" * 64)),
    ],
)
def test_a_layouts_name_is_split(text: str, parts: tuple[str, str, str | None]) -> None:
    assert split_layout_name(text) == parts


def test_other_bytes_than_the_digest_says_are_refused(layout: Path, store: Store) -> None:
    target = add_image(layout, "v1")
    blob = layout / "blobs" / target.digest.replace(":", "/")
    blob.write_bytes(blob.read_bytes().replace(b":2,", b":3,"))
    with pytest.raises(IntegrityError):
        OciLayoutSource(store, AMD).resolve(f"{layout}:v1", AMD)


def test_a_layer_with_other_bytes_is_refused(layout: Path, store: Store) -> None:
    add_image(layout, "v1")
    source = OciLayoutSource(store, AMD)
    image = source.resolve(f"{layout}:v1", AMD)
    blob = layout / "blobs" / image.manifest.layers[0].digest.replace(":", "/")
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    op = Source(f"oci-layout://{layout}:v1")
    (layer,) = source.fetch(op, AMD, source.pin(op, AMD, WORK), WORK)
    with pytest.raises(IntegrityError):
        store.layers.directory(layer)


def test_files_that_are_none_do_not_hold_us(layout: Path) -> None:
    target = add_image(layout, "v1")
    blob = layout / "blobs" / target.digest.replace(":", "/")
    blob.unlink()
    os.mkfifo(blob)
    with open_layout(str(layout)) as opened, pytest.raises(NotFound, match="no regular file"):
        opened.manifest(target)
    blob.unlink()
    blob.symlink_to("/dev/zero")
    with open_layout(str(layout)) as opened, pytest.raises(NotFound, match="no regular file"):
        opened.manifest(target)


def test_what_is_no_layout_is_named(layout: Path, tmp_path: Path) -> None:
    with open_layout(str(layout)) as opened, pytest.raises(NotFound, match=r"index\.json"):
        opened.index()
    with pytest.raises(NotFound, match="cannot read"):
        open_layout(str(tmp_path / "missing"))
    (tmp_path / "text").write_text("hello\n" * 500)
    with pytest.raises(IntegrityError, match="no tar file"):
        open_layout(str(tmp_path / "text"))
    (tmp_path / "packed").write_bytes(gzip.compress(bytes(2000)) + bytes(1000))
    with pytest.raises(Unsupported, match="compressed"):
        open_layout(str(tmp_path / "packed"))
    with pytest.raises(NotFound):
        open_layout("/dev/null")


@pytest.mark.parametrize("seed", range(20))
def test_damaged_archives_end_in_an_error(layout: Path, tmp_path: Path, seed: int) -> None:
    import random

    target = add_image(layout, "v1")
    dice = random.Random(seed)
    data = bytearray(archived(layout).read_bytes())
    for _ in range(dice.randrange(1, 30)):
        data[dice.randrange(len(data))] = dice.randrange(256)
    path = tmp_path / "damaged.tar"
    path.write_bytes(data[: dice.randrange(len(data))])
    try:
        with open_layout(str(path)) as opened:
            opened.manifest(opened.find("v1"))
    except KedgeError:
        return
    assert target
