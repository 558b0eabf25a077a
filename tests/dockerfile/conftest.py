"""Lowering with stand-in images: every image exists, for the platform asked for, with one layer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from kedge.dockerfile.findings import Findings
from kedge.dockerfile.lower import Target, lower, needed_images
from kedge.dockerfile.options import ImageRequest, LowerOptions, ResolvedImage
from kedge.dockerfile.stages import read_dockerfile
from kedge.model.digest import sha256
from kedge.model.graph import Vertex, walk
from kedge.model.image import ImageConfig

BASE = ImageConfig(platform=LowerOptions().platform, env=("PATH=/bin",), diff_ids=(sha256(b"layer"),))


@dataclass
class Lowered:
    """A lowered text: the target, its vertices by name, and the images that were asked for."""

    target: Target
    asked: list[ImageRequest]
    by_name: dict[str, Vertex] = field(init=False)

    def __post_init__(self) -> None:
        edge = self.target.edge
        self.by_name = {vertex.hints.name: vertex for vertex in (walk(edge) if edge else ())}

    @property
    def names(self) -> list[str]:
        return list(self.by_name)

    @property
    def config(self) -> ImageConfig:
        return self.target.config

    @property
    def top(self) -> Vertex:
        assert self.target.edge
        return self.target.edge.vertex

    @property
    def history(self) -> list[str]:
        return [entry.created_by for entry in self.target.config.history]


Lower = Callable[..., Lowered]


@pytest.fixture
def lowered() -> Lower:
    """`lowered(text, configs={reference: config}, **options)`; digests are left out, so that names stay short."""

    def run(text: str, configs: Mapping[str, ImageConfig] | None = None, **options: Any) -> Lowered:
        file, chosen = read_dockerfile(text), LowerOptions(**options)
        images: dict[ImageRequest, ResolvedImage] = {}
        while needed := needed_images(file, chosen, images):
            for request in needed:
                config = (configs or {}).get(request.reference, BASE)
                images[request] = ResolvedImage(config)
        return Lowered(lower(file, chosen, images, Findings()), list(images))

    return run
