"""Named contexts of a build: directories are lent to the session, everything else goes to lowering as it is written.

Owns that choice and the ignore file of each directory. Does not know what a context is used for.
"""

from pathlib import Path

from kedge.builder.parts import Parts
from kedge.model.errors import InvalidInput
from kedge.model.patterns import IgnoreFile
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


def named_contexts(parts: Parts) -> tuple[dict[str, str], dict[str, IgnoreFile]]:
    """(specifiers by name, ignore files by the name of a lent directory). Raises NotFound for a missing directory."""
    specifiers: dict[str, str] = {}
    ignores: dict[str, IgnoreFile] = {}
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
            ignores[name] = _ignore_file(name, path)
    return specifiers, ignores


def _lent_ignore_file(parts: Parts, name: str, lent: str) -> IgnoreFile:
    from kedge.builder.definition import IGNORE_FILE, decode_ignore_file
    from kedge.builder.lent import lent_ignore_file

    return decode_ignore_file(_shown(name), lent_ignore_file(parts, lent, f"context:{name}-{IGNORE_FILE}"))


def _ignore_file(name: str, directory: Path) -> IgnoreFile:
    from kedge.builder.definition import IGNORE_FILE, LARGEST_IGNORE_FILE, decode_ignore_file, read_inside

    return decode_ignore_file(_shown(name), read_inside(directory, IGNORE_FILE, LARGEST_IGNORE_FILE) or b"")


def _shown(name: str) -> str:
    return f"the .dockerignore of {name}"
