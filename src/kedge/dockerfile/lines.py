"""Lines: from the bytes of a Dockerfile to its logical lines.

Owns encodings, line ends, continuation lines, comments and the bodies that follow a line. Does not know keywords, nor
what a heredoc is: it is told the terminator to read up to.
"""

from collections.abc import Iterator

from kedge.model.errors import DockerfileError, Location, SourceFile
from kedge.model.value import dataclass, field

MAX_LINE_BYTES = 65535  # BuildKit refuses longer physical lines
BYTE_ORDER_MARK = "\ufeff"

# Unicode's White_Space property, which is what counts as blank; str.isspace() takes the separators U+001C..1F, too.
BLANKS = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"


def decode(data: bytes) -> str:
    """The text of a Dockerfile: UTF-8; bytes that are not are kept as lone surrogates (`surrogateescape`)."""
    return data.decode("utf-8", "surrogateescape").removeprefix(BYTE_ORDER_MARK)


def is_comment(line: str) -> bool:
    return line.lstrip(BLANKS).startswith("#")


def without_end(line: str) -> str:
    return line.rstrip("\r\n")


@dataclass(frozen=True, slots=True)
class LogicalLine:
    """An instruction's text: continuation lines joined without their escape character, comments inside left out.

    `start` and `end` are physical line numbers. `comments` are the texts of the comment lines above, up to the previous
    instruction or empty comment. `has_gap` tells of a blank line inside a continuation.
    """

    text: str
    start: int
    end: int
    comments: tuple[str, ...] = ()
    has_gap: bool = False


@dataclass
class LineReader:
    """Walks a text once, front to back: logical lines on iteration, raw bodies on demand between two of them.

    `directive_lines` are the numbers of lines that are directives and hence no comments. Raises DockerfileError for a
    physical line above MAX_LINE_BYTES.
    """

    source: SourceFile
    escape: str = "\\"
    directive_lines: frozenset[int] = frozenset()
    number: int = field(default=0, init=False)  # of the physical line read last
    _lines: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self._lines = physical_lines(self.source.text)

    def __iter__(self) -> Iterator[LogicalLine]:
        comments: list[str] = []
        while (raw := self.take()) is not None:
            line = without_end(raw).lstrip(BLANKS)
            if line.startswith("#"):
                self._note_comment(line, comments)
            elif line:
                yield self._join(line, tuple(comments))
                comments.clear()

    def take(self) -> str | None:
        """The next physical line with its end, None behind the last."""
        if self.number >= len(self._lines):
            return None
        line = self._lines[self.number]
        self.number += 1
        # Only a line with more characters than a quarter of the limit can have more bytes than the limit.
        if (
            len(line) * 4 > MAX_LINE_BYTES
            and len(line.removesuffix("\n").encode("utf-8", "surrogatepass")) > MAX_LINE_BYTES
        ):
            raise DockerfileError(
                f"the line is longer than {MAX_LINE_BYTES} bytes",
                location=Location(self.source, self.number, self.number),
                hint=f"Break it with {self.escape} at line ends, or copy the text from a file of the context.",
            )
        return line

    def take_body(self, terminator: str, strip_tabs: bool) -> str | None:
        """The raw lines up to one that is `terminator`, which is dropped; None, and all is read, when there is none."""
        body: list[str] = []
        while (line := self.take()) is not None:
            candidate = without_end(line)
            if (candidate.lstrip("\t") if strip_tabs else candidate) == terminator:
                return "".join(body)
            body.append(line)
        return None

    def _note_comment(self, line: str, comments: list[str]) -> None:
        if self.number in self.directive_lines:
            return
        text = line[1:].strip(BLANKS)
        if text:
            comments.append(text)
        else:
            comments.clear()  # an empty comment cuts off what is above it

    def _join(self, first: str, comments: tuple[str, ...]) -> LogicalLine:
        """The logical line that begins with `first`, the line just taken."""
        start = self.number
        part, goes_on = self._without_continuation(first)
        parts, has_gap = [part], False
        while goes_on and (raw := self.take()) is not None:
            if is_comment(raw):
                continue
            if not raw.strip(BLANKS):
                has_gap = True
                continue
            part, goes_on = self._without_continuation(without_end(raw))
            parts.append(part)
        return LogicalLine("".join(parts), start, self.number, comments, has_gap)

    def _without_continuation(self, line: str) -> tuple[str, bool]:
        # An escape character counts only as the last one but for blanks, and not when another stands before it.
        stripped = line.rstrip(" \t")
        if not stripped.endswith(self.escape) or stripped[-2:-1] == self.escape:
            return line, False
        return stripped[:-1], True


def physical_lines(text: str) -> list[str]:
    """The lines of `text` with their ends; only a line feed ends a line."""
    lines = text.split("\n")
    last = lines.pop()
    return [line + "\n" for line in lines] + ([last] if last else [])
