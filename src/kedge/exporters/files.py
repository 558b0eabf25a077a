"""Plain files out of a built stage: a directory of the user's, or one tar of the whole tree.

Owns the layout of several platforms (`platform-split`) and whose the files are. Does not know layers: it reads the
merged tree.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from kedge.exporters.archive import opened, written
from kedge.exporters.assemble import Stage
from kedge.exporters.image import Steps
from kedge.exporters.options import Destination, ImageOptions, read_flag
from kedge.model import ops
from kedge.model.errors import InvalidInput, StoreError
from kedge.model.platform import Platform
from kedge.storage.copy import copy
from kedge.storage.ownership import Ids
from kedge.storage.store import Store
from kedge.storage.tar_format import BLOCK, FILE, Entry, format_header
from kedge.storage.tar_write import TarOptions, write_tar

if TYPE_CHECKING:
    from kedge.exporters.attest import Predicate


_STATEMENT_MODE = 0o600  # as in BuildKit


def platform_folder(platform: Platform) -> str:
    """The folder of one platform among several: `linux_arm64`."""
    return platform.full.replace("/", "_")


def export_local(
    store: Store,
    stages: Sequence[Stage],
    options: ImageOptions,
    destination: Path,
    steps: Steps,
    attested: "Callable[[int], Sequence[Predicate]] | None" = None,
) -> None:
    """Copy the stages' files into `destination`, which is made; what is there already stays unless a file replaces
    it.

    With `mode=delete` what the stages do not have is removed. Files belong to whoever builds, and are of a stage's
    epoch if it has one. What is `attested` of a
    stage, by its number, is written beside its files. Raises InvalidInput, StoreError.
    """
    mode = options.rest.get("mode", "copy")
    if mode not in ("copy", "delete"):
        raise InvalidInput(f"output attribute mode={mode[:40]}: expected copy or delete")
    split = _split(options, stages)
    if not split:
        _refuse_collisions(store, stages)
    kept: set[str] = set()
    for number, stage in enumerate(stages):
        name = platform_folder(stage.config.platform)
        folder = name if split else ""
        label = f"copying files {folder.replace('_', '/')}".rstrip()
        steps.status(label)
        _copy_tree(store, stage, destination / folder)
        if attested:
            of_several = name if len(stages) > 1 and not split else ""
            files = _statements(store, stage, options, attested(number), of_several)
            kept |= _write_statements(destination, folder, files, stage.epoch)
        if mode == "delete":
            kept |= {os.path.join(folder, path) for path in _paths(store, stage)} | {folder}
        steps.status(label, done=True)
    if mode == "delete":
        _remove_others(destination, kept)


def _split(options: ImageOptions, stages: Sequence[Stage]) -> bool:
    return read_flag(options.rest, "platform-split", len(stages) > 1)


def _copy_tree(store: Store, stage: Stage, destination: Path) -> None:
    time = -1 if stage.epoch is None else stage.epoch * 10**9
    action = ops.Copy("/", "/", contents_only=True, create_dest_path=True, always_replace=True, timestamp=time)
    try:
        destination.mkdir(parents=True, exist_ok=True)
        fd = os.open(destination, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(f"cannot write to {destination}: {error.strerror}") from None
    try:
        with store.layers.mounted(stage.snapshot) as tree:
            copy(action, tree, fd, Ids(0, 0))
    finally:
        os.close(fd)


def _statements(
    store: Store, stage: Stage, options: ImageOptions, predicates: "Sequence[Predicate]", platform: str
) -> list[tuple[str, bytes]]:
    from kedge.exporters.attest_files import statement_files

    with store.layers.mounted(stage.snapshot) as tree:
        return statement_files(tree.fd, predicates, platform, options.rest.get("attestation-prefix", ""))


def _write_statements(
    destination: Path, folder: str, files: Sequence[tuple[str, bytes]], epoch: int | None
) -> set[str]:
    """The paths, in `destination`, of what was written."""
    written = set()
    for name, data in files:
        try:
            _replace(destination / folder / name, data, epoch)
        except OSError as error:
            raise StoreError(f"cannot write to {destination / folder / name}: {error.strerror}") from None
        written.add(os.path.join(folder, name))
    return written


def _replace(path: Path, data: bytes, epoch: int | None) -> None:
    """Write a file of our own, never through a link that the built tree may have put there."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _STATEMENT_MODE)
    with open(fd, "wb") as file:
        file.write(data)
        file.flush()
        if epoch is not None:
            os.utime(file.fileno(), (epoch, epoch))


def _paths(store: Store, stage: Stage, *, directories: bool = True) -> Iterator[str]:
    """Every path of the stage's tree, without a leading slash; directories only if wanted."""
    with store.layers.mounted(stage.snapshot) as tree:
        top = f"/proc/self/fd/{tree.fd}/"
        for folder, folders, files in os.walk(top):
            for name in (*folders, *files) if directories else files:
                yield os.path.relpath(os.path.join(folder, name), top)


def _refuse_collisions(store: Store, stages: Sequence[Stage]) -> None:
    """Two platforms in one folder must not have a file in common."""
    seen: dict[str, Platform] = {}
    for stage in stages if len(stages) > 1 else ():
        for path in _paths(store, stage, directories=False):
            if path in seen:
                raise InvalidInput(
                    f"{path} of {stage.config.platform} would replace that of {seen[path]}",
                    hint="Leave out platform-split=false.",
                )
            seen[path] = stage.config.platform


def _remove_others(destination: Path, kept: set[str]) -> None:
    with_parents = kept | {str(parent) for path in kept for parent in PurePosixPath(path).parents}
    for folder, folders, files in os.walk(destination, topdown=False):
        for name in (*files, *folders):
            path = os.path.join(folder, name)
            if os.path.relpath(path, destination) in with_parents:
                continue
            remove = os.rmdir if stat.S_ISDIR(os.lstat(path).st_mode) else os.unlink
            with contextlib.suppress(OSError):
                remove(path)


def export_tar(
    store: Store,
    stages: Sequence[Stage],
    options: ImageOptions,
    destination: Destination,
    steps: Steps,
    attested: "Callable[[int], Sequence[Predicate]] | None" = None,
) -> None:
    """Write the stages' whole trees as one tar, times lowered as in new layers; several platforms in a folder each.

    What is `attested` of a stage, by its number, follows its files. Raises InvalidInput, StoreError.
    """
    split = _split(options, stages)
    if not split:
        _refuse_collisions(store, stages)
    steps.status("sending tarball")
    with written(opened(destination, {})) as stream:
        _write_trees(store, stages, options, stream, attested)
    steps.status("sending tarball", done=True)


def _write_trees(
    store: Store,
    stages: Sequence[Stage],
    options: ImageOptions,
    out: BinaryIO,
    attested: "Callable[[int], Sequence[Predicate]] | None",
) -> None:
    split = _split(options, stages)
    for number, stage in enumerate(stages):
        name = platform_folder(stage.config.platform)
        prefix = f"{name}/" if split else ""
        with store.layers.mounted(stage.snapshot) as tree:
            write_tar(tree.fd, out, TarOptions(stage.clamp, layer=False, root=split, prefix=prefix, end=False))
        if attested:
            of_several = name if len(stages) > 1 and not split else ""
            for file, data in _statements(store, stage, options, attested(number), of_several):
                entry = Entry(
                    os.fsencode(prefix + file), FILE, _STATEMENT_MODE, size=len(data), mtime=stage.clamp * 10**9
                )
                out.write(format_header(entry) + data + bytes(-len(data) % BLOCK))
    out.write(bytes(2 * BLOCK))
