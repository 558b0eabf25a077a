"""Where a build's files come from."""

import contextlib
import io
import os
import tarfile

import pytest

from kedge.model.errors import KedgeError
from tests.archives import tar_of

DOCKERFILE = b"FROM scratch\nCOPY . /\n"


@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz"])
def test_a_tar_on_standard_input(bench, compression):
    bench.build(context=io.BytesIO(tar_of({"Dockerfile": DOCKERFILE, "a/b": b"x"}, compression)), tags=("x",))
    assert bench.listing("x") == ["Dockerfile", "a/b"]


def test_a_tar_as_bytes_with_another_dockerfile(bench):
    bench.build(context=tar_of({"sub/My.file": DOCKERFILE, "a": b"x"}), dockerfile="sub/My.file", tags=("x",))
    assert bench.listing("x") == ["a", "sub/My.file"]


def test_a_dockerfile_on_standard_input_needs_no_context(bench):
    bench.build(
        context=io.BytesIO(b"FROM base AS b\nRUN echo hi > /hi\nFROM scratch\nCOPY --from=b /hi /"), tags=("x",)
    )
    assert bench.listing("x") == ["hi"]


def test_a_hostile_tar_stays_inside(bench, tmp_path):
    (tmp_path / "host").write_text("host secret")
    data = tar_of({"Dockerfile": (tarfile.SYMTYPE, str(tmp_path / "host")), "x": b""})
    with pytest.raises(KedgeError) as raised:
        bench.build(context=data)
    assert "host secret" not in str(raised.value)
    with contextlib.suppress(KedgeError):  # refused, or kept inside: both are well
        bench.build(context=tar_of({"Dockerfile": DOCKERFILE, "../../escaped": b"x"}))
    assert not list(tmp_path.rglob("escaped")) or all("layers" in str(p) for p in tmp_path.rglob("escaped"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE], ids=["symlink", "hard link"])
@pytest.mark.parametrize("name", ["Dockerfile", ".dockerignore", "Dockerfile.dockerignore", "x"])
def test_no_file_of_the_host_comes_in_through_a_tar(bench, tmp_path, name, kind):
    """CVE-2026-44517: a link out of the context in the place of each file that is read or copied."""
    host = tmp_path / "host"
    host.write_text("FROM scratch\nCOPY x /\nLABEL stolen=yes\n")
    files = {"Dockerfile": b"FROM scratch\nCOPY x /\n", "x": b"mine"} | {name: (kind, str(host))}
    with contextlib.suppress(KedgeError):
        result = bench.build(context=tar_of(files), tags=("x",))
        assert "stolen" not in str(result)
        if name == "x":  # as a symlink it stays what it is
            with bench.tree("x") as tree:
                assert os.readlink("x", dir_fd=tree.fd) == str(host)
        else:
            assert bench.read("x", "x") == "mine"


def test_a_link_to_the_host_in_a_context_is_copied_as_a_link(bench):
    os.symlink("/etc/shadow", bench.context / "x")
    bench.write(y="y")
    bench.build("FROM scratch\nCOPY . /", tags=("x",))
    with pytest.raises((OSError, KedgeError)):
        bench.read("x", "x")


def test_dockerfile_path_outside_of_the_context_and_its_own_ignore_file(bench, tmp_path):
    (tmp_path / "My").write_bytes(DOCKERFILE)
    (tmp_path / "My.dockerignore").write_text("b\n")
    bench.write(a="1", b="2", _dot_dockerignore="a\n")
    bench.build(dockerfile=str(tmp_path / "My"), tags=("x",))
    assert bench.listing("x") == [".dockerignore", "a"]


def test_an_ignore_file_beside_the_dockerfile_comes_first(bench):
    bench.write(
        Dockerfile=DOCKERFILE.decode(), a="1", b="2", Dockerfile_dot_dockerignore="b\n", _dot_dockerignore="a\n"
    )
    bench.build(tags=("x",))
    assert "a" in bench.listing("x")
    assert "b" not in bench.listing("x")


def test_a_named_context_is_a_directory_of_its_own(bench, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "f").write_text("from more")
    (tmp_path / "more" / "g").write_text("ignored")
    (tmp_path / "more" / ".dockerignore").write_text("g\n")
    bench.build("FROM scratch\nCOPY --from=more . /", tags=("x",), named_contexts=(("more", str(tmp_path / "more")),))
    assert bench.read("x", "f") == "from more"
    assert "g" not in bench.listing("x")


def test_a_named_context_replaces_an_image(bench):
    bench.build(
        "FROM nowhere.example/none:1 AS x\nRUN echo y > /y",
        tags=("x",),
        named_contexts=(("nowhere.example/none:1", "docker-image://base"),),
    )
    assert bench.read("x", "y") == "y\n"


def test_a_named_context_is_a_root_file_system(bench, tmp_path):
    (tmp_path / "root" / "d").mkdir(parents=True)
    (tmp_path / "root" / "d" / "f").write_text("from there")
    contexts = (("rootfs", str(tmp_path / "root")),)
    bench.write(g="g")
    bench.build("FROM rootfs\nCOPY g /g\n", tags=("x",), named_contexts=contexts)
    assert bench.listing("x") == ["d/f", "g"]
    bench.build("FROM rootfs\nCOPY --link g /g\n", tags=("y",), named_contexts=contexts)
    assert bench.listing("y") == ["d/f", "g"]
    bench.build("FROM rootfs\n", tags=("z",), named_contexts=contexts)
    assert bench.listing("z") == ["d/f"]
    assert sorted(os.listdir(tmp_path / "root")) == ["d"]
