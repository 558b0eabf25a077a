"""`docker-image://`: images by name, from the store or a registry.

Owns resolve modes, the platform's pick out of an index, and the declaration of lazy layers. Does not know the wire
protocol, nor how layers are unpacked.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from kedge.model.graph import Snapshot
from kedge.model.image import Descriptor, ImageConfig, Manifest
from kedge.model.ops import Source
from kedge.model.platform import Platform
from kedge.model.reference import Reference
from kedge.sources.handler import Pin, Work

ResolveMode: TypeAlias = Literal["default", "pull", "local"]


@dataclass(frozen=True, slots=True)
class PickedImage:
    """An image for one platform. `target` is what the name points at (an index or a manifest): what to pin the name by.

    `descriptor` is the manifest picked out of it; `config_data` are the config's bytes as published.
    """

    reference: Reference
    target: Descriptor
    descriptor: Descriptor
    manifest: Manifest
    config: ImageConfig
    config_data: bytes


class ImageSource:
    """SourceHandler for docker-image://. One per build: a name is resolved once and means the same until the end."""

    def __init__(self, store: "object", registry: "object") -> None: ...
    def resolve(self, reference: Reference, platform: Platform, mode: ResolveMode, work: Work) -> PickedImage:
        """The image for `platform`, with its config: what lowering asks. Blocking; the same question is asked once.

        "default" takes the store's own without asking anyone, "pull" asks the registry first, "local" never asks it.
        Raises NotFound, RegistryError, IntegrityError.
        """
        raise NotImplementedError

    def pin(self, source: Source, platform: Platform | None, work: Work) -> Pin:
        raise NotImplementedError

    def fetch(self, source: Source, platform: Platform | None, pin: Pin, work: Work) -> Snapshot:
        raise NotImplementedError
