"""kedge logout: a registry's credential forgotten."""

from kedge.cli.command import Argument, Command, Options
from kedge.cli.console import Console


def work(options: Options, console: Console) -> int:
    from kedge.model.reference import DOCKER_HUB, parse_registry
    from kedge.session.credentials import DockerCredentials

    registry = parse_registry(options.server) if options.server else DOCKER_HUB
    if DockerCredentials(environ=console.environment).erase(registry):
        console.print(f"Removing login credentials for {registry}")
    else:
        console.print(f"Not logged in to {registry}")
    return 0


COMMAND = Command(
    "logout",
    "Forget a registry's credential",
    work,
    arguments=(Argument("SERVER", optional=True),),
    description="SERVER is a registry's host, Docker Hub's if it is left out.",
    privileged=False,
)
