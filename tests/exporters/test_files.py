"""Plain files out of built stages: a directory, or a tar, of one platform or several."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from kedge.exporters.assemble import DEFAULT_EPOCH, Stage
from kedge.exporters.attest import Predicate
from kedge.exporters.files import export_local, export_tar
from kedge.exporters.options import read_options
from kedge.model.errors import InvalidInput
from kedge.model.image import ImageConfig
from kedge.model.platform import Platform
from kedge.model.value import replace
from kedge.storage.store import Store
from tests.images.conftest import Quiet

pytestmark = pytest.mark.namespace  # mounts


def stage(store: Store, architecture: str, **files: str) -> Stage:
    with store.layers.draft() as draft:
        (draft.upper / "d").mkdir(mode=0o750)
        for name, text in files.items():
            (draft.upper / "d" / name).write_text(text)
            os.chmod(draft.upper / "d" / name, 0o640)
        os.symlink("/d/a", draft.upper / "link")
        return Stage(ImageConfig(Platform("linux", architecture)), (draft.commit(),))


def found(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): p.read_text() for p in sorted(root.rglob("*")) if p.is_file() and not p.is_symlink()
    }


def entries(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {entry.name: entry for entry in archive}


def test_a_directory_gets_the_files_and_keeps_what_it_had(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("mine")
    export_local(store, [stage(store, "amd64", a="1")], read_options({}.items()), out, Quiet())
    assert found(out) == {"d/a": "1", "mine": "mine"}
    assert os.readlink(out / "link") == "/d/a"
    assert (out / "d/a").stat().st_mode & 0o7777 == 0o640
    assert (out / "d/a").stat().st_uid == os.getuid()


def test_an_epoch_of_the_users_is_the_time_of_a_directory_of_files(store: Store, tmp_path: Path) -> None:
    told = Predicate("https://example.com/said", {"x": 1})
    dated = replace(stage(store, "amd64", a="1"), epoch=1_700_000_000)
    export_local(store, [dated], read_options({}.items()), tmp_path / "out", Quiet(), lambda number: [told])
    times = {path.name: path.lstat().st_mtime for path in (tmp_path / "out").rglob("*")}
    assert times == dict.fromkeys(("d", "a", "link", "provenance.json"), 1_700_000_000)


def test_mode_delete_leaves_only_the_files(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "old/deep").mkdir(parents=True)
    (out / "old/deep/file").write_text("x")
    export_local(store, [stage(store, "amd64", a="1")], read_options({"mode": "delete"}.items()), out, Quiet())
    assert found(out) == {"d/a": "1"}
    assert not (out / "old").exists()


def test_several_platforms_go_into_a_folder_each(store: Store, tmp_path: Path) -> None:
    stages = [stage(store, "amd64", a="1"), stage(store, "arm64", a="2")]
    export_local(store, stages, read_options({}.items()), tmp_path / "out", Quiet())
    assert found(tmp_path / "out") == {"linux_amd64/d/a": "1", "linux_arm64/d/a": "2"}
    out = io.BytesIO()
    export_tar(store, stages, read_options({}.items()), out, Quiet())
    names = entries(out.getvalue())
    assert {"linux_amd64", "linux_amd64/d/a", "linux_arm64/d/a", "linux_arm64/link"} <= set(names)


def test_platforms_in_one_folder_may_not_collide(store: Store, tmp_path: Path) -> None:
    together = read_options({"platform-split": "false"}.items())
    stages = [stage(store, "amd64", a="1"), stage(store, "arm64", b="2")]  # both have the link
    with pytest.raises(InvalidInput, match="link of linux/arm64 would replace that of linux/amd64"):
        export_local(store, stages, together, tmp_path / "o", Quiet())
    assert not (tmp_path / "o").exists()


def test_a_tar_has_everything_once_and_fixed_times(store: Store) -> None:
    out = io.BytesIO()
    export_tar(store, [stage(store, "amd64", a="1")], read_options({}.items()), out, Quiet())
    found = entries(out.getvalue())
    assert set(found) == {"d", "d/a", "link"}
    assert {entry.mtime for entry in found.values()} == {DEFAULT_EPOCH}
    assert found["d"].mode == 0o750
    assert (found["link"].linkname, found["d/a"].uid) == ("/d/a", 0)


def test_a_wrong_mode_is_refused_before_anything_is_written(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="expected copy or delete"):
        export_local(store, [stage(store, "amd64")], read_options({"mode": "move"}.items()), tmp_path / "out", Quiet())
    assert not (tmp_path / "out").exists()
