"""The client's end of a transfer of files, as a list of what it says."""

from collections.abc import Iterable
from typing import Any


class Told:
    """A transfer's call: what a client tells, and what it is answered."""

    def __init__(self, packets: Iterable[Any]) -> None:
        self._packets = iter(packets)
        self.answers = list[Any]()

    def __next__(self) -> Any:
        return next(self._packets)

    def __iter__(self) -> "Told":
        return self

    def send(self, message: Any) -> bool:
        """Take an answer."""
        self.answers.append(message)
        return True

    def end(self) -> None:
        """There will be no more of them."""
