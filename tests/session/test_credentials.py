"""Docker's config.json and its helpers: found, kept, forgotten, never told to the wrong one."""

import base64
import json
import os
import stat
from pathlib import Path

import pytest

from kedge.model.credential import Credential
from kedge.model.errors import InvalidInput
from kedge.session.credentials import DockerCredentials

HELPER = """#!/bin/sh
echo "$1" "$(cat)" >> "$LOG"
cd "$(dirname "$LOG")"
case "$1" in
get) if [ -f answer ]; then cat answer; else echo "credentials not found in native keychain"; exit 1; fi;;
list) if [ -f listed ]; then cat listed; else echo '{}'; fi;;
esac
"""


class Home:
    """A home directory with a config file and helpers on the PATH."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file = root / ".docker" / "config.json"
        self.log = root / "helpers" / "log"
        self.environ = {"HOME": str(root), "PATH": f"{root}/bin:{os.environ['PATH']}", "LOG": str(self.log)}
        (root / "helpers").mkdir()
        (root / "bin").mkdir()

    def config(self, **fields: object) -> DockerCredentials:
        self.file.parent.mkdir(exist_ok=True)
        self.file.write_text(json.dumps(fields))
        return self.credentials()

    def credentials(self) -> DockerCredentials:
        return DockerCredentials(environ=self.environ)

    def helper(self, name: str, text: str = HELPER) -> None:
        path = self.root / "bin" / f"docker-credential-{name}"
        path.write_text(text)
        path.chmod(0o755)

    def answer(self, user: str, secret: str) -> None:
        (self.root / "helpers" / "answer").write_text(
            json.dumps({"ServerURL": "x", "Username": user, "Secret": secret})
        )

    @property
    def asked(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def auth(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_without_a_file_there_is_nothing(home: Home) -> None:
    assert home.credentials()("docker.io") is None


@pytest.mark.parametrize(
    ("key", "registry"),
    [
        ("https://index.docker.io/v1/", "docker.io"),
        ("docker.io", "docker.io"),
        ("registry-1.docker.io", "docker.io"),
        ("ghcr.io", "ghcr.io"),
        ("https://ghcr.io", "ghcr.io"),
        ("http://localhost:5000/v2/", "localhost:5000"),
        ("GHCR.io", "ghcr.io"),
    ],
)
def test_entries_are_found_however_they_are_spelled(home: Home, key: str, registry: str) -> None:
    credentials = home.config(auths={key: {"auth": auth("me:pass:word")}})
    assert credentials(registry) == Credential("me", "pass:word")
    assert credentials("elsewhere.test") is None


def test_tokens_are_found(home: Home) -> None:
    credentials = home.config(
        auths={"a.test": {"auth": auth("me:"), "identitytoken": "i"}, "b.test": {"registrytoken": "r"}, "c.test": {}}
    )
    assert credentials("a.test") == Credential("me", identity_token="i")
    assert credentials("b.test") == Credential(registry_token="r")
    assert credentials("c.test") is None


def test_docker_config_names_the_directory(home: Home) -> None:
    other = home.root / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"auths": {"a.test": {"auth": auth("x:y")}}}))
    home.environ["DOCKER_CONFIG"] = str(other)
    assert home.credentials()("a.test") == Credential("x", "y")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"auths": {}}x',
        '{"auths": "x"}',
        '{"auths": {"a.test": {"auth": "%%%"}}}',
        '{"auths": {"a.test": 7}}',
        '{"credHelpers": "x"}',
        '{"credsStore": "../../x"}',
    ],
)
def test_a_damaged_file_is_named_without_its_content(home: Home, text: str) -> None:
    home.config()
    home.file.write_text(text)
    with pytest.raises(InvalidInput, match=r"config\.json"):
        home.credentials()("a.test")


def test_a_helper_is_asked_for_its_host_only(home: Home) -> None:
    home.helper("cloud")
    home.answer("me", "secret")
    credentials = home.config(credHelpers={"good.test": "cloud"})
    assert credentials("evil.test") is None
    assert credentials("good.test.evil.test") is None
    assert credentials("good.test:5000") is None
    assert home.asked == []
    assert credentials("good.test") == Credential("me", "secret")
    assert credentials("good.test") == Credential("me", "secret")
    assert home.asked == ["get good.test"]


def test_a_store_is_asked_for_hosts_that_were_logged_in_to(home: Home) -> None:
    home.helper("desktop")
    home.answer("<token>", "identity")
    credentials = home.config(credsStore="desktop", auths={"https://index.docker.io/v1/": {}})
    assert credentials("docker.io") == Credential(identity_token="identity")
    assert credentials("evil.test") is None
    assert "get evil.test" not in home.asked
    assert home.asked[0] == "get https://index.docker.io/v1/"


def test_a_store_is_asked_for_hosts_it_lists(home: Home) -> None:
    home.helper("desktop")
    home.answer("me", "secret")
    (home.root / "helpers" / "listed").write_text('{"https://listed.test": "me"}')
    credentials = home.config(credsStore="desktop")
    assert credentials("listed.test") == Credential("me", "secret")
    assert credentials("evil.test") is None


def test_a_helper_without_an_answer_leaves_the_file_to_answer(home: Home) -> None:
    home.helper("cloud")
    credentials = home.config(credHelpers={"a.test": "cloud"}, auths={"a.test": {"auth": auth("x:y")}})
    assert credentials("a.test") == Credential("x", "y")


def test_a_failing_helper_is_named_and_its_output_is_not(home: Home) -> None:
    home.helper("cloud", "#!/bin/sh\necho s3cr3t; echo s3cr3t >&2; exit 3\n")
    with pytest.raises(InvalidInput, match="docker-credential-cloud failed to get") as caught:
        home.config(credHelpers={"a.test": "cloud"})("a.test")
    assert "s3cr3t" not in str(caught.value) + caught.value.hint
    home.helper("cloud", "#!/bin/sh\necho nonsense\n")
    with pytest.raises(InvalidInput, match="no usable answer"):
        home.config(credHelpers={"a.test": "cloud"})("a.test")
    with pytest.raises(InvalidInput, match="docker-credential-missing is not installed"):
        home.config(credHelpers={"a.test": "missing"})("a.test")


def test_login_writes_the_file_for_its_owner_only(home: Home) -> None:
    credentials = home.credentials()
    assert credentials.store("a.test", Credential("me", "secret")) == str(home.file)
    assert stat.S_IMODE(home.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.file.parent.stat().st_mode) == 0o700
    assert credentials("a.test") == Credential("me", "secret")
    assert home.credentials()("a.test") == Credential("me", "secret")
    assert list(home.file.parent.iterdir()) == [home.file]


def test_login_keeps_what_else_is_in_the_file(home: Home) -> None:
    credentials = home.config(
        auths={"b.test": {"auth": "x"}, "https://a.test/v1/": {"auth": "old"}}, HttpHeaders={"a": "b"}
    )
    credentials.store("a.test", Credential("me", identity_token="i"))
    kept = json.loads(home.file.read_text())
    assert kept == {
        "auths": {"b.test": {"auth": "x"}, "a.test": {"auth": auth("me:"), "identitytoken": "i"}},
        "HttpHeaders": {"a": "b"},
    }


def test_login_to_the_hub_uses_dockers_own_key(home: Home) -> None:
    home.credentials().store("docker.io", Credential("me", "secret"))
    assert list(json.loads(home.file.read_text())["auths"]) == ["https://index.docker.io/v1/"]


def test_login_follows_a_linked_file(home: Home) -> None:
    home.config()
    real = home.root / "dotfiles.json"
    home.file.rename(real)
    home.file.symlink_to(real)
    home.credentials().store("a.test", Credential("me", "secret"))
    assert home.file.is_symlink()
    assert "a.test" in real.read_text()


def test_login_into_a_helper_leaves_no_secret_in_the_file(home: Home) -> None:
    home.helper("desktop")
    credentials = home.config(credsStore="desktop")
    assert credentials.store("a.test", Credential("me", "secret")) == "the credential helper desktop"
    assert "secret" not in home.file.read_text()
    assert json.loads(home.file.read_text())["auths"] == {"a.test": {}}
    assert json.loads(home.asked[0].removeprefix("store ")) == {
        "ServerURL": "a.test", "Username": "me", "Secret": "secret",
    }  # fmt: skip


def test_logout_forgets(home: Home) -> None:
    credentials = home.config(auths={"a.test": {"auth": auth("x:y")}, "b.test": {"auth": auth("x:y")}})
    assert credentials.erase("a.test")
    assert not credentials.erase("a.test")
    assert credentials("a.test") is None
    assert credentials("b.test")
    home.helper("desktop")
    credentials = home.config(credsStore="desktop", auths={"a.test": {}})
    assert credentials.erase("a.test")
    assert home.asked == ["erase a.test"]


def test_a_directory_that_cannot_be_written_is_named(home: Home) -> None:
    home.file.parent.write_text("a file where the directory should be")
    with pytest.raises(InvalidInput, match=r"cannot write .*config\.json"):
        home.credentials().store("a.test", Credential("me", "secret"))
