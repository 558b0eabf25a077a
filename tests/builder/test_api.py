"""The Python API's own words: each one reaches the build, and is said what it means."""

import inspect
import io
import re
from pathlib import Path
from typing import Any

import pytest

import kedge
from kedge.builder import api
from kedge.model.ops import Ulimit
from kedge.model.value import fields

GIVEN: dict[str, Any] = {
    "dockerfile": "D", "dockerfile_text": "FROM scratch\n", "target": "t", "build_args": {"b": "1", "a": "2"},
    "build_contexts": {"c": "docker-image://x"}, "platforms": ["linux/arm64"], "multi_platform": True,
    "source_date_epoch": 5, "tags": ["x", "y"], "labels": {"l": "1"}, "annotations": {"n": "1"},
    "attestations": {"sbom": ""}, "outputs": [kedge.Output("oci", destination=Path("o"))], "call": "outline",
    "no_cache": True, "no_cache_filter": ["s"], "pull": True, "cache_from": [kedge.CacheSpec("registry")],
    "cache_to": [kedge.CacheSpec("inline")], "cache_mount_from": [kedge.CacheSpec("local")],
    "cache_mount_to": [kedge.CacheSpec("local", (("id", "m"),))], "store": "store", "secrets": {"s": b"1"},
    "entitlements": ["device"], "network": "none", "add_hosts": {"h": "10.0.0.1"}, "hostname": "me",
    "env": {"http_proxy": "p"}, "memory": 7, "cpus": 1.5, "shm_size": 8, "ulimits": {"nofile": (1, 2)},
    "cgroup_parent": "g", "max_parallelism": 3, "on_event": print,
}  # fmt: skip
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "python-api.md"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What `kedge.build` asks for, without building it."""
    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr(api, "run", lambda *words: seen.append(words))
    return seen


def test_every_word_reaches_the_build(asked: list[tuple[Any, ...]]) -> None:
    assert set(GIVEN) == set(inspect.signature(kedge.build).parameters) - {"context"}
    kedge.build("somewhere", **GIVEN)
    (request, secrets, report), untouched = asked[0], kedge.BuildRequest()
    for field in fields(request):
        assert getattr(request, field.name) != getattr(untouched, field.name), field.name
    assert request.build_args == (("a", "2"), ("b", "1"))
    assert request.named_contexts == (("c", "docker-image://x"),)
    assert request.ulimits == (Ulimit("nofile", 1, 2),)
    assert [secret.id for secret in secrets] == ["s"]
    assert report is print


def test_no_words_ask_for_what_a_request_alone_asks_for(asked: list[tuple[Any, ...]]) -> None:
    kedge.build()
    assert asked[0][0] == kedge.BuildRequest()


@pytest.mark.parametrize("context", [Path("a"), "https://example.com/a.git", b"tar", io.BytesIO(b"tar"), None])
def test_contexts_are_taken_as_they_are(asked: list[tuple[Any, ...]], context: Any) -> None:
    kedge.build(context)
    assert asked[0][0].context == context


def test_a_word_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match="labls"):
        kedge.build(".", labls={})  # type: ignore[call-arg]


def test_the_page_has_every_word_and_every_public_name() -> None:
    told = set(re.findall(r"`(\w+)", PAGE.read_text()))
    assert not {*GIVEN, "context"} - told
    assert not set(kedge.__all__) - {"build"} - told
    for error in (one for name in kedge.__all__ if isinstance(one := getattr(kedge, name), type)):
        assert not issubclass(error, Exception) or issubclass(error, kedge.KedgeError)


def test_the_page_s_example_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hello.txt").write_text("hello")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEDGE_ROOT", str(tmp_path / "store"))
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(example, {"out": tmp_path / "out"})
    assert (tmp_path / "out" / "oci-layout").is_file()


def test_every_word_is_explained() -> None:
    text = inspect.getdoc(kedge.build) or ""
    told = {word for word in GIVEN if f"`{word}`" in text}
    # Those whose name says it all, and those that share a sentence.
    assert set(GIVEN) - told <= {
        *("tags", "labels", "annotations", "cache_from", "cache_to", "cache_mount_from", "cache_mount_to"),
        *("network", "hostname", "cgroup_parent"),
    }
