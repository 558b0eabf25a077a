"""kedge login: credentials for a registry, checked and then kept where Docker keeps them."""

from kedge.cli.command import Argument, Command, Flag, Options
from kedge.cli.console import Console
from kedge.cli.parse import UsageError
from kedge.model.credential import Credential


def work(options: Options, console: Console) -> int:
    from kedge.model.reference import DOCKER_HUB, parse_registry
    from kedge.session.credentials import DockerCredentials

    registry = parse_registry(options.server) if options.server else DOCKER_HUB
    credential = Credential(*_asked(options, console))
    kept = console.registry().login(registry, credential)
    place = DockerCredentials(environ=console.environment).store(registry, kept)
    console.complain(f"The credential is kept in {place}.")
    console.print("Login Succeeded")
    return 0


def _asked(options: Options, console: Console) -> tuple[str, str]:
    """Name and password: from flags, from standard input, or asked for at a terminal."""
    if options.password_stdin:
        if options.password is not None:
            raise UsageError("--password and --password-stdin exclude each other", "login")
        if not options.username:
            raise UsageError("--password-stdin needs --username", "login")
        return options.username, console.stdin.read().decode().rstrip("\r\n")
    if options.password is not None:
        console.complain("WARNING: others may see a password on the command line: use --password-stdin.")
    elif not console.stdin.isatty():
        raise UsageError("there is no terminal to ask for a password", "login", "Use --password-stdin.")
    username = options.username or _line("Username: ", console)
    if options.password is not None:
        return username, options.password
    from getpass import getpass

    return username, getpass("Password: ")


def _line(question: str, console: Console) -> str:
    console.stderr.write(question)
    console.stderr.flush()
    return console.stdin.readline().decode().strip()


COMMAND = Command(
    "login",
    "Keep a credential for a registry",
    work,
    (
        Flag("password", "The password or token", short="p", metavar="PASSWORD"),
        Flag("password-stdin", "Read the password from standard input"),
        Flag("username", "The user's name", short="u", metavar="NAME"),
    ),
    (Argument("SERVER", optional=True),),
    description="""
    SERVER is a registry's host, Docker Hub's if it is left out. The credential is tried first, then kept in
    ~/.docker/config.json or in the credential helper that file names: Docker's clients share it.
    """,
    examples=(("kedge login -u ci --password-stdin registry.example.internal < token", "without a terminal"),),
    privileged=False,
)
