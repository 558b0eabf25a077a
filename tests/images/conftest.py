"""A store, and images made from files that a test names."""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from kedge.exporters.image import Exported
from kedge.images.import_root import import_root
from kedge.model.platform import Platform
from kedge.model.reference import parse_reference
from kedge.storage.store import Store
from tests.archives import tar_of


class Quiet:
    """Steps nobody listens to."""

    def status(
        self, id: str, current: int = 0, total: int = 0, *, started: float | None = None, done: bool = False
    ) -> None:
        pass


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


Import = Callable[..., Exported]


@pytest.fixture
def imported(store: Store) -> Import:
    def make(*names: str, files: dict[str, bytes] | None = None, changes: Sequence[str] = ()) -> Exported:
        references = [parse_reference(name) for name in names]
        stream = io.BytesIO(tar_of({"hello": b"world"} if files is None else files))
        return import_root(store, stream, Platform("linux", "amd64"), Quiet(), references, changes)

    return make
