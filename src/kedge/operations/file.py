"""File ops: copies and small changes of files, as one new layer for each result.

Owns the order of actions, which of them share a layer, and what a file op's inputs are known by. Does not know how a
file is copied: that is storage.

    plan: an action continues the layer of the earlier action it builds on, if that is no result itself and nothing else
    uses it; otherwise the earlier one is committed first, and a new layer begins on top.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from kedge.model.cachekey import CacheMap, Selection, Selections
from kedge.model.digest import digest_of
from kedge.model.errors import InvalidInput, KedgeError
from kedge.model.graph import Snapshot, Vertex
from kedge.model.ops import NO_INPUT, NO_OUTPUT, Action, Copy, File, MakeDir, MakeFile, Remove, Symlink
from kedge.model.remains import Remains
from kedge.operations.content import Content
from kedge.solver.trunk import Trunk

if TYPE_CHECKING:
    from kedge.storage.layers import Draft
    from kedge.storage.ownership import Ids
    from kedge.storage.store import Store
    from kedge.storage.tree import Tree


class FileOperation:
    """Operation for File. With `keeps_remains` the files of what failed are kept and its error tells of them."""

    def __init__(self, trunk: Trunk, store: "Store", content: Content, keeps_remains: bool = False) -> None:
        self._trunk, self._store, self._content = trunk, store, content
        self._keeps_remains = keeps_remains

    async def cache_map(self, vertex: Vertex) -> CacheMap:
        """What is only copied from is known by the copied files' content; what is changed, by its key."""
        op = _file(vertex)
        inputs = selections(op, len(vertex.inputs))
        return CacheMap(digest_of(op), inputs, tuple(_labels(op)))

    async def run(self, vertex: Vertex, inputs: Sequence[Snapshot]) -> list[Snapshot]:
        """One snapshot for each action with an `output`, in the order of the outputs' numbers."""
        return await self._trunk.call(self._perform, vertex, list(inputs))

    def _perform(self, vertex: Vertex, inputs: list[Snapshot]) -> list[Snapshot]:
        op = _file(vertex)
        with _Sheet(self._store, self._content, op, inputs) as sheet:
            for number, action in enumerate(op.actions):
                try:
                    sheet.perform(action)
                except KedgeError as error:
                    if self._keeps_remains:
                        error.remains = Remains(vertex, *sheet.remains(), action=number)
                    raise
            return sheet.results()


class _Sheet:
    """The state of one file op: the snapshot or open draft behind each index (inputs first, then actions)."""

    def __init__(self, store: "Store", content: Content, op: File, inputs: list[Snapshot]) -> None:
        self._store, self._content, self._op = store, content, op
        self._states: list[Snapshot | Draft] = list(inputs)
        self._bases: dict[int, Snapshot] = {}  # what the draft behind an index lies on
        self._inputs = len(inputs)
        self._drafts = ExitStack()

    def __enter__(self) -> "_Sheet":
        return self

    def __exit__(self, *_: object) -> None:
        self._drafts.close()  # discards what was not committed

    def perform(self, action: Action) -> None:
        """Do one action; its state is appended."""
        if isinstance(action, Copy):
            self._check(action.secondary)
        owner = getattr(action, "owner", None)
        own = owner is not None and owner.input in (action.input, NO_INPUT)
        if owner is not None and not own:
            self._check(owner.input)
        draft, base = self._draft_for(action.input)
        self._states.append(draft)
        self._bases[len(self._states) - 1] = base
        with ExitStack() as stack:
            source = self._mount(stack, action.secondary) if isinstance(action, Copy) else None
            other = None if owner is None or own else self._mount(stack, owner.input)
            tree = stack.enter_context(draft.tree())
            ids = self._ids(action, tree if own else other)
            self._do(action, tree, source, ids)

    def results(self) -> list[Snapshot]:
        """Commit what is a result."""
        outputs = {a.output: i for i, a in enumerate(self._op.actions, self._inputs) if a.output != NO_OUTPUT}
        return [self._snapshot(outputs[number]) for number in sorted(outputs)]

    def remains(self) -> tuple[tuple[Snapshot | None, ...], tuple[Snapshot | None, ...]]:
        """The inputs, and what became of each action; instead of `results`."""
        states = [self._store.layers.kept(self._snapshot(index)) for index in range(len(self._states))]
        missing = self._inputs + len(self._op.actions) - len(states)
        return tuple(states[: self._inputs]), (*states[self._inputs :], *[None] * missing)

    def _check(self, index: int) -> None:
        if not NO_INPUT <= index < len(self._states):
            raise InvalidInput(f"a file action refers to input {index}, which does not exist")

    def _draft_for(self, index: int) -> "tuple[Draft, Snapshot]":
        self._check(index)
        if index >= self._inputs and self._is_continued(index):
            state = self._states[index]
            if not isinstance(state, tuple):
                return state, self._bases[index]
        base = () if index == NO_INPUT else self._store.layers.kept(self._snapshot(index))
        return self._drafts.enter_context(self._store.layers.draft(base)), base

    def _is_continued(self, index: int) -> bool:
        """Is the action behind `index` no result itself, and used by one later action only, to build on?"""
        if self._op.actions[index - self._inputs].output != NO_OUTPUT:
            return False
        uses = [a.input == index for a in self._op.actions] + [
            a.secondary == index for a in self._op.actions if isinstance(a, Copy)
        ]
        return sum(uses) == 1

    def _snapshot(self, index: int) -> Snapshot:
        state = self._states[index]
        if isinstance(state, tuple):
            return state
        snapshot = (*self._bases[index], state.commit())
        self._states = [snapshot if other is state else other for other in self._states]
        return snapshot

    def _mount(self, stack: ExitStack, index: int) -> "Tree":
        return stack.enter_context(self._store.layers.mounted(() if index == NO_INPUT else self._snapshot(index)))

    def _ids(self, action: Action, tree: "Tree | None") -> "Ids | None":
        from kedge.storage.users import resolve_owner

        owner = None if isinstance(action, Remove) else action.owner
        return None if owner is None else resolve_owner(tree, owner)

    def _do(self, action: Action, tree: "Tree", source: "Tree | None", ids: "Ids | None") -> None:
        from kedge.storage import file_actions

        match action:
            case Copy():
                from kedge.storage.copy import copy

                assert source is not None
                witness = self._content.witness(self._snapshot(action.secondary)) if action.secondary >= 0 else None
                copy(action, source, tree.fd, ids, witness=witness)
            case MakeFile():
                file_actions.make_file(action, tree.fd, ids)
            case MakeDir():
                file_actions.make_dir(action, tree.fd, ids)
            case Remove():
                file_actions.remove(action, tree.fd)
            case Symlink():
                file_actions.symlink(action, tree.fd, ids)


def selections(op: File, inputs: int) -> tuple[Selections | None, ...]:
    """Per input, the files that decide, or None where its whole content becomes part of a result."""
    chosen: list[dict[Selection, None]] = [{} for _ in range(inputs)]
    by_key = set[int]()
    for action in op.actions:
        by_key.add(action.input)
        if isinstance(action, Copy) and 0 <= action.secondary < inputs:
            chosen[action.secondary][_selection(action)] = None
        if not isinstance(action, Remove) and action.owner is not None:
            by_key.add(action.owner.input)
    return tuple(None if i in by_key or not each else tuple(each) for i, each in enumerate(chosen))


def _selection(action: Copy) -> Selection:
    return Selection(
        action.src,
        wildcard=action.wildcard,
        follow=action.follow_symlinks,
        contents_only=action.contents_only,
        include=action.include,
        exclude=action.exclude,
        required=action.required_paths,
        allow_empty=action.allow_empty_wildcard,
    )


def _labels(op: File) -> list[tuple[str, str]]:
    """The actions for a person; data of files is shown by digest, for it may be long or private."""
    labels = []
    for number, action in enumerate(op.actions, 1):
        match action:
            case Copy():
                text = f"{action.src} → {action.dest}"
            case MakeFile():
                text = f"{action.path} with content {digest_of(action.data)[7:19]}"
            case Symlink():
                text = f"{action.path} → {action.target}"
            case _:
                text = action.path
        labels.append((f"{type(action).__name__.lower()} {number}", text))
    return labels


def _file(vertex: Vertex) -> File:
    assert isinstance(vertex.op, File)
    return vertex.op
