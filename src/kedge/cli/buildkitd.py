"""kedge-buildkitd: Kedge wherever `buildkitd` stands, with its flags.

Owns the way in and out of that program. Does not know what is served.
"""

import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module

from kedge.model.errors import KedgeError, Unsupported


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit code is 0 then, 1 for an error."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        from kedge.cli.lasting import expect_to_last
        from kedge.kernel.identity import enter_user_namespace

        enter_user_namespace()  # before any thread: gRPC starts some
        expect_to_last()
        return _serve(words)
    except KedgeError as error:
        sys.stderr.write(f"kedge-buildkitd: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"{error.hint}\n")
        return 1


def _serve(words: Sequence[str]) -> int:
    require_libraries("grpc", "hpack")
    from kedge.daemon.buildkit.buildkitd import configure

    if {"--version", "-v"} & set(words):
        from kedge import __version__
        from kedge.daemon.buildkit.config import BUILDKIT_VERSION

        print(f"kedge-buildkitd {__version__} {BUILDKIT_VERSION} kedge")
        return 0
    daemon = configure(words)
    from kedge.daemon.service import Service

    asked = asked_to_end()  # before a socket stands: who sees one may ask us to end
    service = Service(daemon.config, daemon.tls)
    for note in daemon.notes:
        service.log(f"note: {note}")
    service.start(daemon.addresses, daemon.group)
    for address in daemon.addresses:
        service.log(f"running server on {address.removeprefix('unix://')}")
    wait_until(asked)
    service.log("stopping server")
    service.close()
    return 0


def require_libraries(*names: str) -> None:
    """Import what only a service needs. Raises Unsupported where it is not installed."""
    try:
        for name in names:
            import_module(name)
    except ImportError:
        raise Unsupported(
            "the service's libraries are not installed",
            hint="Install Kedge with them, in its checkout: pip install '.[serve]'.",
        ) from None


def asked_to_end() -> threading.Event:
    """What is set once somebody asks the process to end; from now on, signals do nothing else."""
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: asked.set())
    return asked


def wait_until(asked: threading.Event) -> None:
    """Return when somebody asks the process to end."""
    while not asked.wait(3600):
        pass


if __name__ == "__main__":
    sys.exit(main())
