"""Results for other platforms than those asked for: their clients are told."""

import pytest

from tests.daemon.driver import Driver
from tests.daemon.test_given import files, result

DOCKERFILE = "dockerfile.v0"


def warnings(client, attrs, several):
    driver = Driver(client, FrontendAttrs=attrs)
    driver.end(result(driver) if several else driver.solve(files(one="a"), evaluate=False))
    return [one.short.decode() for one in client.status(driver.request.Ref).warnings]


@pytest.mark.parametrize(
    ("asked", "several", "told"),
    [
        ("linux/amd64,linux/arm64", True, []),
        ("linux/arm64,amd64", True, []),
        ("", False, []),
        ("linux/arm64", False, []),  # a graph says not for which it is
        ("linux/amd64,linux/arm64", False, ["Multiple platforms requested but result is not multi-platform"]),
        ("linux/386", True, ["Requested platforms linux/386 do not match result platforms linux/amd64,linux/arm64"]),
        ("a/b/c/d", False, ["Invalid platform result requested: invalid platform 'a/b/c/d': expected os/architecture, "
                            "such as linux/arm64"]),
    ],
)  # fmt: skip
def test_a_driver_that_leaves_the_platforms_aside_is_told(connect, asked, several, told):
    assert warnings(connect(), {"platform": asked} if asked else {}, several) == told


def test_a_dockerfile_that_chooses_its_platform_itself_gives_no_warning(connect, context):
    (context / "Dockerfile").write_text("FROM --platform=linux/s390x scratch\nCOPY a.txt /\n")
    client = connect(directories={"context": context, "dockerfile": context})
    for attrs in ({}, {"platform": "linux/arm64"}):
        _, status = client.solve(Frontend=DOCKERFILE, FrontendAttrs=attrs)
        assert [
            one.short for one in status.warnings if b"latform" in one.short and b"FromPlatform" not in one.short
        ] == []
