"""Paths of the image that is being built: always absolute, with forward slashes, never above the root.

Owns Go's path.Clean and BuildKit's rules for relative and trailing-slash paths. Touches no file system.
"""

import posixpath


def clean(path: str) -> str:
    """`path` from the root, without `.`, `..` and double slashes."""
    return posixpath.normpath("/" + path.lstrip("/"))


def join(directory: str, path: str) -> str:
    """`path` seen from `directory`."""
    return clean(path if path.startswith("/") else f"{directory}/{path}")


def destination(directory: str, path: str) -> str:
    """Where COPY goes: a trailing `/` or `/.` says that it is a directory, and is kept."""
    path = "./" if path in ("", ".") else path
    found = join(directory, path)
    if path.endswith("/"):
        return found if found == "/" else found + "/"
    if path.endswith("/."):
        return "/." if found == "/" else found + "/."
    return found


def has_wildcards(path: str) -> bool:
    """Whether Go's path matching would find a wildcard in `path`."""
    position = 0
    while position < len(path):
        if path[position] in "*?[":
            return True
        position += 2 if path[position] == "\\" else 1
    return False
