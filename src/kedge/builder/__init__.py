"""The composition root: a BuildRequest becomes a BuildResult.

The only package that constructs real parts. Does not know who asked: the command line, the Python API and the service
all come through `build`.
"""

from kedge.builder.build import build
from kedge.builder.request import (
    BuildRequest,
    BuildResult,
    BuiltImage,
    BuiltLayer,
    CacheSpec,
    Output,
)

__all__ = ["BuildRequest", "BuildResult", "BuiltImage", "BuiltLayer", "CacheSpec", "Output", "build"]
