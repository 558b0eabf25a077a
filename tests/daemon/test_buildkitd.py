"""kedge-buildkitd: buildkitd's flags and buildkitd.toml, and how the process starts and ends."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kedge.daemon.buildkit.buildkitd import configure
from kedge.daemon.buildkit.config import GcPolicy
from kedge.model.errors import InvalidInput
from kedge.model.platform import Platform


def toml(tmp_path: Path, text: str) -> str:
    path = tmp_path / "buildkitd.toml"
    path.write_text(text)
    return f"--config={path}"


def test_defaults_are_buildkitds(tmp_path):
    daemon = configure([toml(tmp_path, "")])
    assert daemon.addresses == ("unix:///run/buildkit/buildkitd.sock",)
    assert str(daemon.config.root) == "/var/lib/buildkit"
    assert daemon.config.granted == ()


def test_flags_of_a_test_run_are_taken_without_a_word(tmp_path):
    daemon = configure([
        "--oci-worker=true", "--containerd-worker=false", "--oci-worker-gc=false",
        "--oci-worker-labels=org.mobyproject.buildkit.worker.sandbox=true", "--oci-worker-snapshotter=overlayfs",
        toml(tmp_path, ""), "--root", "/r", "--addr", "unix:///a", "--addr", "unix:///b", "--debug",
    ])  # fmt: skip
    assert daemon.addresses == ("unix:///a", "unix:///b")
    assert daemon.config.debug
    assert daemon.config.worker_labels["org.mobyproject.buildkit.worker.sandbox"] == "true"
    assert daemon.notes == ()


def test_flags_that_would_change_something_are_noted(tmp_path):
    daemon = configure([toml(tmp_path, ""), "--oci-cni-binary-dir=/x", "--cdi-disabled"])
    assert len(daemon.notes) == 2


@pytest.mark.parametrize(
    ("flags", "text", "sandboxed"),
    [
        ([], "", True),
        (["--oci-worker-no-process-sandbox"], "", False),
        ([], "[worker.oci]\nnoProcessSandbox = true\n", False),
        (["--oci-worker-no-process-sandbox=false"], "[worker.oci]\nnoProcessSandbox = true\n", True),
    ],
)
def test_the_process_sandbox_is_switched_as_in_buildkitd(tmp_path, flags, text, sandboxed):
    daemon = configure([toml(tmp_path, text), *flags])
    assert daemon.config.settings.sandbox.process_sandbox is sandboxed
    mode = daemon.config.worker_labels["org.mobyproject.buildkit.worker.oci.process-mode"]
    assert mode == ("sandbox" if sandboxed else "no-sandbox")
    assert daemon.notes == ()


def test_the_file_tells_registries_labels_and_limits(tmp_path):
    daemon = configure([toml(tmp_path, """
        insecure-entitlements = ["network.host"]
        [registry."docker.io"]
        mirrors = ["mirror.local:5000/hub"]
        [registry."mirror.local:5000"]
        http = true
        [registry."own.local"]
        insecure = true
        ca = ["/ca.pem"]
        [[registry."own.local".keypair]]
        key = "/k"
        cert = "/c"
        [worker.oci]
        platforms = ["linux/amd64", "linux/arm64"]
        max-parallelism = 3
        maxUsedSpace = "20GB"
        [worker.oci.labels]
        a = "b"
        [history]
        maxAge = "1h30m"
        maxEntries = 7
        """)])  # fmt: skip
    config = daemon.config
    assert config.granted == ("network.host",)
    assert config.settings.registry("docker.io").mirrors == ("http://mirror.local:5000/hub",)
    own = config.settings.registry("own.local")
    assert (own.insecure, own.ca, own.keypair) == (True, ("/ca.pem",), (("/k", "/c"),))
    assert config.worker_platforms == (Platform("linux", "amd64"), Platform("linux", "arm64"))
    assert config.max_parallelism == 3
    assert {rule.max_used_space for rule in config.gc} == {512_000_000, 20 << 30}
    assert (config.history_seconds, config.history_entries) == (5400, 7)
    assert config.recorded_times  # as images of buildkitd have them


def rules_of(tmp_path, text, *flags):
    return configure([toml(tmp_path, text), "--root", str(tmp_path), *flags]).config.gc


def test_rules_of_collection_are_read_with_their_old_names(tmp_path):
    first, second = rules_of(tmp_path, """
        [[worker.oci.gcpolicy]]
        filters = ["type==source.local", "type==exec.cachemount"]
        keepDuration = "48h"
        keepBytes = "512MB"
        [[worker.oci.gcpolicy]]
        all = true
        reservedSpace = 1000
        maxUsedSpace = "2 GiB"
        minFreeSpace = "10%"
        keepDuration = 60
        """)  # fmt: skip
    assert first == GcPolicy(False, 172_800, ("type==source.local", "type==exec.cachemount"), 512 << 20)
    assert (second.all, second.keep_seconds, second.reserved_space, second.max_used_space) == (True, 60, 1000, 2 << 30)
    assert second.min_free_space % 10**9 == 0 < second.min_free_space


def test_without_rules_there_are_buildkits_own(tmp_path):
    rules = rules_of(tmp_path, "")
    assert [rule.all for rule in rules] == [False, False, False, True]
    assert all(rule.reserved_space and rule.max_used_space and rule.min_free_space for rule in rules[1:])
    assert rules_of(tmp_path, "[worker.oci]\ngckeepstorage = 7")[3] == GcPolicy(True, reserved_space=7)
    assert rules_of(tmp_path, "", "--oci-worker-gc-keepstorage=1,2,3")[3] == GcPolicy(
        True, reserved_space=10**6, min_free_space=2 * 10**6, max_used_space=3 * 10**6
    )


@pytest.mark.parametrize(("text", "flags"), [("[worker.oci]\ngc = false", ()), ("", ("--oci-worker-gc=false",))])
def test_collection_can_be_switched_off(tmp_path, text, flags):
    assert rules_of(tmp_path, text, *flags) == ()


def test_what_no_rule_keeps_goes_soon_after_a_build(tmp_path, context):
    from kedge.daemon.wire import control
    from tests.daemon.client import Client
    from tests.daemon.conftest import RunningService

    (context / "a.txt").write_bytes(os.urandom(3_000_000))
    folder = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    running = RunningService(folder, "--oci-worker-gc-keepstorage=0,0,1")
    client = Client(running.address, folder / "client", {"context": context, "dockerfile": context})
    try:
        (worker,) = client.control.unary("ListWorkers", control.ListWorkersRequest()).record
        assert [(rule.all, rule.maxUsedSpace) for rule in worker.GCPolicy][-1] == (True, 1_000_000)
        image = control.Exporter(Type="image", Attrs={"name": "x"})
        client.solve(Frontend="dockerfile.v0", Exporters=[image])
        for _ in range(600):
            used = client.control.unary("DiskUsage", control.DiskUsageRequest()).record
            if sum(one.Size for one in used) < 1_000_000:
                break
            time.sleep(0.1)
        else:
            pytest.fail(f"nothing went: {used} {running.log.read_text()}")
        client.solve(Frontend="dockerfile.v0", Exporters=[image])  # and all of it can be made again
    finally:
        client.close()
        assert running.stop() == 0
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize(
    "text",
    [
        "x = ",
        "[worker.oci]\ngcpolicy = 1",
        "[[worker.oci.gcpolicy]]\nfilters = 1",
        '[[worker.oci.gcpolicy]]\nkeepDuration = "1y"',
        'registry = "x"',
        "[registry.x]\nmirrors = 1",
        '[worker.oci]\nmaxUsedSpace = "many"',
        '[history]\nmaxAge = "soon"',
        'insecure-entitlements = ["everything"]',
        '[grpc.tls]\ncert = "only this"',
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path, text):
    with pytest.raises(InvalidInput):
        configure([toml(tmp_path, text)])


def run(*flags):
    return subprocess.run(
        [sys.executable, "-m", "kedge.cli.buildkitd", *flags], capture_output=True, text=True, timeout=60
    )


def test_tcp_without_certificates_is_refused(tmp_path):
    done = run("--root", str(tmp_path), toml(tmp_path, ""), "--addr", "tcp://127.0.0.1:0")
    assert done.returncode == 1
    assert "certificates" in done.stderr


def test_the_version_names_the_api(tmp_path):
    assert "v0." in run("--version").stdout


def test_somebody_elses_socket_is_left_alone(service, tmp_path):
    done = run("--root", str(tmp_path), toml(tmp_path, ""), "--addr", service.address)
    assert done.returncode == 1
    assert "already" in done.stderr


def test_it_ends_when_asked_and_takes_its_socket_along(tmp_path, monkeypatch):
    folder = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    from tests.daemon.conftest import RunningService

    running = RunningService(folder)
    os.kill(running.process.pid, signal.SIGTERM)
    assert running.process.wait(90) == 0
    assert not (folder / "b.sock").exists()
