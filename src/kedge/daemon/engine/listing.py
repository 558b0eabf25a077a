"""Which containers a list shows: the filters of `docker ps`.

Owns what each filter means. Does not know what a row looks like.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from kedge.containers.ports import Published
from kedge.containers.request import network_of
from kedge.containers.supervised import Supervised
from kedge.containers.volumes import uses_of
from kedge.daemon.engine.containers import Described, described, has_label
from kedge.daemon.engine.ports import read_port
from kedge.model.errors import InvalidInput
from kedge.model.value import replace
from kedge.sandbox.container import ContainerRecord

if TYPE_CHECKING:
    from kedge.daemon.engine.service import Engine

Filters = dict[str, tuple[str, ...]]
_STATES = ("created", "restarting", "running", "removing", "paused", "exited", "dead")


def chosen(engine: "Engine", filters: Filters, everything: bool, limit: int) -> list[ContainerRecord]:
    """The records that a list shows, newest first. Raises InvalidInput for filters that make no sense."""
    for state in filters.get("status", ()):
        if state not in _STATES:
            raise InvalidInput(f"invalid filter 'status={state[:40]}'")
    everything = everything or limit > 0 or "status" in filters or "exited" in filters
    bounds = {key: _moment(engine, filters[key]) for key in ("before", "since") if key in filters}
    found = []
    for record in engine.supervisor.list():
        if record.created >= bounds.get("before", float("inf")) or record.created <= bounds.get("since", 0.0):
            continue
        one = engine.supervisor.of(record)
        if (everything or bounds or one.alive or record.state == "running") and passes(one, filters):
            found.append(one.record)
    return found[: limit if limit > 0 else None]


def _moment(engine: "Engine", values: tuple[str, ...]) -> float:
    return engine.supervisor.find(values[0] if values else "").record.created


def passes(one: Supervised, filters: Filters) -> bool:
    """Does it pass all filters? Of one filter's values any will do, but of labels all must."""
    if not filters:
        return True
    asked = described(one)
    labels = asked.body.mapping("Labels")
    if not all(has_label(labels, value) for value in filters.get("label", ())):
        return False
    checks = _checks(one, asked)
    return all(any(checks[key](value) for value in values) for key, values in filters.items() if key in checks)


def _checks(one: Supervised, asked: Described) -> dict[str, Callable[[str], bool]]:
    record = one.record
    return {
        "status": lambda value: one.state == value,
        "name": lambda value: _is_named(record.name, value),
        "id": lambda value: record.id.startswith(value),
        "exited": lambda value: record.state == "exited" and str(record.exit_code) == value,
        "ancestor": lambda value: _stands_on(record, value),
        "volume": lambda value: value in _mounted(one, asked),
        "network": lambda value: value == (asked.body.object("HostConfig").text("NetworkMode") or "bridge"),
        "publish": lambda value: any((p.host_port, p.protocol) == read_port(value) for p in bound_ports(one, asked)),
        "expose": lambda value: read_port(value) in map(read_port, asked.body.object("ExposedPorts").raw),
        "health": lambda value: value == (one.health.verdict if one.health else "none"),
    }


def bound_ports(one: Supervised, asked: Described) -> list[Published]:
    """Where its published ports are had, while it runs."""
    if one.ports is not None:
        return one.ports.bound
    if not one.running or network_of(asked.request) != "sandbox":
        return []
    return [replace(each, host=host) for each in asked.request.published for host in ("0.0.0.0", "::")]


def _is_named(name: str, pattern: str) -> bool:
    """A part of the name; `^` and `$` hold its ends. Docker takes any regular expression here."""
    text = pattern.removeprefix("^").removesuffix("$").removeprefix("/")
    at_start, at_end = pattern.startswith("^"), pattern.endswith("$")
    if at_start and at_end:
        return name == text
    return name.startswith(text) if at_start else name.endswith(text) if at_end else text in name


def _stands_on(record: ContainerRecord, image: str) -> bool:
    plain = record.image.removesuffix(":latest")
    short = image.removeprefix("sha256:")
    return image.removesuffix(":latest") in (plain, record.image_id) or (
        len(short) >= 4 and record.image_id[7:].startswith(short)
    )


def _mounted(one: Supervised, asked: Described) -> set[str]:
    """Names and paths of what is mounted."""
    found = {text for use in uses_of(one.container.home) for text in (use.name, use.dest)}
    return found | {text for volume in asked.request.volumes for text in (str(volume.source), volume.dest)}
