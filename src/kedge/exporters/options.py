"""The attributes of an output, read once into typed values.

Owns their names, which are BuildKit's (exporter/containerimage/exptypes), their defaults and the errors about them.
Does not know what an exporter does with them.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, TypeAlias, get_args

from kedge.model.errors import InvalidInput
from kedge.model.platform import Platform, parse_platform
from kedge.model.reference import Reference, parse_reference
from kedge.model.value import dataclass, field

# Where an output goes. A function is told the metadata of what comes before its first byte, and gives the stream.
Destination: TypeAlias = Path | BinaryIO | Callable[[Mapping[str, Any]], BinaryIO]
Compression: TypeAlias = Literal["uncompressed", "gzip", "zstd", "estargz"]
_LEVELS = {"uncompressed": (0, 0), "gzip": (0, 9), "estargz": (0, 9), "zstd": (0, 22)}
_TRUE, _FALSE = frozenset(("1", "t", "true", "")), frozenset(("0", "f", "false"))

AnnotationKind: TypeAlias = Literal["manifest", "manifest-descriptor", "index", "index-descriptor"]
_ANNOTATION = r"annotation(?:-([a-z-]+))?(?:\[([^\]]*)\])?\.(\S+)"
_ANNOTATION_KINDS: Final[dict[str, AnnotationKind]] = {kind: kind for kind in get_args(AnnotationKind)}


@dataclass(frozen=True, slots=True)
class Annotation:
    """One annotation: where it goes, for which platform (None: all), its key and value."""

    kind: AnnotationKind
    key: str
    value: str
    platform: Platform | None = None


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """How an image's documents and blobs are written.

    `compression` None keeps each layer as it is at hand where the format allows (the store), and means gzip where
    bytes leave.
    `level` None is the compressor's default. `epoch` in seconds. `rewrite_timestamp` lowers the times of files in
    new layers to `epoch` even where it is later than what Kedge does by default. `index` makes an index for one
    platform, too.
    """

    names: tuple[Reference, ...] = ()
    compression: Compression | None = None
    level: int | None = None
    force_compression: bool = False
    oci_types: bool | None = None
    rewrite_timestamp: bool = False
    annotations: tuple[Annotation, ...] = ()
    push: bool = False
    push_by_digest: bool = False
    insecure: bool = False
    oci_artifact: bool = True
    store: bool = True
    tar: bool = True
    index: bool = False
    rest: Mapping[str, str] = field(default_factory=dict)

    def annotations_of(self, kind: AnnotationKind, platform: Platform | None = None) -> dict[str, str]:
        """The annotations for one document, those for its platform over those for all."""
        chosen = [a for a in self.annotations if a.kind == kind and a.platform in (None, platform)]
        return {a.key: a.value for a in sorted(chosen, key=lambda a: a.platform is not None)}


def read_options(attrs: Iterable[tuple[str, str]], tags: tuple[str, ...] = ()) -> ImageOptions:
    """The options that `attrs` spell, with `tags` in front of the names. Raises InvalidInput, InvalidReference.

    What this function does not know is kept in `rest` for the exporter to take or refuse.
    """
    attributes, annotations, rest = dict(attrs), [], {}
    for key, value in attributes.items():
        if annotation := _read_annotation(key, value):
            annotations.append(annotation)
        elif key not in _KNOWN:
            rest[key] = value
    names = [*tags, *(name for name in attributes.get("name", "").split(",") if name.strip() and name != "*")]
    compression = _read_compression(attributes.get("compression"))
    read_flag(attributes, "name-canonical", False)  # `NAME@DIGEST` is always found: see images/lookup.py
    options = ImageOptions(
        names=tuple(dict.fromkeys(parse_reference(name.strip()) for name in names)),
        compression=compression,
        level=_read_level(compression or "gzip", attributes.get("compression-level")),
        oci_types=_flag(attributes, "oci-mediatypes", None),
        annotations=tuple(annotations),
        force_compression=read_flag(attributes, "force-compression", False),
        rewrite_timestamp=read_flag(attributes, "rewrite-timestamp", False),
        push=read_flag(attributes, "push", False),
        push_by_digest=read_flag(attributes, "push-by-digest", False),
        insecure=read_flag(attributes, "registry.insecure", False),
        oci_artifact=read_flag(attributes, "oci-artifact", True),
        store=read_flag(attributes, "store", True),
        tar=read_flag(attributes, "tar", True),
        rest=rest,
    )
    if options.oci_types is False and options.compression == "estargz":
        raise InvalidInput("output attribute compression=estargz needs oci-mediatypes=true")
    return options


_KNOWN = frozenset(
    "name compression compression-level force-compression oci-mediatypes rewrite-timestamp push push-by-digest "
    "registry.insecure name-canonical dangling-name-prefix store tar unpack oci-artifact attestation-inline "
    "prefer-nondist-layers danging-name-empty-only source-date-epoch".split()
)


_FILES = {"local": ("mode", "platform-split", "attestation-prefix"), "tar": ("platform-split", "attestation-prefix")}


def unknown_attribute(kind: str, names: Iterable[str]) -> tuple[str, str] | None:
    """The first of an output's attributes that means nothing, and the nearest that does; None if all are known."""
    known = _KNOWN | frozenset(_FILES.get(kind, ()))
    for name in names:
        if name not in known and not re.fullmatch(_ANNOTATION, name):
            import difflib

            return name, next(iter(difflib.get_close_matches(name, known, 1)), "")
    return None


def _flag(attributes: Mapping[str, str], name: str, default: bool | None) -> bool | None:
    text = attributes.get(name)
    if text is None:
        return default
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise InvalidInput(f"output attribute {name}={text[:40]}: expected true or false")


def read_flag(attributes: Mapping[str, str], name: str, default: bool) -> bool:
    """A yes or no among the attributes. Raises InvalidInput for anything else."""
    value = _flag(attributes, name, default)
    return default if value is None else value


def _read_compression(text: str | None) -> Compression | None:
    match text:
        case None | "":
            return None
        case "uncompressed" | "gzip" | "zstd" | "estargz":
            return text
        case _:
            raise InvalidInput(
                f"output attribute compression={text[:40]}: expected uncompressed, gzip, estargz or zstd"
            )


def _read_level(compression: Compression, text: str | None) -> int | None:
    if text is None or text == "":
        return None
    lowest, highest = _LEVELS[compression]
    if not text.isascii() or not text.isdigit() or not lowest <= int(text) <= highest:
        raise InvalidInput(
            f"output attribute compression-level={text[:40]}: expected {lowest} to {highest} for {compression}"
        )
    return int(text)


def _read_annotation(key: str, value: str) -> Annotation | None:
    found = re.fullmatch(_ANNOTATION, key)
    if found is None:
        return None
    kind, platform, name = found.groups()
    known = _ANNOTATION_KINDS.get(kind or "manifest")
    if known is None:
        raise InvalidInput(f"unknown annotation type {kind!r}: expected one of {', '.join(sorted(_ANNOTATION_KINDS))}")
    return Annotation(known, name, value, parse_platform(platform) if platform else None)
