"""The Dockerfile language, case by case: each is built for real, and the image is looked into. See tests/cases."""

import os
from pathlib import Path

import pytest

from kedge.kernel.identity import current
from kedge.model.errors import KedgeError
from tests.e2e import casefile
from tests.e2e.kedge_side import build_case
from tests.e2e.world import World

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="an ordinary user's command line builds in a namespace: see test_language_rootless.py"
)
RUNNABLE = [name for name in casefile.NAMES if "error" not in casefile.expected(name)]


@pytest.fixture(scope="module")
def store(world: World) -> Path:
    """One store for all cases: they share the base, and must not disturb each other."""
    return world.room / "store"


@pytest.fixture(autouse=True)
def _registry(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEDGE_CONFIG", str(world.room / "config.toml"))


def skip_what_cannot_be(case: casefile.Case) -> None:
    """An ordinary user makes no devices; with a single id, no owner but that one exists while a step runs."""
    who, needs = current(), case.settings.get("needs")
    if (needs and who.single_id) or (needs == "root" and not who.privileged):
        pytest.skip(f"this user cannot do it: the case needs {needs}")


@pytest.mark.parametrize("name", casefile.NAMES)
def test_case(name: str, world: World, store: Path, tmp_path: Path) -> None:
    case = casefile.prepare(name, world, tmp_path)
    skip_what_cannot_be(case)
    expected = case.expected
    if "error" in expected:
        with pytest.raises(KedgeError) as refused:
            build_case(case, world, store, tmp_path / "layout")
        assert expected["error"] in world.plain(str(refused.value))
        return
    built = build_case(case, world, store, tmp_path / "layout")
    found = casefile.made(case, world, tmp_path / "layout")
    for key, facts in found.items():
        assert facts == expected.get(key, []), key
    assert expected.keys() - found.keys() <= {"log"}
    for text in expected.get("log", []):
        assert text in built.log


@pytest.mark.parametrize("name", RUNNABLE)
def test_a_second_build_runs_nothing_and_makes_the_same(name: str, world: World, store: Path, tmp_path: Path) -> None:
    case = casefile.prepare(name, world, tmp_path)
    skip_what_cannot_be(case)
    build_case(case, world, store, tmp_path / "layout")
    again = build_case(case, world, store, tmp_path / "again")
    assert again.ran == []
    assert (tmp_path / "again" / "index.json").read_bytes() == (tmp_path / "layout" / "index.json").read_bytes()
