"""SOURCE_DATE_EPOCH where it is no number: `context`, a named context or a stage, by the time of what they name.

Owns the look-up, which is BuildKit's (docs/build-repro.md): a git source's commit time; of an http source the server's
Last-Modified, or else the newest file in the archive it is. A client's own directory has no such time. Does not know
what the time is used for.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedge.builder.parts import Parts
from kedge.builder.steps import step
from kedge.dockerfile.gitref import parse_git_reference
from kedge.dockerfile.instructions import Add, Arg
from kedge.dockerfile.stages import Stage, StagedFile
from kedge.dockerfile.words import expand
from kedge.model.errors import DockerfileError, KedgeError
from kedge.model.ops import Source
from kedge.model.value import replace

_NAME = "SOURCE_DATE_EPOCH"


def resolve_epochs(parts: Parts, file: StagedFile, build_args: Mapping[str, str]) -> dict[str, int | None]:
    """What the build's SOURCE_DATE_EPOCH means in seconds, by its text; empty where it is a number or not set.

    None for what has no time. Raises DockerfileError for a stage that is more than one remote ADD.
    """
    defaults = {entry.key: entry.default or "" for instruction in file.args for entry in instruction.args}
    text = build_args.get(_NAME, defaults.get(_NAME, ""))
    if not text or text.removeprefix("-").isdecimal():
        return {}
    contexts = {"context": parts.request.context} | dict(parts.request.named_contexts)
    if text in contexts:
        source = _remote(contexts[text])
        return {text: _time_of(parts, source, text) if source else None}
    stage = next((one for one in file.stages if one.name == text.lower()), None)
    if stage is None:
        return {}
    return {text: _time_of(parts, _source_of(stage, defaults | dict(build_args), file.file.escape), text)}


def _remote(specifier: Any) -> Source | None:
    if not isinstance(specifier, str):
        return None
    if git := parse_git_reference(specifier, context=True):
        return git.source()
    if specifier.startswith(("http://", "https://")):
        return Source(specifier, (("http.filename", "context"),))
    return None


def _source_of(stage: Stage, values: Mapping[str, str], escape: str) -> Source:
    """The one remote source of a stage that is nothing else."""
    known, found = dict(values), None
    for command in stage.commands:
        if isinstance(command, Arg):
            known = {e.key: expand(e.default, known, escape).text for e in command.args if e.default} | known
        elif isinstance(command, Add) and len(command.sources) == 1 and found is None:
            found = _remote(expand(command.sources[0], known, escape).text)
            checksum = expand(command.checksum, known, escape).text
            if found and checksum:
                name = "git.checksum" if found.scheme == "git" else "http.checksum"
                found = replace(found, attrs=tuple(sorted((*found.attrs, (name, checksum)))))
        else:
            found = None
            break
    if found is None or stage.source.base != "scratch":
        raise DockerfileError(
            f"the stage {stage.label} has no time for {_NAME}",
            location=stage.location,
            hint="It must start FROM scratch and be one ADD of one http(s) or git source.",
        )
    return found


def _time_of(parts: Parts, source: Source, name: str) -> int | None:
    if source.scheme == "git":  # asked to, a checkout carries its commit's time
        source = replace(source, attrs=tuple(sorted((dict(source.attrs) | {"git.mtime": "commit"}).items())))
    with step(parts.report, parts.trunk.cancel, f"[internal] resolve {_NAME} of {name}") as work:
        one = parts.handler(source.scheme)
        (layer,) = one.fetch(source, None, one.pin(source, None, work), work)
        files = [path for path in parts.store.layers.directory(layer).iterdir() if not path.is_symlink()]
        times = [int(path.stat().st_mtime) for path in files]
        if source.scheme != "git" and not any(times) and files:
            return _newest(files[0])
    return max(times, default=None)


def _newest(path: Path) -> int | None:
    """The time of the newest regular file in an archive; None for what is none."""
    from kedge.storage import tar_format
    from kedge.storage.compression import decompressed
    from kedge.storage.tar_reader import Limits, TarReader

    try:
        with path.open("rb") as stream:
            entries = TarReader(decompressed(stream), Limits())
            times = [entry.mtime // 1_000_000_000 for entry in entries if entry.kind == tar_format.FILE]
    except KedgeError:
        return None
    return max(times, default=None)
