"""Finding, tagging, removing, importing, saving and loading images, against real archives and other people's tools."""

import contextlib
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from kedge.exporters.archive import Entry, save
from kedge.exporters.validate import validate_layout
from kedge.images.history import history
from kedge.images.import_root import import_root
from kedge.images.inspect import inspect
from kedge.images.load import load
from kedge.images.lookup import find, open_image, snapshot_of
from kedge.images.stored import all_images
from kedge.images.tagging import remove, tag
from kedge.model.errors import Conflict, IntegrityError, InvalidInput, KedgeError, NotFound
from kedge.model.platform import Platform
from kedge.model.reference import parse_reference
from kedge.storage.images import ImageStore
from kedge.storage.store import Store
from tests.archives import tar_of
from tests.images.conftest import Import, Quiet

pytestmark = pytest.mark.namespace  # mounts

AMD64 = Platform("linux", "amd64")


# ---- import ----


@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz"])
def test_a_root_file_system_becomes_an_image(store: Store, compression: str) -> None:
    import_root(
        store, io.BytesIO(tar_of({"etc/name": b"me"}, compression)), AMD64, Quiet(), [parse_reference("root:1")]
    )
    with store.layers.mounted(snapshot_of(store, open_image(store, "root:1"))) as tree:
        assert Path(f"/proc/self/fd/{tree.fd}/etc/name").read_bytes() == b"me"


def test_changes_shape_the_config(imported: Import, store: Store) -> None:
    imported("a", changes=['CMD ["x"]', "ENV A=1 B=2", "EXPOSE 80", "LABEL k=v", "USER me", "WORKDIR /w"])
    config = open_image(store, "a").config
    assert (config.cmd, config.user, config.working_dir) == (("x",), "me", "/w")
    assert {"A=1", "B=2"} <= set(config.env)
    assert (config.exposed_ports, dict(config.labels)["k"]) == (("80/tcp",), "v")
    assert len(config.history) == 1


@pytest.mark.parametrize("change", ["RUN rm -rf /", "FROM x", "COPY a b", "", "CMD a\nRUN b", "NONSENSE"])
def test_a_change_that_is_none_is_refused_and_nothing_is_named(store: Store, imported: Import, change: str) -> None:
    with pytest.raises(KedgeError):
        imported("a", changes=[change])
    assert not store.images.list()


@pytest.mark.parametrize("data", [b"", b"no tar at all" * 100, b"\x1f\x8b\x08 broken gzip"])
def test_what_is_no_archive_is_refused(store: Store, data: bytes) -> None:
    with pytest.raises((IntegrityError, InvalidInput)):
        import_root(store, io.BytesIO(data), AMD64, Quiet(), [parse_reference("a")])
    assert not store.images.list()


# ---- names ----


def test_a_digest_is_looked_for_in_the_repository_that_is_named(imported: Import, store: Store) -> None:
    imported("hello-world:1")
    digest = find(store, "hello-world:1").target.digest
    assert find(store, f"hello-world@{digest}").target.digest == digest
    with pytest.raises(NotFound):
        find(store, f"hello@{digest}")


def test_an_image_is_found_by_name_id_prefix_and_digest(imported: Import, store: Store) -> None:
    made = imported("hello:v1")
    full = open_image(store, "docker.io/library/hello:v1").id
    for text in ("hello:v1", full, full[:19], full[7:13], f"hello@{made.target.digest}"):
        assert find(store, text).id == full


def test_a_missing_image_names_the_nearest(imported: Import, store: Store) -> None:
    imported("hello-multi-stage")
    with pytest.raises(NotFound, match="no such image: helo-multi-stage") as caught:
        find(store, "helo-multi-stage:latest")
    assert "hello-multi-stage" in caught.value.hint
    imported("busybox")
    with pytest.raises(NotFound) as caught:
        find(store, "busybxo")
    assert caught.value.hint == "Did you mean busybox?"


def test_an_image_for_one_machine_is_none_for_another(imported: Import, store: Store) -> None:
    imported("app")
    assert open_image(store, "app", Platform("linux", "amd64")).config.platform.architecture == "amd64"
    with pytest.raises(NotFound, match="image app is not here for linux/riscv64: its platform is linux/amd64"):
        open_image(store, "app", Platform("linux", "riscv64"))


def test_an_id_that_fits_several_images_is_refused(imported: Import, store: Store) -> None:
    seen: dict[str, str] = {}
    for n in range(2000):  # until two ids begin alike: 4 digits repeat after some 300 images
        digits = imported(f"n{n}", files={"f": b"%d" % n}).id[7:11]
        if digits in seen:
            break
        seen[digits] = f"n{n}"
    with pytest.raises(NotFound, match="several images"):
        find(store, digits)


def test_a_tag_is_another_name_and_the_last_one_removed_deletes(imported: Import, store: Store) -> None:
    imported("a")
    tag(store, "a", "b:2")
    assert find(store, "a").id == find(store, "b:2").id
    assert remove(store, "a").deleted is None
    gone = remove(store, "b:2")
    assert (gone.untagged, gone.deleted is None) == (("b:2",), False)
    with pytest.raises(NotFound):
        find(store, "a")


def test_an_id_with_several_names_is_removed_by_force_only(imported: Import, store: Store) -> None:
    made = imported("a", "b")
    with pytest.raises(Conflict, match="several names"):
        remove(store, made.id)
    assert set(remove(store, made.id, force=True).untagged) == {"a:latest", "b:latest"}
    assert not store.images.list()


def test_inspect_and_history_tell_what_docker_tells(imported: Import, store: Store) -> None:
    made = imported("a:1", changes=["ENV X=1"])
    image = open_image(store, "a:1")
    document = inspect(store, image)
    assert document["Id"] == made.id
    assert document["RepoTags"] == ["a:1"]
    assert "X=1" in document["Config"]["Env"]
    assert document["RootFS"]["Layers"] == list(image.config.diff_ids)
    assert document["Size"] > 0
    (row,) = history(store, image)
    assert row.id == made.id
    assert row.size == document["Size"]


# ---- archives ----


def saved(store: Store, path: Path, *names: str, tar: bool = True) -> Path:
    entries = [Entry(find(store, name).target, (parse_reference(name),)) for name in names]
    save(store, entries, path, tar=tar)
    return path


def test_what_is_saved_is_loaded_elsewhere_under_the_same_names(imported: Import, store: Store, tmp_path: Path) -> None:
    made = [imported("a:1"), imported("b:2", files={"other": b"file"})]
    archive = saved(store, tmp_path / "out.tar", "a:1", "b:2")
    with Store.open(tmp_path / "other") as other:
        loaded = load(other, io.BytesIO(archive.read_bytes()))
        assert {image.id for image in loaded} == {m.id for m in made}
        assert find(other, "a:1").id == made[0].id
        with other.layers.mounted(snapshot_of(other, open_image(other, "b:2"))) as tree:
            assert Path(f"/proc/self/fd/{tree.fd}/other").read_bytes() == b"file"


def test_an_archive_is_the_same_each_time_and_sound(imported: Import, store: Store, tmp_path: Path) -> None:
    imported("a:1")
    first, second = (saved(store, tmp_path / name, "a:1").read_bytes() for name in ("1.tar", "2.tar"))
    assert first == second
    assert validate_layout(saved(store, tmp_path / "layout", "a:1", tar=False)) == []


def test_a_damaged_layout_is_found_out(imported: Import, store: Store, tmp_path: Path) -> None:
    imported("a:1")
    layout = saved(store, tmp_path / "layout", "a:1", tar=False)
    blob = max((layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    assert any("not what its descriptor says" in fault for fault in validate_layout(layout))


def test_other_tools_read_what_is_saved(imported: Import, store: Store, tmp_path: Path) -> None:
    if not (shutil.which("skopeo") and shutil.which("umoci")):
        pytest.skip("skopeo and umoci are not installed (apt-get install skopeo umoci)")
    made = imported("a:1", changes=["ENV X=1"])
    layout, archive = saved(store, tmp_path / "layout", "a:1", tar=False), saved(store, tmp_path / "a.tar", "a:1")
    for place in (f"oci:{layout}:1", f"docker-archive:{archive}", f"oci-archive:{archive}"):
        told = json.loads(subprocess.run(["skopeo", "inspect", place], check=True, capture_output=True).stdout)
        assert "X=1" in told["Env"]
    out = subprocess.run(["skopeo", "inspect", "--raw", f"oci:{layout}:1"], check=True, capture_output=True).stdout
    assert json.loads(out)["config"]["digest"] == made.id


def test_archives_of_other_tools_are_loaded(imported: Import, store: Store, tmp_path: Path) -> None:
    if not shutil.which("skopeo"):
        pytest.skip("skopeo is not installed (apt-get install skopeo)")
    imported("a:1")
    layout = saved(store, tmp_path / "layout", "a:1", tar=False)
    for place in (f"docker-archive:{tmp_path}/d.tar:x/y:z", f"oci-archive:{tmp_path}/o.tar:x/y:z"):
        subprocess.run(["skopeo", "copy", "-q", f"oci:{layout}:1", place], check=True)
        with Store.open(tmp_path / place.partition(":")[0]) as other:
            load(other, io.BytesIO(Path(place.split(":")[1]).read_bytes()))
            with other.layers.mounted(snapshot_of(other, open_image(other, "x/y:z"))) as tree:
                assert Path(f"/proc/self/fd/{tree.fd}/hello").read_bytes() == b"world"


def old_docker_archive(layers: list[bytes], *, link: bool = False) -> io.BytesIO:
    """What `docker save` wrote before version 25: a folder for each layer, links where layers repeat."""
    import hashlib

    diff_ids = ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]
    rootfs = {"type": "layers", "diff_ids": diff_ids}
    config = json.dumps({"os": "linux", "architecture": "amd64", "config": {}, "rootfs": rootfs}).encode()
    files: dict[str, bytes | tuple[bytes, str]] = {"cfg.json": config}
    manifest = [
        {"Config": "cfg.json", "RepoTags": ["old:1"], "Layers": [f"l{n}/layer.tar" for n in range(len(layers))]}
    ]
    files["manifest.json"] = json.dumps(manifest).encode()
    for n, layer in enumerate(layers):
        files[f"l{n}/layer.tar"] = layer
    if link:
        files["l1/layer.tar"] = (tarfile.SYMTYPE, "../l0/layer.tar")
    return io.BytesIO(tar_of(files))


def test_archives_of_old_docker_versions_are_loaded(store: Store) -> None:
    layer = tar_of({"x": b"1"})
    (image,) = load(store, old_docker_archive([layer, layer], link=True))
    assert image.names == ("docker.io/library/old:1",)
    assert len(open_image(store, "old:1").manifest.layers) == 2


@pytest.mark.parametrize("damage", ["missing layer", "other layer", "no documents", "truncated", "bad json"])
def test_an_archive_that_lies_gives_no_image(store: Store, damage: str) -> None:
    layer = tar_of({"x": b"1"})
    data = old_docker_archive([layer]).getvalue()
    archives = {
        "missing layer": lambda: data.replace(b"l0/layer.tar\0", b"l9/layer.tar\0"),
        "other layer": lambda: old_docker_archive([layer]).getvalue().replace(b"sha256:", b"sha257:"),
        "no documents": lambda: tar_of({"a": b"b"}),
        "truncated": lambda: data[:1500],
        "bad json": lambda: tar_of({"manifest.json": b"[{]"}),
    }
    with pytest.raises(KedgeError):
        load(store, io.BytesIO(archives[damage]()))
    assert not store.images.list()


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/../../escaped", "..", "a/../../../escaped", "x\\y"])
def test_names_in_annotations_are_never_paths(imported: Import, store: Store, tmp_path: Path, name: str) -> None:
    """CVE-2025-62725: a title or name in a layout's documents was joined to a directory."""
    imported("app")
    layout = tmp_path / "deep" / "layout"
    layout.parent.mkdir()
    saved(store, layout, "app", tar=False)
    index = json.loads((layout / "index.json").read_text())
    titles = {"org.opencontainers.image.title": name, "org.opencontainers.image.ref.name": name}
    index["manifests"] = [entry | {"annotations": titles} for entry in index["manifests"]]
    (layout / "index.json").write_text(json.dumps(index))
    (layout / "manifest.json").unlink(missing_ok=True)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as out:
        out.add(layout, arcname=".")
    archive.seek(0)
    with contextlib.suppress(KedgeError):  # refused, or loaded without that name
        for image in load(store, archive):
            assert not image.names
    assert not [path for path in tmp_path.rglob("*") if "escaped" in path.name]


def test_listing_many_images_reads_their_table_once(
    imported: Import, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        imported(f"image:{number}", files={"n": b"%d" % number})
    read, calls = ImageStore.list, []
    monkeypatch.setattr(ImageStore, "list", lambda images: calls.append(1) or read(images))
    assert sorted(name for image in all_images(store) for name in image.names) == [
        f"docker.io/library/image:{number}" for number in range(5)
    ]
    assert len(calls) == 1
