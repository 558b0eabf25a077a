"""Changing a container's limits and its restart policy: `POST /containers/{id}/update`.

Owns which settings can be changed. What is changed is part of the container's description from then on.
"""

import os
from typing import Any, Final

from kedge.containers.supervised import Supervised
from kedge.daemon.engine.containers import described, keep_settings, known
from kedge.daemon.engine.create import read_limits, read_policy
from kedge.daemon.engine.fields import Fields
from kedge.daemon.engine.routes import Call
from kedge.model.errors import StoreError, Unsupported
from kedge.sandbox import cgroups
from kedge.sandbox.freezer import pids_of
from kedge.sandbox.process import Limits

_LIMITS: Final = ("Memory", "NanoCpus", "CpuPeriod", "CpuQuota", "PidsLimit")
_HARMLESS: Final = ("MemorySwap", "CpuShares", "BlkioWeight", "MemoryReservation")  # Kedge sets none of them


def update(call: Call) -> None:
    one, body = known(call), call.fields
    other = [name for name, value in body.raw.items() if value and name not in (*_LIMITS, *_HARMLESS, "RestartPolicy")]
    if other:
        raise Unsupported(f"changing {sorted(other)[0][:40]} is not supported")
    changed: dict[str, Any] = {name: body.number(name) for name in _LIMITS if body.number(name)}
    asked, policy = described(one), body.object("RestartPolicy")
    host = asked.body.object("HostConfig")
    restart = read_policy(policy, host.flag("AutoRemove"))
    named = {"RestartPolicy": policy.raw} if policy.text("Name") else {}
    settings = host.raw | changed | named
    limits = read_limits(Fields(settings))
    if one.running and changed:
        _change(one, limits)
    keep_settings(one, Fields(asked.body.raw | {"HostConfig": settings}))
    if named:
        one.restart = restart
    call.engine.supervisor.tell(one, "update", {})
    call.exchange.json(200, {"Warnings": None})


def _change(one: Supervised, limits: Limits) -> None:
    """Of a running container, at once."""
    with one.changed:
        if one.pidfd < 0:
            return
        pidfd = os.dup(one.pidfd)
    try:
        made = cgroups.change(pidfd, pids_of(one.record.pid), limits)
        one.leftovers.append(lambda: _leave(one, made))
    except OSError as error:
        raise StoreError(f"Cannot update container {one.record.id}: {error.filename or ''}: {error.strerror}") from None
    finally:
        os.close(pidfd)


def _leave(one: Supervised, made: list[str]) -> None:
    if cgroups.ran_out(made):
        one.container.update(oom_killed=True)
    cgroups.remove(made)
