"""kedge serve: the service that Docker's and BuildKit's clients talk to.

Owns the flags. Does not know what is served.
"""

from kedge.cli.command import Command, Flag, Options
from kedge.cli.console import Console
from kedge.cli.parse import UsageError
from kedge.model.errors import Unsupported


def work(options: Options, console: Console) -> int:
    try:
        import grpc  # noqa: F401
    except ImportError:
        raise Unsupported("the service's libraries are not installed", hint="pip install 'kedge[serve]'") from None
    if not options.buildkit:
        raise UsageError("nowhere to listen: give --buildkit unix://PATH", "serve")
    from kedge.cli.buildkitd import wait_for_signal
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
    service = Service(config)
    service.start(options.buildkit, options.group)
    for address in options.buildkit:
        service.log(f"serving BuildKit's API at {address}")
    wait_for_signal()
    service.log("stopping")
    service.close()
    return 0


COMMAND = Command(
    "serve",
    "Serve Docker's and BuildKit's clients",
    work,
    (
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
        (
            "kedge serve --buildkit unix:///run/kedge/buildkit.sock",
            "for docker buildx create --driver remote, and buildctl",
        ),
    ),
)
