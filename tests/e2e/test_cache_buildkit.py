"""Caches written by BuildKit are hit by Kedge, and the other way round, for every kind of step and every form of cache.

Opt-in: KEDGE_PEERS names a directory with buildctl and buildkitd (/tmp/peers/bin by default); runc must be installed.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.buildkit_side import serving
from tests.e2e.conftest import Kedge, steps, write_tree
from tests.e2e.test_cache import bucket  # noqa: F401 - a fixture

PEERS = Path(os.environ.get("KEDGE_PEERS", "/tmp/peers/bin"))
BuildKit = Callable[..., str]

DOCKERFILE = """\
FROM busybox AS b
ARG V=3
ENV X=$V Y="a b"
RUN printf 'root:x:0:0:root:/root:/bin/sh\\nbob:x:1234:1235::/home/bob:/bin/sh\\n' > /etc/passwd && \\
    printf 'root:x:0:\\nbob:x:1235:\\n' > /etc/group
RUN <<E
echo heredoc > /h
echo $X
E
COPY <<F /conf/file
content $X
F
COPY --chown=bob:bob d /d1
COPY --chmod=640 d/one.txt /one
COPY --exclude=*.md d /d2
COPY --parents p/*/three.txt d/e /par/
ADD a.tar /unpacked/
COPY dl/one.txt /viaLink
COPY dl /dirlink/
COPY d/* p/q/thr?e.txt /wild/
USER bob
WORKDIR /home/bob/w
RUN --network=none id > /tmp/id
USER root
RUN --mount=type=secret,id=tok,required=false true > /sec
RUN --mount=type=bind,source=d,target=/ctx,rw cp /ctx/one.txt /fromctx && touch /ctx/z
RUN --mount=type=tmpfs,target=/scratch,size=10m --mount=type=cache,id=mine,target=/c,sharing=locked echo > /c/a
RUN --mount=type=cache,target=/own true
SHELL ["/bin/sh","-ec"]
RUN echo "a<b>c&d é" > /e
FROM scratch AS art
COPY --from=b /h /h
COPY --from=b /d1 /x/
FROM b
COPY --from=art / /art
COPY --from=busybox /etc/passwd /pw
COPY --link d /linked
RUN --mount=from=art,target=/m --mount=from=b,source=/conf,target=/k cat /m/h /k/file > /last
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    files = {"d/one.txt": "1\n", "d/e/two.md": "2\n", "p/q/three.txt": "3\n", "p/skip.log": "s\n", "secretdir/x": "n\n"}
    root = write_tree(tmp_path / "context", {"Dockerfile": DOCKERFILE, **files})
    (root / ".dockerignore").write_text("*.log\n!p/skip.log\nsecretdir\n")
    (root / "dl").symlink_to("d")
    os.link(root / "d/one.txt", root / "d/hard.txt")
    subprocess.run(["tar", "cf", root / "a.tar", "-C", root, "d"], check=True)
    return root


@pytest.fixture(scope="module")
def buildkit(bases, tmp_path_factory) -> Iterator[BuildKit]:
    """`buildkit(context, *flags)`: a build with an empty cache; returns the plain progress."""
    for name in ("buildctl", "buildkitd"):
        if not (PEERS / name).exists():
            pytest.skip(f"opt-in comparison with BuildKit: no {name} in {PEERS} (KEDGE_PEERS)")
    room = tmp_path_factory.mktemp("buildkit")
    with serving(room, str(PEERS / "buildctl"), str(PEERS / "buildkitd"), bases.address) as address:
        yield partial(build_with, [str(PEERS / "buildctl"), "--addr", address])


def build_with(control: list[str], context: Path, *flags: str) -> str:
    subprocess.run([*control, "prune", "--all"], capture_output=True, check=True)
    words = ["build", "--frontend=dockerfile.v0", "--progress=plain", "--local", f"context={context}"]
    done = subprocess.run(
        [*control, *words, "--local", f"dockerfile={context}", *flags], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def made(output: str) -> dict[str, str]:
    """How the steps that make files ended; the last word counts."""
    return {n: e for n, e in steps(output).items() if n.startswith("[") and "internal" not in n and "FROM" not in n}


def document(layout: Path) -> dict:
    def read(digest: str) -> dict:
        return json.loads((layout / "blobs" / digest.replace(":", "/")).read_text())

    root = read(json.loads((layout / "index.json").read_text())["manifests"][0]["digest"])
    config = root.get("config") or next(e for e in root["manifests"] if "cacheconfig" in e["mediaType"])
    return read(config["digest"])


FORMS = ["image-manifest=true", "image-manifest=false", "oci-mediatypes=false", "compression=zstd"]


@pytest.mark.parametrize("form", FORMS)
def test_kedge_hits_what_buildkit_wrote(kedge: Kedge, buildkit: BuildKit, context: Path, tmp_path: Path, form: str):
    buildkit(context, f"--export-cache=type=local,dest={tmp_path}/cache,mode=max,{form}")
    found = made(kedge.build(context, "--cache-from", f"type=local,src={tmp_path}/cache"))
    assert set(found.values()) == {"CACHED"}, found
    assert not list((kedge.store / "layers").iterdir())


@pytest.mark.parametrize("form", FORMS)
def test_buildkit_hits_what_kedge_wrote(kedge: Kedge, buildkit: BuildKit, context: Path, tmp_path: Path, form: str):
    kedge.build(context, "--cache-to", f"type=local,dest={tmp_path}/cache,mode=max,{form}")
    found = made(buildkit(context, f"--import-cache=type=local,src={tmp_path}/cache"))
    assert len(found) > 20
    assert set(found.values()) == {"CACHED"}, found


def test_both_write_the_same_records(kedge: Kedge, buildkit: BuildKit, context: Path, tmp_path: Path):
    kedge.build(context, "--cache-to", f"type=local,dest={tmp_path}/ours,mode=max")
    buildkit(context, f"--export-cache=type=local,dest={tmp_path}/theirs,mode=max")
    ours, theirs = (
        {(r["digest"], bool(r.get("layers"))) for r in document(tmp_path / name)["records"] if r.get("inputs")}
        for name in ("ours", "theirs")
    )
    assert ours == theirs  # of steps without inputs it never carries results


def test_a_registrys_and_an_inline_cache_serve_both(kedge: Kedge, buildkit: BuildKit, context: Path, bases, tmp_path):
    name = f"{bases.address}/peers-{tmp_path.name}".lower()
    flags = ("--cache-to", f"type=registry,ref={name}/cache:k,mode=max", "--cache-to", "type=inline", "--push")
    kedge.build(context, *flags, "-t", f"{name}/app:k")
    assert set(made(buildkit(context, f"--import-cache=type=registry,ref={name}/cache:k")).values()) == {"CACHED"}
    inline = made(buildkit(context, f"--import-cache=type=registry,ref={name}/app:k"))
    assert next(end for step, end in inline.items() if step.endswith("> /last")) == "CACHED"
    buildkit(
        context,
        f"--export-cache=type=registry,ref={name}/cache:b,mode=max",
        "--export-cache=type=inline",
        f"--output=type=image,name={name}/app:b,push=true",
    )
    for number, source in enumerate((f"type=registry,ref={name}/cache:b", f"{name}/app:b")):
        other = Kedge(kedge.store.parent / f"other{number}", kedge.config)
        found = made(other.build(context, "--cache-from", source))
        assert set(found.values()) == {"CACHED"}, found


def test_kedge_goes_on_from_what_buildkit_made(kedge: Kedge, buildkit: BuildKit, context: Path, tmp_path: Path):
    buildkit(context, f"--export-cache=type=local,dest={tmp_path}/cache,mode=max")
    (context / "Dockerfile").write_text(DOCKERFILE + "RUN cat /last > /again\n")
    kedge.build(context, "--cache-from", f"type=local,src={tmp_path}/cache", "-t", "app")
    assert kedge("run", "app", "cat", "/again").stdout == "heredoc\ncontent 3\n"


def test_a_bucket_serves_both(kedge: Kedge, buildkit: BuildKit, context: Path, bucket: str):  # noqa: F811
    kedge.build(context, "--cache-to", f"{bucket},prefix=ours/,mode=max")
    flags = (f"--import-cache={bucket},prefix=ours/", f"--export-cache={bucket},prefix=theirs/,mode=max")
    assert set(made(buildkit(context, *flags)).values()) == {"CACHED"}
    other = Kedge(kedge.store.parent / "other", kedge.config)
    assert set(made(other.build(context, "--cache-from", f"{bucket},prefix=theirs/")).values()) == {"CACHED"}
