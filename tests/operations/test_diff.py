"""Differences of trees, with real layers: merged onto the lower they give the upper."""

import os
import shutil

import pytest

from kedge.model.graph import Edge, Vertex
from kedge.model.ops import Diff, Source
from kedge.operations.diff import DiffOperation
from kedge.solver.trunk import Trunk
from kedge.storage.store import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="overlay mounts need root, or a namespace")
EDGE = Edge(Vertex(Source("local://x")))


def layer(store, below=(), change=lambda root: None, **files):
    with store.layers.draft(below) as draft:
        with draft.tree() as tree:
            root = f"/proc/self/fd/{tree.fd}"
            for name, text in files.items():
                path = f"{root}/{name.replace('__', '/')}"
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "w") as file:
                    file.write(text)
            change(root)
        return (*below, draft.commit())


def tree_of(store, snapshot):
    found = {}
    with store.layers.mounted(snapshot) as tree:
        root = f"/proc/self/fd/{tree.fd}/"
        for folder, folders, files in os.walk(root):
            for name in folders + files:
                path = os.path.join(folder, name)
                status = os.lstat(path)
                content = os.readlink(path) if os.path.islink(path) else open(path).read() if name in files else ""  # noqa: SIM115
                found[path.removeprefix(root)] = (status.st_mode, status.st_uid, content)
    return found


def diff(store, lower, upper):
    trunk = Trunk()
    vertex = Vertex(Diff(0, 1), (EDGE, EDGE))
    return trunk.run(DiffOperation(trunk, store.layers).run(vertex, [lower, upper]))[0]


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store") as store:
        yield store


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_lower_and_the_difference_are_the_upper(store):
    lower = layer(store, a="1", same="s", d__gone="x", d__kept="k", tree__in__deep="t", becomes_dir="f")
    other = layer(store, a="2", same="s", d__kept="k", new__er="n", becomes_dir__x="y",
                  change=lambda root: (os.symlink("a", f"{root}/l"), os.chmod(f"{root}/d", 0o700)))  # fmt: skip
    made = diff(store, lower, other)
    assert len(made) == 1
    assert tree_of(store, lower + made) == tree_of(store, other)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_difference_of_equal_trees_is_empty(store, tmp_path):
    lower = layer(store, a="1", d__b="2")
    with store.layers.draft() as draft:
        shutil.copytree(store.layers.directory(lower[0]), draft.upper, dirs_exist_ok=True)
        copy = (draft.commit(),)
    (made,) = diff(store, lower, copy)
    assert list(store.layers.directory(made).iterdir()) == []


def test_of_a_snapshot_built_on_the_lower_it_is_the_layers_above(store):
    lower = layer(store, a="1")
    upper = layer(store, lower, b="2")
    assert diff(store, lower, upper) == upper[1:]
    assert diff(store, (), upper) == upper


def remade(root):
    shutil.rmtree(f"{root}/d")
    os.mkdir(f"{root}/d")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_directory_that_was_made_again_hides_elsewhere_only_what_the_lower_had(store):
    lower = layer(store, d__a="1", d__sub__b="2")
    upper = layer(store, layer(store, lower, change=remade), d__new="3")
    other = layer(store, d__a="x", d__theirs="4", d__sub__theirs="5")
    made = diff(store, lower, upper)
    assert set(tree_of(store, other + made)) == {"d", "d/new", "d/theirs"}
    assert tree_of(store, lower + made) == tree_of(store, upper)
