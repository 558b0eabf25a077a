"""For which platforms a result is: what its metadata say, and whether that is what was asked.

Owns the form of that metadata (exporter/containerimage/exptypes). Does not know how results come to be.
"""

import json
from collections.abc import Mapping
from typing import Final

from kedge.daemon.buildkit.jobs import Job, Result
from kedge.model.errors import InvalidInput, InvalidPlatform
from kedge.model.event import WarningEvent
from kedge.model.platform import Platform, parse_platform

PLATFORMS: Final = "refs.platforms"


def told_platforms(result: Result) -> dict[str, Platform | None]:
    """The platforms that a result says it is for, by their keys; None where it does not say more than the key."""
    try:
        told = json.loads(result.metadata.get(PLATFORMS, b"{}")).get("Platforms") or []
        return {str(one.get("ID")): _platform(one.get("Platform") or {}) for one in told}
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise InvalidInput("failed to parse platforms passed to exporter") from None


def _platform(told: Mapping[str, object]) -> Platform | None:
    words = [str(told.get(key) or "") for key in ("os", "architecture", "variant")]
    return parse_platform("/".join(word for word in words if word)) if all(words[:2]) else None


def ordered(result: Result) -> list[str]:
    """The keys of a result in the order of the platforms asked for."""
    wanted = list(told_platforms(result))
    keys = list(result.outcomes)
    return sorted(keys, key=lambda key: wanted.index(key) if key in wanted else len(wanted))


def warn_of_others(job: Job, result: Result) -> None:
    """Tell a client whose result is not for the platforms that it asked for: a driver is free to leave them aside."""
    text = job.request.FrontendAttrs.get("platform", "")
    if not any(result.outcomes.values()) or not (text or len(result.outcomes) > 1):
        return
    host = job.config.worker_platforms[0]
    try:
        asked = [parse_platform(word, host) for word in text.split(",")] if text else [host]
    except InvalidPlatform as error:
        job.log.report(WarningEvent("", f"Invalid platform result requested: {error.message}"))
        return
    made = [one for one in told_platforms(result).values() if one]
    if result.is_single and len(set(asked)) > 1:
        job.log.report(WarningEvent("", "Multiple platforms requested but result is not multi-platform"))
    elif made and set(made) != set(map(_unversioned, asked)):
        words = f"Requested platforms {_listed(asked)} do not match result platforms {_listed(made)}"
        job.log.report(WarningEvent("", words))


def _unversioned(platform: Platform) -> Platform:
    return Platform(platform.os, platform.architecture, platform.variant)


def _listed(platforms: list[Platform]) -> str:
    return ",".join(sorted(one.full for one in platforms))
