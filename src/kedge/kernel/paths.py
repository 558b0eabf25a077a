"""Paths resolved inside a root directory, so that no symlink, `..` or race in it leads out (DESIGN laws of safety, 2).

Owns opening, resolving and creating under a root held as a descriptor. Does not know whose root it is. Absolute and
relative paths mean the same: the root is `/`. Magic links (`/proc/self/fd/3`) are never followed.
"""

import errno
import os
import stat

from kedge.kernel import syscalls

_RESOLVE = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
_MAX_LINKS = 40  # path_resolution(7)
_UNAVAILABLE = (errno.ENOSYS, errno.EPERM)  # before Linux 5.6, or an old seccomp filter around us


def open_in_root(root_fd: int, path: str, flags: int, mode: int = 0) -> int:
    """A close-on-exec descriptor for `path` as a process chrooted to `root_fd` would open it.

    Raises OSError (FileNotFoundError, NotADirectoryError, ELOOP for too many or magic links). EAGAIN, which the kernel
    gives when a rename raced with a `..`, is retried. Beware of FIFOs and devices: open O_PATH and look before opening
    for reading.
    """
    for _ in range(64):
        try:
            return syscalls.openat2(root_fd, path or "/", flags, mode, _RESOLVE)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                continue
            if error.errno not in _UNAVAILABLE:
                raise
            break
    return _open_by_walk(root_fd, path, flags, mode)


def resolve_in_root(root_fd: int, path: str, *, follow_last: bool = True) -> str:
    """`path` with all symlinks resolved inside the root: absolute and clean, `/` for the root itself.

    Components that do not exist are kept as written (below them `..` only removes), so the answer may be created. A
    component below a file raises NotADirectoryError, a circle of links OSError with ELOOP. The answer is a snapshot:
    whoever opens it must still open it in the root.
    """
    names, fds = _walk(root_fd, path, follow_last)
    for fd in fds:
        os.close(fd)
    return "/" + "/".join(names)


def make_dirs_in_root(
    root_fd: int, path: str, mode: int = 0o755, owner: tuple[int, int] | None = None
) -> tuple[int, list[str]]:
    """Create `path` and its missing parents in the root: an O_PATH descriptor of it, and the paths made, outermost
    first.

    Existing symlinks are followed in the root, missing parts made with exactly `mode` and, if given, `owner` (uid,
    gid). Raises NotADirectoryError where something else is in the way. Safe against others who rename and link in the
    root at the same time.
    """
    try:
        return open_in_root(root_fd, path, os.O_PATH | os.O_DIRECTORY), []
    except FileNotFoundError:
        pass  # anything else, a magic link on the way too, is final
    names, fds = _walk(root_fd, path, True)
    created = []
    try:
        here = os.dup(fds[-1]) if fds else os.dup(root_fd)
        done = len(fds)
        if fds and not stat.S_ISDIR(os.fstat(here).st_mode):
            os.close(here)
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    finally:
        for fd in fds:
            os.close(fd)
    for index in range(done, len(names)):
        try:
            here_next, made = _make_dir(here, names[index], mode, owner)
        finally:
            os.close(here)
        here = here_next
        if made:
            created.append("/" + "/".join(names[: index + 1]))
    return here, created


def _make_dir(parent: int, name: str, mode: int, owner: tuple[int, int] | None) -> tuple[int, bool]:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
        made = True
    except FileExistsError:
        made = False  # someone else was faster: fine if it is a directory
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    if made:
        # By way of a readable descriptor: fchmod(2) refuses O_PATH, and the name may be another's by now.
        real = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
        try:
            if owner is not None:
                os.chown(real, *owner)
            os.chmod(real, mode)
        finally:
            os.close(real)
    return fd, made


def _walk(root_fd: int, path: str, follow_last: bool) -> tuple[list[str], list[int]]:
    """Walk `path` in the root one component at a time, never letting the kernel follow a link.

    Gives the names of the resolved path and O_PATH descriptors of those that exist (the first len(fds) names).
    """
    todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    names: list[str] = []
    fds: list[int] = []
    links = 0
    try:
        while todo:
            name = todo.pop()
            if name == "..":
                if names:
                    names.pop()
                    if len(fds) > len(names):
                        os.close(fds.pop())
                continue
            if len(fds) < len(names):  # below something that does not exist
                names.append(name)
                continue
            try:
                fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fds[-1] if fds else root_fd)
            except FileNotFoundError:
                names.append(name)
                continue
            if stat.S_ISLNK(os.fstat(fd).st_mode) and (todo or follow_last):
                target = os.readlink("", dir_fd=fd)
                os.close(fd)
                _refuse_magic_link(fds[-1] if fds else root_fd, name)
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                if target.startswith("/"):
                    for old in fds:
                        os.close(old)
                    names, fds = [], []
                todo += [part for part in reversed(target.split("/")) if part not in ("", ".")]
                continue
            names.append(name)
            fds.append(fd)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return names, fds


def _refuse_magic_link(parent: int, name: str) -> None:
    """Raise ELOOP for a link of /proc that is no text: what it says may name something else than what it leads to."""
    try:
        os.close(
            syscalls.openat2(parent, name, os.O_PATH, 0, syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_BENEATH)
        )
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise


def _open_by_walk(root_fd: int, path: str, flags: int, mode: int = 0) -> int:
    """What openat2 would do, where it is missing: the walk above, then the last component without following."""
    names, fds = _walk(root_fd, path, not flags & (os.O_NOFOLLOW | os.O_EXCL))
    try:
        if len(fds) < len(names) - 1:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        parent = fds[len(names) - 2] if len(names) > 1 else root_fd
        name = names[-1] if names else "."
        extra = os.O_NOFOLLOW if names else 0
        return os.open(name, flags | extra | os.O_CLOEXEC, mode, dir_fd=parent)
    finally:
        for fd in fds:
            os.close(fd)
