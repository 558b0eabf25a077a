"""Kedge builds lean container images from multi-stage Dockerfiles, without a daemon.

This file is the whole public Python surface: what is not named here may change without notice.

    import kedge

    image = kedge.build(".", tags=["hello"], on_event=print)
    print(image.id, image.size, image.warnings)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kedge.builder.api import build
    from kedge.builder.request import Answer, BuildRequest, BuildResult, BuiltImage, BuiltLayer, CacheSpec, Output
    from kedge.model.errors import (
        Cancelled,
        DockerfileError,
        IntegrityError,
        InvalidInput,
        KedgeError,
        Location,
        NotFound,
        RegistryError,
        SourceError,
        StepFailed,
        StoreError,
        Unauthorized,
        Unsupported,
    )
    from kedge.model.event import Event, LogEvent, StatusEvent, VertexEvent, WarningEvent

__version__ = "0.1.0"

_HOMES = {  # module -> what of it is public; imported when first asked for, for start-up is a feature
    "kedge.builder.api": "build",
    "kedge.builder.request": "Answer BuildRequest BuildResult BuiltImage BuiltLayer CacheSpec Output",
    "kedge.model.errors": "Cancelled DockerfileError IntegrityError InvalidInput KedgeError Location NotFound "
    "RegistryError SourceError StepFailed StoreError Unauthorized Unsupported",
    "kedge.model.event": "Event LogEvent StatusEvent VertexEvent WarningEvent",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "Answer",
    "BuildRequest",
    "BuildResult",
    "BuiltImage",
    "BuiltLayer",
    "CacheSpec",
    "Cancelled",
    "DockerfileError",
    "Event",
    "IntegrityError",
    "InvalidInput",
    "KedgeError",
    "Location",
    "LogEvent",
    "NotFound",
    "Output",
    "RegistryError",
    "SourceError",
    "StatusEvent",
    "StepFailed",
    "StoreError",
    "Unauthorized",
    "Unsupported",
    "VertexEvent",
    "WarningEvent",
    "build",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'kedge' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
