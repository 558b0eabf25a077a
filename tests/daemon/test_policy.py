"""Source policies: what rules make of sources."""

import io
import tarfile
import time

import pytest

from kedge.daemon.buildkit.policy import read_policies
from kedge.daemon.wire import control, policy
from kedge.model.errors import InvalidInput
from kedge.model.ops import Source

ALPINE = Source("docker-image://docker.io/library/alpine:3.20")


def rule(action, identifier, match=policy.WILDCARD, updates="", **attrs):
    one = policy.Rule(action=action, selector={"identifier": identifier, "match_type": match})
    if updates:
        one.updates.identifier = updates
        one.updates.attrs.update(attrs)
    return one


def applied(*rules, source=ALPINE):
    return read_policies([policy.Policy(version=1, rules=rules)])(source)


def test_without_rules_there_is_no_policy():
    assert read_policies([policy.Policy(version=1)]) is None


def test_what_no_rule_names_stays():
    assert applied(rule(policy.DENY, "git://*")) == ALPINE


def test_the_last_of_allow_and_deny_decides():
    deny, allow = rule(policy.DENY, "docker-image://*"), rule(policy.ALLOW, "docker-image://docker.io/library/*")
    assert applied(deny, allow) == ALPINE
    with pytest.raises(InvalidInput, match="denied by policy"):
        applied(allow, deny)


def test_a_source_is_replaced_with_what_the_pattern_found():
    made = applied(rule(policy.CONVERT, "docker-image://docker.io/*:*", updates="docker-image://mirror.local/$1@${2}"))
    assert made.identifier == "docker-image://mirror.local/library/alpine@3.20"


def test_a_regular_expression_replaces_too():
    made = applied(
        rule(policy.CONVERT, r"^docker-image://docker\.io/library/(\w+):", policy.REGEX, "docker-image://x/$1:1")
    )
    assert made.identifier == "docker-image://x/alpine:1"


def test_an_exact_rule_means_nothing_else():
    assert applied(rule(policy.DENY, "docker-image://docker.io/library/alpine", policy.EXACT)) == ALPINE
    with pytest.raises(InvalidInput):
        applied(rule(policy.DENY, ALPINE.identifier, policy.EXACT))


def test_replacing_without_end_is_refused():
    swap = rule(policy.CONVERT, "docker-image://a", updates="docker-image://b")
    back = rule(policy.CONVERT, "docker-image://b", updates="docker-image://a")
    with pytest.raises(InvalidInput, match="too many operations"):
        applied(swap, back, source=Source("docker-image://a"))


@pytest.mark.parametrize("text", ["(a+)+$", "(a|a)*b", r"(.)\1", "(?=x)", "a*" * 5, "(", "x" * 1000])
def test_patterns_that_could_take_for_ever_are_refused(text):
    with pytest.raises(InvalidInput):
        applied(rule(policy.DENY, text, policy.REGEX))


def test_matching_is_quick_for_the_worst_that_is_taken():
    source = Source("docker-image://" + "a" * 480)
    start = time.monotonic()
    applied(rule(policy.DENY, "*a*a*b"), source=source)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("text", ["FROM scratch\nCOPY --from=made /a.txt /b\n", "FROM alpine:3.20\nCOPY x /b\n"])
def test_files_can_stand_in_for_an_image(connect, context, tmp_path, text):
    (context / "Dockerfile").write_text(text)
    (context / "x").write_text("other")
    instead = policy.Policy(
        version=1, rules=[rule(policy.CONVERT, ALPINE.identifier, policy.EXACT, updates="local://mine")]
    )
    client = connect(directories={"context": context, "dockerfile": context, "mine": context})
    client.solve(
        Frontend="dockerfile.v0",
        FrontendAttrs={"context:made": ALPINE.identifier},
        SourcePolicy=instead,
        Exporters=[control.Exporter(Type="tar")],
    )
    with tarfile.open(fileobj=io.BytesIO(client.received["0"])) as archive:
        names = archive.getnames()
    assert "b" in names
    assert ("a.txt" in names) is text.startswith("FROM alpine")
