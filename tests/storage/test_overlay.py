"""Stacks of layers as one tree, by either way to mount them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kedge.model.errors import Unsupported
from kedge.model.graph import Layer
from kedge.storage import overlay
from kedge.storage.store import Store
from tests.storage.conftest import names_in, needs_mounts

pytestmark = needs_mounts


@pytest.fixture(params=["one by one", "by string"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How the layers are given: as since Linux 6.7, or as before."""
    if request.param == "by string":
        monkeypatch.setattr(overlay, "_mount_one_by_one", overlay._mount_by_string)


def stack(directory: Path, count: int) -> list[Path]:
    layers = []
    for number in range(count):
        layer = directory / f"{number:x}"
        layer.mkdir(parents=True)
        (layer / f"f{number}").touch()
        (layer / "same").write_text(str(number))
        layers.append(layer)
    return layers


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("count", [2, 200, 500])
def test_layers_are_merged_and_the_top_one_wins(tmp_path: Path, count: int) -> None:
    with overlay.merged(stack(tmp_path, count)) as fd:
        assert len(names_in(fd)) == count + 1
        with open(os.open("same", os.O_RDONLY, dir_fd=fd)) as file:
            assert file.read() == str(count - 1)


@pytest.mark.usefixtures("way")
def test_a_tree_without_an_upper_directory_cannot_be_written(tmp_path: Path) -> None:
    with overlay.merged(stack(tmp_path, 2)) as fd, pytest.raises(OSError, match="Read-only"):
        os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=fd)


@pytest.mark.usefixtures("way")
def test_writes_go_to_the_upper_directory_time_after_time(tmp_path: Path) -> None:
    layers, upper, work = stack(tmp_path / "l", 2), tmp_path / "upper", tmp_path / "work"
    upper.mkdir()
    work.mkdir()
    for number in range(3):
        with overlay.merged(layers, upper, work) as fd:
            os.close(os.open(f"new{number}", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    assert sorted(os.listdir(upper)) == ["new0", "new1", "new2"]


def test_more_layers_than_the_kernel_takes_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="501 layers"), overlay.merged(stack(tmp_path, 501)):
        pass


@pytest.mark.usefixtures("way")
def test_long_and_odd_paths_of_the_store_do_not_matter(tmp_path: Path) -> None:
    odd = tmp_path / "a:b,c\\d e" / ("x" * 200) / ("y" * 200)
    with overlay.merged(stack(odd / "layers", 3)) as fd:
        assert "f0" in names_in(fd)


def test_the_mount_is_seen_nowhere(tmp_path: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    with overlay.merged(stack(tmp_path, 2)):
        assert Path("/proc/self/mountinfo").read_text() == before


def test_a_stack_of_200_real_layers_works(store: Store, make: Callable[..., Layer]) -> None:
    layers = tuple(make(**{f"f{number}": "x"}) for number in range(200))
    with store.layers.mounted(layers) as tree:
        assert len(names_in(tree.fd)) == 200
    with store.layers.draft(layers) as draft:
        with draft.tree() as tree:
            os.unlink("f7", dir_fd=tree.fd)
        top = draft.commit()
    with store.layers.mounted((*layers, top)) as tree:
        assert "f7" not in names_in(tree.fd)
