"""kedge serve: the service that Docker's and BuildKit's clients talk to.

Owns the flags. Does not know what is served.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from kedge.cli.command import Command, Flag, Options
from kedge.cli.console import Console

if TYPE_CHECKING:
    from kedge.daemon.engine.api import EngineService
    from kedge.daemon.service import Service


def work(options: Options, console: Console) -> int:
    from kedge.cli.buildkitd import asked_to_end, require_libraries, wait_until
    from kedge.cli.lasting import expect_to_last

    expect_to_last()
    require_libraries("grpc", "h11", "hpack")
    from kedge.daemon.buildkit.config import ServiceConfig
    from kedge.daemon.listening import default_path
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
    service = Service(config)
    with ExitStack() as running:
        # Without any address at all, the default one.
        if addresses := options.listen or ([] if options.buildkit else [f"unix://{default_path()}"]):
            running.callback(_engine(service, addresses, options.group).close)
        service.start(options.buildkit, options.group)
        for address in options.buildkit:
            service.log(f"serving BuildKit's API at {address}")
        wait_until(asked)
        service.log("stopping")
    service.close()
    return 0


def _engine(service: "Service", addresses: Sequence[str], group: str) -> "EngineService":
    """Docker's API at these addresses, already serving."""
    from kedge.daemon.engine.api import EngineService
    from kedge.daemon.engine.bridge import ServiceBridge

    config = service.config
    engine = EngineService(config.root, config.settings, ServiceBridge(service), granted=config.granted)
    for address in addresses:
        engine.server.listen(address, group)
    engine.start()
    for address in addresses:
        service.log(f"serving Docker's API at {address}")
    return engine


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
