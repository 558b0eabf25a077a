"""A client's directory: its filters, and that it is read where it is."""

import json

import pytest

from kedge.model.cachekey import Selection
from kedge.model.digest import digest_of
from kedge.model.errors import InvalidInput, NotFound
from kedge.model.ops import Source
from kedge.operations.content import Content
from kedge.session.local import LocalSession
from kedge.sources.handler import Work
from kedge.sources.local import LocalSource, filter_of
from kedge.storage.store import Store

WORK = Work(digest_of("local"))


def source(**attrs):
    return Source(
        "local://context", tuple((f"local.{name}", json.dumps(value)) for name, value in sorted(attrs.items()))
    )


@pytest.fixture
def context(tmp_path):
    for name in ("a/one.go", "a/two.txt", "b/three.go", "top"):
        path = tmp_path / "context" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "context"


def test_filters():
    assert filter_of(source()) is None
    only = filter_of(source(includepattern=["a"], excludepatterns=["**/*.txt"]))
    assert [only.matches(path) for path in ("a/one.go", "a/two.txt", "b/three.go", "top")] == [False, True, True, True]
    without = filter_of(source(excludepatterns=["b", "!b/three.go"]))
    assert without.matches("b/x")
    assert not without.matches("b/three.go")
    for wrong in ('"a"', "[1]", "{", "null"):
        with pytest.raises(InvalidInput):
            filter_of(Source("local://context", (("local.includepattern", wrong),)))


def test_it_is_never_cached_and_read_in_place(tmp_path, context):
    with Store.open(tmp_path / "store") as store:
        handler = LocalSource(LocalSession({"context": context}), store.layers)
        pin = handler.pin(source(), None, WORK)
        assert pin.volatile
        snapshot = handler.fetch(source(), None, pin, WORK)
        with store.layers.mounted(snapshot) as tree:
            assert tree.in_place
        assert not list((store.root / "layers").glob("*"))


def test_only_selected_and_unfiltered_files_decide(tmp_path, context):
    with Store.open(tmp_path / "store") as store:
        handler, content = LocalSource(LocalSession({"context": context}), store.layers), Content(store)

        def digest(path, **attrs):
            one = source(**attrs)
            return content.checksum(handler.fetch(one, None, handler.pin(one, None, WORK), WORK), (Selection(path),))

        before, filtered = digest("/a"), digest("/a", excludepatterns=["**/two.txt"])
        (context / "top").write_text("changed")
        assert digest("/a") == before
        (context / "a/two.txt").write_text("changed")
        assert digest("/a") != before
        assert digest("/a", excludepatterns=["**/two.txt"]) == filtered


def test_a_directory_nobody_lent_or_that_is_gone(tmp_path, context):
    with Store.open(tmp_path / "store") as store:
        for session in (
            LocalSession(),
            LocalSession({"context": tmp_path / "none"}),
            LocalSession({"context": context / "top"}),
        ):
            handler = LocalSource(session, store.layers)
            with pytest.raises(NotFound):
                handler.fetch(source(), None, handler.pin(source(), None, WORK), WORK)
