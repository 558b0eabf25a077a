"""Stages that need each other in a circle.

Owns finding the circle and naming it.
"""

from collections.abc import Iterable

from kedge.dockerfile.stage_plan import StagePlan
from kedge.model.errors import DockerfileError, Location


def refuse_cycles(stages: Iterable[StagePlan], *, through_bases: bool) -> None:
    """Raises DockerfileError if a stage needs itself: by --from and mounts, and `through_bases` also by FROM.

    Depth first, without recursion: `path` holds the stages from which the current one was reached.
    """
    done: set[StagePlan] = set()
    for start in stages:
        path: list[StagePlan] = []
        stack: list[tuple[StagePlan, bool]] = [(start, False)]
        on_path: set[StagePlan] = set()
        while stack:
            one, leave = stack.pop()
            if leave:
                on_path.discard(path.pop())
                done.add(one)
                continue
            if one in done or one in on_path:
                continue
            path.append(one)
            on_path.add(one)
            stack.append((one, True))
            for needed, location in _needs(one, through_bases):
                if needed in on_path:
                    raise _cycle(path[path.index(needed) :], location)
                stack.append((needed, False))


def _needs(one: StagePlan, through_bases: bool) -> list[tuple[StagePlan, Location]]:
    needs = [(needed, step.command.location) for needed, step in one.needs.items()]
    return [*needs, (one.base, one.location)] if one.base and through_bases else needs


def _cycle(path: list[StagePlan], location: Location) -> DockerfileError:
    names = [one.called or one.base_name for one in path]
    way = " needs ".join([*names, names[0]])
    return DockerfileError(f"stages need each other: {way}", location=location, stage=names[-1])
