"""A build as the classic builder printed it: `Step 2/5 : RUN make`, one step after the other.

Owns the order: steps run at the same time, but are shown in the file's order, each whole. What a later step says is
kept until its turn. Does not know how steps are run.
"""

import hashlib
import re
import threading
from collections.abc import Callable
from typing import Final

from kedge.dockerfile.instructions import From
from kedge.dockerfile.parser import parse
from kedge.dockerfile.read import Typed
from kedge.dockerfile.stages import Stage, StagedFile, read_stages
from kedge.model.digest import Digest, hex_part
from kedge.model.errors import KedgeError, SourceFile
from kedge.model.event import Event, LogEvent, VertexEvent, WarningEvent
from kedge.model.value import dataclass, field

_MOST_HELD: Final = 4 << 20  # bytes of output that one step's turn is waited for with


@dataclass
class _Step:
    """One instruction. `vertices` are its parts by digest."""

    number: int
    text: str
    source: bool
    vertices: dict[Digest, VertexEvent] = field(default_factory=dict)
    held: list[bytes] = field(default_factory=list)
    size: int = 0
    begun: bool = False
    running: bool = False

    @property
    def done(self) -> bool:
        return all(event.completed is not None for event in self.vertices.values())

    @property
    def ran(self) -> bool:
        return any(event.started is not None and not event.cached for event in self.vertices.values())


class ClassicProgress:
    """A Report that writes the classic builder's lines to `write`. `target` is the stage that is built, "" the last."""

    def __init__(self, write: Callable[[str], None], target: str) -> None:
        self._write, self._target = write, target
        self._lock = threading.Lock()
        self._source: SourceFile | None = None
        self._steps: list[_Step] = []
        self._by_line: dict[int, _Step] = {}
        self._by_vertex: dict[Digest, _Step] = {}
        self._shown = 0
        self._last = hashlib.sha256(b"scratch").hexdigest()

    def __call__(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, VertexEvent):
                self._vertex(event)
            elif isinstance(event, LogEvent):
                self._log(event)
            elif isinstance(event, WarningEvent) and event.rule:
                where = f" ({event.location})" if event.location else ""
                self._write(f"[Warning] {event.rule}: {event.message}{where}\n")

    def finish(self) -> None:
        """The build has ended well: show what is left."""
        with self._lock:
            for step in self._steps[self._shown :]:
                if step.vertices or not _needs_files(step.text) or step.source:
                    self._begin(step)
                    self._end(step)
            self._shown = len(self._steps)

    def fail(self) -> None:
        """The build has failed: show the step that did, with what it said."""
        with self._lock:
            broken = [step for step in self._steps[self._shown :] if any(e.error for e in step.vertices.values())]
            for step in broken[:1]:
                self._begin(step)

    # ---- events ------------------------------------------------------------------------------------------------------

    def _vertex(self, event: VertexEvent) -> None:
        if event.location is None:
            return
        if self._source is None:
            self._read(event.location.file)
        step = self._by_line.get(event.location.start)
        if step is None:
            return
        step.vertices[event.vertex] = event
        self._by_vertex[event.vertex] = step
        if event.started is not None:
            self._advance()

    def _log(self, event: LogEvent) -> None:
        step = self._by_vertex.get(event.vertex)
        if step is None:
            return
        if step.begun:
            self._write(event.data.decode(errors="replace"))
        elif step.size < _MOST_HELD:
            step.held.append(event.data)
            step.size += len(event.data)

    def _advance(self) -> None:
        """Show as much as is known to be over, and the beginning of what runs now."""
        while self._shown < len(self._steps):
            step = self._steps[self._shown]
            if step.source and not self._stage_moves(step):
                return
            if _needs_files(step.text) and not step.vertices:
                return
            if not step.source and step.vertices:
                if not any(event.started is not None for event in step.vertices.values()):
                    return
                self._begin(step)
                if not step.done or any(event.error for event in step.vertices.values()):
                    return
            self._begin(step)
            self._end(step)
            self._shown += 1

    def _stage_moves(self, source: _Step) -> bool:
        """Has anything of the stage begun? Base images are fetched only when a step needs their files."""
        for step in self._steps[source.number - 1 :]:
            if step.source and step is not source:
                return True
            if any(event.started is not None for event in step.vertices.values()):
                return True
        return False

    # ---- lines -------------------------------------------------------------------------------------------------------

    def _begin(self, step: _Step) -> None:
        if not step.begun:
            step.begun = True
            self._write(f"Step {step.number}/{len(self._steps)} : {step.text}\n")
        if step.ran and not step.running and step.text.upper().startswith("RUN"):
            step.running = True
            self._write(f" ---> Running in {self._id(step, 'container')}\n")
        for data in step.held:
            self._write(data.decode(errors="replace"))
        step.held.clear()

    def _end(self, step: _Step) -> None:
        if step.running:
            self._write(f" ---> Removed intermediate container {self._id(step, 'container')}\n")
        elif step.vertices and not step.source and not step.ran:
            self._write(" ---> Using cache\n")
        self._last = hex_part(next(reversed(step.vertices))) if step.vertices else self._hash(step.text)
        self._write(f" ---> {self._last[:12]}\n")

    def _id(self, step: _Step, what: str) -> str:
        return self._hash(f"{what} {step.number} {step.text}")[:12]

    def _hash(self, text: str) -> str:
        return hashlib.sha256(f"{self._last} {text}".encode(errors="replace")).hexdigest()

    # ---- the file ----------------------------------------------------------------------------------------------------

    def _read(self, source: SourceFile) -> None:
        self._source = source
        try:
            file = read_stages(parse(source.text, source.name))
        except KedgeError:
            return  # said by the build itself
        wanted = needed_stages(file, self._target)
        instructions: list[tuple[bool, Typed]] = [(False, each) for each in file.args]
        for stage in file.stages:
            if stage.index in wanted:
                instructions.append((True, stage.source))
                instructions += [(False, each) for each in stage.commands]
        for number, (first, each) in enumerate(instructions, 1):
            step = _Step(number, " ".join(each.text.split()), first)
            self._steps.append(step)
            self._by_line[each.location.start] = step


def _needs_files(text: str) -> bool:
    """Does the instruction make a vertex of its own?"""
    return text.partition(" ")[0].upper() in ("RUN", "COPY", "ADD", "WORKDIR")


def needed_stages(file: StagedFile, target: str) -> set[int]:
    """The stages that a target is made of, by index."""
    by_name = {stage.name: stage.index for stage in file.stages if stage.name}
    wanted = target.lower()
    start = by_name.get(wanted, int(wanted) if wanted.isdecimal() and len(wanted) < 6 else len(file.stages) - 1)
    needed: set[int] = set()
    waiting = [min(start, len(file.stages) - 1)]
    while waiting:
        index = waiting.pop()
        if index not in needed:
            needed.add(index)
            waiting += [each for each in _sources(file.stages[index], by_name) if each < len(file.stages)]
    return needed


def _sources(stage: Stage, by_name: dict[str, int]) -> list[int]:
    names = [stage.source.base if isinstance(stage.source, From) else ""]
    for command in stage.commands:
        names += re.findall(r"\bfrom=([^\s,]+)", command.text)
    found = [by_name.get(name.lower(), int(name) if name.isdecimal() and len(name) < 6 else -1) for name in names]
    return [index for index in found if 0 <= index < stage.index]
