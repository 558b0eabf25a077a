"""What a caller may choose about lowering a Dockerfile, and what lowering asks the caller to look up.

Owns these values. Does not know how images are resolved or the graph is made.
"""

from collections.abc import Mapping
from typing import Literal

from kedge.model.digest import Digest
from kedge.model.errors import Location
from kedge.model.graph import Edge
from kedge.model.image import ImageConfig
from kedge.model.ops import Source, Ulimit
from kedge.model.platform import Platform
from kedge.model.suggest import did_you_mean, nearest
from kedge.model.value import dataclass, field

LINUX_AMD64 = Platform("linux", "amd64")
_COMMON_IMAGES = ("alpine", "busybox", "centos", "debian", "golang", "ubuntu", "fedora", "node", "python")


@dataclass(frozen=True, slots=True)
class LowerOptions:
    """The build's options that reach the graph. Names are those of `docker build`.

    `target` is empty for the last stage. `target_platform` None means the build platform, and that a base image of
    another platform decides. `no_cache` is True for all stages, or the names of some. `contexts` maps a name to a
    specifier as BuildKit writes it: `docker-image://REF`, `oci-layout://NAME@DIGEST`, `local:NAME`, a git or http(s)
    URL. `ignore` holds the ignore-file patterns of a local context by its name (`context` is the
    main one). `main_context` replaces `local://context` by an edge (see `contexts.remote_context`). `epochs` resolves
    SOURCE_DATE_EPOCH values that are no numbers (`context` or a stage) to seconds. `all_stages` lowers every stage, for
    checks.
    """

    target: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    target_platform: Platform | None = None
    build_platform: Platform = LINUX_AMD64
    multi_platform: bool = False
    no_cache: bool | frozenset[str] = False
    network: Literal["sandbox", "host", "none"] = "sandbox"
    add_hosts: tuple[tuple[str, str], ...] = ()
    contexts: Mapping[str, str] = field(default_factory=dict)
    ignore: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    main_context: Edge | None = None
    inputs: Mapping[str, Edge | None] = field(default_factory=dict)  # graphs that contexts `input:NAME` stand for
    ulimits: tuple[Ulimit, ...] = ()
    shm_size: int = 0
    hostname: str = ""
    cgroup_parent: str = ""
    devices: tuple[tuple[str, bool], ...] = ()
    resolve_mode: Literal["default", "pull", "local"] = "default"
    epochs: Mapping[str, int | None] = field(default_factory=dict)
    all_stages: bool = False

    @property
    def platform(self) -> Platform:
        """The platform to build for."""
        return self.target_platform or self.build_platform

    def ignores_cache(self, stage: str) -> bool:
        """Whether the steps of `stage` (empty: unnamed) must run again."""
        if isinstance(self.no_cache, bool):
            return self.no_cache
        return stage.lower() in {name.lower() for name in self.no_cache}


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """An image whose config lowering needs: compared by what it names, not by who asked.

    `reference` is a full name (`docker.io/library/golang:1.25`), for `oci-layout` the part behind `//`. `title` is the
    name of the vertex that shows the look-up; `location`, `stage` and `others` (what the other stages are called) serve
    an error.
    """

    reference: str
    platform: Platform
    scheme: Literal["docker-image", "oci-layout", "input"] = "docker-image"
    title: str = field(default="", compare=False)
    location: Location | None = field(default=None, compare=False)
    stage: str = field(default="", compare=False)
    others: tuple[str, ...] = field(default=(), compare=False)

    def suggestion(self) -> str:
        """What the name may have meant, for one that is no image; empty if nothing is near."""
        short = self.reference.removeprefix("docker.io/library/").removesuffix(":latest")
        stage = nearest(short, self.others)
        if stage and stage.lower() == short.lower():
            return f"The stage {stage} stands further down; a stage can only be based on one above it."
        if stage:
            return f"Did you mean the stage {stage}?"
        return "" if short in _COMMON_IMAGES else did_you_mean(short, _COMMON_IMAGES)


@dataclass(frozen=True, slots=True)
class ResolvedImage:
    """The answer: the image's config, and the digest to pin it by (None leaves the name as it is).

    `reference` replaces the name when a mirror or policy redirected it; empty keeps it. `source` is what a policy put
    in its place that is no image: files, without a config of their own.
    """

    config: ImageConfig
    digest: Digest | None = None
    reference: str = ""
    source: Source | None = None


@dataclass(frozen=True, slots=True)
class SecretUse:
    """A secret (or an SSH agent) that some lowered step names."""

    id: str
    required: bool
    location: Location
