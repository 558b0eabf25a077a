"""Image names as Docker reads them (distribution reference grammar)."""

import pytest

from kedge.model.errors import InvalidReference
from kedge.model.reference import Reference, parse_reference, parse_registry, parse_repository, parse_tag

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("golang", "docker.io/library/golang:latest", "golang:latest"),
        ("golang:1.25", "docker.io/library/golang:1.25", "golang:1.25"),
        ("library/golang", "docker.io/library/golang:latest", "golang:latest"),
        ("docker.io/golang", "docker.io/library/golang:latest", "golang:latest"),
        ("index.docker.io/library/golang", "docker.io/library/golang:latest", "golang:latest"),
        ("someone/thing", "docker.io/someone/thing:latest", "someone/thing:latest"),
        ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
        (f"golang@{DIGEST}", f"docker.io/library/golang@{DIGEST}", f"golang@{DIGEST}"),
        (f"golang:1@{DIGEST}", f"docker.io/library/golang:1@{DIGEST}", f"golang:1@{DIGEST}"),
        ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
        ("localhost:5000/a", "localhost:5000/a:latest", "localhost:5000/a:latest"),
        ("127.0.0.1:5000/a/b:c", "127.0.0.1:5000/a/b:c", "127.0.0.1:5000/a/b:c"),
        ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
        ("[2001:db8::1]/a:b", "[2001:db8::1]/a:b", "[2001:db8::1]/a:b"),
        ("ghcr.io/a/b", "ghcr.io/a/b:latest", "ghcr.io/a/b:latest"),
        ("Uppercase/a", "Uppercase/a:latest", "Uppercase/a:latest"),
        ("a.b-c.d/x", "a.b-c.d/x:latest", "a.b-c.d/x:latest"),
        ("a__b/c---d/e.f_g", "docker.io/a__b/c---d/e.f_g:latest", "a__b/c---d/e.f_g:latest"),
        ("a:" + "T" * 128, "docker.io/library/a:" + "T" * 128, "a:" + "T" * 128),
        ("a:_x.-", "docker.io/library/a:_x.-", "a:_x.-"),
        ("a:5000", "docker.io/library/a:5000", "a:5000"),
        ("a:5000/b", "a:5000/b:latest", "a:5000/b:latest"),
    ],
)
def test_names_have_a_normal_form(text: str, full: str, familiar: str) -> None:
    reference = parse_reference(text)
    assert (str(reference), reference.familiar) == (full, familiar)
    assert parse_reference(full) == reference
    assert parse_reference(familiar) == reference


@pytest.mark.parametrize(
    "text",
    [
        "", " ", " a", "a ", "a b", "a\n", "a:", ":b", "a::b", "a@", "@" + DIGEST, "/a", "a/", "a//b", "a/../b", "./a",
        "../a", "a/.b", "a/b.", "a/-b", "a/b-", "a..b", "a___b", "a._b", "Golang", "a/B", "a:b/c:d:e", "a:-b", "a:.b",
        "a:" + "t" * 129, HEX, "a" * 256, "a@sha256:abc", "a@md5:" + "0" * 32, "a@sha256:" + HEX.upper(),
        "a@sha256:../../x", f"a@{DIGEST}@{DIGEST}", f"a@{DIGEST}:tag", "-a.com/b", "a-.com/b", "a..com/b", "a.com:/b",
        "a.com:x/b", "a.com:999999/b", "[::1/a", "::1/a", "user@host/a", "http://a/b", "https://docker.io/a", "a/b?c",
        "a/b#c", "a/%2e%2e/b", "ä", "a/ß", "a\x00", "a;b", "$(id)", "a/b:t\n", "-", "--help", ".", "..", "_", "a_",
    ],
)  # fmt: skip
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidReference):
        parse_reference(text)


def test_messages_help() -> None:
    with pytest.raises(InvalidReference, match="must be lowercase"):
        parse_reference("GoLang:1.25")
    with pytest.raises(InvalidReference, match="image id"):
        parse_reference(HEX)
    with pytest.raises(InvalidReference, match="expected sha256"):
        parse_reference("a@sha256:12")


def test_long_nonsense_is_refused_fast_and_shown_short() -> None:
    for text in ("a" * 100_000, "a-" * 50_000, "a." * 50_000, "a/" * 50_000, "-" * 100_000, "a:" + "b" * 100_000):
        with pytest.raises(InvalidReference) as caught:
            parse_reference(text)
        assert len(str(caught.value)) < 1000


def test_parts_are_changed_with_care() -> None:
    reference = parse_reference(f"golang:1.25@{DIGEST}")
    assert str(reference.with_tag("x")) == "docker.io/library/golang:x"
    assert str(parse_reference("a:b").with_digest(reference.digest or "")) == f"docker.io/library/a:b@{DIGEST}"  # type: ignore[arg-type]
    assert reference.repository_only == Reference("docker.io", "library/golang")
    assert reference.name == "docker.io/library/golang"
    with pytest.raises(InvalidReference):
        reference.with_tag("../x")


def test_repositories_have_neither_tag_nor_digest() -> None:
    assert parse_repository("golang") == Reference("docker.io", "library/golang")
    assert parse_repository("localhost:5000/a/b") == Reference("localhost:5000", "a/b")
    for text in ("golang:1", f"golang@{DIGEST}", "localhost:5000/a:b", ""):
        with pytest.raises(InvalidReference):
            parse_repository(text)


def test_registries_have_a_normal_form() -> None:
    assert parse_registry("index.docker.io") == parse_registry("registry-1.docker.io") == "docker.io"
    assert parse_registry("GHCR.io") == "ghcr.io"
    assert parse_registry("localhost:5000") == "localhost:5000"
    for text in ("", "a/b", "http://a", "a:b", "a b", "-a"):
        with pytest.raises(InvalidReference):
            parse_registry(text)


def test_tags() -> None:
    assert parse_tag("v1.2_3-x") == "v1.2_3-x"
    for text in ("", "a b", "-a", ".a", "a/b", "a:b", "ä"):
        with pytest.raises(InvalidReference):
            parse_tag(text)
