"""Messages in a stream of bytes as gRPC has them, five bytes before each ("gRPC over HTTP2", Length-Prefixed-Message).

Owns those five bytes, and how bytes travel in a header. Does not know what a message is.
"""

import struct
import zlib
from base64 import b64encode
from collections import deque
from typing import Final

_PREFIX: Final = struct.Struct(">BI")  # is it compressed, length


class Unreadable(Exception):
    """What came cannot be taken apart; says why."""


class TooLarge(Unreadable):
    """A message has more bytes than are taken."""


def header_text(value: str | bytes) -> str:
    """A header's value as it travels: bytes are those of a name that ends in `-bin`."""
    return b64encode(value).rstrip(b"=").decode() if isinstance(value, bytes) else value


def framed(data: bytes) -> bytes:
    """A message as it travels."""
    return _PREFIX.pack(0, len(data)) + data


class Unframer:
    """Takes messages of at most `most` bytes out of pieces of any size: `take` them while `ready` has any."""

    def __init__(self, most: int) -> None:
        self.ready: deque[tuple[bool, bytes]] = deque()  # is it compressed, its bytes
        self.encoding = "identity"  # how compressed ones are compressed: the header grpc-encoding
        self._most, self._rest, self._needed = most, bytearray(), 5

    @property
    def is_between(self) -> bool:
        """Has nothing of a further message come?"""
        return not self._rest

    def feed(self, data: bytes) -> None:
        """Take the next piece. Raises TooLarge."""
        rest = self._rest
        rest += data
        at, end = 0, len(rest)
        while end - at >= self._needed:
            compressed, length = _PREFIX.unpack_from(rest, at)
            if length > self._most:
                raise TooLarge(f"a message of {length} bytes is larger than {self._most}")
            if end - at < 5 + length:
                self._needed = 5 + length  # until then no piece is looked at
                break
            self.ready.append((bool(compressed), bytes(rest[at + 5 : at + 5 + length])))
            at += 5 + length
            self._needed = 5
        del rest[:at]

    def take(self) -> bytes:
        """The next whole message. Raises Unreadable."""
        compressed, message = self.ready.popleft()
        return self._expanded(message) if compressed else message

    def _expanded(self, message: bytes) -> bytes:
        if self.encoding != "gzip":
            raise Unreadable(f"a message is compressed by {self.encoding[:40]}")
        expander = zlib.decompressobj(wbits=31)
        try:
            found = expander.decompress(message, self._most)
        except zlib.error:
            raise Unreadable("a compressed message is damaged") from None
        if not expander.eof:
            raise TooLarge(f"a compressed message has more than {self._most} bytes, or is cut off")
        return found
