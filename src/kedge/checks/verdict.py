"""The verdict on a final image: every breach of the image rules, remembered for the same config over the same layers.

Owns what is looked at, thresholds, and the messages' words. Does not know lines: a breach names the instruction by its
kind or its place in the history. A remembered verdict costs one look into the store; what is only partly here, such as
a base image that nothing needed to fetch, is judged as far as it goes and not remembered.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from kedge.model.graph import Snapshot
from kedge.model.image import ImageConfig
from kedge.model.value import dataclass
from kedge.storage.store import Store

# A remembered verdict must cost nothing: what looks at files is imported when something has to be looked at.
if TYPE_CHECKING:
    from kedge.checks.advice import StageFiles
    from kedge.checks.files import Files
    from kedge.checks.leftovers import Leftover

VERSION = 1  # of all that decides a verdict


@dataclass(frozen=True, slots=True)
class Subject:
    """A built target. `made_by`: for each layer, the index of the history entry that made it, None for the base's.

    `base` is the image at the bottom as FROM names it. `is_final`: no other stage copies from it. `stages` are the
    names of the build's other stages.
    """

    config: ImageConfig
    snapshot: Snapshot
    made_by: tuple[int | None, ...]
    base: str = ""
    is_final: bool = True
    stages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Breach:
    """A breach of `rule`: its message and what to do. `anchor`: ENTRYPOINT, CMD, USER, FROM, or a history index."""

    rule: str
    message: str
    remedy: str
    anchor: str | int


def judge(store: Store, subject: Subject, stages: "Callable[[], Sequence[StageFiles]]") -> tuple[Breach, ...]:
    """All breaches. `stages` gives the other stages' files that are here, when a fault asks who has what is missing."""
    key = _key(subject)
    if (text := store.notes.get(key)) is not None:
        return tuple(Breach(*row) for row in json.loads(text))
    from contextlib import ExitStack

    infos = [store.layers.info(layer) for layer in subject.snapshot]
    complete = all(info.ready for info in infos)
    found: list[Breach] = []
    with ExitStack() as stack:
        files = None
        if complete:
            from kedge.checks.files import Files

            files = Files(stack.enter_context(store.layers.mounted(subject.snapshot)))
            found += _start(store, subject, files, stages)
        sizes = [info.size or 0 for info, index in zip(infos, subject.made_by, strict=True) if index is None]
        found += _carried(store, subject, files, sum(sizes))
    found = [Breach(one.rule, _printable(one.message), _printable(one.remedy), one.anchor) for one in found]
    if complete:
        rows = [[breach.rule, breach.message, breach.remedy, breach.anchor] for breach in found]
        store.notes.put(key, json.dumps(rows, separators=(",", ":")))
    return tuple(found)


def _printable(text: str) -> str:
    """Without what would steer a terminal: names of files are a stranger's text."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _key(subject: Subject) -> str:
    parts = [VERSION, subject.snapshot, subject.made_by, subject.base, subject.is_final, subject.stages]
    data = subject.config.to_bytes() + json.dumps(parts).encode()
    return f"verdict:{hashlib.sha256(data).hexdigest()}"


# ---- the process -----------------------------------------------------------------------------------------------------


def _start(
    store: Store, subject: Subject, files: "Files", stages: "Callable[[], Sequence[StageFiles]]"
) -> Iterable[Breach]:
    from kedge.checks.start import fault_of

    fault = fault_of(files, subject.config)
    if fault is None:
        return
    from kedge.checks.advice import advice

    who = f"{fault.anchor} {fault.program}" if fault.anchor != "USER" else f"USER {fault.program}"
    remedy = advice(store.layers, fault, files, stages())
    yield Breach("EntrypointNotRunnable", f"{who} cannot start: {fault.reason}", remedy, fault.anchor)


# ---- what is carried -------------------------------------------------------------------------------------------------


def _carried(store: Store, subject: Subject, files: "Files | None", base_size: int) -> Iterable[Breach]:
    from kedge.checks.leftover_table import build_image
    from kedge.checks.leftovers import leftovers

    wanted = {"secret", "tool", "cache", "source"} if subject.is_final else {"secret"}
    row = build_image(subject.base) if subject.base and subject.is_final else None
    if row:
        wanted = {"secret"}  # the rest follows from the base
        size = f" ({size_text(base_size)})" if base_size else ""
        message = f"the final stage stands on {subject.base}{size}, an image to build with: it has {row.what}"
        remedy = f"Name this stage, and COPY --from it into a stage on a small base such as {row.instead}"
        yield Breach("BuildToolsInFinalStage", message, remedy, "FROM")
    for layer, index in zip(subject.snapshot, subject.made_by, strict=True):
        if index is None:
            continue
        found = [one for one in leftovers(store, layer) if one.kind in wanted]
        for kind, (rule, phrase) in _RULES.items():
            items = _worth_telling(kind, [one for one in found if one.kind == kind])
            if items:
                yield Breach(rule, _message(phrase, items, files), _biggest(items).instead, index)


_RULES = {  # kind -> rule, and how its message begins
    "tool": ("BuildToolsInFinalStage", "build tools in the final image"),
    "cache": ("PackageCacheInFinalStage", "caches in the final image"),
    "source": ("SourcesInFinalStage", "source in the final image"),
    "secret": ("SecretsInFinalStage", "secrets in the final image"),
}


def _worth_telling(kind: str, items: "list[Leftover]") -> "list[Leftover]":
    from kedge.checks.leftover_table import LEAST_CACHE, LEAST_HEADERS

    items = [one for one in items if one.what != "C headers" or one.size >= LEAST_HEADERS]
    if kind == "cache" and sum(one.size for one in items) < LEAST_CACHE:
        return []
    return sorted(items, key=lambda one: -one.size) if kind != "secret" else items


def _biggest(items: "list[Leftover]") -> "Leftover":
    return max(items, key=lambda one: one.size)


def _message(phrase: str, items: "list[Leftover]", files: "Files | None") -> str:
    from kedge.checks.start import listed

    total = sum(one.size for one in items)
    texts = [f"{one.what} in {one.path} ({size_text(one.size)})" for one in items]
    hidden = [one for one in items if files and files.find(one.path) is None]
    tail = ""
    if hidden:
        which = "" if len(hidden) == len(items) else f"{listed([one.path for one in hidden], 3)} of "
        tail = f"; a later instruction deletes {which or ''}{'them' if len(items) > 1 else 'it'}, yet the layer ships"
    whole = f", {size_text(total)}" if len(items) > 1 else ""
    return f"{phrase}{whole}: {listed(texts, 6)}{tail}"


def size_text(count: int) -> str:
    """Bytes in three digits and decimal units, as Docker shows them."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}TB"
