"""The service put together: BuildKit's API, and whatever else is served beside it.

Owns which services there are, and their order of start and stop. Does not know flags or files.
"""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from kedge.daemon.buildkit.collecting import Collecting
from kedge.daemon.buildkit.config import ServiceConfig
from kedge.daemon.buildkit.control import Control
from kedge.daemon.buildkit.gateway import Gateway, by_build_id
from kedge.daemon.buildkit.history import History
from kedge.daemon.buildkit.jobs import Jobs
from kedge.daemon.listening import Tls
from kedge.daemon.server import Server
from kedge.daemon.sessions.registry import Sessions
from kedge.daemon.wire import content, control, gateway, health
from kedge.daemon.wire.calls import handler
from kedge.storage.store import Store

GRACE: Final = 10.0  # seconds that builds have to end when the service is asked to


class Service:
    """One running service. `start`, then `wait`, then `close`."""

    def __init__(self, config: ServiceConfig, tls: Tls | None = None, log: Callable[[str], None] | None = None) -> None:
        self.config = config
        self.log = log or log_to_stderr(config.debug)
        with Store.open(config.root):
            pass  # tell what is wrong with it before anybody waits for us
        self.sessions = Sessions()
        self.collecting = Collecting(config, self.log)
        self.jobs = Jobs(config, self.sessions, self.collecting.ask)
        self.server = Server(self.log, tls)
        self.history = History(config, self.server.peer_of)
        self._stopped = threading.Event()
        self.server.add(
            handler(
                control.services["Control"],
                Control(config, self.jobs, self.sessions, self.history, self.server.peer_of, self.log),
            ),
            handler(gateway.services["LLBBridge"], Gateway(by_build_id(self.jobs, self.server.peer_of))),
            handler(content.services["Content"], self.history.documents),
            handler(health.services["Health"], _Health(self._stopped)),
        )

    def start(self, addresses: Sequence[str], group: str = "") -> None:
        """Listen and answer. Raises KedgeError."""
        for address in addresses:
            self.server.listen(address, group)
        self.server.start()
        self.collecting.start()

    def close(self, grace: float = GRACE) -> None:
        """Let builds end for a while, then stop them, then go."""
        self._stopped.set()
        self.collecting.stop()
        self.jobs.close(grace)
        self.sessions.close()
        self.server.stop(1.0)


class _Health:
    """grpc.health.v1.Health: serving until we stop."""

    def __init__(self, stopped: threading.Event) -> None:
        self._stopped = stopped

    def Check(self, request: Any, context: Any) -> Any:
        serving = health.HealthCheckResponse.NOT_SERVING if self._stopped.is_set() else None
        return health.HealthCheckResponse(status=serving or health.HealthCheckResponse.SERVING)

    def Watch(self, request: Any, context: Any) -> Any:
        gone = threading.Event()
        context.add_callback(gone.set)
        yield self.Check(request, context)
        while not gone.is_set() and not self._stopped.wait(1.0):
            pass
        yield self.Check(request, context)


def log_to_stderr(debug: bool) -> Callable[[str], None]:
    """Lines with a time on standard error; connections only when debugging."""

    def log(line: str) -> None:
        if debug or not line.startswith("connection "):
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            sys.stderr.write(f"{now} {line.encode('unicode_escape').decode()}\n")

    return log
