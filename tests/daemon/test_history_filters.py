"""Which records `buildx history ls --filter` sees; the cases are those of BuildKit's filter_test.go, and ours."""

import time

import pytest

from kedge.daemon.buildkit.history_filters import chosen_by
from kedge.daemon.buildkit.progress import to_timestamp
from kedge.daemon.wire import control, status
from kedge.model.errors import KedgeError

HOUR = 3600.0
START = time.time() - 24 * HOUR - 30  # half a minute early: the clock goes on


def record(ref, start, took=None, code=None, **attrs):
    one = control.BuildHistoryRecord(Ref=ref, CreatedAt=to_timestamp(start), FrontendAttrs=attrs)
    if took is not None:
        one.CompletedAt.CopyFrom(to_timestamp(start + took))
    if code is not None:
        one.error.CopyFrom(status.Status(code=code, message="no"))
    return one


RECORDS = [
    record("foo123", START, 60),
    record("bar456", START + HOUR, context="https://github.com/user/repo.git#abcdef123"),
    record("foo789", START + 2 * HOUR, 600, **{"vcs:source": "testrepo"}),
    record("bad000", START + 3 * HOUR, 1, code=2),
    record("off000", START + 4 * HOUR, 1, code=1, context="https://github.com/x.git?bad"),
]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([], "foo123 bar456 foo789 bad000 off000"),
        (["ref==foo"], ""),
        (["ref~=foo"], "foo123 foo789"),
        (["ref!=foo123"], "bar456 foo789 bad000 off000"),
        (["repository==https://github.com/user/repo.git"], "bar456"),
        (["repository~=https://github.com/user/repo"], "bar456"),
        (["repository!=testrepo"], "foo123 bar456 bad000 off000"),
        (["repository!=testrepo,ref~=foo"], "foo123"),
        (["ref==foo123", "ref==bar456"], "foo123 bar456"),
        (["status==completed"], "foo123 foo789"),
        (["status==running"], "bar456"),
        (["status==error"], "bad000"),
        (["status==canceled"], "off000"),
        (["status!=completed,ref~=a"], "bar456 bad000"),
        (["startedAt<23h30m"], "foo123"),
        (["startedAt>23h30m"], "bar456 foo789 bad000 off000"),
        (["startedAt>=2001-01-01T00:00:00Z"], "foo123 bar456 foo789 bad000 off000"),
        (["startedAt<2001-01-01T00:00:00+01:00"], ""),
        (["completedAt>22h"], "foo789 bad000 off000"),
        (["duration>5m"], "foo789"),
        (["duration<=1m,ref~=foo"], "foo123"),
        (["startedAt<=23h", "duration>5m"], "foo123 bar456 foo789"),
    ],
)
def test_chooses(filters, expected):
    assert " ".join(one.Ref for one in RECORDS if chosen_by(filters)(one)) == expected


@pytest.mark.parametrize(
    "text",
    ["ref+foo", "nothing==1", "startedAt>", "startedAt>soon", "startedAt>2001-01-01", "duration>x", '"ref', "ref>1",
     "ref~=(", "completedAt>" + "9" * 5000 + "h", "startedAt<9999-12-31T23:59:59-23:59"],
)  # fmt: skip
def test_refuses_or_takes(text):
    try:
        match = chosen_by([text])
    except KedgeError:
        return
    assert {match(one) for one in RECORDS} <= {True, False}
