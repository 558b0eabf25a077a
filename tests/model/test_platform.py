"""Platforms, spelled and compared as containerd does."""

import pytest

from kedge.model.errors import InvalidPlatform
from kedge.model.platform import Platform, best_match, meant_by, of_machine, parse_platform, runnable_on


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("linux/x86-64", "linux/amd64"),
        ("Linux/AMD64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v9", "linux/arm64/v9"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/arm/7", "linux/arm/v7"),
        ("linux/arm/v5", "linux/arm/v5"),
        ("linux/i386", "linux/386"),
        ("linux/ppc64le", "linux/ppc64le"),
        ("linux/s390x", "linux/s390x"),
        ("linux/riscv64", "linux/riscv64"),
        ("macos/arm64", "darwin/arm64"),
        ("windows/amd64", "windows/amd64"),
        ("arm64", "linux/arm64"),
        ("amd64", "linux/amd64"),
        ("armhf", "linux/arm/v7"),
        ("linux", "linux/amd64"),
        ("windows", "windows/amd64"),
        ("windows(10.0.20348.1006)/amd64", "windows(10.0.20348.1006)/amd64"),
        ("windows(10.0.20348.1006+win32k)/amd64", "windows(10.0.20348.1006)/amd64"),
        (" linux/arm64 ", "linux/arm64"),
    ],
)
def test_platforms_have_a_normal_form(text: str, spelled: str) -> None:
    platform = parse_platform(text)
    assert platform.full == spelled
    assert parse_platform(platform.full) == platform


@pytest.mark.parametrize(
    "text", ["", "/", "linux/", "/amd64", "a/b/c/d", "linux/am d64", "strange", "linux/ä", "a\n/b", "*"]
)
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(InvalidPlatform):
        parse_platform(text)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("linux/am64", "linux/amd64"),
        ("linxu/arm64", "linux/arm64"),
        ("linux/arm46/v8", "linux/arm64"),
        ("linux/vax", ""),
        ("linux/sparc64", None),
        ("plan9/386", None),
        ("linux/arm/v6", None),
        ("windows(10.0.20348)/amd64", None),
    ],
)
def test_words_that_nobody_knows_are_noticed(text: str, meant: str | None) -> None:
    assert meant_by(parse_platform(text)) == meant


def test_missing_parts_come_from_the_default() -> None:
    arm = Platform("linux", "arm", "v6")
    assert parse_platform("linux", arm) == arm
    assert parse_platform("windows", arm) == Platform("windows", "arm", "v7")
    assert parse_platform("amd64", Platform("freebsd", "arm64")) == Platform("freebsd", "amd64")


@pytest.mark.parametrize(
    ("machine", "platform"),
    [
        ("x86_64", Platform("linux", "amd64")),
        ("aarch64", Platform("linux", "arm64")),
        ("armv7l", Platform("linux", "arm", "v7")),
        ("i686", Platform("linux", "386")),
        ("ppc64le", Platform("linux", "ppc64le")),
    ],
)
def test_machines_have_a_platform(machine: str, platform: Platform) -> None:
    assert of_machine(machine) == platform


@pytest.mark.parametrize(
    ("wanted", "offered", "found"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], 1),
        ("linux/amd64", ["linux/386", "linux/amd64"], 1),
        ("linux/amd64", ["linux/386"], 0),
        ("linux/amd64", ["linux/amd64/v2"], None),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], 1),
        ("linux/arm64", ["linux/arm/v6", "linux/arm/v7"], 1),
        ("linux/arm64", ["linux/arm/v7", "linux/arm64"], 1),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6"], 1),
        ("linux/arm/v6", ["linux/arm/v7"], None),
        ("linux/arm/v6", ["linux/arm64"], None),
        ("linux/s390x", ["linux/amd64"], None),
        ("linux/amd64", ["windows/amd64"], None),
        ("linux/amd64", [], None),
        ("linux/amd64", ["linux/amd64", "linux/amd64"], 0),
    ],
)
def test_the_best_offer_is_picked(wanted: str, offered: list[str], found: int | None) -> None:
    assert best_match(parse_platform(wanted), [parse_platform(text) for text in offered]) == found


def test_a_host_runs_its_own_platform_first() -> None:
    for text in ("linux/amd64", "linux/amd64/v3", "linux/arm64", "linux/arm/v7", "linux/s390x"):
        assert runnable_on(parse_platform(text))[0] == parse_platform(text)


def test_of_several_versions_of_a_system_the_nearest_is_taken() -> None:
    offered = [parse_platform(f"windows({version})/amd64") for version in ("10.0.17763.1", "10.0.20348.1")]
    assert best_match(parse_platform("windows(10.0.20348.1006)/amd64"), offered) == 1
    assert best_match(parse_platform("windows/amd64"), offered) == 0
