"""Every case, and how BuildKit builds it: same file tree, config, history and number of layers. Opt-in.

KEDGE_BUILDCTL and KEDGE_BUILDKITD name the programs, else PATH is searched. With KEDGE_RECORD=1, what was built is
written into the cases' expected.json where there is none yet, for whoever adds a case to read: BuildKit's, or Kedge's
where the case says that they differ.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kedge.model.errors import KedgeError
from tests.e2e import casefile
from tests.e2e.buildkit_side import BuildKit, BuildKitRefused, running
from tests.e2e.kedge_side import asked, build_case
from tests.e2e.world import World


@pytest.fixture(scope="module")
def buildkit(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BuildKit]:
    with running(tmp_path_factory.mktemp("buildkit"), world) as buildkit:
        yield buildkit


@pytest.mark.parametrize("name", casefile.NAMES)
def test_case(name: str, world: World, buildkit: BuildKit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEDGE_CONFIG", str(world.room / "config.toml"))
    case = casefile.prepare(name, world, tmp_path)
    if case.settings.get("only") == "kedge":
        pytest.skip(f"only for Kedge: {case.settings.get('why', 'its own')}")
    theirs = by_buildkit(case, world, buildkit, tmp_path)
    ours = by_kedge(case, world, tmp_path)
    reasons = case.settings.get("differs", {})
    record = casefile.CASES / name / "expected.json"
    if os.environ.get("KEDGE_RECORD") and not record.exists():
        record.write_text(casefile.dump(ours if reasons else theirs))
    if "error" in ours and "error" in theirs:
        assert not reasons, f"nothing differs any more: {reasons}"
        return
    same = ours == theirs
    if reasons:
        assert not same, f"nothing differs any more: {reasons}"
        for key in reasons:
            forget(key, ours, theirs)
    for key in sorted({*ours, *theirs}):
        assert ours.get(key) == theirs.get(key), (key, ours.get("error"), theirs.get("error"))


def forget(key: str, *sides: dict[str, Any]) -> None:
    """Leave what a known difference is about out of the comparison."""
    part, _, path = key.partition("/")
    for side in sides:
        if part == "all":
            side.clear()
        elif path:
            side.get(part, {}).pop(path, None)
        else:
            side.pop(part, None)


def by_buildkit(case: casefile.Case, world: World, buildkit: BuildKit, room: Path) -> dict[str, Any]:
    request, _ = asked(case, world, room / "no-store")
    try:
        buildkit.build(case, request, room / "theirs")
    except BuildKitRefused as error:
        return {"error": str(error)[-700:]}
    return casefile.made(case, world, room / "theirs")


def by_kedge(case: casefile.Case, world: World, room: Path) -> dict[str, Any]:
    try:
        build_case(case, world, world.room / "store", room / "ours")
    except KedgeError as error:
        return {"error": str(error)}
    return casefile.made(case, world, room / "ours")
