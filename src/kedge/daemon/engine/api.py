"""The table of the Engine API, and the service over it.

Owns which path is handled by what, and the order of start and stop. Does not know what handlers do.
"""

import threading
from collections.abc import Sequence
from pathlib import Path

from kedge.daemon.engine import (
    attach,
    build,
    commit,
    containers,
    describe,
    execs,
    files,
    images,
    networks,
    processes,
    system,
    transfers,
    update,
    upgrade,
    volumes,
)
from kedge.daemon.engine.containers import unsupported
from kedge.daemon.engine.routes import Authorize, Call, Route, Router, allow
from kedge.daemon.engine.server import Server
from kedge.daemon.engine.service import Engine
from kedge.daemon.engine.upgrade import BuildKit
from kedge.model.settings import Settings


def _no_swarm(call: Call) -> None:
    call.exchange.json(503, {"message": "This node is not a swarm manager. Kedge has no swarm."})


ROUTES = [
    Route("GET", "/_ping", system.ping),
    Route("HEAD", "/_ping", system.ping),
    Route("GET", "/version", system.version),
    Route("GET", "/info", system.info),
    Route("GET", "/events", system.events),
    Route("POST", "/auth", system.auth),
    Route("GET", "/system/df", system.disk_usage),
    # ---- builds
    Route("POST", "/build", build.build_image, "stream"),
    Route("POST", "/build/prune", images.prune_builds),
    Route("POST", "/build/cancel", build.cancel_build),
    Route("POST", "/session", upgrade.session),
    Route("POST", "/grpc", upgrade.grpc),
    # ---- images
    Route("GET", "/images/json", images.list_images),
    Route("GET", "/images/search", images.search),
    Route("GET", "/images/get", transfers.save_images),
    Route("POST", "/images/create", transfers.create_image, "stream"),
    Route("POST", "/images/load", transfers.load_images, "stream"),
    Route("POST", "/images/prune", images.prune_images),
    Route("GET", "/images/{name...}/json", images.inspect_image),
    Route("GET", "/images/{name...}/history", images.image_history),
    Route("GET", "/images/{name...}/get", transfers.save_images),
    Route("POST", "/images/{name...}/tag", images.tag_image),
    Route("POST", "/images/{name...}/push", transfers.push_image, "stream"),
    Route("DELETE", "/images/{name...}", images.remove_image),
    Route("GET", "/distribution/{name...}/json", transfers.inspect_distribution),
    # ---- containers
    Route("GET", "/containers/json", describe.list_containers),
    Route("POST", "/containers/create", containers.create),
    Route("POST", "/containers/prune", containers.prune),
    Route("GET", "/containers/{id}/json", describe.inspect),
    Route("GET", "/containers/{id}/top", processes.top),
    Route("GET", "/containers/{id}/logs", attach.logs),
    Route("GET", "/containers/{id}/stats", processes.stats),
    Route("GET", "/containers/{id}/changes", files.changes),
    Route("GET", "/containers/{id}/export", files.export),
    Route("POST", "/containers/{id}/start", containers.start),
    Route("POST", "/containers/{id}/stop", containers.stop),
    Route("POST", "/containers/{id}/restart", containers.restart),
    Route("POST", "/containers/{id}/kill", containers.kill),
    Route("POST", "/containers/{id}/wait", containers.wait),
    Route("POST", "/containers/{id}/pause", containers.pause),
    Route("POST", "/containers/{id}/unpause", containers.unpause),
    Route("POST", "/containers/{id}/update", update.update),
    Route("POST", "/containers/{id}/resize", containers.resize),
    Route("POST", "/containers/{id}/rename", containers.rename),
    Route("POST", "/containers/{id}/attach", attach.attach),
    Route("GET", "/containers/{id}/attach/ws", attach.attach_by_websocket),
    Route("DELETE", "/containers/{id}", containers.remove),
    Route("HEAD", "/containers/{id}/archive", files.stat_path),
    Route("GET", "/containers/{id}/archive", files.get_archive),
    Route("PUT", "/containers/{id}/archive", files.put_archive, "stream"),
    Route("POST", "/containers/{id}/exec", execs.exec_create),
    Route("POST", "/exec/{id}/start", execs.exec_start),
    Route("POST", "/exec/{id}/resize", execs.exec_resize),
    Route("GET", "/exec/{id}/json", execs.exec_inspect),
    # ---- networks and volumes
    Route("GET", "/networks", networks.list_networks),
    Route("GET", "/networks/{id}", networks.inspect_network),
    Route("POST", "/networks/prune", networks.prune),
    Route("GET", "/volumes", volumes.list_volumes),
    Route("POST", "/volumes/create", volumes.create),
    Route("POST", "/volumes/prune", volumes.prune),
    Route("GET", "/volumes/{id}", volumes.inspect),
    Route("DELETE", "/volumes/{id}", volumes.remove),
    # ---- what Kedge has not
    Route("POST", "/commit", commit.commit),
    Route("POST", "/networks/create", unsupported("networks of one's own are")),
    Route("POST", "/networks/{id}/{action}", unsupported("networks of one's own are")),
    Route("DELETE", "/networks/{id}", unsupported("networks of one's own are")),
    Route("POST", "/swarm/{action}", unsupported("swarms are")),
    Route("GET", "/plugins", lambda call: call.exchange.json(200, [])),
    *(Route("GET", f"/{name}", _no_swarm) for name in ("swarm", "nodes", "services", "tasks", "secrets", "configs")),
]


class EngineService:
    """The Engine API. Use: `server.listen` for each address, then `start`, then `close`."""

    def __init__(
        self,
        root: Path | None,
        settings: Settings,
        buildkit: BuildKit | None = None,
        authorize: Authorize = allow,
        granted: Sequence[str] = (),
    ) -> None:
        self.engine = Engine(root, settings, buildkit, granted)
        self.server = Server(Router(self.engine, ROUTES, authorize))

    def start(self) -> None:
        """Begin to answer, and start the containers that are always to run."""
        self.server.start()
        threading.Thread(target=containers.start_again, args=(self.engine,), name="again", daemon=True).start()

    def close(self, patience: float = 10.0) -> None:
        """End containers, then connections."""
        self.server.stop()
        self.engine.close()
        self.server.close(patience)
