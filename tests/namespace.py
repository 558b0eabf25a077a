"""Tests that must be uid 0, as those that mount, for an ordinary user: they are run in a user namespace.

Owns the marker `namespace`. Root runs such tests in place. For anybody else each becomes an item of the same name
that tells what became of the test in a second pytest, which is uid 0 of a user namespace, as `kedge` itself is then.
One second pytest per file runs all that was chosen of it. Does not know what the tests are about.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest

_ALONE = ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID", "PYTEST_CURRENT_TEST")

Outcomes = dict[str, tuple[str, str]]


def relay(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Replace what is marked, in place, unless this process is uid 0."""
    if os.geteuid() == 0:
        return
    chosen: dict[Path, list[str]] = {}
    for index, item in enumerate(items):
        if item.parent and item.get_closest_marker("namespace"):
            chosen.setdefault(item.path, []).append(item.nodeid)
            items[index] = Relayed.from_parent(item.parent, name=item.name, chosen=chosen[item.path])


class Relayed(pytest.Item):
    """A test that was run elsewhere."""

    def __init__(self, *, chosen: list[str], **words: object) -> None:
        super().__init__(**words)  # type: ignore[arg-type]
        self.chosen = chosen
        self.add_marker(pytest.mark.timeout(0))  # the first of a file waits for all; each has its own timeout there

    def runtest(self) -> None:
        outcomes = _run(self.config.rootpath, tuple(self.chosen))
        outcome, text = outcomes.get(self.nodeid) or outcomes[""]
        if outcome == "skipped":
            pytest.skip(text)
        if outcome != "passed":
            raise FailedThereError(text)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None) -> str:
        return str(excinfo.value)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, self.name


class FailedThereError(Exception):
    """The message is the report of a failure in the second pytest."""


@cache
def _run(root: Path, chosen: tuple[str, ...]) -> Outcomes:
    """Name -> outcome and text; "" is for those that the second pytest does not tell of."""
    place = tempfile.mkdtemp(prefix="kedge-tests-")
    told = os.path.join(place, "told")
    environment = {name: value for name, value in os.environ.items() if name not in _ALONE}
    command = [sys.executable, "-m", "tests.namespace", place, *chosen]
    try:
        done = subprocess.run(command, cwd=root, env=environment, stdin=subprocess.DEVNULL, capture_output=True)
        output = (done.stdout + done.stderr).decode(errors="replace")
        outcomes: Outcomes = {"": ("failed", f"{' '.join(command[:4])} ended with {done.returncode}:\n{output}")}
        if os.path.exists(told):
            with open(told) as lines:
                for name, outcome, text in map(json.loads, lines):
                    if outcomes.get(name, ("passed", ""))[0] == "passed" or not name:  # a failing teardown, too
                        outcomes[name] = (outcome, text)
        return outcomes
    finally:
        shutil.rmtree(place, ignore_errors=True)


def take_over(folder: Path) -> None:
    """Make files of this user's subordinate ids this user's own. Root can remove any."""
    if os.geteuid():
        command = [sys.executable, "-m", "tests.namespace", str(folder)]
        root = Path(__file__).resolve().parents[1]
        subprocess.run(command, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, check=False)


class Teller:
    """In the second pytest: writes a line for each report."""

    def __init__(self, file: str) -> None:
        self.file = file

    def tell(self, name: str, outcome: str, text: str) -> None:
        with open(self.file, "a") as lines:
            lines.write(json.dumps((name, outcome, text)) + "\n")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and isinstance(report.longrepr, tuple):
            return self.tell(report.nodeid, "skipped", report.longrepr[2].removeprefix("Skipped: "))
        text = "\n".join([report.longreprtext, *(f"---- {title}\n{body}" for title, body in report.sections)])
        if report.when == "call" or not report.passed:
            self.tell(report.nodeid, report.outcome, "" if report.passed else text)


def main(place: str, names: list[str]) -> int:
    """Enter a user namespace, and run these tests there; without any, take over the files."""
    from kedge.kernel import identity
    from kedge.model.errors import KedgeError

    teller = Teller(os.path.join(place, "told"))
    try:
        identity.enter_user_namespace()
    except KedgeError as error:
        teller.tell("", "skipped", f"no user namespace can be had here: {error}")
        return 0
    if not names:
        _chown_all(place)
        return 0
    base = os.path.join(place, "files")
    try:
        return int(pytest.main(["-q", "-p", "no:cacheprovider", "--basetemp", base, *names], plugins=[teller]))
    finally:
        shutil.rmtree(base, ignore_errors=True)  # here, for some of it may belong to other ids


def _chown_all(place: str) -> None:
    for _, _, files, fd in os.fwalk(place):
        for name in (".", *files):
            if os.stat(name, dir_fd=fd, follow_symlinks=False).st_uid:
                os.chown(name, 0, 0, dir_fd=fd, follow_symlinks=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
