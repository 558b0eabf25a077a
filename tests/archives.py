"""Tars in memory, for tests."""

import io
import tarfile
from collections.abc import Mapping
from typing import Any


def tar_of(files: Mapping[str, str | bytes | tuple[bytes, str]], compression: str = "") -> bytes:
    """A tar, compressed with `gz`, `bz2` or `xz`. A name that ends in a slash is a directory; a pair is a kind of link
    and its target.
    """
    out = io.BytesIO()
    mode: Any = f"w:{compression}"
    with tarfile.open(fileobj=out, mode=mode, format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name.rstrip("/"))
            data = content.encode() if isinstance(content, str) else content
            if isinstance(data, tuple):
                entry.type, entry.linkname = data
                archive.addfile(entry)
                continue
            if name.endswith("/"):
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()
