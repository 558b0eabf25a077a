"""Checks: every rule of the reference, its silencing, and the pages that explain it."""

import base64
import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kedge.dockerfile.findings import Findings
from kedge.dockerfile.lines import decode
from kedge.dockerfile.lint import check_options, lint, parse_check_options, require_clean
from kedge.dockerfile.lint_build_args import check_build_args
from kedge.dockerfile.lint_report import report_json
from kedge.dockerfile.lint_rules import RULES
from kedge.dockerfile.lower import lower, needed_images
from kedge.dockerfile.options import ImageRequest, LowerOptions, ResolvedImage
from kedge.dockerfile.parser import parse
from kedge.dockerfile.stages import read_stages
from kedge.model.digest import sha256
from kedge.model.errors import DockerfileError, KedgeError
from kedge.model.event import WarningEvent
from kedge.model.image import ImageConfig
from kedge.model.platform import Platform

SHARED = Path(os.environ.get("KEDGE_SHARED") or Path(__file__).resolve().parents[3] / "shared")
FACTS = SHARED / "conformance/lint/rules.json"
TABLE = json.loads(FACTS.read_text()) if FACTS.exists() else {"rules": [], "check_directive": {"cases": []}}
MISSING = pytest.mark.skip(reason=f"no conformance data in {SHARED}; set KEDGE_SHARED")
BASE = ImageConfig(Platform("linux", "amd64"), env=("PATH=/usr/bin:/bin",), diff_ids=(sha256(b"layer"),))


@dataclass
class Outcome:
    warnings: tuple[WarningEvent, ...] = ()
    error: KedgeError | None = None

    @property
    def reports(self):
        return sorted((warning.rule, warning.location.start) for warning in self.warnings)


def resolve(staged, options):
    images: dict[ImageRequest, ResolvedImage] = {}
    with contextlib.suppress(KedgeError):  # lowering raises the same again, and tells what it found before
        while missing := needed_images(staged, options, images):
            images |= {request: ResolvedImage(BASE) for request in missing}
    return images


def check(text, build_args=None, ignore=()):
    """What a build of all stages reports, as far as it gets, and the error that ends it."""
    outcome, findings = Outcome(), Findings()
    try:
        file = parse(text)
        options = check_options(file, build_args)
    except KedgeError as error:
        return Outcome(error=error)
    try:
        staged = read_stages(file, findings)
        check_build_args(staged, build_args or {}, findings)
        lower_options = LowerOptions(build_args=build_args or {}, ignore={"context": tuple(ignore)}, all_stages=True)
        lower(staged, lower_options, resolve(staged, lower_options), findings)
        outcome.warnings = lint(file, findings.found, options)
        require_clean(outcome.warnings, options)
    except KedgeError as error:
        outcome.error = error
        outcome.warnings = lint(file, findings.found, options)
    return outcome


def rule_cases(kind):
    found = [(rule, case) for rule in TABLE["rules"] for case in rule[kind]]
    return [pytest.param(rule, case, id=f"{rule['name']}-{i}") for i, (rule, case) in enumerate(found)] or [
        pytest.param(None, None, marks=MISSING)
    ]


def assert_alike(case, outcome):
    assert outcome.reports == sorted((report["rule"], report["line"]) for report in case["reports"])
    assert (outcome.error is not None) == case.get("build_error", False), outcome.error


@pytest.mark.parametrize(("rule", "case"), rule_cases("bad"))
def test_bad_examples_are_reported(rule, case):
    assert_alike(case, check(case["dockerfile"], rule.get("build_args"), rule.get("dockerignore", "").split()))


@pytest.mark.parametrize(("rule", "case"), rule_cases("good"))
def test_good_examples_are_not_reported(rule, case):
    assert_alike(case, check(case["dockerfile"], rule.get("build_args"), rule.get("dockerignore", "").split()))


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=str(i)) for i, case in enumerate(TABLE["check_directive"]["cases"])]
    or [pytest.param(None, marks=MISSING)],
)
def test_the_check_directive_works_alike(case):
    assert_alike(case, check(case["dockerfile"]))


@pytest.mark.skipif(not FACTS.exists(), reason=f"no conformance data in {SHARED}; set KEDGE_SHARED")
def test_the_rules_are_the_reference_s():
    for rule in TABLE["rules"]:
        ours = RULES[rule["name"]]
        assert (ours.documented, ours.experimental) == (rule["documented"], rule["experimental"])
        assert ours.url.endswith(f"/rule/{rule['url_fragment']}/") if rule["documented"] else not ours.url
    assert {rule.name for rule in RULES.values() if not rule.own} == {rule["name"] for rule in TABLE["rules"]}


# ---- options ---------------------------------------------------------------------------------------------------------

TWO = "FROM busybox as B\n"  # FromAsCasing and StageNameCasing


def rules(text, **keywords):
    return [rule for rule, _ in check(text, **keywords).reports]


def test_the_build_argument_replaces_the_directive():
    text = "# check=skip=all\n" + TWO
    assert rules(text) == []
    assert rules(text, build_args={"BUILDKIT_DOCKERFILE_CHECK": ""}) == ["FromAsCasing", "StageNameCasing"]
    assert rules(TWO, build_args={"BUILDKIT_DOCKERFILE_CHECK": "skip=FromAsCasing"}) == ["StageNameCasing"]
    failed = check(TWO, build_args={"BUILDKIT_DOCKERFILE_CHECK": "error=true"})
    assert failed.error.message == "checks failed: StageNameCasing, FromAsCasing"
    assert failed.error.location.start == 1


def test_warnings_alone_are_no_error():
    assert check("# check=error=true\nFROM busybox AS b\n").error is None
    assert check("# check=error=true;skip=all\n" + TWO).error is None
    assert check("# check=error=0\n" + TWO).error is None


def test_a_comment_above_an_instruction_silences_it_alone():
    text = "FROM busybox\n# check=skip=LegacyKeyValueFormat\nENV A b\nENV C d\n"
    assert check(text).reports == [("LegacyKeyValueFormat", 4)]
    assert rules("FROM busybox\n# why\n# check=skip=all // see the wiki\n# more\nENV A b\n") == []
    assert rules("FROM busybox\n# check=skip=LegacyKeyValueFormat\n#\nENV A b\n") == ["LegacyKeyValueFormat"]
    assert rules("FROM busybox\n# check=nonsense\nENV A b\n") == ["LegacyKeyValueFormat"]


def test_a_comment_can_switch_on_an_experimental_rule():
    text = "FROM busybox\n# check=experimental=InvalidDefinitionDescription\n# some remark\nARG V=1\n"
    assert rules(text) == ["InvalidDefinitionDescription"]


@pytest.mark.parametrize(
    ("text", "hint"),
    [("skipp=all", "Did you mean skip?"), ("skip", "Write skip=RULE"), ("error=maybe", "Write error=true")],
)
def test_bad_options_are_refused_with_a_hint(text, hint):
    with pytest.raises(DockerfileError) as caught:
        check_options(parse(f"# check={text}\nFROM x\n"))
    assert caught.value.location.start == 1
    assert hint in caught.value.hint


def test_options_may_have_blanks_around_names():
    options = parse_check_options(" skip = A , B ; error = TRUE ")
    assert options.skip == {"A", "B"}
    assert options.error
    assert parse_check_options("") == parse_check_options("  ")


# ---- messages --------------------------------------------------------------------------------------------------------


def messages(text, **keywords):
    return [warning.message for warning in check(text, **keywords).warnings]


def test_a_mistyped_variable_is_answered_with_the_right_one():
    assert messages("FROM busybox\nENV PATH=$PAHT:/x\n") == [
        "the variable $PAHT is used, but nothing sets it (did you mean $PATH?)"
    ]
    found = messages("ARG VERSION=1\nFROM busybox:x$VERSOIN\n")
    assert found == ["FROM uses the variable VERSOIN, which is not declared (did you mean VERSION?)"]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_examples_of_each_rule_are_right(rule):
    """What the pages show as bad breaks just this rule, what they show as good none."""
    args = {"TAG": "1"} if rule.name == "InvalidDefaultArgInFrom" else {}
    if rule.option:
        name, _, value = rule.option.removeprefix("--build-arg ").partition("=")
        args[name] = value
    bad = check(rule.bad, args, ["secret"])
    assert {name for name, _ in bad.reports} == {rule.name}
    assert all(warning.message and warning.detail == rule.summary for warning in bad.warnings)
    assert not any("{0}" in warning.message for warning in bad.warnings)
    good = check(rule.good, args, ["secret"])
    assert good.reports == []
    assert good.error is None


# ---- any text --------------------------------------------------------------------------------------------------------

real_files = sorted((SHARED / "dockerfiles").glob("*.Dockerfile")) if SHARED.exists() else []


@pytest.mark.parametrize(
    "path", [pytest.param(p, id=p.name) for p in real_files] or [pytest.param(None, marks=MISSING)]
)
def test_dockerfiles_of_real_projects_are_checked(path):
    outcome = check(decode(path.read_bytes()))
    lines = path.read_bytes().count(b"\n") + 1
    assert all(warning.message and 1 <= warning.location.start <= lines for warning in outcome.warnings)


@settings(max_examples=200, deadline=None, database=None)
@given(
    st.lists(
        st.sampled_from(["skip", "error", "experimental", "=", ";", ",", "all", "true", "A", " ", "\n", "é"]),
        max_size=12,
    )
)
def test_options_raise_nothing_else(words):
    text = "".join(words)
    with contextlib.suppress(DockerfileError):
        parse_check_options(text)
    parse_check_options("").reports("A", comments=(f"check={text}", text))


# ---- the report ------------------------------------------------------------------------------------------------------


def test_the_report_has_docker_s_shape():
    text = "FROM busybox\nENV A \\\n b\nCMD x\n"
    outcome = check(text)
    found = json.loads(report_json(outcome.warnings, DockerfileError("no", location=outcome.warnings[1].location)))
    assert [warning["ruleName"] for warning in found["warnings"]] == ["LegacyKeyValueFormat", "JSONArgsRecommended"]
    first = found["warnings"][0]
    assert first["url"] == "https://docs.docker.com/go/dockerfile/rule/legacy-key-value-format/"
    assert first["description"] == RULES["LegacyKeyValueFormat"].summary
    assert first["detail"] == "write ENV name=value rather than ENV name value"
    assert first["location"] == {"ranges": [{"start": {"line": n}, "end": {"line": n}} for n in (2, 3)]}
    data = base64.b64encode(text.encode()).decode()
    assert found["sources"] == [{"filename": "Dockerfile", "language": "Dockerfile", "data": data}]
    assert found["buildError"]["message"] == "no"


def test_a_clean_report_is_empty():
    assert json.loads(report_json(())) == {"warnings": [], "sources": []}


# ---- build arguments -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("VERSOIN", "VERSION"),
        ("version", "VERSION"),
        ("VERSION", ""),
        ("LATER", ""),
        ("LATRE", "LATER"),
        ("NOTHING_LIKE_IT", ""),
        ("VERSIONS", "VERSION"),
        ("VERSIO", "VERSION"),
        ("ERSION", "VERSION"),
        ("EVRSION", "VERSION"),
        ("VERXION", ""),
        ("VRESIONS", ""),
        ("PERSION", ""),
        ("TARGETARCH", ""),
        ("BUILDKIT_INLINE_CACHE", ""),
        ("https_proxy", ""),
        ("SOURCE_DATE_EPOCH", ""),
    ],
)
def test_a_mistyped_build_argument_is_answered_with_the_right_one(name, near):
    text = "ARG VERSION=1\nARG TARGETARCHES\nARG BUILDKIT_INLINE_CACHES\nARG https_proxies\nFROM busybox\nARG LATER\n"
    expected = [f"no ARG declares the build argument {name} (did you mean {near}?)"] if near else []
    assert messages(text, build_args={name: "1"}) == expected


def test_names_without_an_end_are_compared_in_no_time():
    """Each pair took the square of its length, for which all other builds of a service waited."""
    long, many = "A" * 30_000, [f"ARG N{number}X\n" for number in range(3000)]
    text = "".join([f"ARG {long}B\n", *many, "FROM busybox\n"])
    given = {f"B{long}": "1", f"{long}": "1"} | {f"N{number}Y": "1" for number in range(3000)}
    assert messages(text, build_args=given) == [f"no ARG declares the build argument {long} (did you mean {long}B?)"]
