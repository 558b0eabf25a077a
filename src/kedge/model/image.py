"""OCI images as values: descriptors, manifests, indexes and configs, with Docker's additions.

Owns the fields and their JSON (OCI image specification 1.1; Docker image specification 1.3). Keeps fields it does not
know, so that a config passes through unharmed. Does not know where bytes are, nor how an image is assembled.
"""

import binascii
import json
import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from kedge.model.digest import Digest, parse_digest
from kedge.model.errors import IntegrityError
from kedge.model.platform import Platform, normalize
from kedge.model.value import dataclass, field, replace

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
ANY_BYTES: Final = "application/octet-stream"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP: Final = OCI_LAYER + "+gzip"
OCI_LAYER_ZSTD: Final = OCI_LAYER + "+zstd"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP: Final = DOCKER_LAYER + ".gzip"
DOCKER_LAYER_ZSTD: Final = DOCKER_LAYER + ".zstd"

MANIFESTS: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES: Final = frozenset({OCI_INDEX, DOCKER_LIST})
COMPRESSION_OF: Final[Mapping[str, Literal["uncompressed", "gzip", "zstd"]]] = {
    # layer media type -> how its bytes are compressed
    OCI_LAYER: "uncompressed",
    DOCKER_LAYER: "uncompressed",
    OCI_LAYER_GZIP: "gzip",
    DOCKER_LAYER_GZIP: "gzip",
    OCI_LAYER_ZSTD: "zstd",
    DOCKER_LAYER_ZSTD: "zstd",
}


def canonical_json(value: Any) -> bytes:
    """The bytes of a JSON document as Kedge writes it: compact, in the given key order, UTF-8.

    Bytes that were no UTF-8 in the user's text become replacement characters, as in Go's encoder.
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode()


_HALVES: Final = "[\ud800-\udfff]"


def strict_json(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object in `data`; raises IntegrityError for anything else and for a key given twice (CVE-2021-41190).

    Half a surrogate pair is read as a replacement character, as Go's decoder does: it can be written nowhere.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise IntegrityError(f"{what} has a key twice")
        return result

    try:
        value = json.loads(data, object_pairs_hook=unique)
    except (ValueError, RecursionError):
        raise IntegrityError(f"{what} is no valid JSON") from None
    if not isinstance(value, dict):
        raise IntegrityError(f"{what} is no JSON object")
    if b"\\u" in data and (text := json.dumps(value, ensure_ascii=False)) and re.search(_HALVES, text):
        return strict_json(re.sub(_HALVES, "\ufffd", text).encode(), what)
    return value


def media_type_in(value: Mapping[str, Any]) -> str:
    """The type that a document says it has, empty if it says none; raises IntegrityError for what is no text."""
    return _text(value, "mediaType")


def _text(value: Mapping[str, Any], key: str) -> str:
    text = value.get(key) or ""
    if not isinstance(text, str):
        raise IntegrityError(f"{key} is no text")
    return text


def _annotations(value: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    annotations = value.get("annotations") or {}
    if not isinstance(annotations, dict) or not all(isinstance(text, str) for text in annotations.values()):
        raise IntegrityError("annotations are no texts by name")
    return tuple(sorted(annotations.items()))


def _platform(value: Mapping[str, Any]) -> Platform:
    return normalize(*(_text(value, key) for key in ("os", "architecture", "variant", "os.version")))


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What names a blob: its type, digest and size in bytes. `data` is the blob itself, in a descriptor that is made
    here; of one that is read it is left out, for nothing may be taken from there.
    """

    media_type: str
    digest: Digest
    size: int
    annotations: tuple[tuple[str, str], ...] = ()
    platform: Platform | None = None
    artifact_type: str = ""
    data: bytes = b""

    @classmethod
    def from_json(cls, value: Any) -> "Descriptor":
        """Read one; raises IntegrityError or InvalidDigest for what is no descriptor."""
        try:
            size, kind = value["size"], value["mediaType"]
            platform = value.get("platform")
            if type(size) is not int or not 0 <= size < 1 << 63 or not isinstance(kind, str):
                raise IntegrityError("descriptor without a proper size and mediaType")
            return cls(
                kind,
                parse_digest(value["digest"]),
                size,
                _annotations(value),
                _platform(platform) if platform else None,
                _text(value, "artifactType"),
            )
        except (KeyError, TypeError, AttributeError):
            raise IntegrityError("malformed descriptor") from None

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.annotations:
            out["annotations"] = dict(self.annotations)
        if self.platform:
            out["platform"] = platform_json(self.platform)
        if self.artifact_type:
            out["artifactType"] = self.artifact_type
        if self.data:
            out["data"] = binascii.b2a_base64(self.data, newline=False).decode()
        return out


def platform_json(platform: Platform) -> dict[str, str]:
    """The platform object of an index."""
    out = {"architecture": platform.architecture, "os": platform.os}
    if platform.os_version:
        out["os.version"] = platform.os_version
    if platform.variant:
        out["variant"] = platform.variant
    return out


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image, or one artifact: a config and its layers, bottom first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = OCI_MANIFEST
    annotations: tuple[tuple[str, str], ...] = ()
    subject: Descriptor | None = None
    artifact_type: str = ""

    @classmethod
    def from_bytes(cls, data: bytes, media_type: str = "") -> "Manifest":
        """Read a manifest served as `media_type` (empty: unknown); raises IntegrityError for an ambiguous document."""
        value = strict_json(data, "manifest")
        kind = media_type_in(value) or media_type or OCI_MANIFEST
        if "manifests" in value or kind not in MANIFESTS or (media_type and kind != media_type):
            raise IntegrityError("manifest is ambiguous: its type and its fields do not agree")
        if not isinstance(value.get("layers"), list):
            raise IntegrityError("manifest has no layers")
        subject = value.get("subject")
        return cls(
            Descriptor.from_json(value.get("config")),
            tuple(Descriptor.from_json(layer) for layer in value["layers"]),
            kind,
            _annotations(value),
            Descriptor.from_json(subject) if subject else None,
            _text(value, "artifactType"),
        )

    def to_bytes(self) -> bytes:
        out: dict[str, Any] = {"schemaVersion": 2, "mediaType": self.media_type}
        if self.artifact_type:
            out["artifactType"] = self.artifact_type
        out |= {"config": self.config.to_json(), "layers": [layer.to_json() for layer in self.layers]}
        if self.subject:
            out["subject"] = self.subject.to_json()
        if self.annotations:
            out["annotations"] = dict(self.annotations)
        return canonical_json(out)


@dataclass(frozen=True, slots=True)
class Index:
    """Several manifests under one name, one for each platform, or attestations about them."""

    manifests: tuple[Descriptor, ...]
    media_type: str = OCI_INDEX
    annotations: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_bytes(cls, data: bytes, media_type: str = "") -> "Index":
        """Read an index served as `media_type` (empty: unknown); raises IntegrityError for an ambiguous document."""
        value = strict_json(data, "index")
        kind = media_type_in(value) or media_type or OCI_INDEX
        if "layers" in value or "config" in value or kind not in INDEXES or (media_type and kind != media_type):
            raise IntegrityError("index is ambiguous: its type and its fields do not agree")
        if not isinstance(value.get("manifests"), list):
            raise IntegrityError("index has no manifests")
        return cls(
            tuple(Descriptor.from_json(entry) for entry in value["manifests"]),
            kind,
            _annotations(value),
        )

    def to_bytes(self) -> bytes:
        out: dict[str, Any] = {"schemaVersion": 2, "mediaType": self.media_type}
        out["manifests"] = [entry.to_json() for entry in self.manifests]
        if self.annotations:
            out["annotations"] = dict(self.annotations)
        return canonical_json(out)


def referring(descriptor: Descriptor, data: bytes) -> tuple[Digest, Descriptor] | None:
    """The subject of a manifest or index `data` that is about another one, and the descriptor that lists it there.

    None for one that is about none. Raises IntegrityError. (OCI image-spec 1.1, manifest.md; distribution-spec 1.1,
    listing referrers.)
    """
    value = strict_json(data, str(descriptor.digest))
    if value.get("subject") is None:
        return None
    config, notes = value.get("config"), value.get("annotations")
    kind = value.get("artifactType") or (config.get("mediaType") if isinstance(config, dict) else "")
    pairs = notes.items() if isinstance(notes, dict) else ()
    annotations = tuple(sorted((key, text) for key, text in pairs if isinstance(text, str)))
    listed = replace(
        descriptor, platform=None, annotations=annotations, artifact_type=kind if isinstance(kind, str) else ""
    )
    return Descriptor.from_json(value["subject"]).digest, listed


@dataclass(frozen=True, slots=True)
class Healthcheck:
    """`test` is () to inherit, ("NONE",), ("CMD", …) or ("CMD-SHELL", text); times in nanoseconds, 0 to inherit."""

    test: tuple[str, ...] = ()
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class History:
    """How one layer, or one change of the config (`empty_layer`), came to be. `created` is RFC 3339 text or empty."""

    created_by: str
    comment: str = ""
    created: str = ""
    author: str = ""
    empty_layer: bool = False


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The OCI image config, flattened. None for entrypoint and cmd means "not set", () means "set to nothing".

    `extra` and `extra_config` hold top-level and `config` fields Kedge does not know, as (key, JSON text) pairs.
    """

    platform: Platform
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    user: str = ""
    working_dir: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    healthcheck: Healthcheck | None = None
    on_build: tuple[str, ...] = ()
    shell: tuple[str, ...] | None = None
    args_escaped: bool = False
    author: str = ""
    created: str = ""
    diff_ids: tuple[Digest, ...] = ()
    history: tuple[History, ...] = ()
    os_features: tuple[str, ...] = ()
    extra: tuple[tuple[str, str], ...] = field(default=())
    extra_config: tuple[tuple[str, str], ...] = field(default=())

    @classmethod
    def from_bytes(cls, data: bytes) -> "ImageConfig":
        """Read a config; raises IntegrityError for malformed ones."""
        value = strict_json(data, "image config")
        try:
            return _read_config(value)
        except (TypeError, AttributeError, KeyError, ValueError):
            raise IntegrityError("image config has a field of the wrong type") from None

    def to_bytes(self) -> bytes:
        """The config as JSON, keys in a fixed order; the same value gives the same bytes."""
        return canonical_json(_write_config(self))

    def env_value(self, name: str) -> str | None:
        """The value of an environment variable, None when it is not set."""
        found = [entry.partition("=")[2] for entry in self.env if entry.partition("=")[0] == name]
        return found[-1] if found else None


def _strings(value: Any) -> tuple[str, ...]:
    if not all(isinstance(item, str) for item in value or ()):
        raise TypeError("not a list of strings")
    return tuple(value or ())


def _unknown(value: dict[str, Any], known: frozenset[str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((k, json.dumps(v, sort_keys=True)) for k, v in value.items() if k not in known))


_TOP = frozenset("architecture os variant os.version os.features config rootfs history author created".split())
_CONFIG = frozenset(
    "Env Entrypoint Cmd User WorkingDir Labels ExposedPorts Volumes StopSignal Healthcheck OnBuild Shell "
    "ArgsEscaped".split()
)


def _read_config(value: dict[str, Any]) -> ImageConfig:
    config = value.get("config") or {}
    optional = {name: config.get(name) for name in ("Entrypoint", "Cmd", "Shell")}
    health = config.get("Healthcheck")
    return ImageConfig(
        platform=normalize(
            value.get("os") or "linux",
            value.get("architecture") or "",
            value.get("variant") or "",
            value.get("os.version") or "",
        ),
        env=_strings(config.get("Env")),
        entrypoint=None if optional["Entrypoint"] is None else _strings(optional["Entrypoint"]),
        cmd=None if optional["Cmd"] is None else _strings(optional["Cmd"]),
        shell=None if optional["Shell"] is None else _strings(optional["Shell"]),
        user=config.get("User") or "",
        working_dir=config.get("WorkingDir") or "",
        labels=tuple(sorted((config.get("Labels") or {}).items())),
        exposed_ports=tuple(sorted(config.get("ExposedPorts") or {})),
        volumes=tuple(sorted(config.get("Volumes") or {})),
        stop_signal=config.get("StopSignal") or "",
        healthcheck=None if health is None else _read_healthcheck(health),
        on_build=_strings(config.get("OnBuild")),
        args_escaped=bool(config.get("ArgsEscaped")),
        author=value.get("author") or "",
        created=value.get("created") or "",
        diff_ids=tuple(parse_digest(d) for d in (value.get("rootfs") or {}).get("diff_ids") or ()),
        history=tuple(_read_history(entry) for entry in value.get("history") or ()),
        os_features=_strings(value.get("os.features")),
        extra=_unknown(value, _TOP),
        extra_config=_unknown(config, _CONFIG),
    )


def _read_history(entry: dict[str, Any]) -> History:
    return History(
        entry.get("created_by") or "",
        entry.get("comment") or "",
        entry.get("created") or "",
        entry.get("author") or "",
        bool(entry.get("empty_layer")),
    )


def _read_healthcheck(value: dict[str, Any]) -> Healthcheck:
    return Healthcheck(
        _strings(value.get("Test")),
        value.get("Interval") or 0,
        value.get("Timeout") or 0,
        value.get("StartPeriod") or 0,
        value.get("StartInterval") or 0,
        value.get("Retries") or 0,
    )


def _write_config(image: ImageConfig) -> dict[str, Any]:
    platform = platform_json(image.platform)
    out: dict[str, Any] = {"architecture": platform.pop("architecture"), "os": platform.pop("os")} | platform
    if image.os_features:
        out["os.features"] = list(image.os_features)
    if image.created:
        out["created"] = image.created
    if image.author:
        out["author"] = image.author
    out["config"] = container_config_json(image)
    out["rootfs"] = {"type": "layers", "diff_ids": list(image.diff_ids)}
    out["history"] = [_write_history(entry) for entry in image.history]
    return out | {key: json.loads(text) for key, text in image.extra}


def container_config_json(image: ImageConfig) -> dict[str, Any]:
    """The `config` object, as in the image config and in Docker's inspect output."""
    fields: list[tuple[str, Any]] = [
        ("User", image.user),
        ("ExposedPorts", {port: {} for port in image.exposed_ports}),
        ("Env", list(image.env)),
        ("Entrypoint", None if image.entrypoint is None else list(image.entrypoint)),
        ("Cmd", None if image.cmd is None else list(image.cmd)),
        ("Volumes", {path: {} for path in image.volumes}),
        ("WorkingDir", image.working_dir),
        ("Labels", dict(image.labels)),
        ("StopSignal", image.stop_signal),
        ("ArgsEscaped", image.args_escaped),
        ("Healthcheck", image.healthcheck and _write_healthcheck(image.healthcheck)),
        ("OnBuild", list(image.on_build)),
        ("Shell", None if image.shell is None else list(image.shell)),
    ]
    keep_empty = {"Entrypoint", "Cmd", "Shell"}
    out = {key: value for key, value in fields if value or (value is not None and key in keep_empty)}
    return out | {key: json.loads(text) for key, text in image.extra_config}


def _write_healthcheck(check: Healthcheck) -> dict[str, Any]:
    fields = [
        ("Test", list(check.test)),
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
        ("Retries", check.retries),
    ]
    return {key: value for key, value in fields if value}


def _write_history(entry: History) -> dict[str, Any]:
    fields = [
        ("created", entry.created),
        ("created_by", entry.created_by),
        ("author", entry.author),
        ("comment", entry.comment),
        ("empty_layer", entry.empty_layer),
    ]
    return {key: value for key, value in fields if value}
