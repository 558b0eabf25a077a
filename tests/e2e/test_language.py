"""The Dockerfile language, case by case: each is built for real, and the image is looked into. See tests/cases."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kedge.model.errors import KedgeError
from tests.conftest import LiveRegistry
from tests.e2e import casefile
from tests.e2e.kedge_side import build_case
from tests.e2e.world import World, open_world


@pytest.fixture(scope="module")
def world(live_registry: LiveRegistry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with open_world(tmp_path_factory.mktemp("world"), live_registry.address) as world:
        yield world


@pytest.fixture(scope="module")
def store(world: World) -> Path:
    """One store for all cases: they share the base, and must not disturb each other."""
    (world.room / "config.toml").write_text(f'[registry."docker.io"]\nmirrors = ["http://{world.registry}"]\n')
    return world.room / "store"


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's command line builds in a namespace of its own")
@pytest.mark.parametrize("name", casefile.NAMES)
def test_case(name: str, world: World, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEDGE_CONFIG", str(world.room / "config.toml"))
    case = casefile.prepare(name, world, tmp_path)
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
