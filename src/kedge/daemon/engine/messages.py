"""Docker's stream of JSON messages: progress lines, and an error at the end if there is one.

Owns the form (jsonmessage in Docker's API reference) and when the response begins: with the first message, so that what
fails before it gets a status code of its own. Does not know what is going on.
"""

import json
import threading
from contextlib import suppress
from typing import Any

from kedge.daemon.engine.http import Disconnected, Exchange
from kedge.daemon.engine.routes import message_of
from kedge.model.errors import Cancelled, KedgeError


class Messages:
    """One response; a context manager. Safe for several threads; silent once the client has gone."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._lock = threading.Lock()
        self._over = False

    def __call__(self, **message: Any) -> None:
        """Send one message."""
        data = json.dumps(message).encode() + b"\r\n"
        with self._lock:
            if self._over:
                return
            try:
                if not self._exchange.started:
                    self._exchange.begin()
                self._exchange.write(data)
            except (Disconnected, Cancelled):
                self._over = True

    def stream(self, text: str) -> None:
        """Text for the client to show as it is."""
        self(stream=text)

    def begin(self) -> None:
        """Begin the response, though there is nothing to say yet."""
        with self._lock, suppress(Disconnected):
            if not self._exchange.started:
                self._exchange.begin()

    def __enter__(self) -> "Messages":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        """A KedgeError after the first message becomes the last one; others are raised."""
        told = isinstance(error, KedgeError) and self._exchange.started
        if told and isinstance(error, KedgeError):
            text = message_of(error)
            self(errorDetail={"message": text, **_code(error)}, error=text)
        if error is None or told:
            self.begin()
            with suppress(Disconnected):
                self._exchange.end()
        return told


def _code(error: KedgeError) -> dict[str, int]:
    code = getattr(error, "exit_code", None)
    return {} if code is None else {"code": int(code)}
