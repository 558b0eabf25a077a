"""Programs of other machines: which of them the kernel starts through an emulator, and how it learns to.

Owns the entries of binfmt_misc (Documentation/admin-guide/binfmt-misc.rst). As an ordinary user Kedge lives in a user
namespace, and since Linux 6.7 such a namespace has entries of its own: there Kedge registers qemu by itself, for its
own steps only. As root the entries are the whole machine's, and never touched. Does not know steps.
"""

import os
import shutil
import struct
import threading
from pathlib import Path
from typing import Final

from kedge.kernel import identity, syscalls
from kedge.model.platform import Platform
from kedge.model.value import dataclass

_ENTRIES: Final = Path("/proc/sys/fs/binfmt_misc")
# GOARCH -> qemu's word, ELF's e_machine, 64 bit?, little endian? (System V gABI, "e_machine")
_MACHINES: Final = {
    "386": ("i386", 3, False, True),
    "amd64": ("x86_64", 62, True, True),
    "arm": ("arm", 40, False, True),
    "arm64": ("aarch64", 183, True, True),
    "loong64": ("loongarch64", 258, True, True),
    "mips64le": ("mips64el", 8, True, True),
    "mipsle": ("mipsel", 8, False, True),
    "ppc64le": ("ppc64le", 21, True, True),
    "riscv64": ("riscv64", 243, True, True),
    "s390x": ("s390x", 22, True, False),
}
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Emulation:
    """Whether programs of a platform start here. `remedy` is a command, empty if ok."""

    ok: bool
    detail: str
    remedy: str = ""


def emulation(platform: Platform, *, register: bool = False) -> Emulation:
    """Does the kernel start programs of that platform through an emulator that is at hand in every root?

    With `register`, a namespace of our own is taught to, where that is possible.
    """
    name = _word(platform)
    with _lock:
        state = _state(name)
        if state != "absent":
            return _registered(name, platform, state)
        if not _own_entries():
            return _unregistered(name, platform)
        if emulator(platform) is None:
            return _unregistered(name, platform)
        if register:
            return _register(platform)
        return Emulation(True, f"{platform} steps run through qemu-{name}, which Kedge registers for itself")


def emulator(platform: Platform) -> str | None:
    """The path of qemu's emulator for a platform: a static one, since its libraries are in no image's root."""
    return shutil.which(f"qemu-{_word(platform)}-static", path=os.environ.get("PATH", "") + ":/usr/bin:/usr/local/bin")


def _word(platform: Platform) -> str:
    known = _MACHINES.get(platform.architecture)
    return known[0] if known else platform.architecture


def _state(name: str) -> str:
    """`absent`, `enabled`, `unfixed` (without the flag F) or `disabled`."""
    try:
        lines = (_ENTRIES / f"qemu-{name}").read_text().splitlines()
    except OSError:
        return "absent"
    if "enabled" not in lines:
        return "disabled"
    # Without F the interpreter is looked up in the image, where it is not.
    fixed = any("F" in line for line in lines if line.startswith("flags:"))
    return "enabled" if fixed else "unfixed"


def _registered(name: str, platform: Platform, state: str) -> Emulation:
    if state == "enabled":
        return Emulation(True, f"{platform} steps run through qemu-{name}")
    if state == "disabled":
        return Emulation(False, f"qemu-{name} is registered, but disabled", f"echo 1 | sudo tee {_ENTRIES}/qemu-{name}")
    remedy = "sudo apt-get install --reinstall qemu-user-static"
    return Emulation(False, f"qemu-{name} is registered without the flag F", remedy)


def _unregistered(name: str, platform: Platform) -> Emulation:
    if emulator(platform) is None:
        remedy = "sudo apt-get install qemu-user-static binfmt-support"
        return Emulation(False, f"there is no qemu-{name}-static", remedy)
    mount = "" if (_ENTRIES / "register").exists() else f"mount -t binfmt_misc binfmt_misc {_ENTRIES}; "
    line = _line(platform)
    remedy = f'sudo sh -c \'{mount}printf "%s" "{line}" > {_ENTRIES}/register\'' if line else ""
    return Emulation(False, f"qemu-{name}-static is here, but not registered", remedy)


def _line(platform: Platform) -> str:
    """The line that registers the emulator; P keeps argv[0], which qemu understands since 6.0."""
    known, program = _MACHINES.get(platform.architecture), emulator(platform)
    if known is None or program is None:
        return ""
    name, machine, wide, little = known
    order = "<" if little else ">"
    ident = b"\x7fELF" + bytes((2 if wide else 1, 1 if little else 2, 1))
    magic = ident + bytes(9) + struct.pack(order + "HH", 2, machine)
    # Any OS ABI; executables (2) and position independent ones (3).
    mask = b"\xff" * 7 + b"\0" + b"\xff" * 8 + struct.pack(order + "HH", 0xFFFE, 0xFFFF)
    return f":qemu-{name}:M::{_escaped(magic)}:{_escaped(mask)}:{program}:PF"


def _escaped(data: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in data)


def _own_entries() -> bool:
    """Are binfmt_misc's entries, or could they be, this user namespace's own?"""
    who = identity.current()
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2] if part.isdigit())
    return who.in_user_namespace and release >= (6, 7) and identity.has_capability("sys_admin")


def _register(platform: Platform) -> Emulation:
    name = _word(platform)
    try:
        # Always a mount of our own: what is mounted there may be the parent namespace's, and writable to its root.
        syscalls.mount("binfmt_misc", str(_ENTRIES), "binfmt_misc")
        (_ENTRIES / "register").write_bytes(_line(platform).encode())
    except OSError as error:
        why = (error.strerror or "error").lower()
        found = _unregistered(name, platform)
        return Emulation(False, f"qemu-{name} cannot be registered: {why}", found.remedy)
    return _registered(name, platform, _state(name))
