"""The system call filter of a step, assembled as classic BPF.

Owns the policy (which calls, under which conditions) and the assembler. The numbers are in `syscall_numbers`. Does not
install anything. Source: seccomp(2); include/uapi/linux/{seccomp,filter,audit}.h.
"""

import errno
import struct
from functools import cache

from kedge.sandbox.syscall_numbers import ARCHITECTURES, CHECKED, DENIED, FAKED, LAST_KNOWN, OPENED

_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS, _SUCCESS = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS, _ERRNO

_AUDIT_ARCH = {"x86_64": 0xC000003E, "i386": 0x40000003, "aarch64": 0xC00000B7, "arm": 0x40000028}
_RUNS = {"x86_64": ("x86_64", "i386"), "aarch64": ("aarch64", "arm")}  # what a machine of the kind can execute

_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID, NET: clone(2)
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)  # Linux, Linux32, both with UNAME26, and "tell me"
_AF_ALG, _AF_VSOCK = 38, 40  # kernel crypto's attack surface; the way to the host of a virtual machine
_LOAD_NUMBER, _LOAD_ARCH, _ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; arguments are 8 bytes, low word first

_LD, _AND, _JA, _JEQ, _JGT, _JSET, _RET = 0x20, 0x54, 0x05, 0x15, 0x25, 0x45, 0x06


@cache
def program(machine: str, fake_ids: bool = False, added: frozenset[str] = frozenset()) -> bytes:
    """The filter for steps on `machine` (os.uname().machine), as an array of struct sock_filter; empty if unknown to
    us.

    `fake_ids`: only one id is mapped, so calls that change owners and ids do nothing and succeed. `added`: capabilities
    beyond the default set, each of which opens the calls that it is for.
    """
    if machine not in _RUNS:
        return b""
    code = _Assembler()
    code.add(_LD, _LOAD_ARCH)
    for arch in _RUNS[machine]:
        code.add(_JEQ, _AUDIT_ARCH[arch], no="after " + arch)
        _section(code, arch, fake_ids, added)
        code.label("after " + arch)
    code.add(_RET, _KILL)
    return code.assemble()


def _section(code: "_Assembler", arch: str, fake_ids: bool, added: frozenset[str]) -> None:
    opened = {call for name in added for call in OPENED.get(name, "").split()}
    column = ARCHITECTURES.index(arch)
    code.add(_LD, _LOAD_NUMBER)
    # The x32 numbers of x86_64 start at 0x40000000 and end here too.
    code.add(_JGT, LAST_KNOWN, yes=arch + " unknown")
    tables: list[tuple[dict[str, tuple[int | None, ...]], str]] = [(DENIED, "denied")]
    if fake_ids:
        tables.insert(0, (FAKED, "faked"))
    for table, name in tables:
        for call, numbers in table.items():
            if (number := numbers[column]) is not None and (call not in opened or name == "faked"):
                special = call if call.startswith("mknod") else name
                code.add(_JEQ, number, yes=f"{arch} {special}")
    for call, numbers in CHECKED.items():
        if (number := numbers[column]) is not None and call not in opened:
            code.add(_JEQ, number, yes=f"{arch} {'unknown' if call == 'clone3' else call}")
    code.add(_RET, _ALLOW)
    _conditions(code, arch, fake_ids)
    for name, action in (("denied", _EPERM), ("unknown", _ENOSYS), ("faked", _SUCCESS), ("allowed", _ALLOW)):
        code.label(f"{arch} {name}")
        code.add(_RET, action)


def _conditions(code: "_Assembler", arch: str, fake_ids: bool) -> None:
    allowed, denied, faked = arch + " allowed", arch + " denied", arch + " faked"
    code.label(arch + " clone")
    code.add(_LD, _ARGUMENT)
    code.add(_JSET, _NEW_NAMESPACES, yes=denied, no=allowed)
    code.label(arch + " socket")
    code.add(_LD, _ARGUMENT)
    code.add(_JEQ, _AF_ALG, yes=denied)
    code.add(_JEQ, _AF_VSOCK, yes=denied, no=allowed)
    code.label(arch + " personality")
    code.add(_LD, _ARGUMENT)
    for value in _PERSONALITIES:
        code.add(_JEQ, value, yes=allowed)
    code.add(_RET, _EPERM)
    if fake_ids:
        for call, index in (("mknod", 1), ("mknodat", 2)):
            code.label(f"{arch} {call}")
            code.add(_LD, _ARGUMENT + 8 * index)
            code.add(_AND, 0xF000)
            code.add(_JEQ, 0x2000, yes=faked)  # S_IFCHR
            code.add(_JEQ, 0x6000, yes=faked, no=allowed)  # S_IFBLK


class _Assembler:
    """Instructions with forward labels; BPF jumps are relative, forward only and at most 255 long."""

    def __init__(self) -> None:
        self.code: list[tuple[int, int, str, str]] = []
        self.labels: dict[str, int] = {}

    def add(self, op: int, value: int, yes: str = "", no: str = "") -> None:
        self.code.append((op, value, yes, no))

    def label(self, name: str) -> None:
        self.labels[name] = len(self.code)

    def assemble(self) -> bytes:
        return b"".join(
            struct.pack("=HBBI", op, self._offset(at, yes), self._offset(at, no), value)
            for at, (op, value, yes, no) in enumerate(self.code)
        )

    def _offset(self, at: int, name: str) -> int:
        distance = self.labels[name] - at - 1 if name else 0
        if not 0 <= distance <= 255:
            raise AssertionError(f"jump to {name} is {distance} long")
        return distance
