"""BuildKit's cache keys, made here. The digests were read out of caches that buildkitd itself wrote.

tests/e2e/test_cache_buildkit.py compares with a running buildkitd; this holds without one.
"""

import pytest

from kedge.model import ops
from kedge.model.graph import Edge, Vertex
from kedge.model.platform import parse_platform
from kedge.operations.buildkit_keys import CONTENT, Dependency, buildkit_key, go_json, record_digest, source_key
from kedge.storage.contenthash import ContentSelector

HOST = parse_platform("linux/amd64")
BASE = Edge(Vertex(ops.Source("docker-image://docker.io/library/busybox:latest")))
LOCAL = Edge(Vertex(ops.Source("local://context")))
ROOT = ops.Mount("/", input=0, output=0)


def run(*mounts: ops.Mount, args: tuple[str, ...] = ("/bin/sh", "-c", "true"), **fields) -> Vertex:
    return Vertex(ops.Exec(args, (ROOT, *mounts), ("PATH=/bin",), **fields), (BASE, LOCAL), HOST)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a<b>c&d", '"a\\u003cb\\u003ec\\u0026d"'),
        ('"\\\n\t\b\f\r', '"\\"\\\\\\n\\t\\b\\f\\r"'),
        ("\x01\x7f é", '"\\u0001\x7f é"'),
        ("\u2028\u2029", '"\\u2028\\u2029"'),
        ("\udcff", '"\\ufffd"'),
    ],
)
def test_strings_are_written_as_go_does(text, written):
    assert go_json(text) == written


def test_only_what_decides_is_in_a_steps_key():
    key = buildkit_key(run(), HOST)
    assert buildkit_key(run(proxy_env=(("http_proxy", "x"),)), HOST) == key
    hosts = buildkit_key(run(extra_hosts=(("h", "1.2.3.4"),)), HOST)
    assert hosts == buildkit_key(run(extra_hosts=(("h", "9.9.9.9"),)), HOST) != key
    assert buildkit_key(run(user="bob"), HOST) != key
    assert buildkit_key(run(args=("x",)), HOST) != key


def test_the_id_of_a_cache_mount_decides_only_where_a_dockerfile_leaves_it_out():
    def cached(id, sharing="shared"):
        mount = ops.Mount("/c", kind="cache", cache=ops.CacheOptions(id, sharing))
        return buildkit_key(run(mount), HOST).digests

    assert cached("/one") == cached("/two") == cached("/two", "locked")
    assert cached("//c") == cached("ns//c") or cached("//c") != cached("/one")


def test_a_read_only_mount_counts_by_content_and_the_root_by_key():
    mount = ops.Mount("/m", input=1, selector="src", readonly=True)
    root, bound = buildkit_key(run(mount), HOST).inputs
    assert root.content is None
    assert root.selector.startswith("sha256:8a5edab2")  # of "/"
    assert bound.content == (ContentSelector("/src", follow=True),)


def copy(**fields) -> Vertex:
    action = ops.Copy("/a.txt", "/a", follow_symlinks=True, create_dest_path=True, wildcard=True, **fields)
    return Vertex(ops.File((action,)), (BASE, LOCAL), HOST)


def test_a_copy_counts_its_source_by_content_and_not_by_its_directory():
    key = buildkit_key(copy(), HOST)
    assert key.inputs[0] == Dependency()
    assert key.inputs[1].content == (ContentSelector("/a.txt", follow=True),)
    moved = ops.Copy("/x/a.txt", "/a", follow_symlinks=True, create_dest_path=True, wildcard=True)
    assert buildkit_key(Vertex(ops.File((moved,)), (BASE, LOCAL), HOST), HOST).digests == key.digests


def test_outputs_and_contents_have_records_of_their_own():
    key = source_key(("sha256:x",))
    assert key.records(0) == [record_digest(key.digests[0], 0)]
    assert record_digest(key.digests[0], CONTENT) not in key.records(0)


def test_a_clients_directory_has_no_key():
    assert source_key(()).digests == ()


def test_an_op_that_buildkit_solves_in_place_has_none_either():
    assert buildkit_key(Vertex(ops.Build(0), (BASE,)), HOST) is None
