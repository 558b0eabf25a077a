"""Questions that several threads ask at once, and that are answered once.

Owns the answers of one build. Does not know what is asked.
"""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from kedge.model.value import dataclass, field

Answer = TypeVar("Answer")


@dataclass(slots=True)
class Once(Generic[Answer]):
    """Answers by question, each asked once, by one thread while the others wait. A failure is asked again."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    locks: dict[object, threading.Lock] = field(default_factory=dict)
    answers: dict[object, Answer] = field(default_factory=dict)

    def ask(self, question: object, find: Callable[[], Answer]) -> Answer:
        with self.lock:
            lock = self.locks.setdefault(question, threading.Lock())
        with lock:
            if question not in self.answers:
                self.answers[question] = find()
            return self.answers[question]
