"""The same Dockerfiles lowered by BuildKit's own frontend: graph, config, history, names, outline and checks agree.

Opt-in: KEDGE_BUILDKIT_SOURCE names a checkout of BuildKit with its vendor directory, and KEDGE_GO a Go that can build
it (`go` on PATH otherwise). The first run compiles for some minutes. What may differ: docs/reference/dockerfile.md.
"""

import base64
import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kedge.dockerfile.findings import Findings
from kedge.dockerfile.lower import Target, lower, needed_images
from kedge.dockerfile.options import ImageRequest, LowerOptions, ResolvedImage
from kedge.dockerfile.stages import read_dockerfile
from kedge.model import ops
from kedge.model.digest import sha256
from kedge.model.errors import KedgeError
from kedge.model.image import ImageConfig
from kedge.model.platform import parse_platform

HERE = Path(__file__).resolve().parent
CORPUS = HERE.parents[2] / "shared" / "dockerfiles"
ARGUMENTS = {
    "BASE_IMAGE": "debian", "ETCD_VERSION": "3.6", "GOLANG_VERSION": "1.25", "SYFT_IMAGE_NAME": "anchore/syft",
    "TARGET_IMAGE_NAME": "app",
}  # fmt: skip
Case = dict[str, Any]
Answer = dict[str, Any]
Frontend = Callable[[list[Case]], list[Answer]]
OURS_ONLY = {"InvalidDefinitionDescription"}  # experimental: there it is not even reported
THEIRS_ONLY = {"NoEmptyContinuation"}  # found by the parser here, see lint


@pytest.fixture(scope="module")
def frontend(tmp_path_factory: pytest.TempPathFactory) -> Frontend:
    source = os.environ.get("KEDGE_BUILDKIT_SOURCE", "")
    if not source:
        pytest.skip("KEDGE_BUILDKIT_SOURCE is not set: opt-in comparison with BuildKit's frontend")
    go = os.environ.get("KEDGE_GO") or shutil.which("go")
    if not go:
        pytest.skip("no Go to build BuildKit's frontend with (KEDGE_GO)")
    room, program = Path(source) / "cmd" / "kedge-differential", tmp_path_factory.mktemp("frontend") / "lower"
    room.mkdir(exist_ok=True)
    shutil.copy(HERE / "frontend" / "main.go", room)
    command = [go, "build", "-mod=vendor", "-tags=dfrundevice", "-o", str(program), f"./cmd/{room.name}"]
    subprocess.run(command, cwd=source, check=True, env=os.environ | {"GOTOOLCHAIN": "local"})

    def run(cases: list[Case]) -> list[Answer]:
        text = "".join(json.dumps(case) + "\n" for case in cases)
        done = subprocess.run([program], input=text.encode(), stdout=subprocess.PIPE, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


# ---- the same case, here ---------------------------------------------------------------------------------------------


def lower_here(case: Case, findings: Findings) -> Target:
    file = read_dockerfile(case["text"], findings=findings)
    platform = parse_platform(case["platform"]) if case.get("platform") else None
    options = LowerOptions(
        target=case.get("target", ""), build_args=case.get("args", {}), multi_platform=case.get("multi", False),
        target_platform=platform,
    )  # fmt: skip
    images: dict[ImageRequest, ResolvedImage] = {}
    while needed := needed_images(file, options, images, findings):
        for request in needed:
            given = case.get("configs", {}).get(request.reference)
            plain = ImageConfig(request.platform, env=("PATH=/bin",), diff_ids=(sha256(b"layer"),))
            images[request] = ResolvedImage(ImageConfig.from_bytes(json.dumps(given).encode()) if given else plain)
    return lower(file, options, images, findings)


# ---- both as plain values --------------------------------------------------------------------------------------------


def their_owner(owner: dict[str, Any] | None) -> Any:
    if not owner:
        return None
    parts = [(owner.get(name) or {}).get("User") for name in ("user", "group")]
    by_name = [part["byName"] for part in parts if part and "byName" in part]
    ids = [
        None if part is None else part["byName"]["name"] if "byName" in part else part.get("byId", 0) for part in parts
    ]
    return (*ids, by_name[0].get("input", 0) if by_name else None)


def our_owner(owner: ops.Owner | None) -> Any:
    if owner is None:
        return None
    by_name = isinstance(owner.user, str) or isinstance(owner.group, str)
    return (owner.user, owner.group, owner.input if by_name else None)


def their_action(action: dict[str, Any]) -> Any:
    ((kind, it),) = action["Action"].items()
    first = (
        kind,
        action.get("input", 0),
        action.get("output", 0),
        their_owner(it.get("owner")),
        it.get("timestamp", 0),
    )
    if kind == "mkdir":
        return (*first, it["path"], it.get("mode", 0), it.get("makeParents", False))
    if kind == "mkfile":
        return (*first, it["path"], it.get("mode", 0), base64.b64decode(it.get("data", "")))
    flags = ["followSymlink", "dirCopyContents", "attemptUnpackDockerCompatibility", "createDestPath", "allowWildcard",
             "allowEmptyWildcard"]  # fmt: skip
    lists = ["include_patterns", "exclude_patterns", "required_paths"]
    return (
        *first, action.get("secondaryInput", 0), it["src"], it["dest"], it.get("modeStr") or it.get("mode", 0),
        *(it.get(flag, False) for flag in flags), *(tuple(it.get(name, ())) for name in lists),
    )  # fmt: skip


def our_action(action: ops.Action) -> Any:
    assert isinstance(action, (ops.Copy, ops.MakeDir, ops.MakeFile))
    kind = {ops.Copy: "copy", ops.MakeDir: "mkdir", ops.MakeFile: "mkfile"}[type(action)]
    first = (kind, action.input, action.output, our_owner(action.owner), action.timestamp)
    if isinstance(action, ops.MakeDir):
        return (*first, action.path, action.mode, action.parents)
    if isinstance(action, ops.MakeFile):
        return (*first, action.path, action.mode, action.data)
    return (
        *first, action.secondary, action.src, action.dest, action.mode_text or action.mode, action.follow_symlinks,
        action.contents_only, action.unpack, action.create_dest_path, action.wildcard, action.allow_empty_wildcard,
        action.include, action.exclude, action.required_paths,
    )  # fmt: skip


def their_mount(mount: dict[str, Any], cwd: str) -> Any:
    kind = ["bind", "secret", "ssh", "cache", "tmpfs"][mount.get("mountType", 0)]
    cache, secret, agent = (mount.get(name) for name in ("cacheOpt", "secretOpt", "SSHOpt"))
    of_file = secret or agent
    return (
        os.path.normpath(os.path.join("/", cwd, mount["dest"])),
        mount.get("input", 0),
        -1 if of_file else mount.get("output", 0),
        "" if kind == "tmpfs" or mount.get("selector") == "/" else mount.get("selector", ""),
        mount.get("readonly", False),
        kind,
        cache and (cache["ID"], ["shared", "private", "locked"][cache.get("sharing", 0)]),
        of_file and (of_file.get("ID") or "default", *(of_file.get(n, 0) for n in ("uid", "gid", "mode", "optional"))),
        (mount.get("TmpfsOpt") or {}).get("size", 0),
    )


def our_mount(mount: ops.Mount) -> Any:
    file = mount.secret or mount.ssh
    return (
        mount.dest, mount.input, mount.output, mount.selector, mount.readonly, mount.kind,
        mount.cache and (mount.cache.id, mount.cache.sharing),
        file and (file.id, file.uid, file.gid, file.mode, file.optional),
        mount.tmpfs.size if mount.tmpfs else 0,
    )  # fmt: skip


def with_absolute_socket(entry: str) -> str:
    """The variable for an agent's socket: relative there when its target is, which a process that moved cannot use."""
    name, _, path = entry.partition("=")
    return f"{name}={os.path.join('/', path)}" if name == "SSH_AUTH_SOCK" else entry


def their_op(op: dict[str, Any]) -> Any:
    ((kind, it),) = op["Op"].items()
    if kind == "source":
        unstable = ("local.unique", "git.knownsshhosts")
        return (
            kind,
            it["identifier"],
            tuple(sorted((k, v) for k, v in it.get("attrs", {}).items() if k not in unstable)),
        )
    if kind == "merge":
        return kind, tuple(one.get("input", 0) for one in it["inputs"])
    if kind == "file":
        return kind, tuple(map(their_action, it["actions"]))
    meta = it["meta"]
    return (
        kind, tuple(meta["args"]), tuple(map(with_absolute_socket, meta.get("env", ()))),
        os.path.normpath(meta["cwd"]), meta.get("user", ""),
        ["sandbox", "host", "none"][it.get("network", 0)], ["sandbox", "insecure"][it.get("security", 0)],
        tuple(their_mount(mount, meta["cwd"]) for mount in it["mounts"]),
        tuple((s["ID"], s["name"], s.get("optional", False)) for s in it.get("secretenv", ())),
        tuple((d["name"], d.get("optional", False)) for d in it.get("cdiDevices", ())),
    )  # fmt: skip


def our_op(op: ops.Op) -> Any:
    if isinstance(op, ops.Source):
        return "source", op.identifier, op.attrs
    if isinstance(op, ops.Merge):
        return "merge", op.inputs
    if isinstance(op, ops.File):
        return "file", tuple(map(our_action, op.actions))
    assert isinstance(op, ops.Exec)
    return (
        "exec", op.args, op.env, op.cwd, op.user, op.network, op.security, tuple(map(our_mount, op.mounts)),
        tuple((s.id, s.name, s.optional) for s in op.secret_env), op.devices,
    )  # fmt: skip


# ---- comparing -------------------------------------------------------------------------------------------------------


def differences(case: Case, theirs: Answer) -> Iterator[str]:
    findings = Findings()
    try:
        ours = lower_here(case, findings)
    except KedgeError as error:
        if not theirs["error"]:
            yield f"an error only here: {error.message}"
        return
    if theirs["error"]:
        yield f"an error only there: {theirs['error']}"
        return
    our_warnings = {(found.rule, found.location.start) for found in findings.found if found.rule not in OURS_ONLY}
    their_warnings = {(rule, line) for rule, line in theirs["warnings"] or () if rule not in THEIRS_ONLY}
    if our_warnings != their_warnings:
        yield f"warnings: {sorted(our_warnings ^ their_warnings)}"
    yield from config_differences(json.loads(ours.config.to_bytes()), theirs["image"])
    yield from graph_differences(case, ours, theirs["vertices"] or [])
    yield from outline_differences(case["text"], json.loads(ours.outline.to_json()), theirs["outline"] or {})


def config_differences(ours: dict[str, Any], theirs: dict[str, Any]) -> Iterator[str]:
    for config in (ours, theirs):
        config.pop("created", None)
        config["history"] = config.get("history") or []
        config["rootfs"]["diff_ids"] = config["rootfs"]["diff_ids"] or []
    for key in sorted({*ours, *theirs}):
        if ours.get(key) != theirs.get(key):
            yield f"config {key}:\n  {ours.get(key)}\n  {theirs.get(key)}"


def outline_differences(text: str, ours: dict[str, Any], theirs: dict[str, Any]) -> Iterator[str]:
    """Where several stages declare an argument, theirs shows that of any: then only the name has to agree."""

    def plain(value: dict[str, Any]) -> dict[str, Any]:
        lists = {
            key: sorted(
                one["name"] if text.count(one["name"]) > 1 and key == "args" else json.dumps(one, sort_keys=True)
                for one in value.get(key) or ()
            )
            for key in ("args", "secrets", "ssh")
        }
        return {"name": value.get("name"), "description": value.get("description")} | lists

    for key, mine in plain(ours).items():
        if mine != plain(theirs)[key]:
            yield f"outline {key}:\n  {mine}\n  {plain(theirs)[key]}"


def graph_differences(case: Case, ours: Target, vertices: list[dict[str, Any]]) -> Iterator[str]:
    by_digest = {vertex["digest"]: vertex for vertex in vertices}
    top = (vertices[-1]["op"].get("inputs") or [None])[0] if vertices else None
    if (top is None) != (ours.edge is None):
        yield "only one of the graphs is empty"
    if top is None or ours.edge is None:
        return
    stack, seen = [(top, ours.edge)], set()
    while stack:
        edge, mine = stack.pop()
        if (edge["digest"], mine.vertex.digest) in seen:
            continue
        seen.add((edge["digest"], mine.vertex.digest))
        theirs = by_digest[edge["digest"]]
        yield from vertex_differences(case, theirs, mine.vertex)
        inputs = theirs["op"].get("inputs") or []
        if len(inputs) != len(mine.vertex.inputs):
            yield f"{theirs['name']}: {len(mine.vertex.inputs)} inputs, not {len(inputs)}"
        stack += zip(inputs, mine.vertex.inputs, strict=False)


def vertex_differences(case: Case, theirs: dict[str, Any], mine: Any) -> Iterator[str]:
    name, wanted, made = theirs["name"], their_op(theirs["op"]), our_op(mine.op)
    if wanted != made and not is_better_selection(case, wanted, made):
        yield f"{name}:\n  {made}\n  {wanted}"
    if isinstance(mine.op, ops.Source):
        return  # two stages may start from one source, which then has one name: theirs of the last, ours of the first
    if case.get("multi") and isinstance(mine.op, ops.Exec):
        platform = mine.hints.name[1:].partition(" ")[0]  # missing there on an empty root
        if name == mine.hints.name.replace(f"{platform} ", "", 1):
            return
    if name != mine.hints.name:
        yield f"named {mine.hints.name!r}, not {name!r}"


def is_better_selection(case: Case, theirs: Any, ours: Any) -> bool:
    """A tmpfs mount and an ADD from git select paths of the context there, and not here."""
    unneeded = "type=tmpfs" in case["text"] or "ADD git://" in case["text"]
    return bool(theirs[:2] == ours[:2] == ("source", "local://context") and unneeded)


def check(frontend: Frontend, cases: list[Case]) -> None:
    problems = []
    for case, answer in zip(cases, frontend(cases), strict=True):
        found = list(differences(case, answer))
        if found:
            problems.append("\n".join([case["text"][:2000], *found]))
    assert not problems, f"{len(problems)} of {len(cases)} differ:\n" + "\n-----\n".join(problems[:5])


# ---- cases -----------------------------------------------------------------------------------------------------------


def test_real_dockerfiles_agree(frontend: Frontend) -> None:
    texts = [path.read_text() for path in sorted(CORPUS.glob("*ockerfile"))]
    assert texts
    cases = [{"text": text, "args": ARGUMENTS} for text in texts]
    check(frontend, [*cases, *({**case, "platform": "linux/arm64", "multi": True} for case in cases)])


STAGES = [
    "FROM base AS a", "FROM a AS b", "FROM scratch", "FROM $G", "FROM --platform=$BUILDPLATFORM tools AS Tools",
    "FROM b", "FROM triggers", "FROM scratch AS s", "FROM --platform=linux/arm/v6 base AS arm", "FROM empty",
    "FROM ${G:-x}y AS g1",
]  # fmt: skip
CONFIGS = {
    "docker.io/library/triggers:latest": {
        "architecture": "amd64", "os": "linux",
        "config": {
            "OnBuild": ["RUN trigger $A", "COPY --from=tools2 /x /y", "ENV OB=1"], "Env": ["PATH=/p", "A=base"],
            "WorkingDir": "/ob", "User": "ob", "Cmd": ["c"], "Entrypoint": ["e"], "Labels": {"z": "1"},
            "Volumes": {"/v": {}}, "ExposedPorts": {"1/tcp": {}}, "Shell": ["/bin/ash", "-c"],
            "Healthcheck": {"Test": ["NONE"]},
        },
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "b" * 64]},
        "history": [{"created_by": "base"}, {"created_by": "x", "empty_layer": True}],
    },
    "docker.io/library/empty:latest": {
        "architecture": "amd64", "os": "linux", "config": {"Env": ["X=y"]},
        "rootfs": {"type": "layers", "diff_ids": []},
    },
}  # fmt: skip


def steps() -> list[str]:
    """The instructions of frontend/steps: each ends at an empty line."""
    return (HERE / "frontend" / "steps").read_text().strip("\n").split("\n\n")


@pytest.mark.parametrize("seed", range(4))
def test_random_dockerfiles_agree(frontend: Frontend, seed: int) -> None:
    dice, known = random.Random(seed), steps()
    cases = []
    for _ in range(400):
        lines = dice.choices(["ARG A=g", "ARG G=img", "ARG V=${A}v", "# DESC x\nARG DESC=1"], k=dice.randint(0, 2))
        for _ in range(dice.randint(1, 4)):
            lines += [dice.choice(STAGES), *dice.choices(known, k=dice.randint(0, 5))]
        args = dice.choice([{}, {}, {"A": "arg"}, {"HTTP_PROXY": "p", "A": ""}, {"SOURCE_DATE_EPOCH": "100"}])
        platform = dice.choice(["", "", "linux/arm64", "linux/arm/v7"])
        cases.append({
            "text": "\n".join(lines) + "\n", "configs": CONFIGS, "args": args, "platform": platform,
            "multi": dice.random() < 0.3,
        })  # fmt: skip
    check(frontend, cases)


def test_mount_options_agree(frontend: Frontend) -> None:
    dice = random.Random(0)
    keys = (
        "type from source src target dst readonly ro rw id sharing required size mode uid gid env bogus TARGET".split()
    )
    values = [
        "bind",
        "cache",
        "/x",
        "x",
        "../y",
        "",
        "true",
        "0",
        "1",
        "0755",
        "999",
        "-1",
        "+1",
        "64m",
        "10 MB",
        "locked",
    ]
    values += ["Shared", "a", "scratch", "alpine", "$A", "4294967295", "4294967296", "t", "yes", '"q"']
    cases = []
    for _ in range(1500):
        options = [f"type={dice.choice(['bind', 'cache', 'tmpfs', 'secret', 'ssh'])}"] if dice.random() < 0.7 else []
        for _ in range(dice.randint(0, 4)):
            key = dice.choice(keys)
            options.append(key if dice.random() < 0.15 else f"{key}={dice.choice(values)}")
        if "env=" not in options:  # an empty name: nothing there, a file here
            cases.append({"text": f"FROM base AS a\nARG A=val\nRUN --mount={','.join(options)} x\n"})
    check(frontend, cases)
