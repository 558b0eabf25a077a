"""kedge serve: the service that Docker's and BuildKit's clients talk to.

Owns the flags. Does not know what is served.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kedge.cli.command import Command, Flag, Options
from kedge.cli.console import Console
from kedge.cli.parse import UsageError
from kedge.model.errors import Unsupported

if TYPE_CHECKING:
    import socket

    from kedge.daemon.service import Service
    from kedge.model.settings import Settings


def work(options: Options, console: Console) -> int:
    try:
        import grpc  # noqa: F401
    except ImportError:
        raise Unsupported("the service's libraries are not installed", hint="pip install 'kedge[serve]'") from None
    from kedge.cli.buildkitd import asked_to_end
    from kedge.daemon.buildkit.config import ServiceConfig
    from kedge.daemon.service import Service
    from kedge.storage.store import default_root

    config = ServiceConfig(
        root=console.root or default_root(),
        settings=console.settings(),
        granted=tuple(options.allow),
        max_parallelism=options.max_parallelism,
        debug=console.debug,
    )
    asked = asked_to_end()
    listeners = _listeners(options)
    service = Service(config)
    service.start(options.buildkit, options.group)
    for address in options.buildkit:
        service.log(f"serving BuildKit's API at {address}")
    with _engine(config.root, config.settings, listeners, service):
        while not asked.wait(3600):
            pass
        service.log("stopping")
    service.close()
    return 0


def _listeners(options: Options) -> "list[socket.socket]":
    """The sockets of Docker's API. Without any address at all, the default one."""
    from kedge.daemon.engine.server import default_path, listen, passed_sockets

    addresses = options.listen or ([] if options.buildkit else [f"unix://{default_path()}"])
    found: list[socket.socket] = []
    for address in addresses:
        scheme, separator, path = address.partition("://")
        if scheme == "fd" and separator:
            found += passed_sockets()
            if not found:
                raise UsageError("fd:// needs a socket passed by systemd", "serve")
        elif scheme == "unix" and path.startswith("/"):
            found.append(listen(Path(path), _group_id(options.group)))
        else:
            raise UsageError(f"cannot listen at {address[:100]}: expected unix:///PATH or fd://", "serve")
    return found


def _group_id(name: str) -> int:
    import grp

    if not name or name.isdecimal():
        return int(name or -1)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise UsageError(f"there is no group {name[:60]}", "serve") from None


@contextmanager
def _engine(root: Path, settings: "Settings", listeners: "list[socket.socket]", service: "Service") -> "Iterator[None]":
    """Docker's API at these sockets, in a thread of its own, while the context lasts."""
    if not listeners:
        yield
        return
    try:
        from kedge.daemon.engine.api import EngineService
    except ImportError:
        raise Unsupported("the service's libraries are not installed", hint="pip install 'kedge[serve]'") from None
    from kedge.daemon.engine.bridge import ServiceBridge

    engine = EngineService(root, settings, listeners, ServiceBridge(service))
    thread = threading.Thread(target=engine.run, name="engine", daemon=True)
    thread.start()
    for listener in listeners:
        service.log(f"serving Docker's API at unix://{listener.getsockname()}")
    try:
        yield
    finally:
        engine.close()
        thread.join(5)


COMMAND = Command(
    "serve",
    "Serve Docker's and BuildKit's clients",
    work,
    (
        Flag(
            "listen",
            "Serve Docker's API at this address: unix://PATH or fd://",
            metavar="ADDRESS",
            many=True,
            shown_default="kedge.sock in the runtime directory, unless --buildkit is given",
        ),
        Flag("buildkit", "Serve BuildKit's API at this address: unix://PATH or fd://", metavar="ADDRESS", many=True),
        Flag("group", "Group that may connect to the sockets", metavar="GROUP", default=""),
        Flag(
            "allow",
            "Grant builds that ask for it: network.host, security.insecure or device",
            metavar="ENTITLEMENT",
            many=True,
        ),
        Flag(
            "max-parallelism",
            "Steps that run at once in one build; 0 for no limit",
            metavar="N",
            convert=int,
            default=0,
        ),
    ),
    description=(
        "Runs until SIGTERM or Ctrl-C; builds under way then have ten seconds to end. Whoever may open the socket may "
        "build, and steps run with the rights of this process: keep the socket to those who have them anyway."
    ),
    examples=(
        ("kedge serve", "then: export DOCKER_HOST=unix:///run/kedge.sock"),
        (
            "kedge serve --buildkit unix:///run/kedge/buildkit.sock",
            "for docker buildx create --driver remote, and buildctl",
        ),
    ),
)
