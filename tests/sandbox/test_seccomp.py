"""The filter as a program: run here by a small interpreter of classic BPF, for every architecture it speaks of."""

import struct

import pytest

from kedge.sandbox import seccomp
from kedge.sandbox.syscall_numbers import ARCHITECTURES, DENIED, FAKED, LAST_KNOWN

ALLOW, EPERM, ENOSYS, FAKE, KILL = 0x7FFF0000, 0x50001, 0x50026, 0x50000, 0x80000000
ARCH = {"x86_64": 0xC000003E, "i386": 0x40000003, "aarch64": 0xC00000B7, "arm": 0x40000028}
MACHINE = {"x86_64": "x86_64", "i386": "x86_64", "aarch64": "aarch64", "arm": "aarch64"}
CLONE = {"x86_64": 56, "i386": 120, "aarch64": 220, "arm": 120}
SOCKET = {"x86_64": 41, "i386": 359, "aarch64": 198, "arm": 281}
PERSONALITY = {"x86_64": 135, "i386": 136, "aarch64": 92, "arm": 136}
READ = {"x86_64": 0, "i386": 3, "aarch64": 63, "arm": 3}


def verdict(program: bytes, arch: int, number: int, *arguments: int) -> int:
    data = struct.pack("<IIQ6Q", number, arch, 0, *(arguments + (0,) * 6)[:6])
    code = [struct.unpack("=HBBI", program[i : i + 8]) for i in range(0, len(program), 8)]
    at = accumulator = 0
    while True:
        op, yes, no, value = code[at]
        at += 1
        if op == 0x06:
            return value
        if op == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif op == 0x54:
            accumulator &= value
        else:
            test = {0x15: accumulator == value, 0x25: accumulator > value, 0x45: bool(accumulator & value)}[op]
            at += yes if test else no


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_denied_call_is_denied_and_ordinary_ones_are_not(arch):
    program = seccomp.program(MACHINE[arch])
    for numbers in DENIED.values():
        number = numbers[ARCHITECTURES.index(arch)]
        if number is not None:
            assert verdict(program, ARCH[arch], number) == EPERM
    assert verdict(program, ARCH[arch], READ[arch]) == ALLOW


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_calls_newer_than_the_table_do_not_exist(arch):
    program = seccomp.program(MACHINE[arch])
    for number in (LAST_KNOWN + 1, 600, 0x40000000, 0xFFFFFFFF):
        assert verdict(program, ARCH[arch], number) == ENOSYS
    assert verdict(program, ARCH[arch], 435) == ENOSYS  # clone3: its flags are in memory, where a filter cannot look


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_conditions_on_arguments(arch):
    program = seccomp.program(MACHINE[arch])
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert verdict(program, ARCH[arch], CLONE[arch], flag | 17) == EPERM
    assert verdict(program, ARCH[arch], CLONE[arch], 0x3D0F00) == ALLOW  # a thread
    for family, expected in ((1, ALLOW), (2, ALLOW), (10, ALLOW), (16, ALLOW), (38, EPERM), (40, EPERM)):
        assert verdict(program, ARCH[arch], SOCKET[arch], family) == expected
    for persona, expected in ((0, ALLOW), (8, ALLOW), (0xFFFFFFFF, ALLOW), (0x0040000, EPERM), (0x400000, EPERM)):
        assert verdict(program, ARCH[arch], PERSONALITY[arch], persona) == expected


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_faking_ids_succeeds_without_doing_anything(arch):
    program, column = seccomp.program(MACHINE[arch], fake_ids=True), ARCHITECTURES.index(arch)
    for name, numbers in FAKED.items():
        if numbers[column] is not None and not name.startswith("mknod"):
            assert verdict(program, ARCH[arch], numbers[column]) == FAKE
    mknodat = FAKED["mknodat"][column]
    for kind, expected in ((0x2000, FAKE), (0x6000, FAKE), (0x1000, ALLOW), (0x8000, ALLOW)):
        assert verdict(program, ARCH[arch], mknodat, 0, 0, kind | 0o644) == expected
    for numbers in DENIED.values():
        if numbers[column] is not None:
            assert verdict(program, ARCH[arch], numbers[column]) == EPERM


def test_a_foreign_architecture_kills():
    assert verdict(seccomp.program("x86_64"), ARCH["aarch64"], 0) == KILL
    assert verdict(seccomp.program("aarch64"), ARCH["x86_64"], 0) == KILL


def test_a_machine_without_a_table_has_no_filter():
    assert seccomp.program("riscv64") == b""
