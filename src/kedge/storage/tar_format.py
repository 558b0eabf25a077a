"""The tar format's words: an entry, its types, and the encodings of numbers and records.

Owns what reader and writer share. Does not read or write streams. Sources: POSIX pax(1), "ustar Interchange Format" and
"pax Header Block"; GNU tar manual, "Basic Tar Format" and "Storing Sparse Files".
"""

import stat
from zlib import adler32

from kedge.model.errors import IntegrityError
from kedge.model.value import dataclass, field

BLOCK = 512
FILE, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = (b"%d" % n for n in range(7))
KIND_OF_TYPE = {  # by stat(2)'s file type; sockets have no word
    stat.S_IFREG: FILE,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHARACTER,
    stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFIFO: FIFO,
}
XATTR_RECORD = b"SCHILY.xattr."
WHITEOUT, OPAQUE, META = b".wh.", b".wh..wh..opq", b".wh..wh."  # OCI image specification, layer.md, "Whiteouts"

_INT64 = 1 << 63
_MAX_ID = 0xFFFFFFFE  # (uid_t) -1 means "leave alone" to chown(2)


@dataclass(slots=True)
class Entry:
    """One member of an archive, its extended headers applied. Names are bytes, exactly as in the archive.

    `kind` is one of the ustar type flags `0` (file), `1` (hard link), `2` (symlink), `3`, `4` (devices), `5`
    (directory) and `6` (FIFO). `size` counts the bytes the file has when unpacked, `stored` those in the archive; they
    differ only with `sparse`, the (offset, length) of each piece of data. `mtime` is in nanoseconds since the epoch.
    """

    name: bytes
    kind: bytes
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    stored: int = 0
    mtime: int = 0
    link: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    sparse: list[tuple[int, int]] | None = None


def malformed(what: str) -> IntegrityError:
    """The error for bytes that are no tar archive, or one that cannot be honest."""
    return IntegrityError(f"malformed archive: {what}")


def parse_number(text: bytes) -> int:
    """A header's number: octal digits ended by space or NUL, or GNU's base-256, which may be negative."""
    digits = text[:-1]
    if digits.isdigit() and text[-1] in b"\0 ":  # as almost all are written
        try:
            return int(digits, 8)
        except ValueError:
            raise malformed(f"{digits!r} is no octal number") from None
    if text[0] & 0x80:
        if text[0] & 0x40:
            value = int.from_bytes(text, "big", signed=True)
        else:
            value = int.from_bytes(text, "big") & ~(0x80 << 8 * (len(text) - 1))
        if not -_INT64 <= value < _INT64:
            raise malformed("a number beyond 64 bits")
        return value
    digits = text.lstrip(b" \0").partition(b"\0")[0].rstrip(b" ")
    if not digits:
        return 0
    # int() alone would take signs, underscores and 0o.
    if not digits.isdigit():
        raise malformed(f"{digits[:20]!r} is no octal number")
    try:
        return int(digits, 8)
    except ValueError:
        raise malformed(f"{digits[:20]!r} is no octal number") from None


def parse_decimal(text: bytes, what: str) -> int:
    """A record's unsigned decimal of at most 63 bits."""
    if not text.isdigit() or len(text) > 20 or (value := int(text)) >= _INT64:
        raise malformed(f"{text[:20]!r} is no {what}")
    return value


def parse_id(text: bytes) -> int:
    """A record's user or group id."""
    return checked_id(parse_decimal(text, "id"))


def checked_id(value: int) -> int:
    """`value` if the kernel knows such an id. Raises IntegrityError (CVE-2024-40635: never wrap around to 0)."""
    if not 0 <= value <= _MAX_ID:
        raise malformed(f"an id of {value}")
    return value


def parse_time(text: bytes) -> int:
    """A record's time, seconds with an optional fraction, in nanoseconds."""
    negative = text.startswith(b"-")
    whole, _, fraction = text.removeprefix(b"-").partition(b".")
    if len(fraction) > 512 or (fraction and not fraction.isdigit()):
        raise malformed(f"{text[:30]!r} is no time")
    value = parse_decimal(whole, "time") * 1_000_000_000 + int(fraction[:9].ljust(9, b"0") or b"0")
    return -value if negative else value


def parse_records(data: bytes) -> list[tuple[bytes, bytes]]:
    """The `length key=value` records of a PAX header, in order."""
    records = []
    at, end = 0, len(data)
    while at < end:
        space = data.find(b" ", at, at + 20)
        digits = data[at:space] if space > 0 else b""
        length = int(digits) if digits.isdigit() else 0
        stop = at + length
        equals = data.find(b"=", space + 1, stop)
        if length <= 0 or stop > end or equals <= space + 1 or data[stop - 1] != 0x0A:
            if not data[at:].strip(b"\0"):
                break  # some writers pad the records with NULs
            raise malformed("a PAX record that is none")
        records.append((data[space + 1 : equals], data[equals + 1 : stop - 1]))
        at = stop
    return records


def format_record(key: bytes, value: bytes) -> bytes:
    """One PAX record; its length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


# ---- writing ---------------------------------------------------------------------------------------------------------

_OCTAL_ID = 0o7777777
_OCTAL_SIZE = 0o77777777777


def format_header(entry: Entry) -> bytes:
    """The blocks before an entry's data: a ustar header, and a PAX header before it if ustar cannot say it all."""
    records: list[tuple[bytes, bytes]] = []
    name, prefix = _split(entry.name)
    if not name:
        records.append((b"path", entry.name))
        name = entry.name[:100]
    if len(entry.link) > 100 or not entry.link.isascii():
        records.append((b"linkpath", entry.link))
    if entry.size > _OCTAL_SIZE:
        records.append((b"size", b"%d" % entry.size))
    for key, value in ((b"uid", entry.uid), (b"gid", entry.gid)):
        if value > _OCTAL_ID:
            records.append((key, b"%d" % value))
    seconds = entry.mtime // 1_000_000_000
    if not 0 <= seconds <= _OCTAL_SIZE:
        records.append((b"mtime", b"%d" % seconds))
    records += [(XATTR_RECORD + key, value) for key, value in entry.xattrs.items()]
    block = _ustar(entry, name, prefix, seconds)
    return (_pax(records, entry.name) + block) if records else block


def _split(name: bytes) -> tuple[bytes, bytes]:
    """A path as ustar's name and prefix; an empty name if it does not fit or is not ASCII."""
    if not name.isascii() or len(name) > 256:
        return b"", b""
    if len(name) <= 100:
        return name, b""
    at = name.find(b"/", len(name) - 101, 156)
    if at <= 0 or at == len(name) - 1:
        return b"", b""
    return name[at + 1 :], name[:at]


def _pax(records: list[tuple[bytes, bytes]], name: bytes) -> bytes:
    data = b"".join(format_record(key, value) for key, value in sorted(records))
    header = Entry(b"", b"x", 0, size=len(data))
    directory, _, base = name.rstrip(b"/").rpartition(b"/")
    short = (directory + b"/PaxHeaders.0/" + base if directory else b"PaxHeaders.0/" + base)[:100]
    if not short.isascii():
        short = b"PaxHeaders.0/entry"
    return _ustar(header, short, b"", 0) + data + bytes(-len(data) % BLOCK)


def _ustar(entry: Entry, name: bytes, prefix: bytes, seconds: int) -> bytes:
    device = entry.kind in (CHARACTER, BLOCK_DEVICE)
    size = entry.size if entry.kind in (FILE, b"x") else 0
    fields = (
        name.ljust(100, b"\0"),
        b"%07o\0" % entry.mode,
        b"%07o\0" % (entry.uid if entry.uid <= _OCTAL_ID else 0),
        b"%07o\0" % (entry.gid if entry.gid <= _OCTAL_ID else 0),
        b"%011o\0" % (size if size <= _OCTAL_SIZE else 0),
        b"%011o\0" % (seconds if 0 <= seconds <= _OCTAL_SIZE else 0),
        b"        ",
        entry.kind,
        entry.link[:100].ljust(100, b"\0"),
        b"ustar\x0000",
        bytes(64),
        b"%07o\0%07o\0" % (entry.major, entry.minor) if device else b"0000000\x000000000\0",
        prefix.ljust(155, b"\0"),
        bytes(12),
    )
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % checksum_of(block) + block[156:]


def checksum_of(block: bytes) -> int:
    """The sum of a header's bytes, the checksum field taken as spaces.

    Adler-32's low half is the sum of the bytes plus one, modulo 65521; half a block cannot reach that.
    """
    total = (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF) - 2
    return total - sum(block[148:156]) + 256
