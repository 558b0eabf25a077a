"""What one driver of a build has, a client or a frontend that is an image: results by id, containers, an answer.

Owns these, apart for each driver, so that none sees another's. Does not know how a driver calls (`gateway`).
"""

import secrets
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kedge.builder.request import BuildRequest
from kedge.daemon.buildkit.containers import Containers
from kedge.daemon.buildkit.errors import Refused
from kedge.model.errors import Cancelled

if TYPE_CHECKING:
    from kedge.daemon.buildkit.jobs import Job, Outcome, Result


class Bridge:
    """One driver of a job. `inputs` are the definitions it was given; `depth` is how many frontends called each other.

    Thread-safe.
    """

    def __init__(self, job: "Job", inputs: Mapping[str, Any], depth: int = 0) -> None:
        self.job, self.inputs, self.depth = job, inputs, depth
        self.returned: Result | BaseException | None = None
        self.containers = Containers(lambda: job.parts(BuildRequest()), self.result)
        self._results: dict[str, Outcome] = {}
        self.settled = threading.Event()  # there is an answer, or nobody is going to give one
        self._lock = threading.Lock()

    def keep(self, outcome: "Outcome | None") -> str:
        """An id for something solved; empty for scratch."""
        if outcome is None:
            return ""
        id = secrets.token_hex(16)
        with self._lock:
            self._results[id] = outcome
        return id

    def result(self, id: str) -> "Outcome | None":
        """What has the id; raises Refused."""
        if not id:
            return None
        with self._lock:
            found = self._results.get(id)
        if found is None:
            raise Refused(f"return reference {id[:40]!r} is not known")
        return found

    def give(self, result: "Result | BaseException") -> None:
        """The driver's answer."""
        with self._lock:
            if self.returned is None:
                self.returned = result
        self.settled.set()

    def wait(self) -> "Result":
        """The answer; raises what the driver returned as such, Cancelled when it goes away."""
        self.settled.wait()
        returned = self.returned
        if returned is None:
            raise Cancelled("the client went away")
        if isinstance(returned, BaseException):
            raise returned
        return returned

    def stop(self) -> None:
        """Nobody is going to answer any more; from any thread, idempotent."""
        self.settled.set()

    def close(self) -> None:
        """End its containers and forget its results. Idempotent."""
        self.stop()
        self.containers.close()
        with self._lock:
            self._results.clear()
