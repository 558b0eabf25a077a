"""Attestations: which are asked for, and how statements about images become documents beside them.

Owns the options, the in-toto envelope (Statement v1) and both ways of attaching: as referrers (OCI image specification
1.1, `subject`), which leave the image's own digest alone, and as BuildKit's entries of the index
(docs/attestations/attestation-storage.md there). Does not know what a predicate says: `provenance` and `sbom` do.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from kedge.exporters.assemble import Assembled, Document, document
from kedge.exporters.image import Exported, Referrer
from kedge.exporters.options import ImageOptions, read_flag
from kedge.model.digest import hex_part
from kedge.model.errors import InvalidInput
from kedge.model.image import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Descriptor, Index, Manifest, canonical_json
from kedge.model.ops import Pairs
from kedge.model.platform import Platform
from kedge.model.reference import Reference, parse_reference
from kedge.model.value import dataclass, replace

STATEMENT: Final = "https://in-toto.io/Statement/v1"
IN_TOTO: Final = "application/vnd.in-toto+json"
DOCKER_ARTIFACT: Final = "application/vnd.docker.attestation.manifest.v1+json"
EMPTY: Final = "application/vnd.oci.empty.v1+json"
PREDICATE_NOTE: Final = "in-toto.io/predicate-type"
_UNKNOWN: Final = Platform("unknown", "unknown")

Kind: TypeAlias = Literal["provenance", "sbom"]
Form: TypeAlias = Literal["referrer", "index"]
_KNOWN: Final[dict[str, frozenset[str]]] = {
    "provenance": frozenset("mode builder-id reproducible build-args form version disabled inline-only".split()),
    "sbom": frozenset("form disabled generator inline-only".split()),
}


@dataclass(frozen=True, slots=True)
class AttestationOptions:
    """One attestation that is asked for.

    `mode` min tells what went in and out, max also how: steps, secrets' names, the Dockerfile. `build_args` shows the
    values of build arguments, which are redacted otherwise.
    """

    kind: Kind
    form: Form = "referrer"
    mode: Literal["min", "max"] = "min"
    builder_id: str = ""
    reproducible: bool = False
    build_args: bool = False
    old: bool = False  # SLSA 0.2 rather than 1
    inline_only: bool = False  # only where there is an image
    generator: str = ""  # the image that makes the bill of materials; empty: Kedge itself
    parameters: Pairs = ()  # what the generator is given


@dataclass(frozen=True, slots=True)
class Predicate:
    """What is said of one image, and which way it is to be attached.

    `file` is its name where there is no image; `subjects` what it is about (in-toto's form) if that is not the image.
    A subject without a digest is the image, or its files, under another name. `is_core`: it lists the image's own files
    for a scanner, which cannot know their layers.
    """

    type: str
    value: Any  # as JSON has it
    form: Form = "referrer"
    file: str = "provenance.json"
    subjects: tuple[Mapping[str, Any], ...] = ()
    is_core: bool = False


def read_fields(text: str) -> list[str]:
    """The attributes of one attestation as written: CSV, so that one in double quotes may hold commas."""
    import csv

    try:
        return [field for row in csv.reader([text], strict=True) for field in row if field]
    except csv.Error as error:
        raise InvalidInput(f"attestation attributes {text[:80]!r}: {error}") from None


def write_fields(fields: Sequence[str]) -> str:
    """The text that `read_fields` reads these from."""
    return ",".join('"' + field.replace('"', '""') + '"' if set(field) & set(',"\r\n') else field for field in fields)


def read_attestations(pairs: Sequence[tuple[str, str]]) -> tuple[AttestationOptions, ...]:
    """The attestations that (kind, attributes as `--attest` writes them) ask for. Raises InvalidInput."""
    found = [_read(kind, text) for kind, text in pairs]
    return tuple(one for one in found if one is not None)


def _read(kind: str, text: str) -> AttestationOptions | None:
    if kind not in _KNOWN:
        raise InvalidInput(f"unknown attestation type {kind[:40]!r}", hint="Use type=provenance or type=sbom.")
    attributes = dict(part.partition("=")[::2] for part in read_fields(text))
    if "min" in attributes or "max" in attributes:  # `--provenance max`, short for mode=max
        attributes["mode"] = "max" if attributes.pop("max", None) is not None else "min"
        attributes.pop("min", None)
    for word in ("true", "1"):
        attributes.pop(word, None)
    generator = attributes.get("generator", "") if kind == "sbom" else ""
    unknown = sorted(attributes.keys() - _KNOWN[kind])
    if unknown and not generator:
        raise InvalidInput(f"unknown {kind} attribute {unknown[0][:40]!r}", hint=f"Known: {_listed(kind)}.")
    if read_flag(attributes, "disabled", False):
        return None
    version = attributes.get("version", "v1")
    if version not in ("v1", "v0.2"):
        raise InvalidInput(f"provenance version {version[:20]!r}: expected v1 or v0.2")
    if generator:
        parse_reference(generator)
    form, mode = attributes.get("form", "referrer"), attributes.get("mode", "min")
    if form not in ("referrer", "index"):
        raise InvalidInput(f"attestation attribute form={form[:40]}: expected referrer or index")
    if mode not in ("min", "max"):
        raise InvalidInput(f"provenance attribute mode={mode[:40]}: expected min or max")
    return AttestationOptions(
        "provenance" if kind == "provenance" else "sbom",
        "index" if form == "index" else "referrer",
        "max" if mode == "max" else "min",
        attributes.get("builder-id", ""),
        read_flag(attributes, "reproducible", False),
        read_flag(attributes, "build-args", False),
        version == "v0.2",
        read_flag(attributes, "inline-only", False),
        generator,
        tuple((name, attributes[name]) for name in unknown),
    )


def _listed(kind: str) -> str:
    return ", ".join(sorted(_KNOWN[kind] - {"disabled", "inline-only", "version"}))


# ---- documents -------------------------------------------------------------------------------------------------------


def attach(
    exported: Exported, predicates: Callable[[int, Assembled], Sequence[Predicate]], options: ImageOptions
) -> Exported:
    """The export with statements about each of its images: `predicates` of the image's number and the image.

    Raises InvalidInput for Docker's media types, which have no place for them.
    """
    if options.oci_types is False:
        raise InvalidInput("attestations need OCI media types", hint="Leave out oci-mediatypes=false.")
    extra: list[Document] = []
    referrers: list[Referrer] = []
    entries: list[Descriptor] = []
    for number, image in enumerate(exported.images):
        made = predicates(number, image)
        inside = [_statement(one, image, exported.names) for one in made if one.form == "index"]
        if inside:
            entries.append(_index_entry(image, inside, options, extra))
        for one in made:
            if one.form == "referrer":
                referrers.append(_referrer(image, _statement(one, image, exported.names), extra))
    exported = replace(exported, extra=tuple(extra), referrers=tuple(referrers))
    return _with_entries(exported, entries, options) if entries else exported


def _statement(predicate: Predicate, image: Assembled, names: Sequence[Reference]) -> tuple[str, bytes]:
    digest = hex_part(image.manifest_document.descriptor.digest)
    own = [package_url(name, image.config.platform) for name in names] or ["_"]
    subjects: list[Mapping[str, Any]] = []
    for one in predicate.subjects or [{"name": "_"}]:
        named = [name for name in (*own, one["name"]) if name != "_"] or ["_"]
        subjects += [one] if "digest" in one else [{"name": name, "digest": {"sha256": digest}} for name in named]
    value = {
        "_type": STATEMENT,
        "predicateType": predicate.type,
        "subject": subjects,
        "predicate": predicate.value,
    }
    return predicate.type, canonical_json(value)


def package_url(name: Reference, platform: Platform, digest: str = "") -> str:
    """An image as a package URL (purl-spec, type docker): `pkg:docker/alpine@3.20?platform=…`."""
    return _package_url("docker", name, {"digest": digest, "platform": str(platform)})


def blob_package_url(type: str, name: Reference, digest: str) -> str:
    """A blob of a repository (of `type` docker, or of a layout, oci) as BuildKit writes it."""
    return _package_url(type, name, {"digest": digest, "ref_type": "blob"})


def _package_url(type: str, name: Reference, qualifiers: Mapping[str, str]) -> str:
    from urllib.parse import quote

    path = "/".join(quote(part, safe=".-_~") for part in name.familiar_name.split("/"))
    version = f"@{quote(name.tag, safe='.-_~')}" if name.tag else ""
    text = "&".join(f"{key}={quote(value, safe=':')}" for key, value in qualifiers.items() if value)
    return f"pkg:{type}/{path}{version}?{text}"


def _layer(statement: tuple[str, bytes], extra: list[Document]) -> Descriptor:
    kind, data = statement
    blob = document(IN_TOTO, data)
    extra.append(blob)
    return replace(blob.descriptor, annotations=((PREDICATE_NOTE, kind),))


def _referrer(image: Assembled, statement: tuple[str, bytes], extra: list[Document]) -> Referrer:
    """An artifact of its own for each statement: the referrers API then tells their kinds by annotation."""
    empty = _empty()
    subject = image.manifest_document.descriptor
    note = ((PREDICATE_NOTE, statement[0]),)
    layer = _layer(statement, extra)
    manifest = Manifest(empty.descriptor, (layer,), OCI_MANIFEST, note, subject, IN_TOTO)
    made = document(OCI_MANIFEST, manifest.to_bytes())
    extra += [empty, made]
    return Referrer(subject.digest, replace(made.descriptor, artifact_type=IN_TOTO, annotations=note))


def _index_entry(
    image: Assembled, statements: list[tuple[str, bytes]], options: ImageOptions, extra: list[Document]
) -> Descriptor:
    layers = tuple(_layer(statement, extra) for statement in statements)
    subject = image.manifest_document.descriptor
    if options.oci_artifact:
        config = _empty()
        manifest = Manifest(config.descriptor, layers, OCI_MANIFEST, (), subject, DOCKER_ARTIFACT)
    else:
        config = document(OCI_CONFIG, _image_config(layers))
        manifest = Manifest(config.descriptor, layers)
    made = document(OCI_MANIFEST, manifest.to_bytes())
    extra += [config, made]
    notes = {
        "vnd.docker.reference.digest": str(subject.digest),
        "vnd.docker.reference.type": "attestation-manifest",
    }
    return replace(made.descriptor, platform=_UNKNOWN, annotations=tuple(sorted(notes.items())))


def _empty() -> Document:
    """A config that says nothing, in its descriptor too: as the specification has it, nobody needs to fetch it."""
    made = document(EMPTY, b"{}")
    return replace(made, descriptor=replace(made.descriptor, data=made.data))


def _image_config(layers: Sequence[Descriptor]) -> bytes:
    """What makes the manifest look like an image to registries that know nothing else."""
    config = {
        "architecture": "unknown",
        "os": "unknown",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
    }
    return canonical_json(config)


def _with_entries(exported: Exported, entries: Sequence[Descriptor], options: ImageOptions) -> Exported:
    from kedge.exporters.assemble import index_document

    index = exported.document
    if index.descriptor.media_type != OCI_INDEX:
        images = exported.images
        index = index_document([i.manifest_document for i in images], options, [i.config for i in images])
    known = Index.from_bytes(index.data)
    made = replace(known, manifests=(*known.manifests, *entries))
    return replace(exported, document=document(made.media_type, made.to_bytes()))
