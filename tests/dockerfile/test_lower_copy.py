"""COPY and ADD: the File, Source and Merge vertices they become."""

from collections.abc import Callable
from typing import Any

import pytest

from kedge.dockerfile.lower_copy import read_owner
from kedge.model.errors import DockerfileError, InvalidDigest, KedgeError
from kedge.model.graph import Edge, Vertex
from kedge.model.ops import NO_INPUT, NO_OUTPUT, Copy, File, MakeFile, Merge, Owner, Source

Lower = Callable[..., Any]


def copies(result: Any) -> list[Copy]:
    assert isinstance(result.top.op, File)
    return [action for action in result.top.op.actions if isinstance(action, Copy)]


def from_context(src: str, dest: str, **changes: Any) -> Copy:
    """A COPY of a local source onto an image."""
    defaults: dict[str, Any] = {
        "follow_symlinks": True, "contents_only": True, "create_dest_path": True, "wildcard": True,
        "allow_empty_wildcard": True,
    }  # fmt: skip
    return Copy(src, dest, **defaults | changes)


def test_copy_is_one_file_vertex_on_the_root(lowered: Lower) -> None:
    result = lowered("FROM a\nCOPY main.go ./\n")
    assert result.top.op == File((from_context("/main.go", "/"),))
    assert [edge.vertex.hints.name for edge in result.top.inputs] == [
        "[1/2] FROM docker.io/library/a:latest",
        "[internal] load build context",
    ]
    assert result.top.platform is None


def test_several_sources_are_copied_one_after_the_other(lowered: Lower) -> None:
    first, second, third = copies(lowered("FROM a\nCOPY x y z /d/\n"))
    assert (first.input, first.secondary, first.output) == (0, 1, NO_OUTPUT)
    assert (second.input, second.secondary, second.output) == (2, 1, NO_OUTPUT)
    assert (third.input, third.secondary, third.output) == (3, 1, 0)


def test_on_an_empty_root_there_is_no_first_input(lowered: Lower) -> None:
    result = lowered("FROM scratch\nCOPY x y /d/\n")
    assert [(c.input, c.secondary) for c in copies(result)] == [(NO_INPUT, 0), (1, 0)]
    assert len(result.top.inputs) == 1


def test_an_empty_stage_can_be_copied_from(lowered: Lower) -> None:
    result = lowered("FROM scratch AS nothing\nFROM a\nCOPY --from=nothing / /x\n")
    assert [copy.secondary for copy in copies(result)] == [NO_INPUT]


@pytest.mark.parametrize(
    ("workdir", "dest", "wanted"),
    [
        ("/w", "x", "/w/x"), ("/w", ".", "/w/"), ("/w", "./", "/w/"), ("/w", "x/", "/w/x/"), ("/w", "x/.", "/w/x/."),
        ("/w", "/x", "/x"), ("/w", "/x/", "/x/"), ("/w", "../x", "/x"), ("/w", "/../x//y/", "/x/y/"), ("/w", "/", "/"),
        ("/", ".", "/"), ("/", "x", "/x"), ("/w", "/.", "/."),
    ],
)  # fmt: skip
def test_destinations_keep_what_says_directory(lowered: Lower, workdir: str, dest: str, wanted: str) -> None:
    assert copies(lowered(f"FROM a\nWORKDIR {workdir}\nCOPY f {dest}\n"))[0].dest == wanted


@pytest.mark.parametrize(
    ("source", "wanted"), [("../x", "/x"), ("/x", "/x"), (".", "/"), ("a/../b", "/b"), ("./a//b/", "/a/b")]
)
def test_sources_never_leave_their_root(lowered: Lower, source: str, wanted: str) -> None:
    assert copies(lowered(f"FROM a\nCOPY {source} /d/\n"))[0].src == wanted


def test_the_context_is_only_read_where_it_is_used(lowered: Lower) -> None:
    text = "FROM a AS unused\nCOPY z /\nFROM a\nCOPY b/*.py c /d/\nADD a https://x/y /d/\n"
    result = lowered(text, ignore={"context": ("*.md", "!README.md")})
    assert result.by_name["[internal] load build context"].op == Source(
        "local://context",
        (
            ("local.excludepatterns", '["*.md","!README.md"]'),
            ("local.followpaths", '["a","b/*.py","c"]'),
            ("local.sharedkeyhint", "context"),
        ),
    )


def test_the_whole_context_needs_no_selection(lowered: Lower) -> None:
    context = lowered("FROM a\nCOPY . /d/\nCOPY x /d/\n").by_name["[internal] load build context"]
    assert context.op == Source("local://context", (("local.sharedkeyhint", "context"),))
    assert context.hints.internal


def test_another_context_may_take_its_place(lowered: Lower) -> None:
    other = Edge(Vertex(Source("https://x/y.tar.gz")))
    assert lowered("FROM a\nCOPY f /\n", main_context=other).top.inputs[1] == other


# ---- owner and mode --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chown", "owner"),
    [
        ("1000", Owner(1000)), ("1000:2000", Owner(1000, 2000)), ("root", Owner(0)), ("55:", Owner(55, 0)),
        (":7", Owner(0, 7)), ("me", Owner("me", None, 0)), ("me:us", Owner("me", "us", 0)), ("7:us", Owner(7, "us", 0)),
        ("4294967295", Owner("4294967295", None, 0)), ("-1", Owner("-1", None, 0)), ("+0", Owner("+0", None, 0)),
        ("0x0", Owner("0x0", None, 0)),
    ],
)  # fmt: skip
def test_owners_are_ids_or_names_of_the_target(lowered: Lower, chown: str, owner: Owner) -> None:
    assert copies(lowered(f"FROM a\nCOPY --chown={chown} f /\n"))[0].owner == owner


def test_no_owner_is_none() -> None:
    assert read_owner("") is None


@pytest.mark.parametrize(
    ("chmod", "mode", "text"),
    [
        ("755", 0o755, ""), ("0644", 0o644, ""), ("4755", 0o4755, ""), ("u+x", -1, "u+x"), ("0", 0, ""),
        ("u=rwX,go=rX", -1, "u=rwX,go=rX"), ("a-w", -1, "a-w"), ("+t", -1, "+t"), ("go=u-w", -1, "go=u-w"),
    ],
)  # fmt: skip
def test_modes_are_octal_or_symbolic(lowered: Lower, chmod: str, mode: int, text: str) -> None:
    copy = copies(lowered(f"FROM a\nCOPY --chmod={chmod} f /\n"))[0]
    assert (copy.mode, copy.mode_text) == (mode, text)


@pytest.mark.parametrize("chmod", ["888", "10000", "0o755", "rwx", "u+q", "u+x,", "-1", "a"])
def test_other_modes_are_refused(lowered: Lower, chmod: str) -> None:
    with pytest.raises(DockerfileError, match="invalid mode"):
        lowered(f"FROM a\nCOPY --chmod={chmod} f /\n")


# ---- link, parents, exclude ------------------------------------------------------------------------------------------


def test_a_linked_copy_does_not_depend_on_its_base(lowered: Lower) -> None:
    results = [lowered(f"FROM {base}\nCOPY --link --chown=me f /d/\n") for base in ("a", "b")]
    first, second = (result.top.inputs[1].vertex for result in results)
    assert first == second
    assert results[0].top.op == Merge((0, 1))
    assert first.op.actions[0] == from_context(
        "/f", "/d/", input=NO_INPUT, secondary=0, owner=Owner("me", None, NO_INPUT)
    )
    assert results[0].top.hints.name == "[2/2] LINK COPY --link --chown=me f /d/"
    assert first.hints.name == "[2/2] COPY --link --chown=me f /d/"
    assert first.hints.group == results[0].top.hints.group != ""


def test_a_linked_copy_on_nothing_is_only_the_copy(lowered: Lower) -> None:
    result = lowered("FROM scratch\nCOPY --link f /d/\n")
    assert isinstance(result.top.op, File)


def test_each_copy_is_one_layer_linked_or_not(lowered: Lower) -> None:
    result = lowered("FROM a\nCOPY --link f /\nCOPY --link --chmod=755 g /\nCOPY h /\n")
    assert [entry.empty_layer for entry in result.config.history] == [False] * 3


@pytest.mark.parametrize("source", [".", "/", "./.", "a/./", "a/./."])
def test_parents_need_a_name_below_the_root(source: str, lowered: Lower) -> None:
    with pytest.raises(DockerfileError, match="not found"):
        lowered(f"FROM a\nCOPY --parents {source} /d/\n")


@pytest.mark.parametrize(
    ("source", "src", "include", "required"),
    [
        ("a/b.txt", "/", "a/b.txt", ("/a/b.txt",)),
        ("a/*/c", "/", "a/*/c", ()),
        ("a/./b/c", "/a", "b/c", ("/a/b/c",)),
        ("a/*/./b", "/a/*", "b", ()),
        ("./x", "/", "x", ("/x",)),
        ("a/./../../b", "/a", "b", ("/a/b",)),
    ],
)
def test_parents_keep_the_path_behind_the_pivot(
    lowered: Lower, source: str, src: str, include: str, required: tuple[str, ...]
) -> None:
    copy = copies(lowered(f"FROM a\nCOPY --parents {source} /d/\n"))[0]
    assert (copy.src, copy.include, copy.required_paths) == (src, (include,), required)


def test_exclude_goes_with_every_source(lowered: Lower) -> None:
    assert [c.exclude for c in copies(lowered("FROM a\nCOPY --exclude=*.md --exclude=x a b /d/\n"))] == [
        ("*.md", "x")
    ] * 2


# ---- ADD -------------------------------------------------------------------------------------------------------------


def test_add_unpacks_local_archives_unless_told_not_to(lowered: Lower) -> None:
    lines = ["ADD a.tar /", "ADD --unpack=false a.tar /", "ADD --unpack a.tar /", "COPY a.tar /"]
    assert [copies(lowered(f"FROM a\n{line}\n"))[0].unpack for line in lines] == [True, False, True, False]


def test_add_fetches_urls_and_leaves_them_packed(lowered: Lower) -> None:
    digest = "sha256:" + "a" * 64
    result = lowered(f"FROM a\nADD --checksum={digest} https://x.org/dir/a%20b.tar?q=1 /d/\n")
    source = result.top.inputs[1].vertex
    assert source.op == Source(
        "https://x.org/dir/a%20b.tar?q=1", (("http.checksum", digest), ("http.filename", "a b.tar"))
    )
    assert source.hints.name == result.top.hints.name
    assert copies(result) == [Copy("/a b.tar", "/d/", create_dest_path=True)]
    assert copies(lowered("FROM a\nADD --unpack https://x.org/a.tar /\n"))[0].unpack


@pytest.mark.parametrize("url", ["https://x.org", "https://x.org/", "https://x.org/.."])
def test_a_url_without_a_file_name_gets_one(lowered: Lower, url: str) -> None:
    assert copies(lowered(f"FROM a\nADD {url} /d/\n"))[0].src == "/__unnamed__"


def test_add_fetches_git_repositories(lowered: Lower) -> None:
    result = lowered("FROM a\nADD --keep-git-dir=true --checksum=abc https://github.com/x/y.git#v1:sub /src\n")
    assert result.top.inputs[1].vertex.op == Source(
        "git://github.com/x/y.git#v1:sub",
        (
            ("git.authheadersecret", "GIT_AUTH_HEADER"),
            ("git.authtokensecret", "GIT_AUTH_TOKEN"),
            ("git.checksum", "abc"),
            ("git.fullurl", "https://github.com/x/y.git"),
            ("git.keepgitdir", "true"),
        ),
    )
    assert copies(result) == [Copy("/", "/src", create_dest_path=True)]


@pytest.mark.parametrize(
    ("reference", "identifier", "attrs"),
    [
        ("git@github.com:x/y.git", "git://github.com/x/y.git", {"git.mountsshsock": "default"}),
        ("ssh://git@h.org:22/y", "git://h.org:22/y", {"git.fullurl": "ssh://git@h.org:22/y"}),
        ("git://h.org/y#:sub", "git://h.org/y#:sub", {}),
        (
            "https://h.org/y.git?tag=v1&submodules=false",
            "git://h.org/y.git#refs/tags/v1",
            {"git.skipsubmodules": "true"},
        ),
        ("https://h.org/y.git?branch=b", "git://h.org/y.git#refs/heads/b", {}),
        ("https://h.org/y.git?ref=r&subdir=s", "git://h.org/y.git#r:s", {}),
        ("https://h.org/y.git#main:../../etc", "git://h.org/y.git#main:etc", {}),
    ],
)
def test_git_references(lowered: Lower, reference: str, identifier: str, attrs: dict[str, str]) -> None:
    op = lowered(f"FROM a\nADD {reference} /src\n").top.inputs[1].vertex.op
    assert op.identifier == identifier
    assert attrs.items() <= dict(op.attrs).items()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("COPY https://x.org/a /", "COPY cannot take a URL"),
        ("COPY https://x.org/a.git /", "COPY cannot take a git repository"),
        ("ADD --checksum=sha256:0 a /", "--checksum is for http"),
        ("ADD --checksum=sha256:0 https://x/a https://x/b /d/", "for a single source"),
        ("ADD https://x.org/y.git?tag=a&branch=b /", "a tag or a branch"),
        ("ADD https://x.org/y.git?what=1 /", "invalid git option what=1"),
        ("ADD https://x.org/y.git?ref=a#b /", "two refs"),
        ("ADD --checksum=a https://x.org/y.git?checksum=b /", "do not agree"),
        ("ADD --keep-git-dir=false https://x.org/y.git?keep-git-dir=1 /", "do not agree"),
    ],
)
def test_what_add_cannot_mean_is_refused(lowered: Lower, line: str, message: str) -> None:
    with pytest.raises(DockerfileError, match=message) as caught:
        lowered(f"FROM a\n{line}\n")
    assert str(caught.value.location) == "Dockerfile:2"


def test_a_checksum_has_to_be_a_digest(lowered: Lower) -> None:
    with pytest.raises(InvalidDigest) as caught:
        lowered("FROM a\nADD --checksum=sha256:0 https://x/a /\n")
    assert str(caught.value.location) == "Dockerfile:2"


# ---- heredocs and variables ------------------------------------------------------------------------------------------


def test_heredocs_are_files_of_their_own(lowered: Lower) -> None:
    result = lowered("FROM a\nENV X=1\nCOPY --chmod=755 <<one <<'two' /d/\n$X 'q' \"${X}\"\none\n$X\ntwo\n")
    documents = [edge.vertex for edge in result.top.inputs[1:]]
    assert [vertex.op for vertex in documents] == [
        File((MakeFile("/one", b"1 'q' \"1\"\n", 0o644, input=NO_INPUT),)),
        File((MakeFile("/two", b"$X\n", 0o644, input=NO_INPUT),)),
    ]
    assert documents[0].hints.name == "[internal] preparing inline document"
    assert copies(result)[0] == Copy("/one", "/d/", secondary=1, output=NO_OUTPUT, mode=0o755, create_dest_path=True)
    assert result.history[-1] == "COPY --chmod=755 <<one <<two /d/ # buildkit"


def test_variables_are_replaced_where_they_count(lowered: Lower) -> None:
    result = lowered("FROM a\nARG D=/d U=5 M=700 S=src\nCOPY --chown=$U --chmod=$M ${S}/x $D/\n")
    copy = copies(result)[0]
    assert (copy.src, copy.dest, copy.owner, copy.mode) == ("/src/x", "/d/", Owner(5), 0o700)
    assert result.top.hints.name == "[2/2] COPY --chown=5 --chmod=700 src/x /d/"
    assert result.history[-1] == "COPY --chown=5 --chmod=700 src/x /d/ # buildkit"


def test_the_keyword_is_shown_in_capitals(lowered: Lower) -> None:
    result = lowered("FROM a\ncopy a\\\n   b  /d/\n")
    assert result.top.hints.name.startswith("[2/2] COPY a")
    assert result.history == ["COPY a b /d/ # buildkit"]


def test_no_cache_marks_steps_and_not_sources(lowered: Lower) -> None:
    result = lowered("FROM a AS one\nCOPY x /\nRUN y\nWORKDIR /w\nADD https://x/y /\n", no_cache=True)
    marked = {name.split("] ")[1].split()[0]: vertex.hints.no_cache for name, vertex in result.by_name.items()}
    assert marked == {"FROM": False, "load": False, "COPY": True, "RUN": True, "WORKDIR": False, "ADD": True}
    assert not lowered("FROM a AS one\nRUN y\n", no_cache=frozenset({"other"})).top.hints.no_cache
    assert lowered("FROM a AS one\nRUN y\n", no_cache=frozenset({"ONE"})).top.hints.no_cache


def test_errors_carry_line_and_stage(lowered: Lower) -> None:
    with pytest.raises(KedgeError) as caught:
        lowered("FROM a AS one\nUSER x\nCOPY --chmod=9 a \\\n  b\n")
    assert caught.value.location
    assert (caught.value.location.start, caught.value.stage) == (3, "one")
