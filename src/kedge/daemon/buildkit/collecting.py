"""The service's rules of what goes of itself, applied: at the start, after builds, and every now and then.

Owns when. Does not know the rules' meaning (`storage.policies`).
"""

import threading
import time
import traceback
from collections.abc import Callable
from typing import Final

from kedge.daemon.buildkit.config import ServiceConfig
from kedge.daemon.buildkit.usage import policy_of
from kedge.model.errors import KedgeError
from kedge.storage.policies import collect
from kedge.storage.store import Store

EVERY: Final = 3600.0  # seconds between looks when nothing is built
_AFTER: Final = 1.0  # seconds after a build's end: the next one may begin at once
_SHARE: Final = 20  # looking takes no more than one part in this many of the time


class Collecting:
    """A thread that keeps the store within the rules. Nothing happens without any rule."""

    def __init__(self, config: ServiceConfig, log: Callable[[str], None]) -> None:
        self._config, self._log = config, log
        self._policies = [policy_of(rule) for rule in config.gc]
        self._changed = threading.Condition()
        self._asked, self._stopped = True, False
        self._thread = threading.Thread(target=self._work, name="collecting", daemon=True)

    def start(self) -> None:
        """Look through the store, then whenever something may have changed."""
        if self._policies:
            self._thread.start()

    def ask(self) -> None:
        """A build has ended: look soon."""
        with self._changed:
            self._asked = True
            self._changed.notify_all()

    def stop(self) -> None:
        """No more; a look under way is left to end."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._asked or self._stopped, EVERY)
            if self._wait(_AFTER):
                return
            self._asked = False
            started = time.monotonic()
            try:
                self._collect()
            except KedgeError as error:
                self._log(f"collecting failed: {error}")
            except Exception:  # a bug: told whole, and no reason to let the disk fill from now on
                self._log(f"collecting failed:\n{traceback.format_exc()}")
            if self._wait((time.monotonic() - started) * _SHARE):
                return

    def _wait(self, seconds: float) -> bool:
        """Let time pass; True when it is over."""
        with self._changed:
            return self._changed.wait_for(lambda: self._stopped, seconds)

    def _collect(self) -> None:
        with Store.open(self._config.root) as store:
            gone = collect(store, self._policies, images=not self._config.images_are_cache)
        if gone:
            self._log(f"collected {len(gone)} unused things, {sum(one.size for one in gone)} bytes")
