"""The configuration files."""

from pathlib import Path

import pytest

from kedge.model.errors import InvalidInput
from kedge.model.settings import RegistryHost, Settings
from kedge.session.settings import SYSTEM_FILE, config_files, load_settings, parse_settings

WHOLE = """
[store]
max-size = "20GB"

[network]
max-connections = 3
attempts = 2
connect-timeout = 1
timeout = 2.5
backoff = 0.1
longest-pause = 9

[registry."docker.io"]
mirrors = ["mirror.test/prefix", "http://localhost:5000"]

[registry."registry.test:5000"]
http = true
insecure = true
ca = ["/a.pem", "~/b.pem"]
keypair = [{ key = "/k.pem", cert = "/c.pem" }]
max-connections = 2
token-servers = ["auth.test"]
"""


def test_everything_can_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    settings = parse_settings(WHOLE, "config.toml")
    assert settings.store.max_size == 20_000_000_000
    assert (settings.network.attempts, settings.network.timeout) == (2, 2.5)
    assert settings.registry("docker.io").mirrors == ("mirror.test/prefix", "http://localhost:5000")
    assert settings.registry("registry.test:5000") == RegistryHost(
        (), True, True, ("/a.pem", "/home/me/b.pem"), (("/k.pem", "/c.pem"),), 2, ("auth.test",)
    )
    assert settings.registry("elsewhere.test") == RegistryHost()


def test_the_registry_part_of_a_buildkitd_toml_is_understood() -> None:
    text = '[registry."docker.io"]\nmirrors=["m.test"]\nhttp=false\n'
    text += '[[registry."docker.io".keypair]]\nkey="/k"\ncert="/c"\n'
    assert parse_settings(text, "x").registry("docker.io") == RegistryHost(("m.test",), False, keypair=(("/k", "/c"),))


def test_names_of_the_hub_are_one() -> None:
    assert parse_settings('[registry."index.docker.io"]\nhttp=true\n', "x").registry("docker.io").http is True


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("123", 123), ('"1k"', 1024), ('"1kB"', 1000), ('"1KiB"', 1024), ('"1.5 GB"', 1_500_000_000),
     ('"2g"', 2 << 30), ('"1TiB"', 1 << 40), ('"7"', 7), ('"7b"', 7)],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert parse_settings(f"[store]\nmax-size = {text}\n", "x").store.max_size == size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[store", "no valid TOML"),
        ("[stroe]\n", r"unknown table \[stroe\]"),
        ("store = 1\n", r"\[store\] is no table"),
        ("[store]\nmaxsize = 1\n", "unknown key 'maxsize'"),
        ("[store]\nmax-size = -1\n", "must be a size"),
        ('[store]\nmax-size = "big"\n', "must be a size"),
        ("[store]\nmax-size = true\n", "must be a size"),
        ("[network]\nattempts = 0\n", "whole number"),
        ("[network]\ntimeout = 0\n", "number of seconds"),
        ('[registry."a/b"]\n', "no registry|invalid registry"),
        ('registry = "x"\n', r"\[registry\] is no table"),
        ('[registry]\n"a.test" = 1\n', "is no table"),
        ('[registry."a.test"]\nhttp = "yes"\n', "true or false"),
        ('[registry."a.test"]\nmirrors = "m"\n', "list of texts"),
        ('[registry."a.test"]\nmirrors = [1]\n', "list of texts"),
        ('[registry."a.test"]\nkeypair = [{ key = "k" }]\n', "key file"),
        ('[registry."a.test"]\nmirror = []\n', "unknown key 'mirror'"),
    ],
)
def test_mistakes_name_file_and_key(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        parse_settings(text, "/etc/kedge/config.toml")
    assert caught.value.message.startswith("/etc/kedge/config.toml")


def test_the_users_file_overrides_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = tmp_path / "system.toml"
    system.write_text('[registry."a.test"]\nhttp = true\nmirrors = ["m.test"]\n[store]\nmax-size = 1\n')
    monkeypatch.setattr("kedge.session.settings.SYSTEM_FILE", system)
    user = tmp_path / "kedge" / "config.toml"
    user.parent.mkdir()
    user.write_text('[registry."a.test"]\nhttp = false\n')
    settings = load_settings({"XDG_CONFIG_HOME": str(tmp_path)})
    assert settings.registry("a.test") == RegistryHost(("m.test",), False)
    assert settings.store.max_size == 1


def test_kedge_config_replaces_both(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[store]\nmax-size = 5\n")
    assert load_settings({"KEDGE_CONFIG": str(path), "HOME": "/nonexistent"}).store.max_size == 5
    with pytest.raises(InvalidInput, match="does not exist"):
        load_settings({"KEDGE_CONFIG": str(tmp_path / "missing.toml")})


def test_the_process_sandbox_is_switched_off_by_file_or_environment_and_never_by_chance(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[sandbox]\nprocess-sandbox = false\n")
    named = {"KEDGE_CONFIG": str(path)}
    assert Settings().sandbox.process_sandbox
    assert not load_settings(named).sandbox.process_sandbox
    assert load_settings(named | {"KEDGE_PROCESS_SANDBOX": "true"}).sandbox.process_sandbox
    path.write_text("")
    assert load_settings(named | {"KEDGE_PROCESS_SANDBOX": ""}).sandbox.process_sandbox
    assert not load_settings(named | {"KEDGE_PROCESS_SANDBOX": "0"}).sandbox.process_sandbox
    with pytest.raises(InvalidInput, match="must be true or false, not 'off'"):
        load_settings(named | {"KEDGE_PROCESS_SANDBOX": "off"})


def test_without_files_there_are_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kedge.session.settings.SYSTEM_FILE", tmp_path / "missing")
    assert load_settings({"HOME": str(tmp_path)}) == Settings()
    assert config_files({}) == [tmp_path / "missing"]
    assert Path("/etc/kedge/config.toml") == SYSTEM_FILE


def test_a_directory_in_its_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot read"):
        load_settings({"KEDGE_CONFIG": str(tmp_path)})
