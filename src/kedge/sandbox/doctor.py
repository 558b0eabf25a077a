"""What this machine allows: each check tried for real, with the one command that mends it.

Owns the checks. Does not know which commands need which, beyond `require`.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Check:
    """One answer: `name` is stable and short (`overlayfs`); `detail` one line; `remedy` a command or a sentence, ""
    if ok.

    `needed` tells whether builds with RUN steps fail without it.
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    needed: bool = False


def checks(root: Path | None = None) -> list[Check]:
    """All checks, about this process's own privileges; `root` is the store's directory. Takes well below a second."""
    return []


def require(root: Path | None = None) -> None:
    """Raise Unsupported, naming what is missing and its remedy, unless steps can run here. Cheap after the first
    call."""
