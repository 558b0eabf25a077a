"""COPY and ADD: to one File vertex for each instruction, with `--link` to a Merge over the base.

Owns where sources come from (context, stage, URL, git, heredoc) and what each becomes. Does not touch a file.
"""

import posixpath
import re

from kedge.dockerfile import paths
from kedge.dockerfile.drafts import DraftEdge
from kedge.dockerfile.gitref import GitReference, parse_git_reference
from kedge.dockerfile.instructions import Add, Copy, InlineFile
from kedge.dockerfile.state import StageState
from kedge.model import ops
from kedge.model.digest import parse_digest
from kedge.model.errors import DockerfileError
from kedge.model.graph import Hints
from kedge.model.value import dataclass, replace

_OCTAL = r"[0-7]{1,11}"
_CLAUSE = r"[augo]*(?:[-+=](?:[rwxXst]|[ugo])*)+"
_SYMBOLIC = rf"{_CLAUSE}(?:,{_CLAUSE})*"
_ID = r"[0-9]{1,10}"
_ALL_IGNORED = frozenset({"*", "**", "**/*"})


@dataclass(frozen=True, slots=True)
class _Piece:
    """One source: what to copy from `tree` (None: an empty one), all but where it goes."""

    action: ops.Copy
    tree: DraftEdge | None


def lower_copy(state: StageState, command: Copy | Add, sources: list["StageState"]) -> None:
    """Lower an instruction whose `sources` are the stage that --from names, if any; raises DockerfileError."""
    command = _expanded(state, command)
    state.number += 1
    name = state.shown(command.text)
    title = state.title_again(name)
    mode, mode_text = _read_mode(command.chmod)
    pattern = ops.Copy(
        src="/",
        dest=paths.destination(state.cwd, command.dest),
        owner=read_owner(command.chown),
        mode=mode,
        mode_text=mode_text,
        create_dest_path=True,
        exclude=command.exclude,
    )
    pieces = [_lower_source(state, command, source, pattern, title, sources) for source in command.sources]
    pieces += [_lower_inline(state, file, pattern) for file in command.inline]
    if command.link and not command.chmod:
        _add_linked(state, command, pieces, name, title)
    else:
        edge = _file(state, pieces, state.root, state.hints(title, command.location))
        state.root = edge
    _mark_used(state, command, sources)
    state.config.commit(_history(command), command.location, layer=True)


def _expanded(state: StageState, command: Copy | Add) -> Copy | Add:
    """The instruction with its variables replaced, in the order in which a reader would meet errors."""
    chown, chmod = state.expand(command.chown, command), state.expand(command.chmod, command)
    checksum = state.expand(command.checksum, command) if isinstance(command, Add) else ""
    sources = tuple(state.expand(source, command) for source in command.sources)
    dest = state.expand(command.dest, command)
    inline = tuple(
        replace(file, data=state.expand_body(file.data, command)) if file.expand else file for file in command.inline
    )
    expanded = replace(command, chown=chown, chmod=chmod, sources=sources, dest=dest, inline=inline)
    if isinstance(expanded, Add):
        expanded = replace(expanded, checksum=checksum)
        _check_checksum(expanded)
    return expanded


def _check_checksum(command: Add) -> None:
    if command.checksum:
        if len(command.sources) != 1 or command.inline:
            raise DockerfileError("--checksum is for a single source", fault="--checksum")
        if not is_http(command.sources[0]) and parse_git_reference(command.sources[0]) is None:
            raise DockerfileError("--checksum is for http(s) and git sources", fault="--checksum")


def is_http(source: str) -> bool:
    """Whether ADD fetches `source` as a file (a URL that ends in `.git` is a repository)."""
    return source.startswith(("http://", "https://")) and parse_git_reference(source) is None


def _read_mode(text: str) -> tuple[int, str]:
    if not text:
        return -1, ""
    if re.fullmatch(_OCTAL, text) and int(text, 8) <= 0o7777:
        return int(text, 8), ""
    if re.fullmatch(_SYMBOLIC, text):
        return -1, text
    raise DockerfileError(
        f"invalid mode {text[:100]!r} for --chmod",
        hint="Write octal digits up to 7777, or letters such as u+x,go-w.",
        fault=f"--chmod={text}",
    )


def read_owner(text: str, input_index: int = ops.NO_INPUT) -> ops.Owner | None:
    """The owner that `user[:group]` spells, None for an empty text; ids up to 2³¹-1, anything else is a name.

    A name is looked up in the image later, and is then an error if it only looked like a number (CVE-2024-40635).
    """
    if not text:
        return None
    user, colon, group = text.partition(":")
    return ops.Owner(_identity(user), _identity(group) if colon else None, input_index)


def _identity(text: str) -> int | str:
    if text in ("", "root"):
        return 0
    if re.fullmatch(_ID, text) and int(text) <= 0x7FFFFFFF:
        return int(text)
    return text


# ---- sources ---------------------------------------------------------------------------------------------------------


def _lower_source(
    state: StageState, command: Copy | Add, source: str, pattern: ops.Copy, title: str, stages: list["StageState"]
) -> _Piece:
    git = parse_git_reference(source)
    if git or is_http(source):
        if isinstance(command, Copy):
            kind = "a git repository" if git else "a URL"
            raise DockerfileError(f"COPY cannot take {kind}: {source[:200]}", hint="Use ADD.", fault=source)
        return (
            _lower_git(state, command, git, pattern, title)
            if git
            else _lower_url(state, command, source, pattern, title)
        )
    if not stages:
        _check_ignored(state, command, source)
    tree = stages[0].root if stages else state.lowering.context
    unpack = isinstance(command, Add) and command.unpack is not False
    src, include, required = source, pattern.include, pattern.required_paths
    if isinstance(command, Copy) and command.parents:
        src, include, required = _parents(source)
    action = replace(
        pattern,
        src=paths.clean(src),
        follow_symlinks=True,
        contents_only=True,
        unpack=unpack,
        wildcard=True,
        allow_empty_wildcard=True,
        include=include,
        required_paths=required,
    )
    return _Piece(action, tree)


def _parents(source: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """--parents: from where, the pattern kept as path, and the path that has to exist. `/./` separates the two."""
    parent, pivot, kept = source.partition("/./")
    if not pivot:
        parent, kept = "/", source
    kept = paths.clean(kept)
    if kept == "/":  # nothing is below nothing: BuildKit finds out when it copies
        raise DockerfileError(
            f"--parents keeps the names below the source's root, and {source!r} names none: not found",
            hint="Name the directories, or * for all.",
            fault=source,
        )
    required = () if paths.has_wildcards(parent) or paths.has_wildcards(kept) else (paths.join(parent, "." + kept),)
    return parent, (kept[1:],), tuple(paths.clean(path) for path in required)


def _lower_git(state: StageState, command: Add, git: GitReference, pattern: ops.Copy, title: str) -> _Piece:
    keep = command.keep_git_dir
    if keep is not None and git.keep_git_dir is not None and keep != git.keep_git_dir:
        raise DockerfileError("--keep-git-dir and the URL's keep-git-dir do not agree")
    if command.checksum and git.checksum and command.checksum != git.checksum:
        raise DockerfileError(f"--checksum {command.checksum} and the URL's {git.checksum} do not agree")
    git = replace(
        git,
        keep_git_dir=git.keep_git_dir if git.keep_git_dir is not None else keep,
        checksum=git.checksum or command.checksum,
    )
    return _Piece(
        pattern, state.lowering.drafts.add(git.source(), hints=state.hints(title, command.location, rerun=False))
    )


def _lower_url(state: StageState, command: Add, url: str, pattern: ops.Copy, title: str) -> _Piece:
    from urllib.parse import unquote, urlsplit

    try:
        name = posixpath.basename(unquote(urlsplit(url).path).rstrip("/"))
    except ValueError:
        name = ""
    name = name if name not in ("", ".", "..") and "\0" not in name else "__unnamed__"
    attrs = [("http.checksum", parse_digest(command.checksum))] if command.checksum else []
    source = ops.Source(url, (*attrs, ("http.filename", name)))
    fetched = state.lowering.drafts.add(source, hints=state.hints(title, command.location, rerun=False))
    return _Piece(replace(pattern, src=f"/{name}", unpack=command.unpack is True), fetched)


def _lower_inline(state: StageState, file: InlineFile, pattern: ops.Copy) -> _Piece:
    return _Piece(replace(pattern, src=paths.clean(file.name)), inline_document(state, file.name, file.data, 0o644))


def inline_document(state: StageState, name: str, data: str, mode: int) -> DraftEdge:
    """A tree that holds only a heredoc's file."""
    content = data.encode("utf-8", "surrogateescape")
    action = ops.MakeFile(paths.clean(name), content, mode, input=ops.NO_INPUT)
    hints = Hints("[internal] preparing inline document", stage=state.plan.called, internal=True)
    return state.lowering.drafts.add(ops.File((action,)), hints=hints)


# ---- vertices --------------------------------------------------------------------------------------------------------


def _file(state: StageState, pieces: list[_Piece], base: DraftEdge | None, hints: Hints) -> DraftEdge:
    """One File vertex that copies all pieces, one after the other, onto `base`."""
    inputs: list[DraftEdge] = [base] if base else []
    base_index = 0 if base else ops.NO_INPUT
    secondary = []
    for piece in pieces:
        if piece.tree is None:
            secondary.append(ops.NO_INPUT)
            continue
        if piece.tree not in inputs:
            inputs.append(piece.tree)
        secondary.append(inputs.index(piece.tree))
    actions: list[ops.Action] = []
    for index, piece in enumerate(pieces):
        owner = piece.action.owner
        by_name = owner and (isinstance(owner.user, str) or isinstance(owner.group, str))
        actions.append(
            replace(
                piece.action,
                input=len(inputs) + index - 1 if index else base_index,
                secondary=secondary[index],
                output=0 if index == len(pieces) - 1 else ops.NO_OUTPUT,
                owner=replace(owner, input=base_index) if owner and by_name else owner,
            )
        )
    return state.lowering.drafts.add(ops.File(tuple(actions)), inputs, hints=hints)


def _add_linked(state: StageState, command: Copy | Add, pieces: list[_Piece], name: str, title: str) -> None:
    """--link: the files alone, then merged over the base, so that another base leaves them as they are."""
    copied = _file(state, pieces, None, state.hints(title, command.location, group=title))
    if state.root is None:
        state.root = copied
        return
    hints = state.hints(state.title_again(f"LINK {name}"), command.location, group=title)
    state.root = state.lowering.drafts.add(ops.Merge((0, 1)), (state.root, copied), hints=hints)


def _mark_used(state: StageState, command: Copy | Add, stages: list["StageState"]) -> None:
    used = stages[0].paths if stages else state.lowering.context_paths
    for source in command.sources:
        if not is_http(source) and parse_git_reference(source) is None:
            used.add(paths.clean(source))


def _check_ignored(state: StageState, command: Copy | Add, source: str) -> None:
    """Report a source that the ignore file leaves out; not when it has exceptions, which cannot be judged from here."""
    lines = state.lowering.plan.options.ignore.get("context", ())
    if not lines or any(line.startswith("!") for line in lines):
        return
    path = posixpath.normpath(source) if source else "."
    if path in (".", "/"):
        ignored = any(line in _ALL_IGNORED for line in lines)
    else:
        ignored = state.lowering.ignored(lines).matches(path.lstrip("/"))
    if ignored:
        state.report("CopyIgnoredFile", command, "Add" if isinstance(command, Add) else "Copy", path)


def _history(command: Copy | Add) -> str:
    words = [command.name]
    if isinstance(command, Copy) and command.parents:
        words.append("--parents")
    if command.chown:
        words.append(f"--chown={command.chown}")
    if command.chmod:
        words.append(f"--chmod={command.chmod}")
    words += command.sources
    words += [f"<<{file.name}" for file in command.inline]
    return " ".join([*words, command.dest, "# buildkit"])
