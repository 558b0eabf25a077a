"""A client's directory, received into one of ours: the receiving side of fsutil's transfer.

    the client tells every file it means to send (STAT, in order, an empty one at the end)
    what we have and the client does not, or has as something else, goes
    what is the same by type, size, mode and time stays; of the others we ask for the bytes (REQ by number)
    the client sends them in pieces (DATA, an empty one ends a file), several files at once
    we say FIN, and so does the client

Owns that conversation. The client is not trusted: paths are relative, clean and below directories that the same
transfer made, and every file is opened below its directory without following links. Does not know what the directory
is for.
"""

import os
import stat
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from kedge.daemon.sessions.modes import to_stat
from kedge.daemon.wire import fsutil
from kedge.model.errors import InvalidInput, StoreError
from kedge.model.patterns import Patterns
from kedge.model.value import dataclass
from kedge.session.session import NAMES

MOST_FILES = 5_000_000
MOST_TOLD = 2 << 30  # bytes of names, links and attributes, which are held in memory until all are told
_TELL_EVERY = 0.1  # seconds
_AT_ONCE = 64  # files asked for and not complete yet
_LONGEST_PATH = 4096
Progress = Callable[[int, bool], None]


@dataclass(slots=True)
class _Entry:
    """One file as the client tells it."""

    number: int
    mode: int
    size: int
    time: int  # nanoseconds
    link: str
    device: int
    xattrs: tuple[tuple[str, bytes], ...]

    @property
    def is_hard_link(self) -> bool:
        return stat.S_ISREG(self.mode) and bool(self.link)


class Conversation(Protocol):
    """A call of the transfer: packets come out of it, and are sent to it."""

    def __next__(self) -> Any: ...

    def send(self, message: Any) -> object:
        """Send one packet."""
        ...

    def end(self) -> None:
        """There will be no more."""
        ...


def receive(
    call: Conversation,
    directory: Path,
    progress: Progress,
    anew: bool = False,
    only: Patterns | None = None,
) -> None:
    """Make `directory` what the client has: ask for files of another size or time than those here, or `anew` for all.
    `only` what these patterns match, and all that was told in the file `NAMES`. Raises InvalidInput for what no honest
    client sends, StoreError.
    """
    receiver = _Receiver(call, directory, progress, anew, only)
    try:
        receiver.run()
    except OSError as error:
        call.send(_packet(fsutil.Packet.PACKET_ERR, data=b"the builder could not write"))
        raise StoreError(f"cannot keep a file of the build context: {error.strerror}") from None
    except InvalidInput as error:
        call.send(_packet(fsutil.Packet.PACKET_ERR, data=error.message.encode()))
        raise
    finally:
        receiver.close()
        call.end()


def _packet(kind: int, number: int = 0, data: bytes = b"") -> Any:
    return fsutil.Packet(type=kind, ID=number, data=data)


class _Receiver:
    def __init__(
        self, call: Conversation, directory: Path, progress: Progress, anew: bool, only: Patterns | None
    ) -> None:
        self._call, self._progress, self._anew = call, progress, anew
        self._only, self._names = only, bytearray()
        self._root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._folders, self._targets = _Folders(self._root), _Folders(self._root)
        self._entries: dict[str, _Entry] = {}
        self._wanted: list[str] = []  # reversed: the next one is at the end
        self._open: dict[int, tuple[int, str, int]] = {}  # number -> descriptor, path, bytes so far
        self._bytes, self._told = 0, 0.0

    def close(self) -> None:
        """Free what is open."""
        for fd, _, _ in self._open.values():
            os.close(fd)
        self._folders.close()
        self._targets.close()
        os.close(self._root)

    def run(self) -> None:
        """The conversation."""
        self._hear()
        if self._only is not None:
            self._entries = _chosen(self._entries, self._only)
        self._tidy()
        self._wanted = [path for path, entry in self._entries.items() if self._make(path, entry)][::-1]
        self._ask()
        while self._open:
            self._take(self._next())
        self._link()
        if self._only is not None:
            self._write_names()
        for path, entry in reversed(self._entries.items()):
            if stat.S_ISDIR(entry.mode):
                self._finish(path, entry)
        self._call.send(_packet(fsutil.Packet.PACKET_FIN))
        with suppress(StopIteration):
            while self._next().type != fsutil.Packet.PACKET_FIN:
                pass
        self._progress(self._bytes, True)

    def _next(self) -> Any:
        packet = next(self._call)
        self._bytes += packet.ByteSize()
        now = time.monotonic()
        if now - self._told > _TELL_EVERY:
            self._told = now
            self._progress(self._bytes, False)
        if packet.type == fsutil.Packet.PACKET_ERR:
            raise InvalidInput(f"the client cannot send the context: {packet.data.decode(errors='replace')[:1000]}")
        return packet

    # ---- what there is -----------------------------------------------------------------------------------------------

    def _hear(self) -> None:
        for number in range(MOST_FILES):
            packet = self._next_stat()
            if packet is None:
                return
            if self._bytes > MOST_TOLD:
                raise InvalidInput(f"the context has more than {MOST_TOLD >> 30} GiB of names and attributes")
            path, entry = self._checked(packet, number)
            if self._only is not None:
                if path == NAMES:
                    continue
                told = packet.SerializeToString()
                self._names += struct.pack("<I", len(told)) + told
            self._entries[path] = entry
        raise InvalidInput(f"the context has more than {MOST_FILES} files")

    def _next_stat(self) -> Any:
        while True:
            packet = self._next()
            if packet.type == fsutil.Packet.PACKET_STAT:
                return packet.stat if packet.HasField("stat") else None
            if packet.type != fsutil.Packet.PACKET_DATA:
                raise InvalidInput("the client does not keep to the transfer's order")

    def _checked(self, told: Any, number: int) -> tuple[str, _Entry]:
        path, link = os.fsdecode(told.path).strip("/"), os.fsdecode(told.linkname)
        parts = path.split("/")
        if not path or len(path) > _LONGEST_PATH or "\0" in path or any(part in ("", ".", "..") for part in parts):
            raise InvalidInput(f"the client sends a file by an impossible path: {path[:100]!r}")
        parent = "/".join(parts[:-1])
        if parent and (parent not in self._entries or not stat.S_ISDIR(self._entries[parent].mode)):
            raise InvalidInput(f"the client sends a file below what is no directory: {path[:100]!r}")
        mode = to_stat(told.mode)
        if mode is None or path in self._entries or told.size < 0 or "\0" in link:
            raise InvalidInput(f"the client sends an impossible file: {path[:100]!r}")
        device = os.makedev(max(told.devmajor, 0) & 0xFFF, max(told.devminor, 0) & 0xFFFFF)
        entry = _Entry(number, mode, told.size, told.modTime, link, device, tuple(sorted(told.xattrs.items())))
        if entry.is_hard_link:
            entry.link = entry.link.strip("/")
            target = self._entries.get(entry.link)
            if target is None or not stat.S_ISREG(target.mode) or target.is_hard_link:
                raise InvalidInput(f"the client sends a link to what it did not send: {path[:100]!r}")
        return path, entry

    # ---- what goes, what stays ---------------------------------------------------------------------------------------

    def _tidy(self) -> None:
        """Remove what the client does not have, or has as another type."""
        for folder, folders, files, fd in os.fwalk(".", topdown=False, dir_fd=self._root, follow_symlinks=False):
            for name in (*files, *folders):
                path = os.path.normpath(os.path.join(folder, name))
                entry = self._entries.get(path)
                there = os.lstat(name, dir_fd=fd) if entry else None
                if entry and there and stat.S_IFMT(there.st_mode) == stat.S_IFMT(entry.mode):
                    continue
                if name in folders and not stat.S_ISLNK(os.lstat(name, dir_fd=fd).st_mode):
                    _remove_tree(name, fd)
                else:
                    os.unlink(name, dir_fd=fd)

    def _make(self, path: str, entry: _Entry) -> bool:
        """Make what needs no bytes; True when the file's bytes must be asked for."""
        fd, name = self._folders.parent(path)
        try:
            there = os.lstat(name, dir_fd=fd)
        except FileNotFoundError:
            there = None
        if stat.S_ISDIR(entry.mode):
            if there is None:
                os.mkdir(name, 0o700, dir_fd=fd)
            return False
        if there is not None and self._same(there, entry, name, fd):
            return False
        if there is not None:
            os.unlink(name, dir_fd=fd)
        if entry.is_hard_link:
            return False
        if stat.S_ISREG(entry.mode):
            return True
        if stat.S_ISLNK(entry.mode):
            os.symlink(entry.link, name, dir_fd=fd)
        else:
            with suppress(PermissionError):  # devices in a user namespace; a context has no use for them
                os.mknod(name, entry.mode, entry.device, dir_fd=fd)
        self._finish(path, entry)
        return False

    def _same(self, there: os.stat_result, entry: _Entry, name: str, fd: int) -> bool:
        if stat.S_ISLNK(entry.mode):
            return os.readlink(name, dir_fd=fd) == entry.link and there.st_mtime_ns == entry.time
        return (
            not entry.is_hard_link
            and not entry.xattrs
            and not (self._anew and stat.S_ISREG(entry.mode))
            and (there.st_mode, there.st_mtime_ns) == (entry.mode, entry.time)
            and (not stat.S_ISREG(entry.mode) or there.st_size == entry.size)
        )

    # ---- bytes -------------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        while self._wanted and len(self._open) < _AT_ONCE:
            path = self._wanted.pop()
            number = self._entries[path].number
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd, name = self._folders.parent(path)
            self._open[number] = (os.open(name, flags, 0o600, dir_fd=fd), path, 0)
            self._call.send(_packet(fsutil.Packet.PACKET_REQ, number))

    def _take(self, packet: Any) -> None:
        if packet.type != fsutil.Packet.PACKET_DATA or packet.ID not in self._open:
            raise InvalidInput("the client sends what it was not asked for")
        fd, path, size = self._open[packet.ID]
        if packet.data:
            rest = memoryview(packet.data)
            while rest:
                rest = rest[os.write(fd, rest) :]
            self._open[packet.ID] = (fd, path, size + len(packet.data))
            return
        _finish_open(fd, self._entries[path])
        del self._open[packet.ID]
        os.close(fd)
        self._ask()

    def _link(self) -> None:
        for path, entry in self._entries.items():
            if entry.is_hard_link:
                (fd, name), (other, target) = self._folders.parent(path), self._targets.parent(entry.link)
                os.link(target, name, src_dir_fd=other, dst_dir_fd=fd, follow_symlinks=False)

    def _write_names(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(NAMES, flags, 0o644, dir_fd=self._root), "wb") as file:
            file.write(self._names)
        os.utime(NAMES, (0, 0), dir_fd=self._root, follow_symlinks=False)

    def _finish(self, path: str, entry: _Entry) -> None:
        fd, name = self._folders.parent(path)
        if not stat.S_ISLNK(entry.mode):
            with suppress(FileNotFoundError):
                os.chmod(name, stat.S_IMODE(entry.mode), dir_fd=fd)
        _set_xattrs(f"/proc/self/fd/{fd}/{name}", entry)
        with suppress(FileNotFoundError):
            os.utime(name, ns=(entry.time, entry.time), dir_fd=fd, follow_symlinks=False)


def _chosen(entries: dict[str, _Entry], only: Patterns) -> dict[str, _Entry]:
    """What the patterns match, and the directories above. A link to a file that is left out is a file of its own."""
    kept = set()
    for path in filter(only.matches, entries):
        while path and path not in kept:
            kept.add(path)
            path = path.rpartition("/")[0]
    chosen = {path: entry for path, entry in entries.items() if path in kept}
    for entry in chosen.values():
        if entry.is_hard_link and entry.link not in chosen:
            entry.link = ""
    return chosen


class _Folders:
    """Directories below a root, each opened one component at a time without following links.

    The last one stays open: a transfer goes through a directory's files one after the other.
    """

    def __init__(self, root: int) -> None:
        self._root, self._path, self._fd = root, "", os.dup(root)

    def parent(self, path: str) -> tuple[int, str]:
        """The directory of a path, open until another is asked for, and the path's last name."""
        folder, _, name = path.rpartition("/")
        if folder != self._path:
            self._change(folder)
        return self._fd, name

    def _change(self, folder: str) -> None:
        fd = os.dup(self._root)
        try:
            for part in filter(None, folder.split("/")):
                deeper = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                os.close(fd)
                fd = deeper
        except BaseException:
            os.close(fd)
            raise
        self.close()
        self._path, self._fd = folder, fd

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)


def _remove_tree(name: str, fd: int) -> None:
    import shutil

    shutil.rmtree(name, dir_fd=fd)


def _finish_open(fd: int, entry: _Entry) -> None:
    os.fchmod(fd, stat.S_IMODE(entry.mode))
    _set_xattrs(f"/proc/self/fd/{fd}", entry, follow=True)
    os.utime(fd, ns=(entry.time, entry.time))


def _set_xattrs(path: str, entry: _Entry, follow: bool = False) -> None:
    for key, value in entry.xattrs:
        if key.startswith(("user.", "security.capability")):
            with suppress(OSError):
                os.setxattr(path, key, value, follow_symlinks=follow)
