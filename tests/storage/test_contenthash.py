"""BuildKit's content checksum, of trees whose digests buildkitd wrote into its caches (see test_cache_buildkit)."""

import os

import pytest

from kedge.model.errors import NotFound
from kedge.model.patterns import Patterns
from kedge.storage.contenthash import ContentSelector, content_digest
from kedge.storage.tree import Tree


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    for name, text in {"a.txt": "hello\n", "dir/b.txt": "b\n", "dir/sub/c.txt": "c\n", "dir.d/x": "x\n"}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o644)
    for folder in ("dir", "dir/sub", "dir.d", "."):
        (root / folder).chmod(0o755)
    (root / "dir/link").symlink_to("b.txt")
    (root / "to").symlink_to("dir")
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    yield Tree(fd, in_place=True)
    os.close(fd)


def digest(tree, path="", **fields):
    return content_digest(tree, [ContentSelector(path, **fields)])


GOLDEN = {  # made here when a running buildkitd agreed with all of them
    "a.txt": "sha256:286f4db492f491f7b3f357be9b60a4964ab5322915dda76c7810107aa9e116c3",
    "dir": "sha256:5db0f0570bc65fa089abb08e225942849042a8170f245f9baaaa26f7dfee20f8",
    "": "sha256:deed1618fea45ad45c594f09cbf2d0dc3055bd570d2ce0b65bb3fd36da5d495e",
}


def test_the_digest_is_the_same_everywhere(tree):
    assert {path: digest(tree, path) for path in GOLDEN} == GOLDEN


def test_a_link_is_followed_at_the_end_when_asked_and_before_always(tree):
    assert digest(tree, "to", follow=True) == digest(tree, "dir")
    assert digest(tree, "to") != digest(tree, "dir")
    assert digest(tree, "to/b.txt") == digest(tree, "dir/b.txt")


def test_times_do_not_count_and_modes_and_content_do(tree, tmp_path):
    before = digest(tree, "dir")
    os.utime(tmp_path / "tree/dir/b.txt", (1, 1))
    assert digest(tree, "dir") == before
    (tmp_path / "tree/dir/b.txt").chmod(0o600)
    changed = digest(tree, "dir")
    assert changed != before
    (tmp_path / "tree/dir/sub/c.txt").write_text("d\n")
    assert digest(tree, "dir") != changed


def test_what_the_filter_hides_does_not_count(tree, tmp_path):
    hidden = Tree(tree.fd, Patterns(["dir/sub"]), in_place=True)
    before = digest(hidden, "dir")
    assert before != digest(tree, "dir")
    (tmp_path / "tree/dir/sub/c.txt").write_text("d\n")
    assert digest(hidden, "dir") == before


def test_one_match_of_a_wildcard_is_the_file_itself_and_two_are_a_list(tree):
    one, two = digest(tree, "/dir/b*", wildcard=True), digest(tree, "/dir/*", wildcard=True)
    assert len({one, two, digest(tree, "dir")}) == 3


def test_excluded_files_do_not_count(tree, tmp_path):
    before = digest(tree, "dir", exclude=("**/c.txt",))
    (tmp_path / "tree/dir/sub/c.txt").write_text("d\n")
    assert digest(tree, "dir", exclude=("**/c.txt",)) == before


def test_what_is_not_there_is_told(tree):
    with pytest.raises(NotFound):
        digest(tree, "no/such")
    with pytest.raises(NotFound):
        digest(tree, "/", include=("a.*",), required=("/nothing",))
