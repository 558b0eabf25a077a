"""What steps are known by: pure functions of the ops."""

import pytest

from kedge.model.cachekey import Selection
from kedge.model.errors import InvalidInput
from kedge.model.graph import Edge, Hints, Vertex
from kedge.model.ops import CacheOptions, Copy, Exec, File, MakeDir, MakeFile, Mount, Owner, Source
from kedge.operations.entitlements import Entitlements
from kedge.operations.exec import ExecOperation, _essence, _labels, _selections
from kedge.operations.file import selections
from kedge.solver.trunk import Trunk

ROOT = Mount("/", 0, 0)
BASE = Edge(Vertex(Source("docker-image://x")))


def key(op, **vertex):
    trunk = Trunk()
    operation = ExecOperation(trunk, None, None, None, lambda event: None, Entitlements(), None)
    inputs = (BASE,) * (1 + max(mount.input for mount in op.mounts))
    return trunk.run(operation.cache_map(Vertex(op, inputs, **vertex))).op


def test_a_file_ops_base_counts_by_key_and_what_is_copied_by_content():
    op = File((Copy("/a", "/x"), Copy("/b/*", "/y", input=2, secondary=1, wildcard=True)))
    assert selections(op, 2) == (None, (Selection("/a"), Selection("/b/*", wildcard=True)))


def test_an_input_that_is_copied_from_and_built_on_counts_by_key():
    assert selections(File((Copy("/a", "/x", input=0, secondary=0),)), 1) == (None,)


def test_an_input_that_names_owners_counts_by_key():
    op = File((Copy("/a", "/x", input=0, secondary=1, owner=Owner("bob", None, 2)),))
    assert selections(op, 3) == (None, (Selection("/a"),), None)


def test_files_without_inputs():
    assert selections(File((MakeDir("/a", 0o755, input=-1), MakeFile("/a/b", b"", 0o644, input=0))), 0) == ()


def test_mounts_that_leave_no_trace_count_by_the_mounted_path():
    op = Exec(("x",), (ROOT, Mount("/src", 1, selector="app"), Mount("/more", 1, selector="/lib", readonly=True)))
    assert _selections(op, 0) is None
    assert _selections(op, 1) == (Selection("/app", follow=True), Selection("/lib", follow=True))


def test_a_mount_whose_result_is_kept_counts_by_key():
    assert _selections(Exec(("x",), (ROOT, Mount("/out", 1, output=1))), 1) is None


def test_proxies_cache_ids_and_host_addresses_do_not_decide():
    plain = Exec(
        ("x",), (ROOT, Mount("/c", -1, kind="cache", cache=CacheOptions("a"))), extra_hosts=(("db", "1.1.1.1"),)
    )
    other = Exec(
        ("x",),
        (ROOT, Mount("/c", -1, kind="cache", cache=CacheOptions("b", "locked"))),
        extra_hosts=(("db", "2.2.2.2"),),
        proxy_env=(("http_proxy", "http://p"),),
    )
    assert _essence(plain) == _essence(other)
    assert key(plain) == key(other)


@pytest.mark.parametrize(
    "other",
    [
        Exec(("y",), (ROOT,)),
        Exec(("x",), (ROOT,), env=("A=1",)),
        Exec(("x",), (ROOT,), cwd="/tmp"),
        Exec(("x",), (ROOT,), user="1000"),
        Exec(("x",), (ROOT,), network="none"),
        Exec(("x",), (ROOT,), shm_size=1),
        Exec(("x",), (ROOT, Mount("/t", kind="tmpfs"))),
    ],
)
def test_everything_else_decides(other):
    assert key(Exec(("x",), (ROOT,))) != key(other)


def test_labels_spell_the_step_without_the_values_of_variables():
    labels = dict(_labels(Exec(("sh", "-c", "make"), (ROOT,), env=("TOKEN=hunter2",))))
    assert labels["command"] == "sh -c make"
    assert "hunter2" not in str(labels)


@pytest.mark.parametrize(
    ("op", "name"),
    [
        (Exec(("x",), (ROOT,), network="host"), "network.host"),
        (Exec(("x",), (ROOT,), security="insecure"), "security.insecure"),
        (Exec(("x",), (ROOT,), devices=(("vendor.com/gpu=0", False),)), "device=vendor.com/gpu=0"),
    ],
)
def test_a_privilege_must_be_allowed_by_name(op, name):
    vertex = Vertex(op, (BASE,), hints=Hints(stage="build"))
    with pytest.raises(InvalidInput, match=name) as error:
        Entitlements().require_all(Edge(Vertex(Exec(("y",), (ROOT,)), (Edge(vertex),))))
    assert error.value.stage == "build"
    Entitlements([name]).require_all(Edge(vertex))


def test_an_unknown_privilege_is_refused():
    with pytest.raises(InvalidInput):
        Entitlements(["everything"])
