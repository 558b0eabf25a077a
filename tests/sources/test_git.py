"""Commits by git: refs, pins, subdirectories, submodules, and repositories that mean harm. Real git, over file://."""

import contextlib
import functools
import http.server
import os
import shutil
import socket
import subprocess
import threading
import time

import pytest

from kedge.model.digest import digest_of
from kedge.model.errors import IntegrityError, InvalidInput, KedgeError, NotFound, SourceError
from kedge.model.ops import Source
from kedge.session.local import LocalSession
from kedge.session.secrets import Secret
from kedge.sources.git import GitSource
from kedge.sources.git_command import last_line
from kedge.sources.handler import Work
from kedge.sources.once import Once
from kedge.storage.store import Store

pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="git is not installed (apt-get install git)")


class Repository:
    def __init__(self, path):
        self.path = path
        path.mkdir()
        self.git("init", "-q", "-b", "main")

    def git(self, *words):
        environ = {"PATH": os.environ["PATH"], "HOME": str(self.path), "GIT_CONFIG_NOSYSTEM": "1"}
        for role in ("AUTHOR", "COMMITTER"):
            environ |= {f"GIT_{role}_NAME": "t", f"GIT_{role}_EMAIL": "t@t", f"GIT_{role}_DATE": "1546300800 +0000"}
        environ["GIT_CONFIG_COUNT"], environ["GIT_CONFIG_KEY_0"] = "1", "protocol.file.allow"
        environ["GIT_CONFIG_VALUE_0"] = "always"
        done = subprocess.run(["git", *words], cwd=self.path, env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def commit(self, message="m", **files):
        for name, text in files.items():
            path = self.path / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path / "repo")


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store") as store:
        yield store


def bring(store, repository, fragment="", *, also=("file",), session=None, trust="all", **attrs):
    """The checkout's directory and the pin."""
    remote = repository if isinstance(repository, str) else f"file://{repository.path}"
    handler = GitSource(store, session or LocalSession(), also=also, trust=trust)
    attributes = {"git.fullurl": remote} | {f"git.{name}": value for name, value in attrs.items()}
    source = Source("git://x/y" + (f"#{fragment}" if fragment else ""), tuple(sorted(attributes.items())))
    work = Work(digest_of(remote))
    pin = handler.pin(source, None, work)
    (layer,) = handler.fetch(source, None, pin, work)
    return store.layers.directory(layer), pin


def files(directory):
    return sorted(os.path.relpath(os.path.join(d, f), directory) for d, _, names in os.walk(directory) for f in names)


def test_a_commit_and_its_tag_are_told_as_git_keeps_them(store, repository):
    repository.commit(a="1")
    repository.git("tag", "-a", "v1", "-m", "annotated")
    handler = GitSource(store, LocalSession(), also=("file",))
    attributes = (("git.fullurl", f"file://{repository.path}"),)
    work = Work(digest_of("x"))
    for ref, has_tag in ("main", False), ("v1", True):
        commit, tag = handler.objects(Source(f"git://x/y#{ref}", attributes), work)
        assert b"committer t <t@t> 1546300800 +0000" in commit
        assert (b"annotated" in tag) == has_tag


def test_a_ref_is_the_same_for_all_of_a_build(store, repository):
    """Whoever was told of a commit, and judged it, builds with that one."""
    asked, work, attributes = Once(), Work(digest_of("x")), (("git.fullurl", f"file://{repository.path}"),)
    source = Source("git://x/y#main", attributes)
    first = repository.commit(a="1")
    judged = Source(source.identifier, (("git.authtokensecret", "T"), *attributes))
    assert GitSource(store, LocalSession(), also=("file",), asked=asked).describe(judged, work).commit == first
    second = repository.commit(a="2")
    other = GitSource(store, LocalSession(), also=("file",), asked=asked)
    assert dict(other.pin(source, None, work).labels)["commit"] == first
    (layer,) = other.fetch(source, None, other.pin(source, None, work), work)
    assert (store.layers.directory(layer) / "a").read_text() == "1"
    assert GitSource(store, LocalSession(), also=("file",)).describe(source, work).commit == second


def test_the_default_branch_without_its_history(store, repository):
    repository.commit(a="1", sub__b="2")
    directory, _ = bring(store, repository)
    assert files(directory) == ["a", "sub/b"]


def test_branches_tags_and_commits_name_what_they_name(store, repository):
    one = repository.commit(a="1")
    repository.git("tag", "v1")
    repository.git("tag", "-a", "v1a", "-m", "annotated")
    repository.git("checkout", "-q", "-b", "feature/x")
    repository.commit(a="2")
    repository.git("checkout", "-q", "main")
    repository.commit(a="3")
    for fragment, text in (
        ("v1", "1"),
        ("v1a", "1"),
        ("feature/x", "2"),
        ("main", "3"),
        (one, "1"),
        ("refs/heads/feature/x", "2"),
        ("refs/tags/v1", "1"),
    ):
        assert (bring(store, repository, fragment)[0] / "a").read_text() == text
    assert bring(store, repository, "v1")[1] == bring(store, repository, "v1a")[1]


def test_the_pin_is_the_commit(store, repository):
    repository.commit(a="1")
    first = bring(store, repository, "main")[1]
    repository.commit(a="2")
    second = bring(store, repository, "main")[1]
    repository.git("branch", "same")
    assert first != second
    assert bring(store, repository, "same")[1] == second


def test_a_subdirectory_becomes_the_root(store, repository):
    repository.commit(a="1", deep__er__b="2")
    assert files(bring(store, repository, "main:deep/er")[0]) == ["b"]


@pytest.mark.parametrize("subdir", ["../../etc", "/../..", "a/../../..", "link", "link/x", "missing", "file"])
def test_a_subdirectory_never_leaves_the_repository(store, repository, subdir, tmp_path):  # CVE-2026-33748
    (tmp_path / "x").mkdir()
    os.symlink("/", repository.path / "link")
    repository.commit(file="1")
    with pytest.raises(KedgeError):
        bring(store, repository, f"main:{subdir}")


def test_the_git_directory_is_kept_when_asked_for(store, repository):
    commit = repository.commit(a="1")
    directory, _ = bring(store, repository, "main", keepgitdir="true")
    shown = subprocess.run(
        ["git", "-c", "safe.directory=*", "-C", directory, "log", "--format=%H %D"], capture_output=True, text=True
    )
    assert shown.stdout.split()[0] == commit
    clean = subprocess.run(
        ["git", "-c", "safe.directory=*", "-C", directory, "status", "--porcelain"], capture_output=True, text=True
    )
    assert clean.stdout == ""
    assert not (directory / ".git" / "hooks").exists()


def test_a_checksum_is_held_to(store, repository):
    commit = repository.commit(a="1")
    bring(store, repository, "main", checksum=commit[:12])
    with pytest.raises(IntegrityError, match="expected dead"):
        bring(store, repository, "main", checksum="dead" * 10)


def test_commit_times(store, repository):
    repository.commit(a="1")
    assert (bring(store, repository, "main", mtime="commit")[0] / "a").stat().st_mtime == 1546300800


def test_submodules_come_along_unless_told_otherwise(store, repository, tmp_path):
    inner = Repository(tmp_path / "inner")
    inner.commit(deep="d")
    repository.git("submodule", "add", "-q", f"file://{inner.path}", "sub")
    repository.commit()
    assert "sub/deep" in files(bring(store, repository, "main")[0])
    assert "sub/deep" not in files(bring(store, repository, "main", skipsubmodules="true")[0])
    assert not any(name.endswith(".git") for name in files(bring(store, repository, "main")[0]))


def test_submodules_come_from_servers_that_only_serve_files(store, repository, tmp_path):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    top = f"http://127.0.0.1:{server.server_port}"
    inner = Repository(tmp_path / "inner")
    inner.commit(deep="d")
    inner.git("update-server-info")
    repository.git("submodule", "add", "-q", f"{top}/inner/.git", "sub")
    repository.commit()
    repository.git("update-server-info")
    assert "sub/deep" in files(bring(store, f"{top}/repo/.git", "main")[0])
    server.shutdown()
    server.server_close()


@pytest.fixture
def daemon(tmp_path):
    """The base URL of a real git server (git:// on loopback) of everything below tmp_path."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [
        "git",
        "daemon",
        f"--base-path={tmp_path}",
        "--export-all",
        "--listen=127.0.0.1",
        f"--port={port}",
        "--reuseaddr",
    ]
    server = subprocess.Popen([*words, str(tmp_path)], stderr=subprocess.PIPE, start_new_session=True)
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            break
        if server.poll() is not None:
            pytest.skip(f"git daemon does not run here: {server.stderr.read().decode().strip()}")
        time.sleep(0.05)
    yield f"git://127.0.0.1:{port}"
    os.killpg(server.pid, 9)
    server.communicate()


def test_a_real_server_serves_branches_and_commits(store, repository, daemon):
    one = repository.commit(a="1")
    repository.commit(a="2")
    url = f"{daemon}/repo/.git"
    assert (bring(store, url, "main", also=())[0] / "a").read_text() == "2"
    assert (bring(store, url, one, also=())[0] / "a").read_text() == "1"


@pytest.mark.parametrize("url", ["file://{0}", "{0}", "ext::sh -c 'touch {1}'"])
def test_a_submodule_may_not_be_a_place_or_a_program_of_this_machine(store, repository, daemon, tmp_path, url):
    inner = Repository(tmp_path / "inner")
    commit = inner.commit(deep="d")
    mark = tmp_path / "pwned"
    where = url.format(inner.path, mark)
    (repository.path / ".gitmodules").write_text(f'[submodule "sub"]\n\tpath = sub\n\turl = {where}\n')
    (repository.path / "sub").mkdir()
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{commit},sub")
    repository.commit()
    with pytest.raises(SourceError):
        bring(store, f"{daemon}/repo/.git", "main", also=())
    assert not mark.exists()


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc",
        "ext::sh -c touch% /tmp/pwned",
        "--upload-pack=touch /tmp/pwned",
        "-oProxyCommand=x",
        "/etc",
        "ssh://-oProxyCommand=touch/x",
        "git@-oProxyCommand=x:y",
        "https:///x",
        "ftp://host/x.git",
        "fd::17",
    ],
)
def test_urls_that_are_no_repository_are_refused_before_git_sees_them(store, url):  # CVE-2020-10696, CVE-2019-13139
    with pytest.raises(InvalidInput):
        bring(store, url, also=())
    assert not os.path.exists("/tmp/pwned")


@pytest.mark.parametrize(
    "ref",
    [
        "-btest",
        "--upload-pack=touch",
        "a..b",
        "a b",
        "a^{}",
        "a~1",
        "a:b:c",
        "@{u}",
        "x.lock",
        "/a",
        "a//b",
        ".a",
        "a\n",
    ],
)
def test_refs_that_are_none_are_refused(store, repository, ref):
    repository.commit(a="1")
    with pytest.raises((InvalidInput, NotFound)):
        bring(store, repository, ref)


def test_hooks_filters_and_aliases_of_a_repository_do_nothing(store, repository, tmp_path):
    mark = tmp_path / "pwned"
    for hook in ("post-checkout", "post-merge", "pre-commit"):
        path = repository.path / ".git" / "hooks" / hook
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\ntouch {mark}\n")
        path.chmod(0o755)
    repository.commit(
        a="1", _dot_gitattributes="* filter=evil\n* text=auto eol=crlf\n", _dot_gitconfig="[alias] x = y\n"
    )
    repository.git("config", "filter.evil.smudge", f"touch {mark}")
    mark.unlink(missing_ok=True)
    directory, _ = bring(store, repository)
    assert not mark.exists()
    assert (directory / "a").exists()


def test_a_link_in_a_repository_stays_a_link(store, repository):  # CVE-2026-44517
    os.symlink("/etc/shadow", repository.path / "x")
    repository.commit()
    directory, _ = bring(store, repository)
    assert os.readlink(directory / "x") == "/etc/shadow"


def test_the_users_configuration_is_not_read(store, repository, monkeypatch, tmp_path):
    mark = tmp_path / "pwned"
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".gitconfig").write_text(f"[core]\n\tfsmonitor = touch {mark}\n\thooksPath = {tmp_path}\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_SSH_COMMAND", f"touch {mark}")
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", f"touch {mark}")
    repository.commit(a="1")
    bring(store, repository)
    assert not mark.exists()


@contextlib.contextmanager
def guarded(repository, authorization, asked):
    """The address of a server that has the repository for those who are authorized; `asked` gets what all said."""
    repository.git("update-server-info")

    class Guarded(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers["Authorization"])
            if asked[-1] == authorization:
                return super().do_GET()
            self.send_response(403)
            self.end_headers()

        def log_message(self, *_):
            pass

    handler = functools.partial(Guarded, directory=str(repository.path / ".git"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_in_a_shared_store_a_commit_is_for_those_who_may_read_the_repository(store, repository):
    commit, asked = repository.commit(a="1"), []
    with guarded(repository, "basic eC1hY2Nlc3MtdG9rZW46c2VjcmV0", asked) as address:
        how = {"authtokensecret": "GIT_AUTH_TOKEN", "trust": "names"}
        mine = LocalSession(secrets=[Secret("GIT_AUTH_TOKEN", data=b"secret")])
        remote = f"http://{address}/"
        directory, pin = bring(store, remote, commit, session=mine, **how)
        assert files(directory) == ["a"]
        with pytest.raises(SourceError):
            bring(store, remote, commit, **how)
        assert bring(store, remote, commit, session=mine, **how)[1] == pin
        before = len(asked)
        bring(store, remote, commit, authtokensecret="GIT_AUTH_TOKEN")  # a store of one's own
        assert len(asked) == before


def test_a_password_in_a_url_is_used_but_stands_on_no_command_line(store, repository, monkeypatch):
    asked, commands = [], []
    repository.commit(a="1")
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda words, **how: commands.append(words) or popen(words, **how))
    with guarded(repository, "basic bWU6cEBzcw==", asked) as address:
        directory, _ = bring(store, f"http://me:p%40ss@{address}/")
    assert files(directory) == ["a"]
    assert asked
    assert not [words for words in commands if any("p%40ss" in word or "p@ss" in word for word in words)]


def test_credentials_are_never_shown(store):
    with pytest.raises(SourceError) as raised:
        bring(store, "http://user:hunter2@127.0.0.1:1/x.git", also=())
    assert "hunter2" not in str(raised.value)


def test_a_missing_ref_and_an_empty_repository(store, repository):
    with pytest.raises(NotFound):
        bring(store, repository)
    repository.commit(a="1")
    with pytest.raises(NotFound, match="no branch or tag"):
        bring(store, repository, "nowhere")


def test_a_second_fetch_of_the_same_commit_asks_nobody(store, repository):
    commit = repository.commit(a="1")
    bring(store, repository, commit)
    shutil.rmtree(repository.path)
    assert files(bring(store, repository, commit)[0]) == ["a"]


def test_a_kept_git_directory_is_at_the_commit_as_in_buildkit(store, repository):
    commit = repository.commit(a="1")
    for fragment in ("", "main", commit):
        directory, _ = bring(store, repository, fragment, keepgitdir="true")
        assert (directory / ".git" / "HEAD").read_text().strip() == commit


def test_ssh_says_why_a_repository_could_not_be_read() -> None:
    said = b"ssh: Could not resolve hostname nowhere.invalid\r\nfatal: Could not read from remote repository.\n\nPlease"
    assert last_line(said) == "ssh: Could not resolve hostname nowhere.invalid"
    assert last_line(b"fatal: repository not found\n") == "fatal: repository not found"
