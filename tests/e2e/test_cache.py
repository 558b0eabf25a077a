"""Caches that travel: written by one store, used by another that has nothing; and every way in which one can be bad."""

import datetime
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kedge.registry.fake import FakeRegistry, Reply, Seen
from kedge.storage.store import Store
from tests.e2e.conftest import Kedge, steps, write_tree

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="builds need root here; tests/builder covers namespaces")

DOCKERFILE = """\
FROM busybox AS build
COPY src/ /src/
RUN cat /src/a /src/b > /out && head -c 300000 /bin/busybox > /large
FROM busybox
COPY --from=build /out /out
RUN echo final > /final
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "context", {"Dockerfile": DOCKERFILE, "src/a": "a", "src/b": "b"})


def other(kedge: Kedge, name: str = "other") -> Kedge:
    """The command line with another, empty store: another machine."""
    return Kedge(kedge.store.parent / name, kedge.config, kedge.environment)


def ends(output: str) -> dict[str, str]:
    """How the steps that make files ended."""
    return {name: end for name, end in steps(output).items() if any(w in name for w in (" COPY ", " RUN "))}


def layers_of(kedge: Kedge) -> int:
    return len(list((kedge.store / "layers").iterdir()))


def blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def manifest_of(layout: Path) -> dict:
    index = json.loads((layout / "index.json").read_text())
    return json.loads(blob(layout, index["manifests"][0]["digest"]).read_text())


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """Attributes of a bucket in an S3 server of our own, under its own name: servers in one process share buckets."""
    server = pytest.importorskip("moto.server", reason="moto is not installed (pip install '.[dev]')")
    boto3 = pytest.importorskip("boto3")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    name = f"cache-{port}"
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="r", **keys)
    client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "r"})
    client.close()
    yield (
        f"type=s3,bucket={name},region=r,endpoint_url=http://{host}:{port},use_path_style=true,access_key_id=a,"
        "secret_access_key=b"
    )
    running.stop()


# ---- the four kinds --------------------------------------------------------------------------------------------------


@pytest.fixture(params=["registry", "local", "s3"])
def place(request, bases, bucket, tmp_path) -> tuple[str, str]:
    """(--cache-to, --cache-from)"""
    name = f"{bases.address}/test-{tmp_path.name}/cache:c".lower()
    return {
        "registry": (f"type=registry,ref={name}", f"type=registry,ref={name}"),
        "local": (f"type=local,dest={tmp_path}/cache", f"type=local,src={tmp_path}/cache"),
        "s3": (f"{bucket},prefix={tmp_path.name}/", f"{bucket},prefix={tmp_path.name}/"),
    }[request.param]


def test_another_store_finds_everything_cached_and_fetches_no_layer(kedge, context, place):
    to, source = place
    assert set(ends(kedge.build(context, "--cache-to", f"{to},mode=max")).values()) == {"DONE"}
    second = other(kedge)
    output = second.build(context, "--cache-from", source)
    assert set(ends(output).values()) == {"CACHED"}
    assert "importing cache manifest from" in output
    assert layers_of(second) == 0


def test_what_a_changed_step_needs_is_fetched_and_nothing_else(kedge, context, place):
    to, source = place
    kedge.build(context, "--cache-to", f"{to},mode=max")
    (context / "Dockerfile").write_text(DOCKERFILE.replace("echo final", "cat /out"))
    second = other(kedge)
    found = ends(second.build(context, "--cache-from", source))
    assert [name for name, end in found.items() if end != "CACHED"] == ["[stage-1 3/3] RUN cat /out > /final"]
    assert layers_of(second) == 3  # the base, COPY --from, and what RUN made: nothing of the stage `build`


def test_an_inline_cache_travels_in_the_image(kedge, context, bases, tmp_path):
    name = f"{bases.address}/test-{tmp_path.name}/app:v1".lower()
    kedge.build(context, "--cache-to", "type=inline", "--push", "-t", name)
    second = other(kedge)
    assert set(ends(second.build(context, "--cache-from", name)).values()) == {"CACHED"}
    assert layers_of(second) == 0


def test_an_image_that_came_from_its_own_inline_cache_is_the_same_image(kedge, context, bases, tmp_path):
    """Also where only the last step was looked up: what the cache has of those before travels on."""
    (context / "Dockerfile").write_text(
        "FROM --platform=$BUILDPLATFORM busybox AS build\nARG TARGETARCH\n"
        "RUN head -c 16 /dev/urandom > /a && echo $TARGETARCH > /b\n"
        "FROM scratch\nCOPY --from=build /a /\nCOPY --from=build /b /\n"
    )
    name = f"{bases.address}/test-{tmp_path.name}/again:v1".lower()
    digests = []
    for number in range(3):
        machine = other(kedge, f"machine-{number}")
        flags = ("--metadata-file", f"{tmp_path}/m.json", "--cache-from", name, "--cache-to", "type=inline")
        flags += ("--platform", "linux/amd64,linux/arm64")
        machine.build(context, *flags, "--push", "-t", name)
        digests.append(json.loads((tmp_path / "m.json").read_text())["containerimage.digest"])
    assert len(set(digests)) == 1


def test_a_layer_is_as_old_as_its_cache_says(kedge, context, tmp_path):
    kedge.build(context, "--cache-to", f"type=local,dest={tmp_path}/cache,mode=max")
    notes = [dict(one["annotations"]) for one in manifest_of(tmp_path / "cache")["layers"]]
    told = {note["containerd.io/uncompressed"]: note["buildkit/createdat"] for note in notes}
    second = other(kedge)
    second.build(context, "--cache-from", f"type=local,src={tmp_path}/cache")
    asked = "SELECT diff_id, created FROM layers JOIN sources ON layer = id WHERE origin LIKE 'cache+%'"
    asked += " AND NOT EXISTS (SELECT 1 FROM sources WHERE layer = id AND origin LIKE 'docker-image%')"
    with Store.open(second.store) as store:
        rows = store.layers._records._database.rows(asked)
    found = {diff_id: datetime.datetime.fromtimestamp(created, datetime.UTC) for diff_id, created in rows}
    assert found
    assert {diff_id: datetime.datetime.fromisoformat(told[diff_id]) for diff_id in found} == found


def test_a_minimal_cache_serves_the_final_stage_now_and_without_it_later(kedge, context, tmp_path):
    kedge.build(context, "--cache-to", f"type=local,dest={tmp_path}/cache")
    blobs = {layer["digest"] for layer in manifest_of(tmp_path / "cache")["layers"]}
    assert len(blobs) == 3  # the final image's layers
    second = other(kedge)
    for flags in (("--cache-from", f"type=local,src={tmp_path}/cache"), ()):
        assert set(ends(second.build(context, *flags)).values()) == {"CACHED"}


def test_what_a_cache_gave_can_be_run_and_exported_again(kedge, context, tmp_path):
    kedge.build(context, "--cache-to", f"type=local,dest={tmp_path}/one,mode=max")
    second = other(kedge)
    flags = ("--cache-from", f"type=local,src={tmp_path}/one", "--cache-to", f"type=local,dest={tmp_path}/two,mode=max")
    second.build(context, *flags, "-t", "app")
    assert second("run", "app", "cat", "/out", "/final").stdout == "abfinal\n"
    third = other(kedge, "third")
    assert set(ends(third.build(context, "--cache-from", f"type=local,src={tmp_path}/two")).values()) == {"CACHED"}


@pytest.mark.parametrize(
    "form", ["image-manifest=false", "oci-mediatypes=false", "compression=zstd,force-compression=true", "tag=x"]
)
def test_every_form_of_the_document_is_read_again(kedge, context, tmp_path, form):
    kedge.build(context, "--cache-to", f"type=local,dest={tmp_path}/cache,mode=max,{form}")
    tag = ",tag=x" if form == "tag=x" else ""
    found = ends(other(kedge).build(context, "--cache-from", f"type=local,src={tmp_path}/cache{tag}"))
    assert set(found.values()) == {"CACHED"}


def test_changed_files_and_no_cache_are_no_hits(kedge, context, tmp_path):
    kedge.build(context, "--cache-to", f"type=local,dest={tmp_path}/cache,mode=max")
    source = ("--cache-from", f"type=local,src={tmp_path}/cache")
    assert set(ends(other(kedge).build(context, *source, "--no-cache")).values()) == {"DONE"}
    (context / "src/a").write_text("changed")
    found = ends(other(kedge, "third").build(context, *source))
    assert found["[build 2/3] COPY src/ /src/"] == found["[stage-1 2/3] COPY --from=build /out /out"] == "DONE"


def test_the_cache_is_in_the_metadata(kedge, context, tmp_path):
    kedge.build(context, "--cache-to", f"type=local,dest={tmp_path}/cache", "--metadata-file", tmp_path / "meta")
    assert json.loads((tmp_path / "meta").read_text())["cache.manifest"]["digest"].startswith("sha256:")


# ---- bad caches ------------------------------------------------------------------------------------------------------


def test_a_cache_that_is_not_there_is_a_warning(kedge, context, bases):
    output = kedge.build(context, "--cache-from", f"{bases.address}/no/such:cache", "--cache-from", "type=local,src=no")
    assert set(ends(output).values()) == {"DONE"}
    assert output.count("the build goes on without") == 2


@pytest.mark.parametrize("bytes_", [b"", b"{}", b'{"records":[{"digest":"x"}]}', b"[" * 10000, b'{"layers":7}'])
def test_a_cache_that_is_no_cache_is_a_warning_or_nothing(kedge, context, tmp_path, bytes_):
    kedge.build(context, "--cache-to", f"type=local,dest={tmp_path}/cache,mode=max")
    config = manifest_of(tmp_path / "cache")["config"]["digest"]
    blob(tmp_path / "cache", config).write_bytes(bytes_)
    found = ends(other(kedge).build(context, "--cache-from", f"type=local,src={tmp_path}/cache"))
    assert set(found.values()) == {"DONE"}


def test_a_cache_whose_layers_are_gone_costs_a_second_start_and_nothing_else(kedge, context, tmp_path):
    kedge.build(context, "--cache-to", f"type=local,dest={tmp_path}/cache,mode=max")
    for layer in manifest_of(tmp_path / "cache")["layers"][1:]:
        blob(tmp_path / "cache", layer["digest"]).unlink()
    (context / "Dockerfile").write_text(DOCKERFILE.replace("echo final", "cat /out"))
    second = other(kedge)
    output = second.build(context, "--cache-from", f"type=local,src={tmp_path}/cache", "-t", "app")
    assert "starting again" in output
    assert "the build started again" in output
    assert second("run", "app", "cat", "/final").stdout == "ab"


def test_layers_that_vanish_after_the_build_that_used_them_are_made_again(kedge, context, tmp_path):
    kedge.build(context, "--cache-to", f"type=local,dest={tmp_path}/cache,mode=max")
    second = other(kedge)
    second.build(context, "--cache-from", f"type=local,src={tmp_path}/cache")
    for layer in manifest_of(tmp_path / "cache")["layers"]:
        blob(tmp_path / "cache", layer["digest"]).unlink()
    (context / "Dockerfile").write_text(DOCKERFILE.replace("echo final", "cat /out"))
    second.build(context, "-t", "app")
    assert second("run", "app", "cat", "/final").stdout == "ab"


def test_a_cache_that_lies_about_a_layer_poisons_nothing(kedge, context, tmp_path):
    """Its blob is not what its diff id says, and the diff id is that of the base image's layer."""
    cache = tmp_path / "cache"
    kedge.build(context, "--cache-to", f"type=local,dest={cache},mode=max")
    index = json.loads((cache / "index.json").read_text())
    manifest = manifest_of(cache)
    notes = [layer["annotations"] for layer in manifest["layers"]]
    notes[0]["containerd.io/uncompressed"], notes[-1]["containerd.io/uncompressed"] = (
        notes[-1]["containerd.io/uncompressed"],
        notes[0]["containerd.io/uncompressed"],
    )
    data = json.dumps(manifest).encode()
    import hashlib

    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    blob(cache, digest).write_bytes(data)
    index["manifests"][0] |= {"digest": digest, "size": len(data)}
    (cache / "index.json").write_text(json.dumps(index))
    (context / "Dockerfile").write_text(DOCKERFILE.replace("echo final", "cat /out"))
    second = other(kedge)
    second.build(context, "--cache-from", f"type=local,src={cache}", "-t", "app")
    assert second("run", "app", "cat", "/final").stdout == "ab"
    second.build(write_tree(tmp_path / "plain", {"Dockerfile": "FROM busybox\nRUN echo x > /x\n"}))


def test_a_cache_that_never_answers_is_given_up(kedge, context):
    def never(seen: Seen, reply: Reply) -> Reply:
        time.sleep(200)
        return reply

    with FakeRegistry() as fake:
        fake.on("GET", ".*", never, times=100)
        started = time.monotonic()
        output = kedge.build(context, "--cache-from", f"type=registry,ref={fake.address}/c:c,timeout=1")
        assert time.monotonic() - started < 150
    assert set(ends(output).values()) == {"DONE"}
    assert "the build goes on without" in output


def test_an_export_that_fails_is_a_warning_unless_it_must_not(kedge, context):
    with FakeRegistry() as fake:
        fake.on("POST", ".*", lambda seen, reply: Reply(403), times=100)
        to = f"type=registry,ref={fake.address}/c:c"
        assert "the build goes on without" in kedge.build(context, "--cache-to", to, "-t", "app")
        assert kedge("images", "-q", "app").stdout.strip()
        failed = kedge("build", "--cache-to", f"{to},ignore-error=false", context, check=False)
        assert failed.returncode == 1


def test_only_missing_blobs_are_sent(kedge, context):
    with FakeRegistry() as fake:
        to = ("--cache-to", f"type=registry,ref={fake.address}/c:c,mode=max")
        kedge.build(context, *to)
        sent = len(fake.requests("POST", ".*"))
        (context / "Dockerfile").write_text(DOCKERFILE + "RUN echo more > /more\n")
        kedge.build(context, *to)
        assert len(fake.requests("POST", ".*")) == sent + 2  # the new layer and the document


@pytest.mark.parametrize(
    "flags",
    [
        ("--cache-to", "type=registry"),
        ("--cache-to", "type=local,dest=x,mode=most"),
        ("--cache-to", "type=local,dest=x,no-such=1"),
        ("--cache-to", "type=local,dest=x,image-manifest=true,oci-mediatypes=false"),
        ("--cache-from", "type=local"),
        ("--cache-from", "type=gha"),
        ("--cache-mount-to", "type=registry,ref=x"),
    ],
)
def test_mistakes_are_told_before_anything_is_built(kedge, context, flags):
    done = kedge("build", *flags, context, check=False)
    assert done.returncode in (1, 2, 125)
    assert " FROM " not in done.stderr
    assert "Traceback" not in done.stderr


# ---- cache mounts ----------------------------------------------------------------------------------------------------

MOUNT = """\
FROM busybox
RUN --mount=type=cache,id=go,target=/c ls /c > /before && cat /seed* >> /c/a 2>/dev/null; mkdir -p /c/d && \
    echo data > /c/d/f && ln -sf d/f /c/l && ln -f /c/d/f /c/h && chmod 700 /c/d && echo $N > /c/n
"""


def test_a_cache_mount_travels(kedge, bases, tmp_path):
    context = write_tree(tmp_path / "context", {"Dockerfile": MOUNT})
    ref = f"{bases.address}/test-{tmp_path.name}/mounts:go".lower()
    kedge.build(context, "--cache-mount-to", f"type=registry,ref={ref},id=go")
    second = other(kedge)
    second.build(context, "--cache-mount-from", f"type=registry,ref={ref},id=go", "-t", "app")
    assert second("run", "app", "cat", "/before").stdout.split() == ["a", "d", "h", "l", "n"]
    (mount,) = (second.store / "cache-mounts").glob("*/0")
    assert os.readlink(mount / "l") == "d/f"
    assert (mount / "d").stat().st_mode & 0o777 == 0o700


def test_unchanged_packs_of_a_cache_mount_are_not_sent_again(kedge, tmp_path):
    text = MOUNT + "RUN --mount=type=cache,id=go,target=/c head -c 9000000 /dev/urandom > /c/large\n"
    context = write_tree(tmp_path / "context", {"Dockerfile": text + "RUN true\n"})
    to = ("--cache-mount-to", f"type=local,dest={tmp_path}/mounts,id=go")
    kedge.build(context, *to)
    before = {path.name for path in (tmp_path / "mounts/blobs/sha256").iterdir()}
    more = "RUN --mount=type=cache,id=go,target=/c echo more > /c/more\n"
    (context / "Dockerfile").write_text(text + more)
    kedge.build(context, *to)
    new = {path for path in (tmp_path / "mounts/blobs/sha256").iterdir() if path.name not in before}
    assert 0 < sum(path.stat().st_size for path in new) < 100_000


def test_a_bad_cache_mount_is_a_warning_and_leaves_an_empty_one(kedge, tmp_path):
    context = write_tree(tmp_path / "context", {"Dockerfile": MOUNT})
    kedge.build(context, "--cache-mount-to", f"type=local,dest={tmp_path}/mounts,id=go")
    for layer in manifest_of(tmp_path / "mounts")["layers"][1:]:
        blob(tmp_path / "mounts", layer["digest"]).write_bytes(b"x" * layer["size"])
    second = other(kedge)
    output = second.build(context, "--cache-mount-from", f"type=local,src={tmp_path}/mounts,id=go", "-t", "app")
    assert "the build goes on without" in output
    assert second("run", "app", "cat", "/before").stdout == ""
