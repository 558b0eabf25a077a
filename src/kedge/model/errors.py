"""What can go wrong, as data: whose fault it is, where it stands in the user's text, and what to do about it.

Every error shown to a user is one of these. Anything else that reaches the top is a bug and shows a traceback.
A foreign exception is translated where it is understood, at the border of the package that called.
"""

import re
from typing import TYPE_CHECKING

from kedge.model.value import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kedge.model.remains import Remains


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A text the user wrote, by the name to show it under."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Location:
    """Lines `start` to `end` of a text (1-based, both included), and where known the columns at fault.

    `columns` is the half-open range of characters in line `start`, counted from 0.
    """

    file: SourceFile
    start: int
    end: int
    columns: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"{self.file.name}:{self.start}"

    def narrowed(self, fault: str) -> "Location":
        """The line and columns where `fault` first stands in these lines, as a word if it does; else these lines."""
        lines = self.file.text.split("\n")[self.start - 1 : self.end] if fault else []
        for pattern in (rf"(?<!\S){re.escape(fault)}(?!\S)", re.escape(fault)):
            for number, line in enumerate(lines, self.start):
                if found := re.search(pattern, line):
                    return Location(self.file, number, number, found.span())
        return self


class KedgeError(Exception):
    """The root of all errors that are not bugs.

    `message` is one sentence without a final full stop; `location` the text at fault; `hint` what to do, a sentence;
    `stage` the build stage. None of them may contain a secret. `fault` is the part of the text that is wrong, as the
    user wrote it: when the location comes to be known, it is narrowed to that. `remains` are the failed vertex's files,
    where somebody is to look into them. `misses` says of a failed build why its steps ran (`BuildResult.misses`).
    """

    def __init__(
        self,
        message: str,
        *,
        location: Location | None = None,
        hint: str = "",
        stage: str = "",
        retryable: bool = False,
        fault: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.location = location
        self.hint = hint
        self.stage = stage
        self.retryable = retryable
        self.fault = fault
        self.remains: Remains | None = None
        self.misses: Mapping[str, tuple[str, ...]] = {}

    def at(self, location: Location | None, stage: str = "") -> "KedgeError":
        """This error, pointing at `location` and `stage` unless it already points somewhere; returns itself."""
        if self.location is None and location is not None:
            self.location = location.narrowed(self.fault)
        self.stage = self.stage or stage
        return self


# ---- the request is at fault -----------------------------------------------------------------------------------------


class InvalidInput(KedgeError):
    """What the user asked for cannot be meant: nothing was changed."""


class InvalidDigest(InvalidInput):
    """A text that is no content digest."""


class InvalidReference(InvalidInput):
    """A text that is no image name."""


class InvalidPlatform(InvalidInput):
    """A text that is no platform."""


class DockerfileError(InvalidInput):
    """A Dockerfile that cannot be read or means nothing; `location` says where."""


class NotFound(InvalidInput):
    """A named thing (file, stage, image, container) that does not exist."""


class Excluded(NotFound):
    """A file that the context has and its ignore file leaves out, by `pattern`."""

    def __init__(self, message: str, pattern: str) -> None:
        super().__init__(message, hint=f"It is excluded by the pattern {pattern!r} of the context's ignore file.")
        self.pattern = pattern


class Conflict(InvalidInput):
    """A named thing that is in use or exists already."""


# ---- the world is at fault -------------------------------------------------------------------------------------------


class StepFailed(KedgeError):
    """A build step's process ended with a code that means failure.

    `exit_code` is the process's own (128 + n for signal n); `tail` its last output, as bytes.
    """

    def __init__(
        self,
        message: str,
        *,
        exit_code: int,
        tail: bytes = b"",
        location: Location | None = None,
        hint: str = "",
        stage: str = "",
    ) -> None:
        super().__init__(message, location=location, hint=hint, stage=stage)
        self.exit_code = exit_code
        self.tail = tail


class RegistryError(KedgeError):
    """A registry answered with an error or not at all. `status` is the HTTP status, 0 when there was none."""

    def __init__(self, message: str, *, status: int = 0, hint: str = "", retryable: bool = False) -> None:
        super().__init__(message, hint=hint, retryable=retryable)
        self.status = status


class Unauthorized(RegistryError):
    """The registry wants other credentials, or none will do."""


class IntegrityError(KedgeError):
    """Bytes that are not what their digest, size or format promised; they were not used."""


class StoreError(KedgeError):
    """The store cannot do its work: no space, no permission, damaged."""


class SourceError(KedgeError):
    """A remote context or ADD source (git, http) could not be fetched."""


class Unsupported(KedgeError):
    """This machine or this version cannot do what was asked; `hint` says what would mend it."""


class Cancelled(KedgeError):
    """The build was stopped from outside, or because another step failed first."""
