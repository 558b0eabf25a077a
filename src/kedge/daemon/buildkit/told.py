"""What a build's record tells of its result: how it was made, and the documents of the images that it became.

Owns which facts are told of which result. Does not know where they are kept (`records`), nor the predicate's form
(`exporters.provenance`).
"""

import json
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from kedge.daemon.buildkit.attributes import read_attestations
from kedge.model.digest import hex_part
from kedge.model.errors import KedgeError
from kedge.model.value import dataclass, field, replace

if TYPE_CHECKING:
    from kedge.daemon.buildkit.jobs import Job, Outcome
    from kedge.exporters.image import Exported

_PROVENANCE: Final = "https://slsa.dev/provenance/"


@dataclass(frozen=True, slots=True)
class Told:
    """`provenance` by platform, by "" if there is only one; `images` by the number of the output that they went to."""

    provenance: Mapping[str, bytes] = field(default_factory=dict)
    images: "Mapping[int, Exported]" = field(default_factory=dict)


def tell(job: "Job", outcomes: "Mapping[str, Outcome | None]", images: "Mapping[int, Exported]") -> Told:
    """What is told of a build that is done and not finished: its parts are still open."""
    made = {key: _provenance(job, outcome) for key, outcome in outcomes.items() if outcome}
    return Told({key: data for key, data in made.items() if data}, images)


def statements(image: "Exported") -> Iterator[tuple[str, str, bytes]]:
    """What is said of the image beside its provenance: for which platform, the predicate's type, the statement."""
    from kedge.exporters.attest import IN_TOTO

    platforms = {hex_part(one.manifest_document.descriptor.digest): one.config.platform.full for one in image.images}
    for document in image.extra:
        if document.descriptor.media_type != IN_TOTO:
            continue
        value = json.loads(document.data)
        about = next((key for one in value["subject"] if (key := one["digest"].get("sha256")) in platforms), None)
        if not value["predicateType"].startswith(_PROVENANCE):
            yield platforms[about] if about else "", value["predicateType"], document.data


def _provenance(job: "Job", outcome: "Outcome") -> bytes:
    """All that is known of how a result was made; empty where it cannot be told."""
    from kedge.builder.attestations import facts_of
    from kedge.exporters.assemble import timestamp
    from kedge.exporters.provenance import provenance

    parts = outcome.origin.parts
    try:
        facts = facts_of(parts, outcome.target, None)
    except KedgeError:
        return b""
    facts = replace(
        facts,
        invocation=job.ref,
        started=timestamp(int(job.created)),
        finished=timestamp(int(time.time())),
    )
    value = provenance(facts, full=True, builder_id=_builder_id(job), show_args=True)
    return json.dumps(value, indent=2).encode("utf-8", "surrogateescape")


def _builder_id(job: "Job") -> str:
    """Who is to be named as the builder, where the client asked for provenance that says so."""
    from kedge.exporters.attest import read_attestations as read

    asked: Any = read(read_attestations(job.request.FrontendAttrs))
    return next((one.builder_id for one in asked if one.builder_id), "")
