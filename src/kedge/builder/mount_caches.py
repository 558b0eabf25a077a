"""A build's cache mounts from and to elsewhere: `--cache-mount-from` and `--cache-mount-to`.

Owns when they travel: a mount is filled when a step first needs it and this store has none under its id yet, and sent
when the build is done. Neither fails a build. Does not know their form.
"""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedge.model.errors import NotFound
from kedge.sources.mount_cache import check, fill_mount, is_meant

if TYPE_CHECKING:
    from kedge.builder.parts import Parts


class MountCaches:
    """The travelling cache mounts of one build."""

    def __init__(self, parts: "Parts") -> None:
        self._parts, self._request = parts, parts.request

    def prepare(self) -> None:
        """Check what was asked for, and have new mounts filled. Raises InvalidInput."""
        for spec in self._request.cache_mount_from:
            check(spec.kind, dict(spec.attrs), "src")
        for spec in self._request.cache_mount_to:
            check(spec.kind, dict(spec.attrs), "dest")
        if self._request.cache_mount_from:
            self._parts.store.cache_mounts.seed = self._seed

    def _seed(self, mount_id: str, directory: Path) -> None:
        """Fill a new mount from the first place that has it."""
        for spec in self._request.cache_mount_from:
            attributes = dict(spec.attrs)
            if not is_meant(attributes["id"], mount_id):
                continue
            place = attributes.get("ref") or attributes.get("src", "")
            if self._fill(spec.kind, attributes, directory, f"importing cache mount {attributes['id']} from {place}"):
                return

    def _fill(self, kind: str, attributes: dict[str, str], directory: Path, name: str) -> bool:
        caches = self._parts.caches

        def fill(work: Any, patient: Any) -> bool:
            with caches.registry(attributes, patient) as registry:
                count = fill_mount(kind, attributes, registry, directory)
            work.status(f"{count} files", done=True)
            return True

        if caches.attempt(name, attributes, fill, 0.0):
            return True
        for entry in os.scandir(directory):  # what came before it failed
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)
        return False

    def export(self) -> None:
        """Send every mount that was asked for, one after the other."""
        for spec in self._request.cache_mount_to:
            attributes = dict(spec.attrs)
            place = attributes.get("ref") or attributes.get("dest", "")
            self._send(spec.kind, attributes, f"exporting cache mount {attributes['id']} to {place}")

    def _send(self, kind: str, attributes: dict[str, str], name: str) -> None:
        from kedge.exporters.cache import place_of, read_target
        from kedge.exporters.mount_cache import send_mount

        caches, id = self._parts.caches, attributes["id"]
        target = read_target(kind, {key: value for key, value in attributes.items() if key != "id"})

        def send(work: Any, patient: Any) -> bool:
            mounts = self._parts.store.cache_mounts
            mount_id = next((each for each in (f"/{id}", id) if mounts.directory(each)), None)
            if mount_id is None:
                raise NotFound(f"no step has used a cache mount with the id {id}")
            with (
                mounts.use(mount_id, "locked", cancel=patient.stop) as directory,
                caches.registry(attributes, patient) as registry,
            ):
                send_mount(directory, id, place_of(target, registry), work, patient.stop)
            return True

        caches.attempt(name, attributes, send, 0.0)
