"""Imports what the end of a build needs while its steps run, when nobody waits for it.

Owns the list. Knows nothing of builds: one that is over soon, because it is cached, imports none of this.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Final

_SOON: Final = 0.1  # seconds: the first steps are to start before
_LATER: Final = (
    "kedge.storage.copy",
    "kedge.storage.packing",
    "kedge.storage.tar_write",
    "kedge.storage.checksum",
    "kedge.builder.image_checks",
    "kedge.builder.outputs",
    "kedge.checks.files",
    "kedge.checks.start",
    "kedge.checks.leftovers",
    "kedge.checks.stage_sizes",
    "kedge.dockerfile.lint_image_rules",
)


@contextmanager
def imported_ahead() -> Iterator[None]:
    """Import while the context lasts, on a thread of its own that ends with it."""
    done = threading.Event()

    def run() -> None:
        if done.wait(_SOON):
            return
        for name in _LATER:
            if done.is_set():
                return
            import_module(name)

    thread = threading.Thread(target=run, name="kedge-imports", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
