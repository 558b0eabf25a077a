"""What clients ask to be attested, in the words of BuildKit's frontend attributes."""

import pytest

from kedge.daemon.buildkit.attributes import read_attestations
from kedge.exporters.attest import read_attestations as meant


@pytest.mark.parametrize(
    ("attrs", "asked"),
    [
        ({"attest:sbom": ""}, {"sbom": "form=index"}),
        ({"attest:SBOM": "type=sbom,generator=a/b:1"}, {"sbom": "generator=a/b:1,form=index"}),
        ({"attest:sbom": 'generator=a,"X=1,2"'}, {"sbom": 'generator=a,"X=1,2",form=index'}),
        ({"attest:sbom": "form=referrer"}, {"sbom": "form=referrer"}),
        ({"attest:provenance": ""}, {"provenance": "mode=max,build-args=true,form=index"}),
        ({"attest:provenance": "mode=min"}, {"provenance": "mode=min,form=index"}),
        ({"build-arg:BUILDKIT_ATTEST_SBOM": "generator=a"}, {"sbom": "generator=a,form=index"}),
        ({"build-arg:A": "b"}, {}),
    ],
)
def test_what_clients_ask_for(attrs, asked):
    assert dict(read_attestations(attrs)) == asked


def test_a_scanner_is_given_what_nobody_else_knows():
    (one,) = meant(read_attestations({"attest:sbom": 'generator=a,"X=1,2",Y=3,inline-only=true'}))
    assert (one.generator, one.parameters, one.inline_only) == ("a", (("X", "1,2"), ("Y", "3")), True)
