"""Directories that outlive builds: RUN --mount=type=cache. Owns `cache-mounts/`; knows nothing of their content.

Ids come from Dockerfiles and are hashed, never joined to a path (CVE-2024-9675).
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal


class CacheMounts:
    """Cache directories by id, shared by threads and processes."""

    def use(
        self,
        id: str,
        sharing: Literal["shared", "private", "locked"],
        *,
        base: str = "",
        prepare: Callable[[Path], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> AbstractContextManager[Path]:
        """The directory to mount, ours while the context manager is entered.

        `shared`: any number of users at once. `locked`: waits until no one else uses it; raises Cancelled when `cancel` is set
        meanwhile. `private`: another directory of the same id when the first is in use. `base` names what the directory starts
        with (part of its identity, so that other initial content is another cache); `prepare(directory)` puts that there when
        the directory is new, and may raise, which leaves no directory behind. Left on any thread.
        """
        raise NotImplementedError
