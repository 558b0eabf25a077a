"""Copies between registries, layouts and the store: whole, verified, named last."""

import errno
import gzip
import os
import random
import subprocess
from pathlib import Path

import pytest

from kedge.exporters.copy_image import copy_image
from kedge.exporters.places import (
    ArchiveWriter,
    LayoutReader,
    LayoutWriter,
    RegistryReader,
    RegistryWriter,
    StoreReader,
    StoreWriter,
)
from kedge.exporters.push import publishable, push
from kedge.model.digest import sha256
from kedge.model.errors import IntegrityError, KedgeError, NotFound, RegistryError, StoreError
from kedge.model.image import (
    COMPRESSION_OF,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    Descriptor,
    Index,
    Manifest,
    canonical_json,
)
from kedge.model.platform import Platform
from kedge.model.reference import Reference, parse_reference
from kedge.registry.client import Registry
from kedge.registry.fake import FakeRegistry, answer, bend
from kedge.sources.oci_layout import open_layout
from kedge.storage.store import Store
from tests.exporters.conftest import AMD, ARM, Told, add_image, at


def add_index(fake: FakeRegistry, tag: str = "v1") -> Descriptor:
    entries = []
    for platform in (AMD, ARM):
        image = add_image(fake, platform, f"on {platform}")
        entries.append(Descriptor(image.media_type, image.digest, image.size, platform=platform))
    about = add_image(fake, Platform("unknown", "unknown"), "attestation")
    notes = (("vnd.docker.reference.digest", entries[0].digest), ("vnd.docker.reference.type", "attestation-manifest"))
    entries.append(Descriptor(about.media_type, about.digest, about.size, notes, Platform("unknown", "unknown")))
    return fake.add_manifest("some/image", tag, Index(tuple(entries)).to_bytes(), OCI_INDEX)


def test_an_index_goes_from_registry_to_registry(
    fake: FakeRegistry, other: FakeRegistry, client: Registry, steps: Told
) -> None:
    root = add_index(fake)
    done = copy_image(RegistryReader(client, at(fake)), [RegistryWriter(client, at(other))], root, steps)
    assert done == root
    ours, theirs = fake.repository("some/image"), other.repository("some/image")
    assert (theirs.blobs, theirs.manifests, theirs.tags) == (ours.blobs, ours.manifests, ours.tags)
    assert other.seen[-1].method == "PUT"
    assert other.seen[-1].path.endswith("/manifests/v1")  # the name last
    assert all(done or current <= total for _, current, total, done in steps.events)


def test_what_is_there_already_costs_two_requests(
    fake: FakeRegistry, other: FakeRegistry, client: Registry, steps: Told
) -> None:
    root = add_index(fake)
    for _ in range(2):
        other.seen.clear()
        copy_image(RegistryReader(client, at(fake)), [RegistryWriter(client, at(other))], root, steps)
    assert [one.method for one in other.seen] == ["HEAD", "HEAD"]


def test_siblings_of_one_registry_are_mounted(fake: FakeRegistry, client: Registry, steps: Told) -> None:
    root = add_index(fake)
    copy_image(RegistryReader(client, at(fake)), [RegistryWriter(client, at(fake, "new/image:v2"))], root, steps)
    assert not fake.requests("PUT", "/blobs/")
    assert not fake.requests("GET", "/blobs/")
    assert fake.repository("new/image").tags == {"v2": root.digest}


@pytest.mark.parametrize("seed", range(3))
def test_cut_connections_on_both_sides_end_in_the_right_bytes(
    fake: FakeRegistry, other: FakeRegistry, client: Registry, steps: Told, seed: int
) -> None:
    dice = random.Random(seed)
    data = dice.randbytes(2_000_000)
    layer = fake.add_blob("some/image", data, OCI_LAYER_GZIP)
    config = fake.add_blob("some/image", b"{}", OCI_CONFIG)
    root = fake.add_manifest("some/image", "v1", Manifest(config, (layer,)).to_bytes())
    for _ in range(3):
        fake.on("GET", "/blobs/", bend(cut_at=dice.randrange(len(data))))
    other.break_upload(dice.randrange(1, len(data)), dice.randrange(1, len(data)))
    copy_image(RegistryReader(client, at(fake)), [RegistryWriter(client, at(other))], root, steps)
    assert other.repository("some/image").blobs[layer.digest] == data


def test_a_failure_leaves_no_name(fake: FakeRegistry, other: FakeRegistry, client: Registry, steps: Told) -> None:
    root = add_index(fake)
    other.on("POST", "/uploads/", answer(403, b"read-only"), -1)
    with FakeRegistry() as third:
        writers = [RegistryWriter(client, at(other)), RegistryWriter(client, at(third))]
        with pytest.raises(RegistryError, match="read-only"):
            copy_image(RegistryReader(client, at(fake)), writers, root, steps)
    assert not other.repository("some/image").tags


def test_wrong_bytes_of_the_source_are_not_stored(
    fake: FakeRegistry, other: FakeRegistry, client: Registry, steps: Told, tmp_path: Path, store: Store
) -> None:
    root = add_image(fake, tag="v1")
    layer = Manifest.from_bytes(fake.repository("some/image").manifests[root.digest][1]).layers[0]
    good = fake.repository("some/image").blobs[layer.digest]
    fake.repository("some/image").blobs[layer.digest] = b"x" + good[1:]
    reader = RegistryReader(client, at(fake))
    writers = [
        RegistryWriter(client, at(other)),
        LayoutWriter(tmp_path / "layout", ["v1"]),
        StoreWriter(store, [at(fake)]),
    ]
    for writer in writers:
        with pytest.raises(KedgeError):
            copy_image(reader, [writer], root, steps)
    assert not other.repository("some/image").tags
    assert not (tmp_path / "layout" / "index.json").exists()
    assert not store.images.list()
    assert not store.verify()


def test_one_platform_of_an_index(fake: FakeRegistry, other: FakeRegistry, client: Registry, steps: Told) -> None:
    root = add_index(fake)
    writer = RegistryWriter(client, at(other))
    done = copy_image(RegistryReader(client, at(fake)), [writer], root, steps, platforms=[ARM])
    assert list(other.repository("some/image").manifests) == [done.digest]
    both = copy_image(RegistryReader(client, at(fake)), [writer], root, steps, platforms=[ARM, AMD])
    assert both.media_type == OCI_INDEX
    assert len(other.repository("some/image").manifests) == 4  # two images, what attests to one, the new... old index
    with pytest.raises(NotFound, match="no image for linux/s390x"):
        copy_image(RegistryReader(client, at(fake)), [writer], root, steps, platforms=[Platform("linux", "s390x")])


def test_layouts_and_archives_come_back_the_same(
    fake: FakeRegistry, other: FakeRegistry, client: Registry, steps: Told, tmp_path: Path
) -> None:
    root = add_index(fake)
    directory, archive = tmp_path / "layout", tmp_path / "layout.tar"
    with ArchiveWriter(archive, ["docker.io/some/image:v1"]) as packed:
        copy_image(RegistryReader(client, at(fake)), [LayoutWriter(directory, ["v1"]), packed], root, steps)
    from kedge.exporters.validate import validate_layout

    assert not validate_layout(directory)
    for path in (directory, archive):
        other.repositories.clear()
        with open_layout(str(path)) as layout:
            assert layout.find("v1") == root
            copy_image(LayoutReader(layout), [RegistryWriter(client, at(other))], layout.find("v1"), steps)
        assert other.repository("some/image").manifests == fake.repository("some/image").manifests


def test_a_layout_keeps_its_other_images(fake: FakeRegistry, client: Registry, steps: Told, tmp_path: Path) -> None:
    first, second = add_image(fake, text="1"), add_image(fake, text="2")
    reader = RegistryReader(client, at(fake))
    for root, names in ((first, ["a", "b"]), (second, ["b"])):
        copy_image(reader, [LayoutWriter(tmp_path / "layout", names)], root, steps)
    with open_layout(str(tmp_path / "layout")) as layout:
        assert (layout.find("a"), layout.find("b")) == (first, second)
        assert len(layout.index().manifests) == 2


def test_images_that_a_layout_lacks_are_left_out(
    fake: FakeRegistry, other: FakeRegistry, client: Registry, steps: Told, tmp_path: Path
) -> None:
    root = add_index(fake)
    copy_image(RegistryReader(client, at(fake)), [LayoutWriter(tmp_path / "layout", ["v1"])], root, steps)
    amd, arm, _ = Index.from_bytes(fake.repository("some/image").manifests[root.digest][1]).manifests
    (tmp_path / "layout" / "blobs" / amd.digest.replace(":", "/")).unlink()
    with open_layout(str(tmp_path / "layout")) as layout:
        done = copy_image(LayoutReader(layout), [RegistryWriter(client, at(other))], layout.find("v1"), steps)
    assert arm.digest in other.repository("some/image").manifests
    assert amd.digest not in other.repository("some/image").manifests
    assert done.digest != root.digest
    del fake.repository("some/image").manifests[amd.digest]
    other.repositories.clear()
    with pytest.raises(NotFound):  # a registry may not lack what it lists
        copy_image(RegistryReader(client, at(fake)), [RegistryWriter(client, at(other))], root, steps)
    assert not other.repositories


def test_an_archive_that_fails_leaves_nothing(
    fake: FakeRegistry, client: Registry, steps: Told, tmp_path: Path
) -> None:
    root = add_image(fake)
    fake.repository("some/image").blobs.clear()
    with pytest.raises(NotFound), ArchiveWriter(tmp_path / "a.tar", ["v1"]) as packed:
        copy_image(RegistryReader(client, at(fake)), [packed], root, steps)
    assert not list(tmp_path.glob("*"))


def test_an_archive_whose_index_cannot_be_written_leaves_nothing(
    fake: FakeRegistry, client: Registry, steps: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: ArchiveWriter, path: str, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    root = add_image(fake)
    monkeypatch.setattr(ArchiveWriter, "_add", full)
    with pytest.raises(StoreError, match="no space left"), ArchiveWriter(tmp_path / "a.tar", ["v1"]) as packed:
        copy_image(RegistryReader(client, at(fake)), [packed], root, steps)
    assert not list(tmp_path.glob("*"))


def test_the_store_takes_and_gives(
    fake: FakeRegistry, other: FakeRegistry, client: Registry, steps: Told, store: Store
) -> None:
    root = add_index(fake)
    copy_image(RegistryReader(client, at(fake)), [StoreWriter(store, [at(fake)])], root, steps)
    record = store.images.get(str(at(fake)))
    assert record is not None
    assert record.target == root
    copy_image(StoreReader(store), [RegistryWriter(client, at(other))], root, steps)
    assert other.repository("some/image").manifests == fake.repository("some/image").manifests


# ---- push ------------------------------------------------------------------------------------------------------------


def pulled(store: Store, client: Registry, reference: Reference, platform: Platform = AMD) -> Descriptor:
    from kedge.sources.image import ImageSource

    return ImageSource(store, client, AMD).resolve(reference, platform).target


def test_a_pulled_image_is_pushed_as_it_came(
    fake: FakeRegistry, other: FakeRegistry, client: Registry, steps: Told, store: Store
) -> None:
    root = add_image(fake, tag="v1")
    target = pulled(store, client, at(fake))
    names = [at(other), at(other, "second/name:v2")]
    assert push(store, client, publishable(store, target), names, steps) == root
    assert other.repository("some/image").blobs == fake.repository("some/image").blobs
    assert other.repository("second/name").tags == {"v2": root.digest}


def test_pushing_beside_where_it_came_from_mounts(
    fake: FakeRegistry, client: Registry, steps: Told, store: Store
) -> None:
    add_image(fake, tag="v1")
    target = pulled(store, client, at(fake))
    layer = Manifest.from_bytes(store.blobs.read(target.digest)).layers[0]
    push(store, client, publishable(store, target), [at(fake, "new/image:v1")], steps)
    assert not fake.requests("GET", f"/blobs/{layer.digest}")
    assert not store.blobs.has(layer.digest)


def test_an_index_of_which_one_image_is_here_is_pushed_as_that_image(
    fake: FakeRegistry, other: FakeRegistry, client: Registry, steps: Told, store: Store
) -> None:
    add_index(fake)
    target = pulled(store, client, at(fake))
    done = push(store, client, publishable(store, target), [at(other)], steps)
    assert done.media_type != OCI_INDEX
    assert list(other.repository("some/image").manifests) == [done.digest]


def built(store: Store, text: str = "built here") -> Descriptor:
    """An image as the image exporter leaves it: layers named by their uncompressed tar."""
    from kedge.exporters.assemble import DEFAULT_EPOCH

    with store.layers.draft() as draft:
        (draft.upper / "hello").write_text(text)
        layer = draft.commit()
    diff_id, size = store.layers.diff_id(layer, clamp=DEFAULT_EPOCH)
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [diff_id]}}
    data = canonical_json(config)
    store.blobs.put(data)
    manifest = Manifest(
        Descriptor(OCI_CONFIG, sha256(data), len(data)),
        (Descriptor("application/vnd.oci.image.layer.v1.tar", diff_id, size),),
    )
    store.blobs.put(manifest.to_bytes())
    return Descriptor(manifest.media_type, sha256(manifest.to_bytes()), len(manifest.to_bytes()))


def test_an_image_built_here_is_pushed_compressed(
    other: FakeRegistry, client: Registry, steps: Told, store: Store
) -> None:
    target = built(store)
    done = push(store, client, publishable(store, target), [at(other)], steps)
    assert push(store, client, publishable(store, target), [at(other)], steps) == done
    kind, data = other.repository("some/image").manifests[done.digest]
    manifest = Manifest.from_bytes(data, kind)
    (layer,) = manifest.layers
    assert COMPRESSION_OF[layer.media_type] == "gzip"
    before = Manifest.from_bytes(store.blobs.read(target.digest))
    assert sha256(gzip.decompress(other.repository("some/image").blobs[layer.digest])) == before.layers[0].digest
    assert manifest.config == before.config


def test_an_image_on_top_of_one_built_here_asks_no_registry_for_it(
    other: FakeRegistry, client: Registry, steps: Told, store: Store
) -> None:
    from kedge.model.digest import digest_of
    from kedge.model.ops import Source
    from kedge.sources.handler import Work
    from kedge.sources.image import ImageSource
    from kedge.storage.images import ImageRecord

    target, name = built(store), at(other, "built/here:v1")
    manifest = Manifest.from_bytes(store.blobs.read(target.digest))
    store.images.set(ImageRecord(str(name), target, manifest.config.digest, 1.0))
    source, work = Source(f"docker-image://{name}"), Work(digest_of("x"))
    images = ImageSource(store, client, AMD)
    (layer,) = images.fetch(source, AMD, images.pin(source, AMD, work), work)
    assert (store.layers.directory(layer) / "hello").read_text() == "built here"
    assert store.layers.origins(manifest.layers[0].digest) == []
    assert not other.seen
    done = push(store, client, publishable(store, target), [at(other)], steps)
    pushed = Manifest.from_bytes(other.repository("some/image").manifests[done.digest][1])
    assert COMPRESSION_OF[pushed.layers[0].media_type] == "gzip"


def test_the_last_step_of_a_push_names_what_was_pushed(
    other: FakeRegistry, client: Registry, steps: Told, store: Store
) -> None:
    done = push(store, client, publishable(store, built(store)), [at(other)], steps)
    assert (f"pushing manifest for {at(other)}@{done.digest}", 0, 0, True) in steps.events


def test_zstd_if_asked_for(other: FakeRegistry, client: Registry, steps: Told, store: Store) -> None:
    done = push(store, client, publishable(store, built(store), compression="zstd"), [at(other)], steps)
    manifest = Manifest.from_bytes(other.repository("some/image").manifests[done.digest][1])
    assert COMPRESSION_OF[manifest.layers[0].media_type] == "zstd"


def test_documents_need_not_be_in_the_store(other: FakeRegistry, client: Registry, steps: Told, store: Store) -> None:
    data = canonical_json({"os": "linux", "architecture": "amd64"})
    manifest = Manifest(Descriptor(OCI_CONFIG, sha256(data), len(data)), ()).to_bytes()
    target = Descriptor(Manifest.from_bytes(manifest).media_type, sha256(manifest), len(manifest))
    documents = {sha256(data): data, target.digest: manifest}
    assert push(store, client, publishable(store, target, documents=documents), [at(other)], steps) == target
    assert other.repository("some/image").blobs == {sha256(data): data}


def test_a_layer_with_wrong_bytes_in_the_layout_is_refused(
    fake: FakeRegistry, client: Registry, steps: Told, tmp_path: Path, other: FakeRegistry
) -> None:
    root = add_image(fake)
    copy_image(RegistryReader(client, at(fake)), [LayoutWriter(tmp_path / "layout")], root, steps)
    layer = Manifest.from_bytes(fake.repository("some/image").manifests[root.digest][1]).layers[0]
    path = tmp_path / "layout" / "blobs" / layer.digest.replace(":", "/")
    path.write_bytes(path.read_bytes()[:-3])
    with open_layout(str(tmp_path / "layout")) as layout, pytest.raises(IntegrityError):
        copy_image(LayoutReader(layout), [RegistryWriter(client, at(other))], root, steps)
    assert not other.repository("some/image").tags


def test_skopeo_reads_what_was_written(
    registry: str, tmp_path: Path, fake: FakeRegistry, client: Registry, steps: Told
) -> None:
    import shutil

    if not shutil.which("skopeo"):
        pytest.skip("skopeo is not installed")
    root = add_image(fake)
    name = f"{registry}/copies/by-kedge:v1"
    writers = [RegistryWriter(client, parse_reference(name)), LayoutWriter(tmp_path / "layout", ["v1"])]
    with ArchiveWriter(tmp_path / "a.tar", ["v1"]) as packed:
        copy_image(RegistryReader(client, at(fake)), [*writers, packed], root, steps)
    for place in (f"docker://{name}", f"oci:{tmp_path}/layout:v1", f"oci-archive:{tmp_path}/a.tar:v1"):
        target = f"oci:{tmp_path}/out-{place.partition(':')[0]}:x"
        subprocess.run(
            ["skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", place, target],
            check=True,
            capture_output=True,
        )
        raw = subprocess.run(
            ["skopeo", "inspect", "--raw", "--tls-verify=false", place], check=True, capture_output=True
        ).stdout
        assert sha256(raw) == root.digest
    # and the other way round: what skopeo pushed is read
    copied = f"{registry}/copies/by-skopeo:v1"
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", f"oci:{tmp_path}/layout:v1", f"docker://{copied}"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    assert client.manifest(parse_reference(copied)).digest == root.digest
    (tmp_path / "from-skopeo").mkdir()
    with open_layout(f"{tmp_path}/out-docker") as layout:
        assert layout.find("x").digest == root.digest
