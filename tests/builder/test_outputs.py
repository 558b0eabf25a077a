"""What a build makes: images in the store, in registries, archives and directories."""

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

import kedge
from kedge.builder import Output
from kedge.model.errors import InvalidInput, Unsupported

TEXT = """\
FROM base AS b
RUN mkdir -p /o/d && echo hi > /o/d/f && ln -s f /o/d/l
FROM scratch
COPY --from=b /o /
ENV A=1
"""


def test_an_image_has_all_its_names_and_the_metadata_of_buildx(bench):
    result = bench.build(TEXT, tags=("one:1", "two"))
    assert result.tags == ("docker.io/library/one:1", "docker.io/library/two:latest")
    assert bench.read("one:1", "d/f") == bench.read("two", "d/f") == "hi\n"
    assert result.metadata["containerimage.config.digest"] == result.id
    assert result.metadata["containerimage.digest"] == result.target.digest
    assert result.metadata["image.name"] == "docker.io/library/one:1,docker.io/library/two:latest"


def test_the_same_build_in_two_stores_gives_the_same_digests(bench, base_store, tmp_path):
    import shutil

    shutil.copytree(base_store, tmp_path / "other", symlinks=True)
    first = bench.build(TEXT)
    time.sleep(1.1)
    second = bench.build(TEXT, store=tmp_path / "other")
    assert first.id == second.id
    assert first.target == second.target


def test_a_directory(bench, tmp_path):
    bench.build(TEXT, outputs=(Output("local", destination=tmp_path / "out"),))
    assert (tmp_path / "out" / "d" / "f").read_text() == "hi\n"
    assert os.readlink(tmp_path / "out" / "d" / "l") == "f"


def test_a_tar_of_the_files(bench, tmp_path):
    stream = io.BytesIO()
    bench.build(TEXT, outputs=(Output("tar", destination=stream), Output("tar", destination=tmp_path / "x.tar")))
    assert stream.getvalue() == (tmp_path / "x.tar").read_bytes()
    with tarfile.open(tmp_path / "x.tar") as archive:
        assert {"d", "d/f", "d/l"} <= {name.strip("/") for name in archive.getnames()}


@pytest.mark.parametrize("kind", ["oci", "docker"])
def test_an_archive(bench, tmp_path, kind):
    bench.build(TEXT, tags=("x",), outputs=(Output(kind, destination=tmp_path / "x.tar"),))
    with tarfile.open(tmp_path / "x.tar") as archive:
        index = json.load(archive.extractfile("index.json"))
    assert len(index["manifests"]) == 1
    with bench.store() as store:
        assert store.images.get("docker.io/library/x:latest") is None


def archived(path):
    """The entries of an archive's own index, and all that is in the archive."""
    with tarfile.open(path) as archive:
        files = {one.name: archive.extractfile(one).read() for one in archive if one.isfile()}
    return json.loads(files["index.json"])["manifests"], files


def document(files, descriptor):
    return json.loads(files["blobs/" + descriptor["digest"].replace(":", "/")])


def test_entries_of_an_archive_have_the_annotations_of_descriptors(bench, tmp_path):
    notes = (("index-descriptor:i", "1"), ("manifest-descriptor:m", "2"), ("index:x", "3"))
    for several in (False, True):
        output = Output("oci", destination=tmp_path / f"{several}.tar")
        bench.build(TEXT, annotations=notes, multi_platform=several, outputs=(output,))
    (one,), _ = archived(tmp_path / "False.tar")
    assert one["annotations"] == {"m": "2"}
    (one,), files = archived(tmp_path / "True.tar")
    assert one["annotations"] == {"i": "1"}
    index = document(files, one)
    assert index["annotations"] == {"x": "3"}
    assert [entry["annotations"] for entry in index["manifests"]] == [{"m": "2"}]


def test_one_platform_has_an_index_if_asked_for_but_not_for_docker(bench, tmp_path):
    made = bench.build(TEXT, tags=("x",), multi_platform=True)
    assert made.target.media_type == "application/vnd.oci.image.index.v1+json"
    assert bench.read("x", "d/f") == "hi\n"
    bench.build(TEXT, multi_platform=True, outputs=(Output("docker", destination=tmp_path / "x.tar"),))
    (one,), _ = archived(tmp_path / "x.tar")
    assert "manifest" in one["mediaType"]


def test_an_archive_for_docker_has_the_media_types_that_its_compression_needs(bench, tmp_path):
    output = Output("docker", (("compression", "zstd"),), tmp_path / "x.tar")
    bench.build(TEXT, outputs=(output,))
    (one,), files = archived(tmp_path / "x.tar")
    kinds = {layer["mediaType"] for layer in document(files, one)["layers"]}
    assert kinds == {"application/vnd.oci.image.layer.v1.tar+zstd"}


@pytest.mark.parametrize("form", ["referrer", "index"])
def test_the_config_of_an_attestation_is_in_its_descriptor(bench, tmp_path, form):
    output = Output("oci", destination=tmp_path / "x.tar")
    bench.build(TEXT, attestations=(("provenance", f"form={form}"),), outputs=(output,))
    entries, files = archived(tmp_path / "x.tar")
    made = document(files, entries[0])["manifests"][-1] if form == "index" else entries[-1]
    config = document(files, made)["config"]
    assert (config["mediaType"], config["data"]) == ("application/vnd.oci.empty.v1+json", "e30=")
    assert document(files, config) == {}


def test_nothing_but_the_cache(bench):
    result = bench.build(TEXT, tags=("x",), outputs=(Output("cacheonly"),))
    assert result.images == ()
    with bench.store() as store:
        assert store.images.get("docker.io/library/x:latest") is None


def test_a_push_and_a_base_from_a_registry(bench, registry):
    name = f"{registry}/team/x:1"
    bench.build(TEXT, tags=(name,), outputs=(Output("registry"),))
    with bench.store() as store:
        assert store.images.get(name) is None
    bench.build(f"FROM {name}\nENV B=2", tags=("y",), pull=True)
    assert bench.read("y", "d/f") == "hi\n"


def test_a_push_needs_a_name_and_load_an_engine(bench, monkeypatch, tmp_path):
    with pytest.raises(InvalidInput, match="without a name"):
        bench.build(TEXT, outputs=(Output("registry"),))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unsupported, match="neither docker nor podman"):
        bench.build(TEXT, tags=("x",), outputs=(Output("docker"),))


def test_load_feeds_the_engines_client(bench, monkeypatch, tmp_path):
    client = tmp_path / "docker"
    client.write_text(f"#!/bin/sh\nexec /bin/cat > {tmp_path}/loaded\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    bench.build(TEXT, tags=("x",), outputs=(Output("docker"),))
    with tarfile.open(tmp_path / "loaded") as archive:
        assert "manifest.json" in archive.getnames()
    client.write_text("#!/bin/sh\necho no engine runs here >&2; exit 1\n")
    with pytest.raises(kedge.KedgeError, match="no engine runs here"):
        bench.build(TEXT, tags=("x",), outputs=(Output("docker"),))


def test_steps_for_a_foreign_machine_say_what_is_missing(bench):
    from kedge.sandbox.emulation import emulation

    foreign = "linux/s390x"
    if emulation(kedge.model.platform.parse_platform(foreign), register=True).ok:
        pytest.skip("this machine emulates s390x")
    (bench.context / "sh").write_bytes(b"\x7fELF\x02\x02\x01" + bytes(9) + b"\x00\x02\x00\x16" + bytes(44))
    (bench.context / "sh").chmod(0o755)
    with pytest.raises(kedge.KedgeError, match="steps for linux/s390x cannot run on this"):
        bench.build("FROM scratch\nCOPY sh /bin/sh\nRUN true", platforms=(foreign,))


def test_programs_of_this_machine_run_whatever_platform_their_image_says(bench):
    text = "FROM --platform=$BUILDPLATFORM base AS base-amd64\nFROM scratch\nCOPY --from=0 / /\nRUN echo ran > /x\n"
    bench.build(text, platforms=("linux/s390x",), tags=("x",))
    assert bench.steps()["[stage-1 2/2] RUN echo ran > /x"] == "DONE"


def test_the_python_api_builds_in_a_child_for_those_who_may_not_mount(bench, monkeypatch):
    from kedge.builder import child

    events = []
    bench.write(Dockerfile="FROM base\nRUN --mount=type=secret,id=s cat /run/secrets/s > /x; exit $CODE\nARG CODE\n")
    request = kedge.BuildRequest(context=bench.context, store=bench.root, tags=("x",))
    from kedge.session.secrets import Secret

    result = child.build_in_child(request, [Secret("s", data=b"abc")], events.append)
    assert result.tags == ("docker.io/library/x:latest",)
    assert any("2/2] RUN" in getattr(event, "name", "") for event in events)
    bench.write(Dockerfile="FROM base AS b\nRUN echo bye; exit 3\n")
    with pytest.raises(kedge.StepFailed) as raised:
        child.build_in_child(request, [], events.append)
    assert (raised.value.exit_code, raised.value.tail, raised.value.stage) == (3, b"bye\n", "b")
    assert str(raised.value.location) == "Dockerfile:2"


def test_the_python_api(bench):
    bench.write(Dockerfile=TEXT, f="x")
    seen = []
    image = kedge.build(bench.context, tags=["x"], store=bench.root, labels={"a": "b"}, on_event=seen.append)
    assert image.size > 0
    assert len(image.layers) == 1
    assert seen
    with pytest.raises(kedge.NotFound) as raised:
        kedge.build(bench.context, dockerfile_text="FROM base\nCOPY nope /\n", store=bench.root)
    assert raised.value.location.start == 2


def test_the_example_runs_as_it_stands(tmp_path):
    example = os.path.join(os.path.dirname(__file__), "../../examples/python-api/build.py")
    done = subprocess.run([sys.executable, example], env=os.environ | {"KEDGE_ROOT": str(tmp_path / "store")},
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "id       sha256:" in done.stdout


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (Output("oci"), "needs dest=FILE"),
        (Output("tar"), "needs dest=FILE"),
        (Output("local"), "needs dest=DIRECTORY"),
        (Output("oci", (("tar", "false"),)), "needs dest=DIRECTORY"),
        (Output("oci", destination=Path("/nowhere/at/all/x.tar")), "No such file or directory"),
        (Output("docker", destination=Path("/proc")), "Is a directory"),
        (Output("local", destination=Path("/proc/version")), "Not a directory"),
        (Output("oci", (("tar", "false"),), Path("/proc/version")), "Not a directory"),
    ],
    ids=str,
)
def test_a_place_that_cannot_be_is_told_before_anything_runs(bench, output, message):
    with pytest.raises(InvalidInput, match=message):
        bench.build("FROM base\nRUN true", outputs=(output,))
    assert bench.ran() == []


@pytest.mark.parametrize("mode", ["keep", "delete"])
def test_links_that_an_earlier_export_left_are_replaced_not_followed(bench, tmp_path, mode):
    """The first image plants links where the second one's files go."""
    victim, out = tmp_path / "victim", tmp_path / "out"
    victim.mkdir()
    (victim / "f").write_text("safe")
    (bench.context / "one").mkdir()
    (bench.context / "one/x").symlink_to(victim)
    (bench.context / "one/y").symlink_to(victim / "f")
    (bench.context / "two/x").mkdir(parents=True)
    (bench.context / "two/x/f").write_text("evil")
    (bench.context / "two/y").write_text("evil")
    for name in ("one", "two"):
        output = Output("local", (("mode", mode),) if mode == "delete" else (), out)
        bench.build(f"FROM scratch\nCOPY {name} /\n", outputs=(output,))
    assert (out / "x/f").read_text() == (out / "y").read_text() == "evil"
    assert [path.name for path in victim.iterdir()] == ["f"]
    assert (victim / "f").read_text() == "safe"
