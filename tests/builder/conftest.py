"""Builds for real: a store with a base image made of busybox, and a short way to build and to look inside the
result.
"""

import io
import os
import shutil
import subprocess
import tarfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kedge.builder import BuildRequest, build
from kedge.kernel.paths import open_in_root
from kedge.model.digest import digest_of
from kedge.model.event import VertexEvent
from kedge.model.platform import of_machine
from kedge.model.reference import parse_reference
from kedge.session.local import LocalSession
from kedge.sources.handler import Work
from kedge.storage.store import Store

HOST = of_machine(os.uname().machine)
APPLETS = """
    sh cat cp echo env false find grep head id ln ls mkdir mv printf pwd rm sed sleep stat tail test touch true tr wc
""".split()


def busybox_tar() -> bytes:
    program = shutil.which("busybox")
    if not program:
        pytest.skip("busybox is not installed (apt-get install busybox-static)")
    if subprocess.run(["ldd", program], capture_output=True).returncode == 0:
        pytest.skip("busybox is not static (apt-get install busybox-static)")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:

        def add(name, kind=tarfile.REGTYPE, data=b"", mode=0o755, link=""):
            entry = tarfile.TarInfo(name)
            entry.type, entry.size, entry.mode, entry.linkname = kind, len(data), mode, link
            archive.addfile(entry, io.BytesIO(data))

        for folder, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("root", 0o700)):
            add(folder, tarfile.DIRTYPE, mode=mode)
        add("bin/busybox", data=Path(program).read_bytes())
        for applet in APPLETS:
            add(f"bin/{applet}", tarfile.SYMTYPE, link="busybox")
        add("etc/passwd", data=b"root:x:0:0:root:/root:/bin/sh\nbob:x:1234:1235::/home/bob:/bin/sh\n", mode=0o644)
        add("etc/group", data=b"root:x:0:\nbob:x:1235:\nwheel:x:10:bob\n", mode=0o644)
    return out.getvalue()


@dataclass
class Workbench:
    """A store, a context directory, and the last build's events."""

    root: Path
    context: Path
    events: list = field(default_factory=list)
    secrets: list = field(default_factory=list)

    def write(self, **files):
        """Files of the context; `__` in a name stands for `/`, `_dot_` for a dot."""
        for name, text in files.items():
            path = self.context / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def build(self, text=None, **fields):
        self.events = []
        if text is not None:
            fields["dockerfile_text"] = text.encode()
        fields = {"context": self.context, "store": self.root} | fields
        return build(BuildRequest(**fields), LocalSession(secrets=self.secrets), self.events.append)

    def steps(self):
        """Name -> "CACHED", "DONE" or the error, of the steps of the graph, in order of their names' first event."""
        last = {}
        for event in self.events:
            if isinstance(event, VertexEvent) and not event.name.startswith("[internal]"):
                last[event.name] = event
        return {
            name: e.error or ("CACHED" if e.cached else "DONE" if e.completed else "WAITING")
            for name, e in last.items()
        }

    def ran(self):
        return [name for name, state in self.steps().items() if state == "DONE" and not name.startswith("exporting")]

    def store(self):
        return Store.open(self.root)

    @contextmanager
    def tree(self, name):
        """The merged tree of a built image."""
        from kedge.images.lookup import open_image, snapshot_of

        with self.store() as store, store.layers.mounted(snapshot_of(store, open_image(store, name))) as tree:
            yield tree

    def read(self, name, path):
        """A file of a built image."""
        with self.tree(name) as tree, open(open_in_root(tree.fd, path, os.O_RDONLY), "rb") as file:
            return file.read().decode()

    def listing(self, name):
        with self.tree(name) as tree:
            top = f"/proc/self/fd/{tree.fd}"
            return sorted(os.path.relpath(os.path.join(d, f), top) for d, _, files in os.walk(top) for f in files)


@pytest.fixture(scope="session")
def base_store(tmp_path_factory):
    """A store that holds `base`, to be copied."""
    root = tmp_path_factory.mktemp("base")
    from kedge.images.import_root import import_root

    with Store.open(root / "store") as store:
        work = Work(digest_of("import"))
        import_root(store, io.BytesIO(busybox_tar()), HOST, work, [parse_reference("base")], ["ENV PATH=/bin"])
    return root / "store"


@pytest.fixture
def bench(base_store, tmp_path):
    subprocess.run(["cp", "-a", base_store, tmp_path / "store"], check=True)
    (tmp_path / "context").mkdir()
    return Workbench(tmp_path / "store", tmp_path / "context")


@pytest.fixture(autouse=True)
def _may_mount(request):
    if os.geteuid() != 0 and "test_rootless" not in request.node.nodeid:
        pytest.skip("an ordinary user builds in a namespace: test_rootless runs these tests there")
