"""The build's definition: its context, its Dockerfile's text, and what the context's ignore file says.

Owns where these come from: a directory, a tar, a Dockerfile on standard input, a git repository, a URL. Does not know
what a Dockerfile means.
"""

import io
import os
import stat
from pathlib import Path
from typing import BinaryIO

from kedge.builder.parts import Parts
from kedge.builder.steps import step
from kedge.dockerfile.lines import decode
from kedge.kernel.paths import open_in_root
from kedge.model.errors import DockerfileError, InvalidInput, NotFound
from kedge.model.graph import Layer, Snapshot
from kedge.model.ops import Source
from kedge.model.patterns import IgnoreFile
from kedge.model.value import dataclass
from kedge.session.local import existing_directory

LARGEST_DOCKERFILE = 16 << 20  # bytes
LARGEST_IGNORE_FILE = 4 << 20
IGNORE_FILE = ".dockerignore"


@dataclass(frozen=True, slots=True)
class Definition:
    """A Dockerfile's text, the name to show it under, and the ignore file of the main context."""

    text: str
    name: str
    ignore: IgnoreFile = IgnoreFile()


def load_definition(parts: Parts) -> Definition:
    """Find, read and decode the Dockerfile and the ignore file; lends the context to the session. Raises KedgeError."""
    if parts.remote.context_lent:
        from kedge.builder.lent import load_lent

        return load_lent(parts)
    context, text = _open_context(parts)
    if context is not None and parts.remote.context_subdirectory:
        context = _inside(context, parts.remote.context_subdirectory)
    if context is not None:
        parts.session.lend("context", context)
    if parts.remote.dockerfile_lent:
        from kedge.builder.lent import load_lent

        return load_lent(parts)
    request = parts.request
    text = request.dockerfile_text if request.dockerfile_text is not None else text
    shown = Path(request.dockerfile or "Dockerfile").name if text is None else "Dockerfile"
    with step(parts.report, parts.trunk.cancel, f"[internal] load build definition from {shown}") as work:
        found = None if text is None else Found(shown, text)
        if found is None:
            found = _find_dockerfile(parts, context)
        work.status("transferring dockerfile:", len(found.data), done=True)
        definition = decode_found(found)
    return Definition(definition, found.name, _ignored(parts, found, context) if _ignores(parts) else IgnoreFile())


@dataclass(frozen=True, slots=True)
class Found:
    """A Dockerfile's bytes. `path` is where it is on this machine, if it is not in the context; `inside` where in
    it.
    """

    name: str
    data: bytes
    path: Path | None = None
    inside: str = ""


# ---- the context -----------------------------------------------------------------------------------------------------


def _open_context(parts: Parts) -> tuple[Path | None, bytes | None]:
    """The context as a directory, and the Dockerfile's text where standard input was one instead of a tar."""
    context = parts.request.context
    match context:
        case None:
            return _empty(parts), None
        case bytes():
            return _from_stream(parts, io.BytesIO(context))
        case Path():
            return _checked(context), None
        case str() if _is_remote(context):
            return _from_remote(parts, context)
        case str():
            return _checked(Path(context)), None
        case _:
            return _from_stream(parts, context)


def _inside(context: Path, name: str) -> Path:
    """A directory of the context's; links in its name lead nowhere else."""
    root = os.open(context, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = open_in_root(root, name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise NotFound(f"cannot open {name} in the context: {error.strerror}") from None
    finally:
        os.close(root)
    try:
        return Path(os.readlink(f"/proc/self/fd/{fd}"))
    finally:
        os.close(fd)


def _checked(path: Path) -> Path:
    hint = "The last word is a directory, a URL, or - for a tar."
    return existing_directory(path, f"the build context {path}", hint).absolute()


def _is_remote(text: str) -> bool:
    from kedge.dockerfile.gitref import parse_git_reference

    return text.startswith(("http://", "https://")) or parse_git_reference(text, context=True) is not None


def _empty(parts: Parts) -> Path:
    layers = parts.store.layers
    with layers.draft() as draft:
        return layers.directory(draft.commit("an empty context"))


def _from_stream(parts: Parts, stream: BinaryIO) -> tuple[Path | None, bytes | None]:
    """A tar, compressed or not, or else a Dockerfile that needs no context."""
    with step(parts.report, parts.trunk.cancel, "[internal] load remote build context") as work:
        head = _peek(stream)
        if _looks_like_archive(head[:512]):
            return _unpack(parts, _Joined(head, stream)), None
        rest = stream.read(LARGEST_DOCKERFILE + 1)
        work.status("transferring dockerfile:", len(head) + len(rest), done=True)
        if b"\0" in head:
            raise InvalidInput("standard input is neither a tar nor a Dockerfile")
        return _empty(parts), head + rest


def _from_remote(parts: Parts, text: str) -> tuple[Path | None, bytes | None]:
    """A git repository, or by http a tar or a lone Dockerfile."""
    from kedge.dockerfile.gitref import parse_git_reference

    layers = parts.store.layers
    with step(parts.report, parts.trunk.cancel, f"[internal] load remote build context from {_shown(text)}") as work:
        if reference := parse_git_reference(text, context=True):
            git, source = parts.handler("git"), reference.source()
            pin = git.pin(source, None, work)
            parts.remote_context = (text, dict(pin.labels).get("commit", ""))
            return layers.directory(_only(git.fetch(source, None, pin, work))), None
        web, source = parts.handler("http"), Source(text, (("http.filename", "context"),))
        pin = web.pin(source, None, work)
        parts.remote_context = (text, dict(pin.labels).get("content", ""))
        folder = layers.directory(_only(web.fetch(source, None, pin, work)))
        file = (folder / "context").open("rb")
        with file:
            head = _peek(file)
            if _looks_like_archive(head):
                return _unpack(parts, _Joined(head, file)), None
            if len(head) < 1 or b"\0" in head:
                raise InvalidInput(f"{_shown(text)} is neither a tar nor a Dockerfile")
            return _empty(parts), head + file.read(LARGEST_DOCKERFILE + 1)


def _only(snapshot: Snapshot) -> Layer:  # a fetched context is one layer
    (layer,) = snapshot
    return layer


def _shown(text: str) -> str:
    from urllib.parse import urlsplit

    parts = urlsplit(text)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl() if parts.netloc else text


def _unpack(parts: Parts, stream: "_Joined") -> Path:
    """A tar's content as a layer's directory; hostile entries stay inside, their owners do not matter to a context."""
    from kedge.storage.compression import decompressed
    from kedge.storage.tar_read import unpack

    layers = parts.store.layers
    with layers.draft() as draft:
        fd = os.open(draft.upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            unpack(decompressed(stream), fd, layer=False)
        finally:
            os.close(fd)
        return layers.directory(draft.commit("a context from a tar"))


class _Joined:
    """What was read of a stream already, and then the rest."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self._head, self._stream = head, stream

    def read(self, size: int = -1, /) -> bytes:
        if self._head:
            piece = self._head if size < 0 else self._head[:size]
            self._head = self._head[len(piece) :]
            return piece + (self._stream.read() if size < 0 else b"")
        return self._stream.read(size)


def _peek(stream: BinaryIO) -> bytes:
    head = b""
    while len(head) < 1024:
        piece = stream.read(1024 - len(head))
        if not piece:
            break
        head += piece
    return head


def _looks_like_archive(head: bytes) -> bool:
    """A tar header, or the magic number of a compression (Docker's DetectCompression): the rest is checked by
    reading.
    """
    compressed = head.startswith((b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"))
    return compressed or (len(head) >= 512 and head[257:262] == b"ustar") or _old_tar(head)


def _old_tar(head: bytes) -> bool:
    """A tar from before POSIX has no magic: its checksum field tells."""
    if len(head) < 512:
        return False
    try:
        stated = int(head[148:156].split(b"\0")[0].strip() or b"x", 8)
    except ValueError:
        return False
    return stated == sum(head[:148]) + 8 * 32 + sum(head[156:512])


# ---- the files -------------------------------------------------------------------------------------------------------


def _find_dockerfile(parts: Parts, context: Path | None) -> Found:
    """As Docker's client looks: a path of the user's first, then one in the context."""
    asked = parts.request.dockerfile
    local = _is_local(parts.request.context)
    if asked and local and _is_there(path := Path(asked)):
        return _on_this_machine(path, context)
    if context is None:
        raise NotFound("there is no Dockerfile", hint="Name one with -f, or pipe one in with -f -.")
    for name in (asked,) if asked else ("Dockerfile", "dockerfile"):
        data = read_inside(context, name, LARGEST_DOCKERFILE)
        if data is not None:
            return Found(name, data, inside=name)
    where = str(parts.request.context) if local else "the context"
    raise NotFound(f"no {asked or 'Dockerfile'} in {where}", hint=_others(context))


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise NotFound(f"cannot read {path}: {error.strerror}") from None
    return True


def _on_this_machine(path: Path, context: Path | None) -> Found:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                raise NotFound(f"{path} is a directory, not a file")
            data = file.read(LARGEST_DOCKERFILE + 1)
    except IsADirectoryError:
        raise NotFound(f"{path} is a directory, not a file") from None
    except OSError as error:
        raise NotFound(f"cannot read {path}: {error.strerror}") from None
    whole, name = path.absolute(), path.name
    inside = str(whole.relative_to(context)) if context and whole.is_relative_to(context) else ""
    return Found(inside or name, data, whole, inside)


def _others(context: Path) -> str:
    try:
        entries = os.listdir(context)
    except OSError:  # a directory that may be entered and not read
        entries = []
    names = sorted(n for n in entries if "dockerfile" in n.lower() or "containerfile" in n.lower())
    return f"There is {', '.join(names[:5])}: choose it with -f." if names else "Choose a file with -f, or make one."


def read_inside(context: Path, name: str, limit: int) -> bytes | None:
    """A regular file inside of the context; its links are followed inside the context only (CVE-2026-44517)."""
    root = os.open(context, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = open_in_root(root, name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NotFound(f"cannot read {name} in the context: {error.strerror}") from None
    finally:
        os.close(root)
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            what = "a directory, not a file" if stat.S_ISDIR(mode) else "no regular file"
            raise NotFound(f"{name} in the context is {what}")
        with open(fd, "rb", closefd=False) as file:
            return file.read(limit + 1)
    finally:
        os.close(fd)


def _ignores(parts: Parts) -> bool:
    """Does an ignore file count? Only for files that a client would have to send: as in BuildKit, a repository, a
    download and a tar are the context as they are.
    """
    return parts.remote.ignores or _is_local(parts.request.context)


def _is_local(context: object) -> bool:
    return isinstance(context, Path) or (isinstance(context, str) and not _is_remote(context))


def _ignored(parts: Parts, found: Found, context: Path | None) -> IgnoreFile:
    with step(parts.report, parts.trunk.cancel, "[internal] load .dockerignore") as work:
        name, data = _find_ignore_file(found, context)
        work.status("transferring context:", len(data), done=True)
        return decode_ignore_file(name, data)


def decode_ignore_file(name: str, data: bytes) -> IgnoreFile:
    return IgnoreFile(name, data.decode("utf-8", "surrogateescape"))


def _find_ignore_file(found: Found, context: Path | None) -> tuple[str, bytes]:
    """`NAME.dockerignore` beside the Dockerfile, else the context's `.dockerignore`: its name and bytes."""
    data, name = None, found.name + IGNORE_FILE
    if found.path is not None and not found.inside:
        beside = found.path.with_name(found.path.name + IGNORE_FILE)
        if _is_there(beside):
            data = _on_this_machine(beside, None).data
    elif found.inside and context is not None:
        data = read_inside(context, found.inside + IGNORE_FILE, LARGEST_IGNORE_FILE)
    if data is None and context is not None:
        data, name = read_inside(context, IGNORE_FILE, LARGEST_IGNORE_FILE), IGNORE_FILE
    if data and len(data) > LARGEST_IGNORE_FILE:
        raise InvalidInput(f"the ignore file is larger than {LARGEST_IGNORE_FILE >> 20} MiB")
    return name, data or b""


def decode_found(found: Found) -> str:
    if len(found.data) > LARGEST_DOCKERFILE:
        raise DockerfileError(f"{found.name} is larger than {LARGEST_DOCKERFILE >> 20} MiB")
    if found.data.startswith((b"\xff\xfe", b"\xfe\xff")):  # as PowerShell writes it
        raise DockerfileError(f"{found.name} is UTF-16 text", hint="Save it as UTF-8.")
    if b"\0" in found.data[:1024]:
        raise DockerfileError(f"{found.name} is no text")
    return decode(found.data)
