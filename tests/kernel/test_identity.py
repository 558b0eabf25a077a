"""Who we are, before and after entering a user namespace; each case in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kedge.kernel import identity

SOURCE = Path(__file__).resolve().parents[2] / "src"
SHOW = (
    "import sys; sys.path.insert(0, sys.argv[1]); from kedge.kernel import identity as i; before = i.current();"
    "after = i.enter_user_namespace(); again = i.enter_user_namespace(); assert after == again;"
    "print(before.privileged, before.in_user_namespace, after.uid, after.gid, after.in_user_namespace, after.single_id,"
    "after.outer_uid, after.subuids, i.has_capability('sys_admin'))"
)


def show(*prefix):
    for interpreter in (sys.executable, "/usr/bin/python3"):
        done = subprocess.run([*prefix, "env", interpreter, "-c", SHOW, str(SOURCE)], capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout.split()
    pytest.skip(f"not possible here: {done.stderr.strip().splitlines()[-1]}")


def as_user(uid):
    if os.geteuid() == 0:
        return ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--inh-caps=-all")
    if uid != os.geteuid():
        pytest.skip("only root can become another user")
    return ()


def test_root_stays_where_it_is():
    if os.geteuid():
        pytest.skip("needs root")
    assert show() == ["True", "False", "0", "0", "False", "False", "0", "0", "True"]


def test_a_user_without_subordinate_ids_becomes_root_with_one_id():
    uid = 64321 if os.geteuid() == 0 else os.geteuid()
    if identity.subordinate_ids("/etc/subuid", uid):
        pytest.skip("this user has subordinate ids")
    assert show(*as_user(uid)) == ["False", "False", "0", "0", "True", "True", str(uid), "0", "True"]


def test_a_user_with_subordinate_ids_gets_them_all():
    for entry in Path("/etc/passwd").read_text().splitlines():
        uid = int(entry.split(":")[2])
        ranges = identity.subordinate_ids("/etc/subuid", uid)
        if uid and ranges and identity.subordinate_ids("/etc/subgid", uid):
            break
    else:
        pytest.skip("no user of this machine has a range in /etc/subuid")
    answer = show(*as_user(uid))
    assert answer == ["False", "False", "0", "0", "True", "False", str(uid), str(sum(n for _, n in ranges)), "True"]


def test_subordinate_ranges_are_by_name_or_number_and_junk_is_skipped(tmp_path):
    file = tmp_path / "subuid"
    file.write_text("root:100:5\n0:200:6\nnobody-else:1:1\n# comment\nroot:x:y\nroot:300:0\n\n")
    assert identity.subordinate_ids(str(file), 0) == [(100, 5), (200, 6)]
    assert identity.subordinate_ids(str(tmp_path / "none"), 0) == []


def test_ids_that_are_granted_to_somebody_are_not_free(tmp_path):
    subuid, subgid = tmp_path / "subuid", tmp_path / "subgid"
    assert identity.free_subordinate_ids((str(subuid), str(subgid))) == 100_000
    subuid.write_text("a:100000:65536\nnonsense\nb:165536:65536\n")
    subgid.write_text("a:300000:10\n")
    assert identity.free_subordinate_ids((str(subuid), str(subgid))) == 300_010


def test_the_setting_that_forbids_namespaces_is_named():
    """A user namespace whose own limit is 0, without the right to mount in it."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from kedge.kernel import identity\n"
        "from kedge.model.errors import Unsupported\n"
        "open('/proc/sys/user/max_user_namespaces', 'w').write('0')\n"
        "import os; os.execvp('setpriv', ['setpriv', '--bounding-set=-all', '--inh-caps=-all', sys.executable, '-c',"
        "'import sys; sys.path.insert(0, sys.argv[1]); from kedge.kernel import identity\\n"
        "try: identity.enter_user_namespace()\\n"
        "except Exception as error: print(type(error).__name__, error.message, error.hint)', sys.argv[1]])"
    )
    words = ["unshare", "--user", "--map-root-user", "env", "/usr/bin/python3", "-c", script, str(SOURCE)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"not possible here: {done.stderr.strip().splitlines()[-1]}")
    assert done.stdout.strip() == (
        "Unsupported cannot create a user namespace: /proc/sys/user/max_user_namespaces is 0 "
        "sudo sysctl -w user.max_user_namespaces=28633, or run kedge as root."
    )
