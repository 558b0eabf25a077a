"""What a provenance tells, and what it must not."""

import base64
import json

from kedge.exporters.provenance import BuildFacts, Material, as_slsa02, provenance, without_credentials
from kedge.model.platform import Platform

HOST = Platform("linux", "amd64")
FACTS = BuildFacts(
    HOST,
    "Dockerfile",
    build_args=(("SHORT", "1"), ("TOKEN", "s3cr3t-token"), ("VERSION", "1.25")),
    secrets=(("key", False), ("extra", True)),
    materials=(
        Material("docker.io/library/golang:1.25", "sha256:" + "a" * 64, True, HOST),
        Material("ghcr.io/team/app:2", "sha256:" + "c" * 64, True, Platform("linux", "arm", "v7")),
        Material("https://user:pass@host/x.tar?sig=s3cr3t-token", "sha256:" + "b" * 64),
        Material("https://host/s3cr3t-token/y", "sha256:" + "d" * 64),
    ),
    steps=({"id": "step0", "op": {"env": ["TOKEN=s3cr3t-token", "VERSION=1.25"], "args": ["curl s3cr3t-token"]}},),
    dockerfile=("Dockerfile", b"FROM golang:1.25\nARG TOKEN=s3cr3t-token\n"),
    started="2026-01-01T00:00:00Z",
)


def test_min_tells_what_went_in_and_nothing_of_how() -> None:
    value = provenance(FACTS)
    definition = value["buildDefinition"]
    assert definition["internalParameters"] == {"builderPlatform": "linux/amd64"}
    assert "secrets" not in definition["externalParameters"]["request"]
    assert "buildkit_metadata" not in value["runDetails"]["metadata"]
    assert [each["uri"] for each in definition["resolvedDependencies"]] == [
        "pkg:docker/golang@1.25?platform=linux%2Famd64",
        "pkg:docker/ghcr.io/team/app@2?platform=linux%2Farm%2Fv7",
        "https://host/<redacted>/y",
        "https://xxxxx:xxxxx@host/x.tar",
    ]


def test_values_of_arguments_stand_nowhere() -> None:
    value = provenance(FACTS, full=True)
    text = json.dumps(value)
    assert "s3cr3t-token" not in text
    args = value["buildDefinition"]["externalParameters"]["request"]["args"]
    assert args == {f"build-arg:{name}": "<redacted>" for name in ("SHORT", "TOKEN", "VERSION")}
    (info,) = value["runDetails"]["metadata"]["buildkit_metadata"]["source"]["infos"]
    assert b"s3cr3t-token" not in base64.b64decode(info["data"])
    assert value["runDetails"]["metadata"]["buildkit_completeness"]["request"] is False


def test_they_are_told_when_asked() -> None:
    value = provenance(FACTS, full=True, show_args=True)
    args = value["buildDefinition"]["externalParameters"]["request"]["args"]
    assert args["build-arg:TOKEN"] == "s3cr3t-token"
    assert "user:pass" not in json.dumps(value), "credentials in URLs never"


def test_secrets_are_told_by_name_with_max() -> None:
    request = provenance(FACTS, full=True)["buildDefinition"]["externalParameters"]["request"]
    assert request["secrets"] == [{"id": "key"}, {"id": "extra", "optional": True}]


def test_urls_lose_their_credentials() -> None:
    assert without_credentials("https://u:p@h/x?t=1#frag") == "https://xxxxx:xxxxx@h/x#frag"
    text = without_credentials("git clone ssh://git@h/x && curl http://tok@h")
    assert text == "git clone ssh://xxxxx@h/x && curl http://xxxxx@h"
    assert without_credentials("git@h:x.git") == "git@h:x.git"


def test_the_older_form_says_the_same() -> None:
    new = provenance(FACTS, full=True)
    old = as_slsa02(new)
    assert old["materials"] == new["buildDefinition"]["resolvedDependencies"]
    assert old["invocation"]["configSource"] == {"entryPoint": "Dockerfile"}
    assert old["invocation"]["environment"] == {"platform": "linux/amd64"}
    assert old["buildConfig"] == new["buildDefinition"]["internalParameters"]["buildConfig"]
    assert old["metadata"]["buildStartedOn"] == "2026-01-01T00:00:00Z"
    assert "path" in new["buildDefinition"]["externalParameters"]["configSource"]


def test_requests_of_inputs_are_told_with_their_arguments_with_max_only() -> None:
    made = BuildFacts(HOST, "Dockerfile", target="base", build_args=(("A", "value"),), labels=(("l", "1"),))
    facts = BuildFacts(HOST, "Dockerfile", inputs=(("baseinput", made),))
    for full in (True, False):
        value = provenance(facts, full=full, show_args=full)
        told = value["buildDefinition"]["externalParameters"]["request"]["inputs"]["baseinput"]["request"]["args"]
        assert told == ({"build-arg:A": "value", "label:l": "1"} if full else {}) | {"target": "base"}
        assert value["runDetails"]["metadata"]["buildkit_completeness"]["request"] is full
