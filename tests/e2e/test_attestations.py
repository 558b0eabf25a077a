"""Attestations by the command line, read back from real registries and archives by plain HTTP and by other tools."""

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Kedge, write_tree

OCI = "application/vnd.oci.image"
SLSA, SPDX = "https://slsa.dev/provenance/v1", "https://spdx.dev/Document"
TEXT = """\
FROM busybox AS b
ARG TOKEN
RUN --mount=type=secret,id=s,required=true echo "with $TOKEN" > /tmp/x; cat /run/secrets/s > /tmp/x; echo 1 > /x
FROM scratch
COPY --from=b /x /x
COPY status /var/lib/dpkg/status
"""
STATUS = """\
Package: bash
Status: install ok installed
Maintainer: A Maintainer <someone@example.test>
Architecture: amd64
Version: 5.2.15-2+b2

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "context", {"Dockerfile": TEXT, "status": STATUS, "secret": "very-secret-value"})


def fetch(registry: str, path: str) -> bytes:
    call = urllib.request.Request(f"http://{registry}/v2/{path}")
    call.add_header("Accept", f"{OCI}.index.v1+json, {OCI}.manifest.v1+json")
    with urllib.request.urlopen(call, timeout=30) as answer:
        data: bytes = answer.read()
    return data


def document(registry: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(fetch(registry, path))
    return found


def statements(registry: str, repository: str, manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The statements of an attestation manifest, by predicate type."""
    found = {}
    for layer in manifest["layers"]:
        assert layer["mediaType"] == "application/vnd.in-toto+json"
        statement = document(registry, f"{repository}/blobs/{layer['digest']}")
        assert statement["_type"] == "https://in-toto.io/Statement/v1"
        assert layer["annotations"]["in-toto.io/predicate-type"] == statement["predicateType"]
        found[statement["predicateType"]] = statement
    return found


def referrers(registry: str, repository: str, digest: str) -> list[dict[str, Any]]:
    """The manifests about an image, by the tag that stands for the referrers API in registries without it."""
    index = document(registry, f"{repository}/manifests/{digest.replace(':', '-')}")
    manifests = [document(registry, f"{repository}/manifests/{entry['digest']}") for entry in index["manifests"]]
    assert all(manifest["subject"]["digest"] == digest for manifest in manifests)
    assert all(entry["artifactType"] == "application/vnd.in-toto+json" for entry in index["manifests"])
    return manifests


def test_attestations_refer_to_an_image_that_stays_as_it_is(kedge: Kedge, context: Path, registry: str) -> None:
    plain, name = f"{registry}/attest/plain:1", f"{registry}/attest/referred:1"
    secret = ("--secret", f"id=s,src={context}/secret", "--build-arg", "TOKEN=token-in-an-argument")
    kedge.build(context, *secret, "-t", plain, "--push")
    kedge.build(context, *secret, "-t", name, "--push", "--provenance", "mode=max", "--sbom")
    bare = fetch(registry, "attest/plain/manifests/1")
    assert fetch(registry, "attest/referred/manifests/1") == bare
    digest = "sha256:" + hashlib.sha256(bare).hexdigest()
    found: dict[str, dict[str, Any]] = {}
    for manifest in referrers(registry, "attest/referred", digest):
        found |= statements(registry, "attest/referred", manifest)
    assert found.keys() == {SLSA, SPDX}
    for statement in found.values():
        (subject,) = statement["subject"]
        assert subject["digest"]["sha256"] == digest[7:]
        place = registry.replace(":", "%3A")  # as BuildKit's package URLs have it
        assert subject["name"].startswith(f"pkg:docker/{place}/attest/referred@1?platform=linux%2F")
    text = json.dumps(found)
    assert "very-secret-value" not in text
    assert "token-in-an-argument" not in text
    provenance = found[SLSA]["predicate"]
    request = provenance["buildDefinition"]["externalParameters"]["request"]
    assert request["args"]["build-arg:TOKEN"] == "<redacted>"
    assert request["secrets"] == [{"id": "s"}]
    assert "startedOn" in provenance["runDetails"]["metadata"]
    steps = provenance["buildDefinition"]["internalParameters"]["buildConfig"]["llbDefinition"]
    assert any("exec" in step["op"]["op"] for step in steps)
    (base,) = provenance["buildDefinition"]["resolvedDependencies"]
    assert base["uri"].startswith("pkg:docker/busybox@latest?platform=linux%2F")
    assert len(base["digest"]["sha256"]) == 64
    (info,) = provenance["runDetails"]["metadata"]["buildkit_metadata"]["source"]["infos"]
    assert base64.b64decode(info["data"]).decode() == TEXT
    packages = {package["name"]: package for package in found[SPDX]["predicate"]["packages"]}
    assert "bash" in packages
    assert "gone" not in packages
    shown = kedge("manifest", "inspect", "--format", "table", name).stdout
    assert "provenance" in shown
    assert "sbom" in shown


def test_build_arguments_are_told_when_asked(kedge: Kedge, context: Path, tmp_path: Path) -> None:
    words = ("--secret", f"id=s,src={context}/secret", "--build-arg", "TOKEN=token-in-an-argument")
    meta = tmp_path / "meta.json"
    kedge.build(context, *words, "--provenance", "build-args=true", "--metadata-file", meta)
    provenance = json.loads(meta.read_text())["buildx.build.provenance"]
    args = provenance["buildDefinition"]["externalParameters"]["request"]["args"]
    assert args["build-arg:TOKEN"] == "token-in-an-argument"
    assert "buildConfig" not in provenance["buildDefinition"]["internalParameters"], "mode=min"


def test_an_image_of_the_store_takes_its_attestations_along(kedge: Kedge, context: Path, registry: str) -> None:
    name = f"{registry}/attest/later:1"
    kedge.build(context, "--secret", f"id=s,src={context}/secret", "-t", name, "--provenance=true", "--sbom=true")
    shown = kedge("manifest", "inspect", "--local", "--format", "table", name).stdout
    (sbom,) = (line.split()[1] for line in shown.splitlines() if line.strip().startswith("sbom"))
    blob = kedge.store / "blobs" / "sha256" / sbom.removeprefix("sha256:")
    assert blob.exists()
    kedge("prune", "--all", "--force")
    kedge("push", "-q", name)
    digest = "sha256:" + hashlib.sha256(fetch(registry, "attest/later/manifests/1")).hexdigest()
    assert len(referrers(registry, "attest/later", digest)) == 2
    kedge("rmi", name)
    kedge("prune", "--all", "--force")
    assert not blob.exists()


@pytest.fixture
def attested(kedge: Kedge, tmp_path: Path, registry: str) -> tuple[str, str]:
    """An image with attestations in a registry, and not in the store: its name and digest."""
    folder = write_tree(tmp_path / "attested", {"Dockerfile": "FROM scratch\nCOPY f /f\n", "f": tmp_path.name})
    name = f"{registry}/travel/{tmp_path.name}:1".replace("_", "-").lower()
    kedge.build(folder, "-t", name, "--push", "--provenance", "--sbom")
    kedge("prune", "--all", "--force")
    repository = name.partition("/")[2].removesuffix(":1")
    return name, "sha256:" + hashlib.sha256(fetch(registry, f"{repository}/manifests/1")).hexdigest()


def forget(kedge: Kedge, name: str) -> None:
    kedge("rmi", name)
    kedge("prune", "--all", "--force")


def attestations_of(kedge: Kedge, *words: str) -> set[str]:
    """What `kedge manifest inspect` shows below an image."""
    shown = kedge("manifest", "inspect", "--format", "table", *words).stdout
    return {line.split()[0] for line in shown.splitlines() if line.startswith("  ")}


BOTH = {"provenance", "sbom"}


def test_attestations_come_along_when_an_image_is_pulled(kedge: Kedge, attested: tuple[str, str]) -> None:
    name, digest = attested
    kedge("pull", "-q", name)
    assert attestations_of(kedge, "--local", name) == BOTH
    kedge("prune", "--all", "--force")
    assert attestations_of(kedge, "--local", name) == BOTH, "they are kept as long as the image is"
    other = name.replace("/travel/", "/pulled/")
    kedge("tag", name, other)
    kedge("push", "-q", other)
    registry, _, path = other.partition("/")
    assert len(referrers(registry, path.removesuffix(":1"), digest)) == 2
    kedge("rmi", other)
    forget(kedge, name)
    kedge("pull", "-q", "--no-referrers", name)
    assert attestations_of(kedge, "--local", name) == set()


def test_attestations_come_along_when_an_image_is_copied(
    kedge: Kedge, attested: tuple[str, str], tmp_path: Path
) -> None:
    name, _ = attested
    places = [name.replace("/travel/", f"/{word}/") for word in ("copied", "from-layout", "from-archive", "bare")]
    layout, archive = f"oci:{tmp_path}/layout:1", f"oci-archive:{tmp_path}/x.tar"
    kedge("copy", "-q", name, places[0], layout, archive)
    kedge("copy", "-q", f"oci:{tmp_path}/layout", places[1])
    kedge("copy", "-q", archive, places[2])
    assert [attestations_of(kedge, place) for place in places[:3]] == [BOTH] * 3
    kedge("copy", "-q", "--no-referrers", name, places[3])
    assert attestations_of(kedge, places[3]) == set()
    kedge("copy", "-q", places[2], "store:copied:1")
    assert attestations_of(kedge, "--local", "copied:1") == BOTH


def test_attestations_come_along_when_an_image_is_saved(
    kedge: Kedge, attested: tuple[str, str], tmp_path: Path
) -> None:
    name, _ = attested
    kedge("pull", "-q", name)
    kedge("save", "-o", tmp_path / "x.tar", name)
    kedge("save", "-o", tmp_path / "bare.tar", "--no-referrers", name)
    forget(kedge, name)
    loaded = kedge("load", "-i", tmp_path / "x.tar").stdout
    assert loaded == f"Loaded image: {name}\n"
    assert attestations_of(kedge, "--local", name) == BOTH
    forget(kedge, name)
    kedge("load", "-i", tmp_path / "bare.tar")
    assert attestations_of(kedge, "--local", name) == set()


def test_others_read_an_archive_with_attestations(kedge: Kedge, attested: tuple[str, str], tmp_path: Path) -> None:
    name, digest = attested
    kedge("pull", "-q", name)
    kedge("save", "-o", tmp_path / "x.tar", name)
    kedge("copy", "-q", f"store:{name}", f"oci:{tmp_path}/layout:1")
    if not shutil.which("skopeo"):
        pytest.skip("skopeo is not installed")
    for source in (f"docker-archive:{tmp_path}/x.tar", f"oci-archive:{tmp_path}/x.tar:1", f"oci:{tmp_path}/layout:1"):
        done = subprocess.run(["skopeo", "inspect", source], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        if source.startswith("oci"):
            assert json.loads(done.stdout)["Digest"] == digest


def test_a_pull_tells_what_it_could_not_bring(kedge: Kedge, attested: tuple[str, str]) -> None:
    from kedge.registry.fake import FakeRegistry, answer

    with FakeRegistry() as fake:
        name = f"{fake.address}/x/y:1"
        kedge("copy", "-q", attested[0], name)
        fake.on("GET", r"/referrers/", answer(403), times=10)
        done = kedge("pull", "-q", name)
        assert done.stdout == f"{name}\n"
        assert "WARNING: what refers to" in done.stderr
        done = kedge("copy", "-q", name, f"{fake.address}/x/z:1", check=False)
        assert done.returncode != 0
        assert "1" not in fake.repository("x/z").tags


@pytest.mark.parametrize("artifact", ["true", "false"])
def test_entries_of_the_index_are_buildkits(kedge: Kedge, context: Path, registry: str, artifact: str) -> None:
    repository = f"attest/index-{artifact}"
    name = f"{registry}/{repository}:1"
    words = ("--secret", f"id=s,src={context}/secret", "-o", f"type=registry,oci-artifact={artifact}", "-t", name)
    kedge.build(context, *words, "--attest", "type=provenance,form=index", "--attest", "type=sbom,form=index")
    index = document(registry, f"{repository}/manifests/1")
    image, about = index["manifests"]
    assert about["platform"] == {"architecture": "unknown", "os": "unknown"}
    assert about["annotations"] == {
        "vnd.docker.reference.digest": image["digest"],
        "vnd.docker.reference.type": "attestation-manifest",
    }
    manifest = document(registry, f"{repository}/manifests/{about['digest']}")
    assert manifest.get("artifactType", "") == (
        "application/vnd.docker.attestation.manifest.v1+json" if artifact == "true" else ""
    )
    found = statements(registry, repository, manifest)
    assert found.keys() == {SLSA, SPDX}
    assert "startedOn" not in found[SLSA]["predicate"]["runDetails"]["metadata"]
    kedge.build(
        context, *words, "--no-cache", "--attest", "type=provenance,form=index", "--attest", "type=sbom,form=index"
    )
    assert document(registry, f"{repository}/manifests/1") == index, "the index is the same the second time"
    shown = kedge("manifest", "inspect", "--format", "table", name).stdout
    assert "provenance" in shown
    assert "sbom" in shown
    assert kedge("pull", "-q", name).stdout == f"{name}\n"
    if shutil.which("skopeo"):
        tls = "--src-tls-verify=false"
        for words in ([tls], [tls, "--all"]):
            target = f"oci:{context.parent}/layout-{len(words)}:x"
            subprocess.run(
                ["skopeo", "copy", "-q", *words, f"docker://{name}", target], check=True, capture_output=True
            )


@pytest.mark.parametrize("form", ["referrer", "index"])
def test_every_platform_has_its_own(kedge: Kedge, tmp_path: Path, registry: str, form: str) -> None:
    text = "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /x.dist-info/METADATA\n"
    files = {name: f"Name: for-{name}\nVersion: 1\n" for name in ("amd64", "arm64")}
    folder = write_tree(tmp_path / "c", {"Dockerfile": text} | files)
    repository, meta = f"attest/both-{form}", tmp_path / "meta.json"
    kedge.build(
        folder,
        *("--platform", "linux/amd64,linux/arm64", "-t", f"{registry}/{repository}:1", "--push"),
        *("--attest", f"type=sbom,form={form}", "--attest", f"type=provenance,form={form}", "--metadata-file", meta),
    )
    index = document(registry, f"{repository}/manifests/1")
    images = [entry for entry in index["manifests"] if entry["platform"]["os"] == "linux"]
    assert len(index["manifests"]) == (2 if form == "referrer" else 4)
    for image in images:
        architecture, digest = image["platform"]["architecture"], image["digest"]
        manifests = referrers(registry, repository, digest) if form == "referrer" else [
            document(registry, f"{repository}/manifests/{entry['digest']}")
            for entry in index["manifests"]
            if (entry.get("annotations") or {}).get("vnd.docker.reference.digest") == digest
        ]  # fmt: skip
        found: dict[str, Any] = {}
        for manifest in manifests:
            found |= statements(registry, repository, manifest)
        names = {package["name"] for package in found[SPDX]["predicate"]["packages"]}
        assert f"for-{architecture}" in names
        assert len(names) == 2
        assert all(one["subject"][0]["digest"]["sha256"] == digest[7:] for one in found.values())
    keys = json.loads(meta.read_text()).keys()
    assert {f"buildx.build.provenance/linux/{name}" for name in files} <= keys


def test_an_archive_with_attestations_is_read_by_others(kedge: Kedge, context: Path, tmp_path: Path) -> None:
    if not shutil.which("skopeo"):
        pytest.skip("skopeo is not installed")
    for form, source in (("index", ""), ("referrer", ":1")):
        archive = tmp_path / f"{form}.tar"
        words = ("--secret", f"id=s,src={context}/secret", "-o", f"type=oci,dest={archive}", "-t", "attested:1")
        kedge.build(context, *words, "--attest", f"type=sbom,form={form}")
        done = subprocess.run(
            ["skopeo", "inspect", f"oci-archive:{archive}{source}"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert kedge("load", "-i", archive).stdout
        assert b"in-toto" in archive.read_bytes()


@pytest.mark.parametrize("form", ["index", "referrer"])
def test_an_archive_for_docker_keeps_attestations(kedge: Kedge, context: Path, tmp_path: Path, form: str) -> None:
    archive = tmp_path / "x.tar"
    words = ("--secret", f"id=s,src={context}/secret", "-o", f"type=docker,dest={archive}", "-t", "attested:1")
    kedge.build(context, *words, "--attest", f"type=sbom,form={form}")
    with tarfile.open(archive) as tar:
        assert b"in-toto" in archive.read_bytes()
        (entry,) = json.load(tar.extractfile("manifest.json") or io.BytesIO())
        config = json.load(tar.extractfile(entry["Config"]) or io.BytesIO())
    assert entry["RepoTags"] == ["attested:1"]
    assert len(entry["Layers"]) == len(config["rootfs"]["diff_ids"]) == 2
    assert kedge("load", "-i", archive).stdout == "Loaded image: attested:1\n"
    assert attestations_of(kedge, "--local", "attested:1") == {"sbom"}
    if not shutil.which("skopeo"):
        pytest.skip("skopeo is not installed")
    subprocess.run(["skopeo", "inspect", f"docker-archive:{archive}"], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--provenance", "mode=most"), "expected min or max"),
        (("--attest", "type=sbom,form=letter"), "expected referrer or index"),
        (("--sbom", "generator=Not/A/Name"), "Not/A/Name"),
        (("--attest", "type=sbom,colour=red"), "unknown sbom attribute"),
        (("--sbom", "-o", "type=image,oci-mediatypes=false"), "need OCI media types"),
    ],
)
def test_what_cannot_be_meant_is_refused(kedge: Kedge, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    folder = write_tree(tmp_path / "c", {"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
    done = kedge("build", *words, folder, check=False)
    assert done.returncode != 0
    assert message in done.stderr


def test_credentials_of_a_git_context_are_not_told(kedge: Kedge, tmp_path: Path) -> None:
    work = write_tree(tmp_path / "work", {"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
    git = ["git", "-C", str(work), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "one"],
                  ["remote", "add", "origin", "https://bob:hunter22@git.example/x.git"]):  # fmt: skip
        subprocess.run([*git, *words], check=True, capture_output=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    meta = tmp_path / "meta.json"
    kedge.build(work, "--provenance", "mode=max", "--metadata-file", meta)
    text = meta.read_text()
    assert "hunter22" not in text
    assert json.loads(text)["buildx.build.provenance"]["runDetails"]["metadata"]["buildkit_metadata"]["vcs"] == {
        "revision": commit,
        "source": "https://xxxxx:xxxxx@git.example/x.git",
    }


def test_plain_files_have_their_attestations_beside_them(kedge: Kedge, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "Dockerfile").write_text("FROM scratch\nARG TARGETARCH\nCOPY f /f-$TARGETARCH\n")
    (tmp_path / "mine").write_text("kept")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "provenance.json").symlink_to(tmp_path / "mine")
    (work / "f").write_text("hello")
    out = tmp_path / "out"
    kedge.build(work, "--provenance", "mode=max", "--output", f"type=local,dest={out}")
    assert (tmp_path / "mine").read_text() == "kept", "never through a link"
    statement = json.loads((out / "provenance.json").read_text())
    (subject,) = statement["subject"]
    assert subject["digest"]["sha256"] == hashlib.sha256(b"hello").hexdigest()
    kedge.build(
        work, "--provenance", "true", "--platform", "linux/amd64,linux/arm64",
        "--output", f"type=local,dest={tmp_path / 'both'},platform-split=false",
    )  # fmt: skip
    names = {path.name for path in (tmp_path / "both").iterdir()}
    assert names == {"f-amd64", "f-arm64", "provenance.linux_amd64.json", "provenance.linux_arm64.json"}


def test_plain_files_in_a_tar_have_their_attestations_behind_them(kedge: Kedge, tmp_path: Path) -> None:
    work = write_tree(tmp_path / "work", {"Dockerfile": "FROM scratch\nCOPY . /\n", "f": "hello"})
    work.joinpath(os.fsdecode(b"\xff")).write_text("a name that is no text")
    words = ("--provenance", "true", "--sbom", "--platform", "linux/amd64,linux/arm64")
    outputs = [f"type={kind},dest={tmp_path}/{kind},attestation-prefix=x." for kind in ("tar", "local")]
    for _ in range(2):  # the second time over the files of the first
        kedge.build(work, *words, "--output", outputs[0], "--output", outputs[1])
    with tarfile.open(tmp_path / "tar") as tar:
        members = {member.name: member for member in tar}
        statement = json.load(tar.extractfile("linux_arm64/x.provenance.json") or io.BytesIO())
    assert list(members)[-2:] == ["linux_arm64/x.provenance.json", "linux_arm64/x.sbom.spdx.json"]
    assert {one["name"] for one in statement["subject"]} == {"Dockerfile", "f", "\ufffd"}
    beside = tmp_path / "local" / "linux_arm64" / "x.provenance.json"
    assert members["linux_arm64/x.provenance.json"].mode == beside.stat().st_mode & 0o777 == 0o600
    assert json.loads(beside.read_text())["subject"] == statement["subject"]


def test_an_attestation_that_is_for_images_only_is_for_no_other_output(kedge: Kedge, tmp_path: Path) -> None:
    work = write_tree(tmp_path / "work", {"Dockerfile": "FROM scratch\nCOPY f /\n", "f": "hello"})
    asked = ("-t", "a:1", "--attest", "type=provenance,form=index,inline-only=true")
    wanted = {"oci": "", "docker": "", "oci-inline": ",attestation-inline=true", "tar": ""}
    for name, more in wanted.items():
        kedge.build(work, *asked, "-o", f"type={name.partition('-')[0]},dest={tmp_path}/{name}{more}")
    attested = [name for name in wanted if b"slsa" in (tmp_path / name).read_bytes()]
    assert attested == ["oci-inline"]
    kedge.build(work, *asked, "-o", "type=image,attestation-inline=false")
    assert attestations_of(kedge, "--local", "a:1") == set()
    kedge.build(work, *asked)
    assert attestations_of(kedge, "--local", "a:1") == {"provenance"}
