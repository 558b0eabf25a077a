"""Images into a running Docker Engine or Podman (`--load`), through its own command line.

Owns finding the program and feeding it. Does not know archives.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from kedge.exporters.image import Steps
from kedge.model.errors import KedgeError, Unsupported


@contextmanager
def loading(steps: Steps) -> Iterator[BinaryIO]:
    """A stream that takes an archive of images for the engine; when the context ends, the engine has them.

    Raises Unsupported where there is no engine's client, KedgeError with the client's words when it refuses.
    """
    program = next((found for name in ("docker", "podman") if (found := shutil.which(name))), None)
    if program is None:
        raise Unsupported(
            "neither docker nor podman is here to load an image", hint="Write an archive: -o type=docker,dest=FILE."
        )
    name = os.path.basename(program)
    client = subprocess.Popen([program, "load", "--quiet"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE)  # fmt: skip
    steps.status(f"loading into {name}")
    try:
        yield cast(BinaryIO, client.stdin)
        _, errors = client.communicate()
    except BrokenPipeError:
        _, errors = client.communicate()
    except BaseException:
        client.kill()
        client.communicate()
        raise
    if client.returncode:
        words = errors.decode(errors="replace").strip().splitlines()
        raise KedgeError(f"{name} could not load the image: {words[-1][:200] if words else 'it did not say why'}")
    steps.status(f"loading into {name}", done=True)
