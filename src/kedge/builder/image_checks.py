"""The checks of the final image, wired: from built targets to findings at lines, and the record of the other stages.

Owns which targets are checked, and the way from a breach's instruction to its line and comments. Does not know what is
looked for (`kedge.checks`), nor what is silenced.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kedge.builder.request import BuildRequest, BuiltImage
from kedge.checks.verdict import Breach, Subject, judge
from kedge.dockerfile.findings import Findings
from kedge.dockerfile.stages import StagedFile
from kedge.dockerfile.target import Target
from kedge.model.errors import Location
from kedge.model.graph import Snapshot
from kedge.solver.solver import Solver
from kedge.storage.store import Store

if TYPE_CHECKING:
    from kedge.checks.advice import StageFiles

_IMAGES = ("image", "registry", "oci", "docker")


def makes_image(request: BuildRequest) -> bool:
    """Whether an image comes out of the build: files alone need not start."""
    return not request.outputs or any(output.kind in _IMAGES for output in request.outputs)


def check_images(
    store: Store, solver: Solver, file: StagedFile, targets: Sequence[Target], snapshots: Sequence[Snapshot]
) -> Findings:
    """What is found in the built targets."""
    findings = Findings()
    for target, snapshot in zip(targets, snapshots, strict=True):
        subject = _subject(target, snapshot)

        def stages(target: Target = target, snapshot: Snapshot = snapshot) -> "Sequence[StageFiles]":
            from kedge.checks.advice import StageFiles

            others = other_stages(solver, target, snapshot)
            return [StageFiles(*one) for one in others if _is_here(store, one[1])]

        for breach in judge(store, subject, stages):
            location = _location(target, breach.anchor)
            comments = _comments(file, location)
            findings.report(breach.rule, location, *_arguments(breach), comments=comments)
    return findings


def record_stages(
    store: Store, solver: Solver, targets: Sequence[Target], snapshots: Sequence[Snapshot], images: Sequence[BuiltImage]
) -> None:
    """Keep, for `kedge size`, what the other stages of the build kept out of each image."""
    from kedge.checks.stage_sizes import is_recorded, record

    for target, snapshot, image in zip(targets, snapshots, images, strict=False):
        if not is_recorded(store, image.id):
            record(store, image.id, snapshot, other_stages(solver, target, snapshot))


def other_stages(solver: Solver, target: Target, snapshot: Snapshot) -> list[tuple[str, Snapshot, str]]:
    """(name, snapshot, base) of the stages besides the target's whose snapshots are known without running anything."""
    found = []
    for stage in target.stages:
        layers = solver.peek(stage.edge) if stage.edge else ()
        if layers and layers != snapshot and stage.edge != target.edge:
            found.append((stage.name, layers, stage.base))
    return found


def _is_here(store: Store, snapshot: Snapshot) -> bool:
    return all(store.layers.info(layer).ready for layer in snapshot)


def _subject(target: Target, snapshot: Snapshot) -> Subject:
    indexes = [index for index, entry in enumerate(target.config.history) if not entry.empty_layer]
    made_by = [index if target.history_locations[index] else None for index in indexes]
    # A base image may keep no history, or too much of it: the topmost layers are those that are ours.
    made_by = [*[None] * (len(snapshot) - len(made_by)), *made_by][-len(snapshot) :] if snapshot else []
    names = tuple(stage.name for stage in target.stages)
    return Subject(target.config, snapshot, tuple(made_by), target.base_name, not target.is_copied, names)


def _arguments(breach: Breach) -> tuple[str, str]:
    return breach.message, breach.remedy


def _location(target: Target, anchor: str | int) -> Location:
    """The lines at fault: of the instruction, or where the base brought it, of the FROM."""
    base = target.base_location or _first(target)
    if isinstance(anchor, int):
        return target.history_locations[anchor] or base
    for entry, location in zip(reversed(target.config.history), reversed(target.history_locations), strict=True):
        if location and entry.created_by.startswith(f"{anchor} "):
            return location
    return base


def _first(target: Target) -> Location:
    return target.stages[-1].location


def _comments(file: StagedFile, location: Location) -> tuple[str, ...]:
    for stage in file.stages:
        for instruction in (stage.source, *stage.commands):
            if instruction.location.start == location.start:
                return instruction.comments
    return ()


__all__ = ["check_images", "makes_image", "record_stages"]
