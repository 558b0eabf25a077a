"""Attestations that a driver returns with its result: in-toto statements, or directories of them, among the files of a
graph (BuildKit's gateway.Attestation).

Owns their form on the wire and their reading. Does not know how they are attached (`exporters.attest`).
"""

import json
import posixpath
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from kedge.daemon.buildkit.reading import read_directory, read_file
from kedge.daemon.wire import gateway
from kedge.exporters.attest import Predicate
from kedge.exporters.sbom.bundle import is_core
from kedge.exporters.sbom.spdx import PREDICATE as SPDX
from kedge.model.errors import InvalidInput
from kedge.model.value import dataclass

if TYPE_CHECKING:
    from kedge.daemon.buildkit.bridge import Bridge
    from kedge.daemon.buildkit.jobs import Outcome

_MOST: Final = 1000  # of one image
_LARGEST: Final = 16 << 20
_CORE: Final = "sbom-core"


@dataclass(frozen=True, slots=True)
class Given:
    """One of them: a file at `path` of what `outcome` comes to, or with `bundle` a directory of statements."""

    told: Any
    outcome: "Outcome | None"
    bundle: bool


def read_given(bridge: "Bridge", told: Any) -> tuple[Given, ...]:
    """Those of one image. Raises Refused, InvalidInput."""
    if len(told.attestation) > _MOST:
        raise InvalidInput(f"more than {_MOST} attestations of one image")
    return tuple(_read(bridge, one) for one in told.attestation)


def _read(bridge: "Bridge", told: Any) -> Given:
    if told.kind not in (gateway.InToto, gateway.Bundle):
        raise InvalidInput(f"unknown attestation kind {told.kind}")
    for subject in told.inTotoSubjects:
        if subject.kind not in (gateway.Self, gateway.Raw):
            raise InvalidInput(f"unknown attestation subject kind {subject.kind}")
    return Given(told, bridge.result(told.ref.id) if told.HasField("ref") else None, told.kind == gateway.Bundle)


def write_given(bridge: "Bridge", given: Sequence[Given]) -> Any:
    """The same for another driver, who knows the files by ids of his own."""
    told = gateway.Attestations()
    for one in given:
        told.attestation.add().CopyFrom(one.told)
        told.attestation[-1].ref.id = bridge.keep(one.outcome)
    return told


def predicates(given: Sequence[Given]) -> tuple[Predicate, ...]:
    """What they say, read now. Raises NotFound, InvalidInput."""
    return tuple(predicate for one in given for predicate in _predicates(one))


def _predicates(one: Given) -> Iterator[Predicate]:
    if one.outcome is None:
        raise InvalidInput("an attestation without files")
    with one.outcome.store.layers.mounted(one.outcome.snapshot) as tree:
        if not one.bundle:
            value = _json(read_file(tree.fd, one.told.path, 0, _LARGEST), one.told.path)  # any that JSON knows
            name = posixpath.basename(one.told.path) or "attestation.json"
            kind = one.told.inTotoPredicateType
            yield Predicate(kind, value, "index", name, _subjects(one.told), _is_core(one.told, kind, name))
            return
        for entry in read_directory(tree.fd, one.told.path, ""):
            path = posixpath.join(one.told.path, entry.path)
            statement = _json(read_file(tree.fd, path, 0, _LARGEST), path)
            if not isinstance(statement, dict):
                raise InvalidInput(f"the statement {path[:200]} is no JSON object")
            kind = statement.get("predicateType")
            if one.told.inTotoPredicateType and kind != one.told.inTotoPredicateType:
                raise InvalidInput(f"bundle entry {str(kind)[:100]} does not match required predicate type")
            core, value = _is_core(one.told, str(kind), entry.path), statement.get("predicate") or {}
            yield Predicate(str(kind), value, "index", entry.path, _stated(statement), core)


def _is_core(told: Any, kind: str, file: str) -> bool:
    """Is it the bill of materials of the image's own files, by the name that the driver gives that?"""
    name = told.metadata.get(_CORE, b"").decode("utf-8", "replace")
    return bool(name) and kind == SPDX and is_core(file, name)


def _json(data: bytes, path: str) -> Any:
    if not data:
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidInput(f"the attestation {path[:200]} is no JSON") from None


def _subjects(told: Any) -> tuple[dict[str, Any], ...]:
    """Of what kind each is: the image under a name (no digest), or something else."""
    found: list[dict[str, Any]] = []
    for one in told.inTotoSubjects:
        subject: dict[str, Any] = {"name": one.name or "_"}
        if one.kind == gateway.Raw:
            subject["digest"] = dict(digest.partition(":")[::2] for digest in one.digest)
        found.append(subject)
    return tuple(found)


def _stated(statement: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """The subjects that a whole statement names; those without a digest are the image. Raises InvalidInput."""
    subjects = statement.get("subject")
    if not isinstance(subjects, list):
        return ()
    return tuple(_checked(one) for one in subjects if isinstance(one, dict))


def _checked(subject: dict[str, Any]) -> dict[str, Any]:
    name, digest = subject.get("name") or "_", subject.get("digest") or {}
    if not isinstance(digest, dict) or not all(isinstance(text, str) for text in (name, *digest.values())):
        raise InvalidInput(f"the subject {str(name)[:100]} of a statement has no name and digests")
    rest = {key: value for key, value in subject.items() if key not in ("name", "digest")}
    return {"name": name} | ({"digest": digest} if digest else {}) | rest
