"""Policies that the client decides source by source."""

import pytest

from kedge.daemon.buildkit.errors import Denied, status_message
from kedge.daemon.buildkit.verdicts import MOST_REQUESTS, Verdicts
from kedge.daemon.wire import gateway, llb, policy, policysession
from kedge.model.errors import InvalidInput, NotFound
from kedge.model.ops import Source
from kedge.model.platform import Platform

BUSYBOX = Source("docker-image://busybox")
FULL = "docker-image://docker.io/library/busybox:latest"
HERE = Platform("linux", "amd64")


class Client:
    """Gives the answers in order, then the last one again; `heard` are the requests."""

    def __init__(self, *answers):
        self.answers, self.heard = list(answers), []

    def __call__(self):
        return self

    def unary(self, method, request, timeout):
        self.heard.append(request)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def decision(action, **fields):
    return policysession.CheckPolicyResponse(decision=policysession.DecisionResponse(action=action, **fields))


def request(identifier=FULL, **attrs):
    source = llb.SourceOp(identifier=identifier, attrs=attrs)
    return policysession.CheckPolicyResponse(request=gateway.ResolveSourceMetaRequest(Source=source))


def verdicts(client, rules=None):
    def resolve(wanted):
        return gateway.ResolveSourceMetaResponse(
            Source=wanted.Source, Image=gateway.ResolveSourceImageResponse(Digest="sha256:" + "a" * 64)
        )

    return Verdicts(client, rules, resolve)


def test_the_client_is_asked_once_about_each_source_under_its_full_name():
    client = Client(decision(policy.ALLOW))
    decide = verdicts(client)
    assert [decide(BUSYBOX, HERE).identifier for _ in range(3)] == [FULL] * 3
    assert [one.Source.Source.identifier for one in client.heard] == [FULL]
    assert client.heard[0].Platform.Architecture == "amd64"


def test_it_may_ask_back_what_the_source_is():
    client = Client(request(), decision(policy.ALLOW))
    assert verdicts(client)(BUSYBOX, None).identifier == FULL
    assert client.heard[1].Source.Image.Digest == "sha256:" + "a" * 64


@pytest.mark.parametrize("wanted", [request("docker-image://other"), request(FULL, more="x")])
def test_it_may_ask_about_no_other_source(wanted):
    with pytest.raises(InvalidInput, match="policy requested different source"):
        verdicts(Client(wanted))(BUSYBOX, None)


def test_what_it_replaces_is_judged_again():
    update = llb.SourceOp(identifier="docker-image://alpine")
    client = Client(decision(policy.CONVERT, update=update), decision(policy.ALLOW))
    assert verdicts(client)(BUSYBOX, None).identifier == "docker-image://docker.io/library/alpine:latest"
    assert [one.Source.Source.identifier.rpartition("/")[2] for one in client.heard] == [
        "busybox:latest",
        "alpine:latest",
    ]


def test_a_denied_source_says_why():
    messages = [policysession.DenyMessage(message="too old"), policysession.DenyMessage(message="not signed")]
    client = Client(decision(policy.DENY, denyMessages=messages))
    decide = verdicts(client)
    with pytest.raises(Denied) as caught:
        decide(BUSYBOX, None)
    with pytest.raises(Denied):
        decide(BUSYBOX, None)
    assert len(client.heard) == 1
    (detail,) = (one for one in status_message(caught.value).details if "DecisionResponse" in one.type_url)
    assert b'"denyMessages": [{"message": "too old"}, {"message": "not signed"}]' in detail.value


@pytest.mark.parametrize(
    "answer",
    [
        request(),
        policysession.CheckPolicyResponse(),
        decision(policy.CONVERT),
        decision(policy.CONVERT, update=llb.SourceOp(identifier="nonsense")),
        decision(policy.CONVERT, update=llb.SourceOp(identifier="docker-image://../../etc")),
        decision(77),
    ],
)
def test_answers_that_lead_nowhere_end(answer):
    client = Client(answer)
    with pytest.raises((InvalidInput, NotFound)):
        verdicts(client)(BUSYBOX, None)
    assert len(client.heard) <= MOST_REQUESTS


def test_fixed_rules_come_first():
    def rules(source, platform):
        raise InvalidInput("denied by a rule")

    client = Client(decision(policy.ALLOW))
    with pytest.raises(InvalidInput, match="denied by a rule"):
        verdicts(client, rules)(BUSYBOX, None)
    assert client.heard == []
