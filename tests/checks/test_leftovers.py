"""What is recognised in a layer, and what is left alone."""

import time
from pathlib import Path

import pytest

from kedge.checks.leftover_table import build_image
from kedge.checks.leftovers import Leftover, scan
from kedge.checks.secrets import LONGEST, secret_in

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH PRIVATE KEY-----\n"


def write(root: Path, name: str, data: str | int = 1000) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else "x" * data)


def found(root: Path) -> list[tuple[str, str]]:
    return sorted((one.kind, one.path) for one in scan(root))


@pytest.mark.parametrize(
    ("name", "kind", "path"),
    [
        ("var/lib/apt/lists/example_Packages", "cache", "/var/lib/apt/lists"),
        ("var/cache/apt/archives/x.deb", "cache", "/var/cache/apt"),
        ("root/.cache/pip/http/a", "cache", "/root/.cache/pip"),
        ("home/bob/.npm/_cacache/a", "cache", "/home/bob/.npm"),
        ("root/.cache/go-build/00/a", "cache", "/root/.cache/go-build"),
        ("go/pkg/mod/a.b/c/d.go", "cache", "/go/pkg/mod"),
        ("usr/lib/gcc/x/12/cc1", "tool", "/usr/lib/gcc"),
        ("usr/local/go/bin/go", "tool", "/usr/local/go"),
        ("usr/local/cargo/bin/cargo", "tool", "/usr/local/cargo/bin/cargo"),
        ("usr/bin/make", "tool", "/usr/bin/make"),
    ],
)
def test_tools_and_caches_are_known_by_their_place(tmp_path: Path, name: str, kind: str, path: str) -> None:
    write(tmp_path, name)
    assert found(tmp_path) == [(kind, path)]
    assert scan(tmp_path)[0].size == 1000


def test_an_empty_cache_is_none(tmp_path: Path) -> None:
    (tmp_path / "var/lib/apt/lists").mkdir(parents=True)
    assert found(tmp_path) == []


def test_programs_that_are_no_tools_are_left_alone(tmp_path: Path) -> None:
    for name in ("usr/bin/curl", "opt/app/make", "srv/venv/bin/pip3", "usr/lib/x86_64-linux-gnu/libgcc_s.so.1"):
        write(tmp_path, name)
    assert found(tmp_path) == []


def test_a_repository_is_one_finding_with_its_size(tmp_path: Path) -> None:
    write(tmp_path, "app/.git/HEAD", "ref: refs/heads/main\n")
    write(tmp_path, "app/.git/objects/ab/cd", 5000)
    write(tmp_path, "app/main.py")
    assert found(tmp_path) == [("source", "/app/.git")]
    assert scan(tmp_path)[0].size == 5021


def test_a_password_in_a_repository_s_configuration_is_a_secret_too(tmp_path: Path) -> None:
    write(tmp_path, "app/.git/HEAD", "ref: refs/heads/main\n")
    write(tmp_path, "app/.git/config", '[remote "origin"]\n\turl = https://bob:hunter2@example.com/x.git\n')
    assert found(tmp_path) == [("secret", "/app/.git/config"), ("source", "/app/.git")]


def test_source_of_compiled_programs_is_known_by_its_project_file(tmp_path: Path) -> None:
    write(tmp_path, "src/go.mod", "module x\n")
    write(tmp_path, "src/cmd/main.go", 400)
    write(tmp_path, "src/sub/go.mod", "module y\n")
    assert found(tmp_path) == [("source", "/src")]


def test_scripts_and_packages_are_no_source(tmp_path: Path) -> None:
    write(tmp_path, "app/package.json", "{}")
    write(tmp_path, "app/server.js")
    write(tmp_path, "app/node_modules/x/CMakeLists.txt")
    write(tmp_path, "app/node_modules/x/a.cc")
    write(tmp_path, "usr/share/doc/x/go.mod")
    write(tmp_path, "usr/share/doc/x/a.go")
    write(tmp_path, "lonely/go.mod", "module x\n")
    assert found(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("root/.ssh/id_rsa", KEY),
        ("etc/ssh/ssh_host_ed25519_key", KEY),
        ("etc/tls/server.key", "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n"),
        (
            "app/cert.pem",
            "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n-----BEGIN RSA PRIVATE KEY-----\nMI",
        ),
        ("root/.netrc", "machine example.com\nlogin bob\npassword hunter2\n"),
        ("app/.npmrc", "//registry.example.com/:_authToken=abcdef\n"),
        ("root/.pypirc", "[x]\nusername = bob\npassword = hunter2\n"),
        ("root/.aws/credentials", "[default]\naws_access_key_id = x\naws_secret_access_key = abc\n"),
        ("root/.docker/config.json", '{"auths": {"example.com": {"auth": "Ym9iOmh1bnRlcjI="}}}'),
        ("root/.git-credentials", "https://bob:hunter2@example.com\n"),
        ("app/.env", "GITHUB=ghp_0123456789abcdefghijklmnopqrstuvwxyzAB\n"),
        ("app/service-account.json", '{"private_key": "-----BEGIN PRIVATE KEY-----\\nMII"}'),
    ],
)
def test_secrets_are_known_by_name_and_content(tmp_path: Path, path: str, text: str) -> None:
    write(tmp_path, path, text)
    assert found(tmp_path) == [("secret", f"/{path}")]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("root/.ssh/id_rsa.pub", "ssh-rsa AAAA bob\n"),
        ("etc/ssl/cert.pem", "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n"),
        ("app/public.key", "-----BEGIN PUBLIC KEY-----\nAA\n-----END PUBLIC KEY-----\n"),
        ("app/.npmrc", "registry=https://registry.example.com/\n//registry.example.com/:_authToken=${NPM_TOKEN}\n"),
        ("root/.docker/config.json", '{"credsStore": "desktop", "auths": {"example.com": {}}}'),
        ("root/.netrc", "machine example.com\nlogin bob\n"),
        ("app/.env", "PORT=80\nNAME=x\n"),
        ("app/node_modules/x/test/key.pem", KEY),
        ("usr/lib/python3/dist-packages/x/server.key", KEY),
        ("etc/ssl/private/ssl-cert-snakeoil.key", KEY),
        ("app/readme.md", KEY),
    ],
)
def test_what_only_looks_like_a_secret_is_left_alone(tmp_path: Path, path: str, text: str) -> None:
    write(tmp_path, path, text)
    assert found(tmp_path) == []


def test_links_and_pipes_are_not_read(tmp_path: Path) -> None:
    import os

    (tmp_path / "root").mkdir()
    outside = tmp_path / "outside"
    outside.write_text(KEY)
    (tmp_path / "root/id_rsa").symlink_to(outside)
    os.mkfifo(tmp_path / "root/id_dsa")
    assert ("secret", "/root/id_rsa") not in found(tmp_path)


def test_findings_never_hold_content(tmp_path: Path) -> None:
    write(tmp_path, "root/.netrc", "machine example.com login bob password hunter2\n")
    assert "hunter2" not in repr(scan(tmp_path))
    assert secret_in("root/.netrc", lambda: b"machine x password hunter2") == "a password in .netrc"


def test_images_to_build_with() -> None:
    for name in ("golang", "golang:1.25", "docker.io/library/rust:1", "node:22", "node", "maven:3-eclipse-temurin-21",
                 "python:3.12", "golang:1.25-alpine@sha256:abc", "mcr.microsoft.com/dotnet/sdk:8.0"):  # fmt: skip
        assert build_image(name), name
    for name in ("debian", "node:22-slim", "python:3.12-alpine", "eclipse-temurin:21-jre", "scratch", "example/golang",
                 "localhost:5000/golang", "ruby:3.3-slim-bookworm", "mcr.microsoft.com/dotnet/aspnet:8.0"):  # fmt: skip
        assert not build_image(name), name


HOSTILE = (
    '\n| |a|machine |machine a\n|default |url=https://a|_auth|token:|"auth":"|-----BEGIN |-----BEGIN PRIVATE KEY----- '
    "|A |https://a:|password=|ghp_|xoxb-"
).split("|")
SUSPECTS = """
    id_rsa .netrc .npmrc .pypirc .aws/credentials .docker/config.json .kube/config .git/config .git-credentials .env
    service-account.json a.pem a.ppk
""".split()


@pytest.mark.parametrize("text", HOSTILE)
def test_no_content_takes_long(text: str) -> None:
    data = (text.encode() * LONGEST)[:LONGEST]
    started = time.process_time()
    for path in SUSPECTS:
        secret_in(path, lambda: data)
    assert time.process_time() - started < 2


def test_findings_are_values() -> None:
    assert Leftover("tool", "x", "y", "/z", 1) == Leftover("tool", "x", "y", "/z", 1)
