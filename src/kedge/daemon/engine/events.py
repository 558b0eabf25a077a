"""What happens to containers and images, told to whoever listens: `docker events`.

Owns the recent past and the listeners. Does not know who tells.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

_KEPT = 256  # events, as Docker keeps
_MOST_WAITING = 1024  # events that a listener may lag behind; then it misses the oldest


class Events:
    """The bus. Thread-safe."""

    def __init__(self) -> None:
        self._past: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self._listeners: set[_Listener] = set()
        self._lock = threading.Lock()

    def tell(self, kind: str, action: str, id: str, attributes: dict[str, str]) -> None:
        """Something happened to a thing of that kind."""
        now = time.time_ns()
        event: dict[str, Any] = {
            "Type": kind,
            "Action": action,
            "Actor": {"ID": id, "Attributes": attributes},
            "scope": "local",
            "time": now // 1_000_000_000,
            "timeNano": now,
        }
        if kind in ("container", "image"):
            event |= {"status": action, "id": id}
            if kind == "container":
                event["from"] = attributes.get("image", "")
        with self._lock:
            self._past.append(event)
            for listener in self._listeners:
                listener.put(event)

    def listen(self, since: float, until: float, wanted: Callable[[], bool]) -> Iterator[dict[str, Any]]:
        """Events from `since` (0: now) to `until` (0: for ever), as long as `wanted` says so."""
        listener = _Listener()
        with self._lock:
            past = [event for event in self._past if since and event["timeNano"] >= since * 1e9]
            self._listeners.add(listener)
        try:
            yield from (event for event in past if not until or event["timeNano"] <= until * 1e9)
            while wanted() and not (until and time.time() >= until):
                if (latest := listener.get(0.3)) is not None:
                    yield latest
        finally:
            with self._lock:
                self._listeners.discard(listener)


class _Listener:
    def __init__(self) -> None:
        self._waiting: deque[dict[str, Any]] = deque(maxlen=_MOST_WAITING)
        self._changed = threading.Condition()

    def put(self, event: dict[str, Any]) -> None:
        with self._changed:
            self._waiting.append(event)
            self._changed.notify()

    def get(self, patience: float) -> dict[str, Any] | None:
        with self._changed:
            if not self._waiting:
                self._changed.wait(patience)
            return self._waiting.popleft() if self._waiting else None
