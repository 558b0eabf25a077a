"""How the service behaves, as values.

Owns defaults and the rule of what may be granted. Does not know where the values come from (`kedge serve`,
`kedge-buildkitd`).
"""

import os
import socket
from pathlib import Path

from kedge.model.digest import digest_of
from kedge.model.platform import Platform, of_machine
from kedge.model.settings import Settings
from kedge.model.value import dataclass, field

# What a newest BuildKit calls itself decides which of its features clients use; this is the one whose API is spoken.
BUILDKIT_VERSION = "v0.32.0"


@dataclass(frozen=True, slots=True)
class GcPolicy:
    """One rule of what may be removed to make room, as BuildKit's GCPolicy; bytes and seconds."""

    all: bool = False
    keep_seconds: float = 0
    filters: tuple[str, ...] = ()
    reserved_space: int = 0
    max_used_space: int = 0
    min_free_space: int = 0


@dataclass(frozen=True)
class ServiceConfig:
    """Everything that is configured. `granted` are the entitlements that builds may ask for."""

    root: Path
    settings: Settings = field(default_factory=Settings)
    granted: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    platforms: tuple[Platform, ...] = ()
    gc: tuple[GcPolicy, ...] = ()
    max_parallelism: int = 0
    history_entries: int = 50
    history_seconds: float = 48 * 3600.0
    debug: bool = False
    recorded_times: bool = False  # images say when their layers were made, as BuildKit's do, where no epoch is given
    images_are_cache: bool = False  # nobody lists images of this store: what was pulled or built may go when asked to

    def grants(self, name: str) -> bool:
        """May a build have the entitlement if it asks for it?"""
        return name in self.granted or name.partition("=")[0] in self.granted

    @property
    def worker_id(self) -> str:
        """The same for the same store on the same machine."""
        return digest_of((str(self.root), socket.gethostname()))[7:32]

    @property
    def worker_platforms(self) -> tuple[Platform, ...]:
        """The machine's own platform first."""
        return self.platforms or machine_platforms()

    @property
    def worker_labels(self) -> dict[str, str]:
        """What clients may choose a worker by."""
        sandboxed = self.settings.sandbox.process_sandbox
        return {
            "org.mobyproject.buildkit.worker.executor": "oci",
            "org.mobyproject.buildkit.worker.hostname": socket.gethostname(),
            "org.mobyproject.buildkit.worker.network": "host",
            "org.mobyproject.buildkit.worker.oci.process-mode": "sandbox" if sandboxed else "no-sandbox",
            "org.mobyproject.buildkit.worker.selinux.enabled": "false",
            "org.mobyproject.buildkit.worker.snapshotter": "overlayfs",
            "dev.kedge.worker": "true",
        } | dict(self.labels)


_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_EMULATED = {
    "qemu-aarch64": Platform("linux", "arm64"),
    "qemu-arm": Platform("linux", "arm", "v7"),
    "qemu-riscv64": Platform("linux", "riscv64"),
    "qemu-ppc64le": Platform("linux", "ppc64le"),
    "qemu-s390x": Platform("linux", "s390x"),
    "qemu-i386": Platform("linux", "386"),
    "qemu-x86_64": Platform("linux", "amd64"),
    "qemu-mips64el": Platform("linux", "mips64le"),
    "qemu-mips64": Platform("linux", "mips64"),
    "qemu-loongarch64": Platform("linux", "loong64"),
}


def machine_platforms() -> tuple[Platform, ...]:
    """What this machine runs: its own platform, what its processor also runs, and what emulators are registered for."""
    host = of_machine(os.uname().machine)
    found = [host]
    if host.architecture == "amd64":
        found.append(Platform("linux", "386"))
    try:
        names = os.listdir(_BINFMT)
    except OSError:
        names = []
    found += [platform for name, platform in _EMULATED.items() if name in names and _enabled(name)]
    return tuple(dict.fromkeys(found))


def _enabled(name: str) -> bool:
    try:
        return (_BINFMT / name).read_text().startswith("enabled")
    except OSError:
        return False
