"""A store, and images made from files that a test names."""

import io
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from kedge.exporters.image import Exported
from kedge.images.import_root import import_root
from kedge.model.platform import Platform
from kedge.model.reference import parse_reference
from kedge.storage.store import Store


class Quiet:
    """Steps nobody listens to."""

    def status(
        self, id: str, current: int = 0, total: int = 0, *, started: float | None = None, done: bool = False
    ) -> None:
        pass


def tar_of(files: dict[str, bytes], compression: str = "") -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{compression}") as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    out.seek(0)
    return out


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


Import = Callable[..., Exported]


@pytest.fixture
def imported(store: Store) -> Import:
    def make(*names: str, files: dict[str, bytes] | None = None, changes: Sequence[str] = ()) -> Exported:
        references = [parse_reference(name) for name in names]
        stream = tar_of({"hello": b"world"} if files is None else files)
        return import_root(store, stream, Platform("linux", "amd64"), Quiet(), references, changes)

    return make
