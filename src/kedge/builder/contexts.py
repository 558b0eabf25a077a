"""Named contexts of a build: directories are lent to the session, everything else goes to lowering as it is written.

Owns that choice and the ignore file of each directory. Does not know what a context is used for.
"""

from pathlib import Path

from kedge.builder.parts import Parts
from kedge.model.errors import InvalidInput
from kedge.model.patterns import read_ignore_file
from kedge.session.local import existing_directory

_PASSED = (
    "docker-image://",
    "oci-layout://",
    "http://",
    "https://",
    "git://",
    "ssh://",
    "git@",
    "target:",
    "local:",
    "input:",
)


def named_contexts(parts: Parts) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """(specifiers by name, ignore patterns by the name of a lent directory). Raises NotFound for a missing
    directory.
    """
    specifiers: dict[str, str] = {}
    ignores: dict[str, tuple[str, ...]] = {}
    for name, text in parts.request.named_contexts:
        if text.startswith(_PASSED) or text.startswith("oci-layout://"):
            specifiers[name] = text
            if text.startswith("local:"):
                ignores[text.partition(":")[2]] = _lent_ignore_file(parts, name, text.partition(":")[2])
        elif "://" in text:
            raise InvalidInput(f"unknown kind of build context {text[:100]!r} for {name}")
        else:
            path = existing_directory(Path(text), f"the build context {name}={text}")
            parts.session.lend(name, path.absolute())
            specifiers[name] = f"local:{name}"
            ignores[name] = _ignore_file(path)
    return specifiers, ignores


def _lent_ignore_file(parts: Parts, name: str, lent: str) -> tuple[str, ...]:
    from kedge.builder.lent import lent_ignore_file

    data = lent_ignore_file(parts, lent, f"context:{name}-.dockerignore")
    return tuple(read_ignore_file(data.decode("utf-8", "surrogateescape"))) if data else ()


def _ignore_file(directory: Path) -> tuple[str, ...]:
    from kedge.builder.definition import LARGEST_IGNORE_FILE, read_inside

    data = read_inside(directory, ".dockerignore", LARGEST_IGNORE_FILE)
    return tuple(read_ignore_file(data.decode("utf-8", "surrogateescape"))) if data else ()
