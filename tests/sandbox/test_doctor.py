"""Checks are about this machine, so the tests are about their form and about a machine that lacks things."""

import subprocess

import pytest

from kedge.model.errors import Unsupported
from kedge.sandbox import doctor
from kedge.sandbox.doctor import Check


def test_every_failing_check_has_a_remedy(tmp_path):
    found = doctor.checks(tmp_path)
    assert len({check.name for check in found}) == len(found)
    for check in found:
        assert check.detail
        assert check.ok or check.remedy, check


def test_checks_leave_nothing_behind(tmp_path):
    doctor.checks(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_does_not_exist_yet_is_judged_by_its_parent(tmp_path):
    check = next(c for c in doctor.checks(tmp_path / "a" / "b") if c.name == "space")
    assert str(tmp_path) in check.detail


def test_the_user_of_a_box_gets_the_same_answers(user_box):
    script = "from kedge.sandbox import doctor\nfor c in doctor.checks(): print(c.name, c.ok)"
    answer = subprocess.run(
        [
            *user_box.command[:-1],
            "-c",
            "import sys;sys.path.insert(0,sys.argv[1]);exec(sys.argv[2])",
            _source(),
            script,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = dict(line.split() for line in answer.stdout.splitlines())
    assert (lines["privileges"], lines["overlayfs"], lines["proc"]) == ("False", "True", "True")


def test_require_names_what_is_missing(tmp_path, monkeypatch):
    missing = Check("overlayfs", False, "no such device", "sudo modprobe overlay", needed=True)
    monkeypatch.setattr(doctor, "_privileges", lambda: Check("privileges", True, ""))
    monkeypatch.setattr(doctor, "_overlay", lambda directory, fork: missing)
    with pytest.raises(Unsupported) as caught:
        doctor.require(tmp_path)
    assert caught.value.message == "RUN steps cannot work here: overlayfs: no such device"
    assert caught.value.hint == "sudo modprobe overlay"


def test_what_needs_a_namespace_is_not_blamed_for_lacking_one(tmp_path, monkeypatch):
    forbidden = Check("user-namespaces", False, "max_user_namespaces is 0", "sudo sysctl -w …")
    monkeypatch.setattr(doctor, "_user_namespaces", lambda: forbidden)
    monkeypatch.setattr(doctor.identity, "can_mount", lambda: False)
    found = {check.name: check for check in doctor.checks(tmp_path)}
    for name in ("overlayfs", "proc", "seccomp"):
        assert found[name].detail == "not tried: that needs a user namespace"
        assert found[name].remedy == "mend user-namespaces first"


def _source():
    return str(doctor.__file__).removesuffix("/kedge/sandbox/doctor.py")
