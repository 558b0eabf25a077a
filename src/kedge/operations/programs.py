"""Which program a step starts, and whether it is one of this machine's own.

Owns the search along PATH in a step's root and the look at the program's head. An image may say another platform than
its programs are of: such steps run like any others. Does not know emulation.
"""

import os
import stat

from kedge.kernel import paths
from kedge.model.ops import Exec

_MAGIC = b"\x7fELF"
_HEAD = 20  # bytes, up to and with e_machine (System V gABI, "ELF header")


def starts_own_program(root: int, op: Exec, default_path: str) -> bool:
    """Is what `op` starts in the directory `root` an ELF program for this machine? Scripts are none."""
    own = _essence(_read("/proc/self/exe"))
    for path in _candidates(op, default_path):
        try:
            seen = paths.open_in_root(root, path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if stat.S_ISREG(os.fstat(seen).st_mode):
                return _essence(_read(f"/proc/self/fd/{seen}")) == own
        except OSError:
            return False
        finally:
            os.close(seen)
    return False


def _candidates(op: Exec, default_path: str) -> list[str]:
    name = op.args[0] if op.args else ""
    if "/" in name:
        return [os.path.join(op.cwd or "/", name)]
    env = dict(entry.partition("=")[::2] for entry in op.env)
    return [f"{folder}/{name}" for folder in env.get("PATH", default_path).split(":") if folder.startswith("/")]


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(_HEAD)


def _essence(head: bytes) -> tuple[bytes, bytes]:
    """Class and byte order, and the machine; nothing for what is not ELF."""
    return (head[4:6], head[18:20]) if head.startswith(_MAGIC) else (b"", b"")
