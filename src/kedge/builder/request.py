"""A build as values: what is asked, and what came out.

Owns the public words of a build (`kedge.BuildRequest` and the rest). Does not know how anything is built, nor what a
service's client may ask besides (`remote`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol

from kedge.model.digest import Digest
from kedge.model.event import WarningEvent
from kedge.model.image import Descriptor
from kedge.model.ops import Pairs, Ulimit
from kedge.model.platform import Platform
from kedge.model.value import dataclass, field

if TYPE_CHECKING:
    from kedge.exporters.image import Exported
    from kedge.exporters.options import Destination


@dataclass(frozen=True, slots=True)
class Output:
    """One `--output`: `kind` is image, registry, oci, docker, local, tar or cacheonly.

    `attrs` are BuildKit's (`name`, `compression`, `annotation.…`, `push` …); `destination` a path, a writable stream
    (standard output), or None where the kind has none. A function is told the metadata of what comes (an image's
    digest …) before its first byte, and gives the stream.
    """

    kind: str
    attrs: Pairs = ()
    destination: "Destination | None" = None


@dataclass(frozen=True, slots=True)
class CacheSpec:
    """One `--cache-from` or `--cache-to`: `kind` is registry, local, inline or s3."""

    kind: str
    attrs: Pairs = ()


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """All that decides a build, besides what the session lends (directories, secrets, SSH agents, credentials).

    Mappings are given as sorted pairs. Empty means Docker's default everywhere.
    """

    context: Path | str | BinaryIO | bytes | None = "."  # directory; git or http URL; a tar; None: no context
    dockerfile: str = ""  # path, relative to the caller's working directory or, failing that, the context
    dockerfile_text: bytes | None = None  # replaces `dockerfile` (`-f -`)
    target: str = ""
    tags: tuple[str, ...] = ()
    build_args: Pairs = ()
    labels: Pairs = ()
    annotations: Pairs = ()
    platforms: tuple[str, ...] = ()
    named_contexts: Pairs = ()  # name -> directory, URL, docker-image://, oci-layout://, target:
    no_cache: bool = False
    no_cache_filter: tuple[str, ...] = ()  # stage names
    pull: bool = False
    network: Literal["", "default", "none", "host"] = ""
    add_hosts: Pairs = ()
    shm_size: int = 0  # bytes
    ulimits: tuple[Ulimit, ...] = ()
    memory: int = 0  # bytes, per step
    cpus: float = 0.0  # per step
    cgroup_parent: str = ""
    hostname: str = ""  # of steps
    multi_platform: bool = False  # an index also for one platform
    outputs: tuple[Output, ...] = ()  # (): the image, in the store
    cache_from: tuple[CacheSpec, ...] = ()
    cache_to: tuple[CacheSpec, ...] = ()
    cache_mount_from: tuple[CacheSpec, ...] = ()  # each with the `id` of a cache mount
    cache_mount_to: tuple[CacheSpec, ...] = ()
    attestations: Pairs = ()  # kind ("provenance", "sbom") -> its attributes as written
    entitlements: tuple[str, ...] = ()  # network.host, security.insecure, device[=NAME]
    call: Literal["build", "check", "outline", "targets", "lint"] = "build"
    source_date_epoch: int | None = None  # seconds; a build argument SOURCE_DATE_EPOCH sets it too
    max_parallelism: int = 0  # running steps at once; 0: no limit
    store: Path | None = None  # the store's root; None: KEDGE_ROOT or the user's default
    env: Pairs = ()  # of the client: proxies, DOCKER_CONFIG


@dataclass(frozen=True, slots=True)
class BuiltLayer:
    """One layer of a built image: digest and size in bytes of its uncompressed tar, and the instruction that made
    it.
    """

    diff_id: Digest
    size: int
    created_by: str = ""


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """One platform's image: `id` is its config's digest, as Docker shows it."""

    id: Digest
    platform: Platform
    manifest: Descriptor
    layers: tuple[BuiltLayer, ...] = ()

    @property
    def size(self) -> int:
        return sum(layer.size for layer in self.layers)


class Answer(Protocol):
    """What a call that builds nothing comes to: an outline, a list of targets."""

    def to_json(self) -> str:
        """For programs."""
        ...

    def to_text(self) -> str:
        """For people."""
        ...


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What came out. `metadata` is what `--metadata-file` holds; `answer` of an outline or a list."""

    images: tuple[BuiltImage, ...] = ()
    tags: tuple[str, ...] = ()
    warnings: tuple[WarningEvent, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    answer: Answer | None = None
    target: Descriptor | None = None  # manifest, or the index of several platforms
    misses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # name of a step that ran -> why it did
    exported: "tuple[Exported | None, ...]" = ()  # the documents of each output's image; None where it is none

    @property
    def id(self) -> Digest:
        """The image's id; of several platforms, the index's digest."""
        return self.images[0].id if len(self.images) == 1 or self.target is None else self.target.digest

    @property
    def layers(self) -> tuple[BuiltLayer, ...]:
        return self.images[0].layers if self.images else ()

    @property
    def size(self) -> int:
        """Bytes of all layers' uncompressed tars."""
        return sum(image.size for image in self.images)
