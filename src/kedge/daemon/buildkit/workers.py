"""The one worker, as clients see it.

Owns the record. Does not know what workers are chosen for: there is one.
"""

from typing import Any

from kedge import __version__
from kedge.daemon.buildkit.config import BUILDKIT_VERSION, ServiceConfig
from kedge.daemon.buildkit.definition import platform_message
from kedge.daemon.wire import worker
from kedge.dockerfile import LANGUAGE
from kedge.model.image import platform_json


def worker_record(config: ServiceConfig) -> Any:
    """The worker's id, labels, platforms and rules of collection."""
    record = worker.WorkerRecord(
        ID=config.worker_id,
        Labels=config.worker_labels,
        platforms=[platform_message(platform) for platform in config.worker_platforms],
        BuildkitVersion=version_message(),
    )
    for rule in config.gc:
        record.GCPolicy.add(
            all=rule.all,
            keepDuration=int(rule.keep_seconds * 1e9),
            filters=rule.filters,
            reservedSpace=rule.reserved_space,
            maxUsedSpace=rule.max_used_space,
            minFreeSpace=rule.min_free_space,
        )
    return record


def worker_json(config: ServiceConfig) -> dict[str, Any]:
    """The same as frontends read it, from a variable."""
    return {
        "id": config.worker_id,
        "labels": dict(config.worker_labels),
        "platforms": [platform_json(platform) for platform in config.worker_platforms],
        "gcPolicy": [],
        "buildkitVersion": {"package": "kedge", "version": BUILDKIT_VERSION, "revision": f"kedge-{__version__}"},
    }


def version_message() -> Any:
    """Who we are: a Kedge that speaks a BuildKit version's API."""
    return worker.BuildkitVersion(
        package="kedge", version=BUILDKIT_VERSION, revision=f"kedge-{__version__}", dockerfileVersion=LANGUAGE
    )
