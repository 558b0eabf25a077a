"""A fully cached build imports only what it needs: what is counted here is what a user waits for."""

import os
import subprocess
import sys

# Each costs several milliseconds, or a tenth of a second (ssl).
HEAVY = """asyncio ssl logging concurrent.futures inspect dataclasses ast tokenize urllib3 http.client email decimal
fractions
    random secrets subprocess tempfile shutil tarfile zstandard isal xml csv difflib unittest multiprocessing""".split()
PROGRAM = """
import sys
from kedge.cli import main
code = main(sys.argv[1:])
print("\\n".join(sys.modules))
sys.exit(code)
"""


def cached_build(bench):
    bench.write(Dockerfile="FROM base AS b\nCOPY f /\nRUN cat /f > /g\nFROM scratch\nCOPY --from=b /g /\n", f="x")
    words = ["--root", str(bench.root), "build", "--progress", "plain", "-t", "x", str(bench.context)]
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True,
                              env=os.environ | {"NO_COLOR": "1"})  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert done.stderr.count("CACHED") == 4
    return set(done.stdout.split())


def test_a_cached_build_imports_nothing_heavy(bench):
    modules = cached_build(bench)
    baseline = subprocess.run([sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True)
    assert sorted(modules.intersection(HEAVY) - set(baseline.stdout.split())) == []


def test_a_cached_build_starts_no_parts_it_does_not_need(bench):
    modules = cached_build(bench)
    unneeded = """kedge.registry.client kedge.sandbox.linux kedge.sandbox.doctor kedge.sources.git kedge.sources.http
        kedge.storage.packing kedge.storage.tar_read kedge.storage.tar_write kedge.storage.copy
        kedge.sandbox.process kedge.operations.exec_mounts"""
    unneeded = set(unneeded.split())
    assert sorted(modules & unneeded) == []
    assert len({name for name in modules if name.startswith("kedge")}) < 150
