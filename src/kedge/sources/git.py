"""`git://` sources: a commit of a repository as files, by git(1), kept on a short leash.

Owns refs, pins and checkouts. Does not know what the files are for. The leash:

- transports: https, http, ssh and git only; file and ext never, unless a test says so; no redirect to another scheme
- configuration: none of the system's, the user's or the repository's: hooks, filters, fsmonitor and aliases are off
- names: a ref or URL that looks like an option, or is no ref, is refused before git sees it
- secrets: by the environment, never on a command line, which every process of this machine can read
- submodules: same transports, names and paths checked by git; relative to the remote
- the checkout: no .git unless asked for; a subdirectory is resolved inside the checkout, through directories only
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from kedge.model.digest import digest_of, hex_part
from kedge.model.errors import IntegrityError, InvalidInput, NotFound, SourceError, Unsupported
from kedge.model.graph import Snapshot
from kedge.model.ops import Source
from kedge.model.platform import Platform
from kedge.model.trust import Trust
from kedge.model.value import dataclass
from kedge.session.session import Session
from kedge.sources.git_command import CONFIG, Git, environment
from kedge.sources.handler import Pin, Work
from kedge.sources.once import Once

if TYPE_CHECKING:
    from kedge.storage.store import Store

TRANSPORTS = ("https", "http", "ssh", "git")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REF = re.compile(r"(?!-)(?!.*(?:\.\.|//|@\{|\.lock(?:/|$)|/\.|[\x00-\x20\x7f~^:?*\[\\]))[^/.][^\s]*(?<![/.])")
_URL = re.compile(r"(?:https?|ssh|git)://(?!-)[^\s/]+/[^\s]*|(?!-)[a-zA-Z0-9_.-]+@(?!-)[a-zA-Z0-9.-]+:(?!-)[^\s]+")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The attributes of a git source, read and checked."""

    remote: str
    ref: str
    subdir: str
    keep_git_dir: bool
    submodules: bool
    checksum: str
    commit_times: bool
    by_commit: bool
    token_secret: str
    header_secret: str
    ssh: str
    known_hosts: str

    @property
    def address(self) -> str:
        """The remote as a command line may have it: without user and password, which go into a header."""
        parts = urlsplit(self.remote)
        if parts.scheme not in ("http", "https"):
            return self.remote
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _buildkit_name(commit: str, ref: str, wanted: _Wanted) -> str:
    """BuildKit's name for a checkout (source/git, shaToCacheKey)."""
    key = commit
    if wanted.keep_git_dir:
        key += ".git" + (f"#{ref}" if ref else "")
    key += f":{wanted.subdir}" if wanted.subdir else ""
    key += "" if wanted.submodules else "(skip-submodules)"
    return key + ("(mtime=commit)" if wanted.commit_times else "")


@dataclass(frozen=True, slots=True)
class Named:
    """What a ref is now: a commit, the ref's full name (or the commit itself), the tag object of an annotated tag."""

    commit: str
    ref: str
    tag: str = ""


class GitSource:
    """SourceHandler for git://. Repositories are fetched into the store once and reused: without `trust` in all that it
    has, by who can read the remote now.
    """

    def __init__(
        self,
        store: "Store",
        session: Session,
        *,
        also: Sequence[str] = (),
        trust: Trust = "all",
        asked: Once[Named] | None = None,
    ) -> None:
        """`asked` remembers what refs are, for all of one build: what it was told of one is what it builds with."""
        self._store, self._session, self._trust = store, session, trust
        self._transports = (*TRANSPORTS, *also)  # `also` is for tests: ("file",)
        self._asked = asked or Once[Named]()

    def pin(self, source: Source, platform: Platform | None, work: Work) -> Pin:
        """By the commit that the ref names now. A full commit id needs no request in a store that is one's own."""
        wanted = self._read(source)
        named = self._named(wanted, work)
        commit, ref = named.commit, named.ref
        identity = (commit, ref if wanted.keep_git_dir else "", wanted.subdir, wanted.submodules, wanted.commit_times)
        labels = (("repository", _shown(wanted.remote)), ("commit", commit))
        return Pin(digest_of(identity), labels=labels, buildkit=(_buildkit_name(commit, ref, wanted),))

    def fetch(self, source: Source, platform: Platform | None, pin: Pin, work: Work) -> Snapshot:
        """The checkout as one layer. Raises SourceError, NotFound for a subdirectory that is not there."""
        wanted = self._read(source)
        named = self._named(wanted, work)
        with ExitStack() as stack:
            git = stack.enter_context(self._git(wanted, work))
            bare = stack.enter_context(self._repository(wanted, work))
            self._bring(git, bare, wanted, named.commit, named.ref)
            draft = stack.enter_context(self._store.layers.draft())
            self._check_out(git, bare, wanted, named.commit, named.ref, draft.upper)
            return (draft.commit(f"{_shown(wanted.remote)} at {named.commit}"),)

    def describe(self, source: Source, work: Work) -> Named:
        """What the ref names now."""
        return self._named(self._read(source), work)

    def objects(self, source: Source, work: Work) -> tuple[bytes, bytes]:
        """The commit as git keeps it, and the tag object if there is one: who reads them knows times and signatures."""
        wanted = self._read(source)
        named = self._named(wanted, work)
        commit, ref, tag = named.commit, named.ref, named.tag
        with self._git(wanted, work) as git, self._repository(wanted, work) as bare:
            self._bring(git, bare, wanted, commit, ref)
            if tag and not git.succeeds("cat-file", "-e", tag, bare=bare):  # the commit may have come by another ref
                wish = ("--depth=1", "--", wanted.address, f"+{ref}:{ref}")
                git.run("fetch", "-q", "--no-tags", *wish, bare=bare)
            return (
                git.run("cat-file", "commit", commit, bare=bare),
                git.run("cat-file", "tag", tag, bare=bare) if tag else b"",
            )

    # ---- which commit ------------------------------------------------------------------------------------------------

    def _named(self, wanted: _Wanted, work: Work) -> Named:
        # By whichever credential of the client's: who judges a commit need not name the one that brings it.
        question = (wanted.remote, wanted.ref, wanted.checksum if wanted.by_commit else "")
        named = self._asked.ask(question, lambda: self._resolve(wanted, work))
        if wanted.checksum and not named.commit.startswith(wanted.checksum):
            what = wanted.ref or "the default branch"
            raise IntegrityError(f"{_shown(wanted.remote)}: {what} is {named.commit}, expected {wanted.checksum}")
        return named

    def _resolve(self, wanted: _Wanted, work: Work) -> Named:
        known = _named_commit(wanted)
        if known and self._trust == "all":
            return known
        with self._git(wanted, work) as git:
            names = [wanted.ref, wanted.ref + "^{}"] if wanted.ref and not known else ["HEAD"]
            listed = git.run("ls-remote", "--symref", "--", wanted.address, *names)
        if known:  # asked only whether this client may read the repository
            return known
        refs: dict[str, str] = {}
        head = ""
        for line in listed.decode("utf-8", "replace").splitlines():
            value, _, name = line.partition("\t")
            if value.startswith("ref: "):
                head = value[5:]
            else:
                refs[name] = value
        commit, full = _choose(refs, wanted, head)
        return Named(commit, full, _checked(refs[full], wanted) if full + "^{}" in refs else "")

    # ---- the repository ----------------------------------------------------------------------------------------------

    @contextmanager
    def _repository(self, wanted: _Wanted, work: Work) -> Iterator[Path]:
        """The store's bare copy of a remote, ours alone while the context lasts."""
        from kedge.storage.locks import Locks

        folder = Path(self._store.root) / "git"
        folder.mkdir(exist_ok=True)
        name = hex_part(digest_of((wanted.remote, wanted.token_secret, wanted.header_secret)))
        with Locks(self._store.root).held(f"git {name}", cancel=work.cancel):
            yield folder / name

    def _bring(self, git: Git, bare: Path, wanted: _Wanted, commit: str, ref: str) -> None:
        if not (bare / "HEAD").exists():
            shutil.rmtree(bare, ignore_errors=True)
            formats = ["--object-format=sha256"] if len(commit) == 64 else []
            git.run("init", "-q", "--bare", *formats, "--", str(bare))
        for stale in ("shallow.lock", "index.lock"):
            with suppress(FileNotFoundError):
                (bare / stale).unlink()
        if git.succeeds("cat-file", "-e", f"{commit}^{{commit}}", bare=bare):
            return
        wishes = [commit] if ref == commit else [f"+{ref}:{ref}", commit]
        for wish in wishes:  # not every server gives a commit by its id; not every ref still is where it was
            for depth in (["--depth=1"], []):
                git.succeeds("fetch", "-q", "--no-tags", *depth, "--", wanted.address, wish, bare=bare)
                if git.succeeds("cat-file", "-e", f"{commit}^{{commit}}", bare=bare):
                    return
        everything = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"]
        shallow = ["--unshallow"] if (bare / "shallow").exists() else []
        git.run("fetch", "-q", *shallow, "--", wanted.address, *everything, bare=bare)
        if not git.succeeds("cat-file", "-e", f"{commit}^{{commit}}", bare=bare):
            raise NotFound(f"{_shown(wanted.remote)} has no commit {commit}")

    def _check_out(self, git: Git, bare: Path, wanted: _Wanted, commit: str, ref: str, target: Path) -> None:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".checkout-") as aside:
            tree = Path(aside) / "tree"
            tree.mkdir(mode=0o755)
            keep = wanted.keep_git_dir and not wanted.subdir
            own = tree / ".git" if keep else Path(aside) / "git"
            self._clone(git, bare, own, wanted, commit, ref)
            git.run("checkout", "-q", "--force", commit, bare=own, tree=tree)
            if wanted.submodules and (tree / ".gitmodules").is_file():
                _bring_submodules(git, own, tree)
            if wanted.commit_times:
                _set_times(tree, int(git.run("show", "-s", "--format=%ct", commit, bare=own).split()[-1]))
            if keep:
                _tidy(own)
            else:
                _drop_git_files(tree)
            _move(tree, wanted.subdir, target, wanted)

    def _clone(self, git: Git, bare: Path, own: Path, wanted: _Wanted, commit: str, ref: str) -> None:
        """A repository with this commit only, fetched over the transport protocol: a local clone would link files."""
        formats = ["--object-format=sha256"] if len(commit) == 64 else []
        git.run("init", "-q", "--bare", *formats, "--", str(own))
        git.run("config", "core.bare", "false", bare=own)
        name = ref if ref.startswith("refs/") else "refs/heads/kedge"
        git.run("update-ref", "refs/kedge/wanted", commit, bare=bare)
        git.run(
            "fetch",
            "-q",
            "--no-tags",
            "--update-head-ok",  # the branch wanted may be the one that `init` calls its first
            "--depth=1",
            "--",
            f"file://{bare}",
            f"+refs/kedge/wanted:{name}",
            bare=own,
            local=True,
        )
        git.run("config", "remote.origin.url", _shown(wanted.remote), bare=own)

    # ---- attributes --------------------------------------------------------------------------------------------------

    def _read(self, source: Source) -> _Wanted:
        rest, _, fragment = source.identifier.removeprefix("git://").partition("#")
        ref, _, subdir = fragment.partition(":")
        remote = source.attr("git.fullurl") or f"https://{rest}"
        if not _URL.fullmatch(remote) and not (remote.startswith("file:///") and "file" in self._transports):
            raise InvalidInput(
                f"{_shown(remote)!r} is no git repository that may be used", hint=f"Use one of {', '.join(TRANSPORTS)}."
            )
        if source.attr("git.sig.pubkey"):
            raise Unsupported("signatures of commits and tags cannot be verified here")
        if ref and not _REF.fullmatch(ref):
            raise InvalidInput(f"{ref[:80]!r} is no git ref")
        checksum = source.attr("git.checksum").lower()
        if not re.fullmatch(r"[0-9a-f]{0,64}", checksum):
            raise InvalidInput(f"{checksum[:80]!r} is no git commit")
        return _Wanted(
            remote,
            ref,
            subdir.strip("/"),
            keep_git_dir=source.attr("git.keepgitdir") == "true",
            submodules=source.attr("git.skipsubmodules") != "true",
            checksum=checksum,
            commit_times=source.attr("git.mtime") == "commit",
            by_commit=source.attr("git.fetchbycommit") == "true",
            token_secret=source.attr("git.authtokensecret"),
            header_secret=source.attr("git.authheadersecret"),
            ssh=source.attr("git.mountsshsock"),
            known_hosts=source.attr("git.knownsshhosts"),
        )

    @contextmanager
    def _git(self, wanted: _Wanted, work: Work) -> Iterator[Git]:
        program = shutil.which("git")
        if not program:
            raise Unsupported(
                "git is not installed here, and a source needs it", hint="Install it: apt-get install git"
            )
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kedge-git-")))
            environ = environment(self._transports, folder)
            config = dict(CONFIG)
            if header := self._authorization(wanted):
                scope = urlsplit(wanted.remote)
                config[f"http.{scope.scheme}://{scope.netloc.rpartition('@')[2]}/.extraHeader"] = (
                    f"Authorization: {header}"
                )
            ssh = f"ssh -F {os.devnull} -o BatchMode=yes"
            if wanted.known_hosts:
                (folder / "known_hosts").write_text(wanted.known_hosts)
                ssh += f" -o UserKnownHostsFile={folder}/known_hosts"
            else:
                ssh += f" -o StrictHostKeyChecking=no -o UserKnownHostsFile={folder}/known_hosts"
            environ["GIT_SSH_COMMAND"] = ssh
            if wanted.ssh:
                socket = stack.enter_context(self._session.ssh(wanted.ssh, os.geteuid(), os.getegid(), 0o600))
                if socket:
                    environ["SSH_AUTH_SOCK"] = str(socket)
            # By the environment, not by -c: command lines are readable by every process of this machine.
            environ["GIT_CONFIG_COUNT"] = str(len(config))
            for number, (key, value) in enumerate(config.items()):
                environ[f"GIT_CONFIG_KEY_{number}"], environ[f"GIT_CONFIG_VALUE_{number}"] = key, value
            yield Git(program, environ, _shown(wanted.remote), work)

    def _authorization(self, wanted: _Wanted) -> str:
        """The Authorization header: BuildKit's GIT_AUTH_HEADER and GIT_AUTH_TOKEN secrets, those for the host first;
        else who the remote's URL names.
        """
        parts = urlsplit(wanted.remote)
        host = parts.hostname or ""
        for suffix in (f".{host}", ""):
            for id, is_token in ((wanted.header_secret, False), (wanted.token_secret, True)):
                data = self._session.secret(id + suffix) if id else None
                if data:
                    text = data.decode("latin-1").strip()
                    return _basic("x-access-token", text) if is_token else text
        if parts.scheme in ("http", "https") and parts.username:
            return _basic(unquote(parts.username), unquote(parts.password or ""))
        return ""


def _basic(user: str, password: str) -> str:
    import base64

    return "basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _named_commit(wanted: _Wanted) -> Named | None:
    """What is asked for, where a commit is named and nothing need be looked up."""
    if _COMMIT.fullmatch(wanted.ref):
        return Named(wanted.ref, wanted.ref)
    if wanted.by_commit and _COMMIT.fullmatch(wanted.checksum):
        ref = wanted.ref if wanted.ref.startswith("refs/") or not wanted.ref else f"refs/heads/{wanted.ref}"
        return Named(wanted.checksum, ref or wanted.checksum)
    return None


def _choose(refs: dict[str, str], wanted: _Wanted, head: str) -> tuple[str, str]:
    """The commit of a ref: an exact one, a branch, a tag, in git checkout's order. An annotated tag counts as its
    commit.
    """
    if not wanted.ref:
        if "HEAD" not in refs:
            raise NotFound(f"{_shown(wanted.remote)} has no default branch")
        return _checked(refs["HEAD"], wanted), head or refs["HEAD"]
    name = wanted.ref
    for full in (
        "refs/" + name.removeprefix("refs/"),
        "refs/heads/" + name.removeprefix("refs/heads/"),
        "refs/tags/" + name.removeprefix("refs/tags/"),
    ):
        if full in refs:
            return _checked(refs.get(full + "^{}", refs[full]), wanted), full
    raise NotFound(f"{_shown(wanted.remote)} has no branch or tag {name!r}")


def _checked(commit: str, wanted: _Wanted) -> str:
    if not _COMMIT.fullmatch(commit):
        raise SourceError(f"{_shown(wanted.remote)} answered with something that is no commit")
    return commit


def _bring_submodules(git: Git, own: Path, tree: Path) -> None:
    """Each with its one commit where its server can do that: one that only serves files cannot."""
    words = ("submodule", "-q", "update", "--init", "--recursive")
    try:
        git.run(*words, "--depth=1", bare=own, tree=tree)
    except SourceError:
        git.run(*words, bare=own, tree=tree)


def _shown(remote: str) -> str:
    """A remote for messages: without user and password, unless the user is all there is (git@host:path)."""
    parts = urlsplit(remote)
    if not parts.netloc:
        return remote
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


# ---- the checkout ----------------------------------------------------------------------------------------------------


def _move(tree: Path, subdir: str, target: Path, wanted: _Wanted) -> None:
    """Put the content of the subdirectory into `target`; every part of the path must be a directory, not a link to
    one.
    """
    fd = os.open(tree, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in subdir.split("/"):
            if part in ("", "."):
                continue
            if part == "..":
                raise InvalidInput(f"the subdirectory {subdir!r} leads out of the repository")
            try:
                deeper = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            except OSError:
                raise NotFound(f"{_shown(wanted.remote)} has no directory {subdir!r}") from None
            os.close(fd)
            fd = deeper
        for name in os.listdir(f"/proc/self/fd/{fd}"):
            os.rename(name, target / name, src_dir_fd=fd)
    finally:
        os.close(fd)


def _drop_git_files(tree: Path) -> None:
    """Submodules leave files named .git that point to where their repository was."""
    for folder, folders, files in os.walk(tree):
        if ".git" in files:
            os.unlink(os.path.join(folder, ".git"))
        if ".git" in folders:
            shutil.rmtree(os.path.join(folder, ".git"))
            folders.remove(".git")


def _tidy(repository: Path) -> None:
    for name in ("FETCH_HEAD", "hooks", "description", "branches", "logs"):
        path = repository / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _set_times(tree: Path, seconds: int) -> None:
    for folder, folders, files in os.walk(tree, topdown=False):
        for name in (*files, *folders, "."):
            os.utime(os.path.join(folder, name), (seconds, seconds), follow_symlinks=False)
