"""Images for several machines, built on one: the foreign part runs through qemu.

The emulator is registered in a user namespace of the test's own, so that the machine stays as it is.
"""

import json
import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e import foreign
from tests.e2e.conftest import Kedge, steps, write_tree

NATIVE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "")
BOTH = f"linux/{NATIVE},linux/{foreign.ARCHITECTURE}"
TEXT = """\
# check=skip=all
FROM --platform=$BUILDPLATFORM busybox AS tools
RUN uname -m > /built-on

FROM scratch
ARG TARGETARCH TARGETPLATFORM
COPY busybox-$TARGETARCH /bin/busybox
COPY --from=tools /built-on /built-on
RUN ["/bin/busybox", "sh", "-c", "/bin/busybox uname -m > /runs-on; echo $0 >> /runs-on"]
CMD ["/bin/busybox", "uname", "-m"]
"""


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A context with a static busybox for this machine and one for another."""
    program = shutil.which("busybox")
    if not program or not NATIVE:
        pytest.skip("no busybox is installed (apt-get install busybox-static)")
    folder = write_tree(tmp_path_factory.mktemp("platforms"), {"Dockerfile": TEXT})
    for architecture, data in ((NATIVE, Path(program).read_bytes()), (foreign.ARCHITECTURE, foreign.busybox())):
        (folder / f"busybox-{architecture}").write_bytes(data)
        (folder / f"busybox-{architecture}").chmod(0o755)
    return folder


@pytest.fixture
def inside(mirror: Path, tmp_path: Path) -> Kedge:
    """The command line in a user namespace of its own, with an emulator installed."""
    from kedge.model.platform import parse_platform
    from kedge.sandbox.emulation import emulator

    if emulator(parse_platform(foreign.ARCHITECTURE)) is None:
        pytest.skip("qemu-user-static is not installed")
    return Kedge(tmp_path / "store", mirror, command=tuple(foreign.namespace_command()))


def test_an_index_of_two_machines_whose_foreign_part_ran_and_runs(inside: Kedge, context: Path, tmp_path: Path) -> None:
    shown = inside.build(
        context, "--platform", BOTH, "-t", "two", "-o", "type=image", "-o", f"type=local,dest={tmp_path / 'out'}"
    )
    machines = {"amd64": "x86_64", "arm64": "aarch64"}
    for architecture in (NATIVE, foreign.ARCHITECTURE):
        files = tmp_path / "out" / f"linux_{architecture}"
        assert (files / "runs-on").read_text().split() == [machines[architecture], "sh"]
        assert (files / "built-on").read_text().strip() == os.uname().machine
        done = inside("run", "--rm", "--platform", f"linux/{architecture}", "two")
        assert done.stdout.strip() == machines[architecture]
    natively = [name for name in steps(shown) if "tools" in name and "RUN" in name]
    assert len(natively) == 1, "the stage of the build platform ran once for both"
    index = json.loads(inside("manifest", "inspect", "--local", "two").stdout)
    assert [entry["platform"]["architecture"] for entry in index["manifests"]] == [NATIVE, foreign.ARCHITECTURE]


def test_what_the_machine_lacks_is_said_with_the_command_that_mends_it(kedge: Kedge, context: Path) -> None:
    text = "FROM scratch\nCOPY busybox-* /\nRUN true\n"
    done = kedge("build", "--platform", "linux/s390x", "-f", "-", context, check=False, stdin=text.encode())
    if done.returncode == 0 or "exit code" in done.stderr:
        pytest.skip("this machine emulates s390x")
    assert "steps for linux/s390x cannot run" in done.stderr
    assert "qemu" in done.stderr
    assert "kedge doctor" in done.stderr


def test_doctor_looks_at_the_disk_of_the_store(kedge: Kedge, tmp_path: Path) -> None:
    found = {one["name"]: one for one in json.loads(kedge("doctor", "--format", "json", check=False).stdout)}
    assert found["space"]["detail"].endswith(f" free at {tmp_path}")  # the store is not there yet


def test_doctor_speaks_of_emulation(kedge: Kedge) -> None:
    done = kedge("doctor", "--format", "json", check=False)
    (check,) = [check for check in json.loads(done.stdout) if check["name"] == "emulation"]
    assert check["ok"] or check["remedy"]


def test_an_index_is_pushed_and_read_by_skopeo(kedge: Kedge, registry: str, tmp_path: Path) -> None:
    if not shutil.which("skopeo"):
        pytest.skip("skopeo is not installed")
    folder = write_tree(
        tmp_path / "context", {"Dockerfile": "FROM scratch\nARG TARGETPLATFORM\nCOPY f /$TARGETPLATFORM\n", "f": "x"}
    )
    name = f"{registry}/team/platforms:1"
    kedge.build(folder, "--platform", "linux/amd64,linux/arm/v6,linux/arm64", "-t", name, "--push")
    raw = subprocess.run(
        ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}"], capture_output=True, check=True
    )
    found = [
        (e["platform"]["architecture"], e["platform"].get("variant", "")) for e in json.loads(raw.stdout)["manifests"]
    ]
    assert found == [("amd64", ""), ("arm", "v6"), ("arm64", "")]
    config = subprocess.run(
        ["skopeo", "inspect", "--config", "--override-arch", "arm", "--override-variant", "v6", "--tls-verify=false", f"docker://{name}"],
        capture_output=True, check=True,
    )  # fmt: skip
    assert json.loads(config.stdout)["variant"] == "v6"
    # An arm/v7 machine may run v6, not the other way round; arm64 is chosen for itself.
    table = kedge("manifest", "inspect", "--format", "table", name).stdout
    assert "linux/arm/v6" in table
    pulled = kedge("pull", "--platform", "linux/arm/v7", "-q", name, check=False)
    assert pulled.returncode == 0
    refused = kedge("pull", "--platform", "linux/arm/v5", "-q", name, check=False)
    assert refused.returncode != 0
    assert "linux/arm/v6" in refused.stderr
