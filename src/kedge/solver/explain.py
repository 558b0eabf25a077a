"""Why a step ran instead of coming from the cache: the manifest of its key beside the one of last time.

A pure function of the same values that decide a hit. Does not know where manifests are kept.
"""

from kedge.model.graph import Vertex
from kedge.model.value import dataclass
from kedge.solver.contracts import Manifest


@dataclass(frozen=True, slots=True)
class Miss:
    """Why `name` ran. `reasons` are sentences without a full stop, the nearest cause first."""

    name: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """A name for builds of the same thing. `told` is what their last one is called where it stands in for one that is
    closer.
    """

    name: str
    told: str = ""


def place_of(vertex: Vertex, scope: Scope) -> str:
    """Where a vertex stands in a build: its bracketed position if it has one, so that a changed instruction is
    recognised.
    """
    name = vertex.hints.name
    position = name[: name.find("]") + 1] if name.startswith("[") and "]" in name else name
    return "\n".join((scope.name, str(vertex.platform or ""), position))


def explain(now: Manifest, before: Manifest | None, ignored: bool = False, told: str = "") -> Miss:
    """Compare the manifest of a missed key with the one its place had last time; `told` says in which build, if that
    is not the obvious one.
    """
    if ignored:
        return Miss(now.name, ("the cache was not to be used",))
    if before is None:
        return Miss(now.name, ("no build of this Dockerfile in this place has done it before",))
    if before.key == now.key:
        return Miss(now.name, ("its result is no longer in the store",))
    changes = (*_op_changes(now, before), *_input_changes(now, before)) or ("its inputs changed",)
    note = f"compared with {told}, as none in this place has done it before"
    return Miss(now.name, (*changes, note) if told else changes)


def _op_changes(now: Manifest, before: Manifest) -> list[str]:
    if now.key.op == before.key.op:
        return []
    old, new = dict(before.labels), dict(now.labels)
    out = [
        f"{label} changed from {_short(old[label])} to {_short(text)}"
        for label, text in new.items()
        if label in old and old[label] != text
    ]
    out += [f"{label} {_short(text)} is new" for label, text in new.items() if label not in old]
    out += [f"{label} {_short(text)} is gone" for label, text in old.items() if label not in new]
    return out or ["the instruction changed"]


def _input_changes(now: Manifest, before: Manifest) -> list[str]:
    if len(now.key.inputs) != len(before.key.inputs):
        return ["it has other inputs"]
    out = []
    for (name, kind), new, old in zip(now.inputs, now.key.inputs, before.key.inputs, strict=True):
        if new != old:
            out.append(f"files it takes from {name} changed" if kind == "content" else f"{name} changed")
    return out


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "…")
