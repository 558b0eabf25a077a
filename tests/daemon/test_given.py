"""Results that a driver puts together itself: several platforms, configs, annotations, attestations."""

import io
import json
import tarfile

import grpc
import pytest

from kedge.daemon.buildkit.definition import encode
from kedge.daemon.wire import gateway
from kedge.model.graph import Edge, Vertex
from kedge.model.ops import File, MakeDir, MakeFile
from tests.daemon.driver import Driver
from tests.daemon.test_control import exporter

PLATFORMS = {"linux/amd64": {"os": "linux", "architecture": "amd64"}, "arm": {"os": "linux", "architecture": "arm64"}}


def files(**content):
    made = [MakeDir("/d", 0o755, False, -1, -1)]
    for name, text in content.items():
        made.append(MakeFile(f"/d/{name}.json", text.encode(), 0o644, len(made) - 1, -1))
    made[-1] = MakeFile(made[-1].path, made[-1].data, 0o644, len(made) - 2, 0)
    return Edge(Vertex(File(tuple(made))))


def result(driver, **attestations):
    refs = {key: driver.solve(files(one=key), evaluate=False).ref for key in PLATFORMS}
    told = [{"ID": key, "Platform": value} for key, value in PLATFORMS.items()]
    metadata = {
        "refs.platforms": json.dumps({"Platforms": told}).encode(),
        "annotation-manifest.said": b"by the driver",
    }
    return gateway.Result(refs=gateway.RefMap(refs=refs), metadata=metadata, attestations=attestations)


def read(client):
    """The documents of an archive by digest, and its index."""
    blobs = {}
    with tarfile.open(fileobj=io.BytesIO(client.received["0"])) as archive:
        for one in archive.getmembers():
            if one.isfile():
                blobs[one.name.replace("blobs/sha256/", "sha256:")] = archive.extractfile(one).read()
    index = json.loads(blobs["index.json"])
    return blobs, json.loads(blobs[index["manifests"][0]["digest"]])


def test_each_result_is_an_image_of_the_platform_that_it_is_said_to_be_for(connect):
    client = connect()
    driver = Driver(client, Exporters=[exporter("oci")])
    driver.end(result(driver))
    blobs, index = read(client)
    assert [one["platform"]["architecture"] for one in index["manifests"]] == ["amd64", "arm64"]
    for one in index["manifests"]:
        assert json.loads(blobs[one["digest"]])["annotations"]["said"] == "by the driver"


def test_a_result_by_platform_has_an_index_though_it_be_one(connect):
    client = connect()
    driver = Driver(client, Exporters=[exporter("oci", **{"annotation-index.a": "1"})])
    told = {"Platforms": [{"ID": "arm", "Platform": PLATFORMS["arm"]}]}
    refs = gateway.RefMap(refs={"arm": driver.solve(files(one="1"), evaluate=False).ref})
    driver.end(gateway.Result(refs=refs, metadata={"refs.platforms": json.dumps(told).encode()}))
    _, index = read(client)
    assert index["annotations"] == {"a": "1"}
    assert [one["platform"]["architecture"] for one in index["manifests"]] == ["arm64"]


def test_attestations_of_a_driver_are_attached_to_their_image(connect):
    client = connect()
    driver = Driver(client, Exporters=[exporter("oci")])
    statement = {
        "predicateType": "https://b",
        "predicate": {"in": "bundle"},
        "subject": [{"name": "x", "digest": {"sha256": "1"}}],
    }
    told = driver.solve(files(own=json.dumps({"a": 1}), empty=""), evaluate=False).ref
    bundle = driver.solve(files(all=json.dumps(statement)), evaluate=False).ref
    raw = gateway.InTotoSubject(kind=gateway.Raw, name="file", digest=["sha256:" + "a" * 64])
    itself = gateway.InTotoSubject(kind=gateway.Self)
    given = gateway.Attestations(
        attestation=[
            gateway.Attestation(ref=told, path="/d/own.json", inTotoPredicateType="https://a", inTotoSubjects=[itself]),
            gateway.Attestation(ref=told, path="/d/empty.json", inTotoPredicateType="https://c", inTotoSubjects=[raw]),
            gateway.Attestation(kind=gateway.Bundle, ref=bundle, path="/d"),
        ]
    )
    driver.end(result(driver, **{"linux/amd64": given}))
    blobs, index = read(client)
    (entry,) = (one for one in index["manifests"] if one["platform"]["architecture"] == "unknown")
    image = next(one["digest"] for one in index["manifests"] if one["platform"]["architecture"] == "amd64")
    assert entry["annotations"]["vnd.docker.reference.digest"] == image
    made = [json.loads(blobs[layer["digest"]]) for layer in json.loads(blobs[entry["digest"]])["layers"]]
    assert [one["predicateType"] for one in made] == ["https://a", "https://c", "https://b"]
    assert [one["predicate"] for one in made] == [{"a": 1}, None, {"in": "bundle"}]
    assert made[0]["subject"] == [{"name": "_", "digest": {"sha256": image[7:]}}]
    assert made[1]["subject"] == [{"name": "file", "digest": {"sha256": "a" * 64}}]
    assert made[2]["subject"] == statement["subject"]


@pytest.mark.parametrize(("core", "told"), [("own", True), ("", False), ("other", False)])
def test_a_drivers_bill_of_materials_is_told_the_layers_of_its_files(connect, core, told):
    """It says which of its attestations that is, by the name of its file."""
    client = connect()
    driver = Driver(client, Exporters=[exporter("oci")])
    document = {"files": [{"fileName": "/d/one.json"}, {"fileName": "/none"}]}
    one = gateway.Attestation(
        ref=driver.solve(files(own=json.dumps(document)), evaluate=False).ref,
        path="/d/own.json",
        inTotoPredicateType="https://spdx.dev/Document",
        metadata={"sbom-core": core.encode()} if core else {},
    )
    driver.end(result(driver, **{"linux/amd64": gateway.Attestations(attestation=[one])}))
    blobs, index = read(client)
    image = next(one["digest"] for one in index["manifests"] if one["platform"]["architecture"] == "amd64")
    (layer,) = json.loads(blobs[image])["layers"]
    entry = next(one["digest"] for one in index["manifests"] if one["platform"]["architecture"] == "unknown")
    (statement,) = (json.loads(blobs[layer["digest"]]) for layer in json.loads(blobs[entry])["layers"])
    comments = [file.get("comment") for file in statement["predicate"]["files"]]
    assert comments == [f"layerID: {layer['digest']}" if told else None, None]


@pytest.mark.parametrize(
    ("asked", "name"), [("*", "docker.io/library/theirs:1"), ("mine:2", "docker.io/library/mine:2")]
)
def test_a_driver_may_name_the_image_where_it_is_asked_to(connect, asked, name):
    driver = Driver(connect(), Exporters=[exporter("docker", name=asked)])
    ref = driver.solve(files(one="1"), evaluate=False).ref
    answer = driver.end(gateway.Result(ref=ref, metadata={"image.name": b"theirs:1"}))
    assert answer.ExporterResponse["image.name"] == name


@pytest.mark.parametrize(
    "change",
    [
        {"path": "/d/missing.json"},
        {"path": "/../../etc/passwd"},
        {"path": "/d"},
        {"path": "/d/no.json"},
        {"kind": 7},
        {"kind": gateway.Bundle, "path": "/d/own.json"},
        {"kind": gateway.Bundle, "path": "/d"},
        {"inTotoSubjects": [gateway.InTotoSubject(kind=9)]},
        {"ref": gateway.Ref(id="of another")},
    ],
)
def test_attestations_that_cannot_be_read_fail_the_build(connect, change):
    driver = Driver(connect(), Exporters=[exporter("oci")])
    told = driver.solve(files(own="[1]", no="{"), evaluate=False).ref
    one = gateway.Attestation(**{"ref": told, "path": "/d/own.json", "inTotoPredicateType": "https://a"} | change)
    try:
        answer = driver.end(result(driver, **{"linux/amd64": gateway.Attestations(attestation=[one])}))
    except grpc.RpcError:
        return  # refused before it was taken
    assert isinstance(answer, grpc.RpcError)
    assert answer.code() != grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("subject", [{"digest": "abc"}, {"digest": {"sha256": ["x"]}}, {"digest": [1]}, {"name": 5}])
def test_a_statement_with_a_subject_that_is_none_fails_the_build_and_no_more(connect, subject):
    client = connect()
    driver = Driver(client, Exporters=[exporter("oci")])
    statement = {"predicateType": "https://b", "predicate": {}, "subject": [subject]}
    told = driver.solve(files(all=json.dumps(statement)), evaluate=False).ref
    one = gateway.Attestation(kind=gateway.Bundle, ref=told, path="/d")
    answer = driver.end(result(driver, **{"linux/amd64": gateway.Attestations(attestation=[one])}))
    assert "subject" in answer.details()
    assert answer.code() != grpc.StatusCode.INTERNAL


def test_a_subject_of_no_digest_is_the_image(connect):
    client = connect()
    driver = Driver(client, Exporters=[exporter("oci")])
    subject = [{"name": "x", "digest": None}, {"digest": {}, "uri": "u"}]
    statement = {"predicateType": "https://b", "predicate": {}, "subject": subject}
    told = driver.solve(files(all=json.dumps(statement)), evaluate=False).ref
    one = gateway.Attestation(kind=gateway.Bundle, ref=told, path="/d")
    driver.end(result(driver, **{"linux/amd64": gateway.Attestations(attestation=[one])}))
    blobs, index = read(client)
    entry = next(one["digest"] for one in index["manifests"] if one["platform"]["architecture"] == "unknown")
    image = next(one["digest"] for one in index["manifests"] if one["platform"]["architecture"] == "amd64")
    (made,) = (json.loads(blobs[layer["digest"]]) for layer in json.loads(blobs[entry])["layers"])
    assert [one["digest"] for one in made["subject"]] == [{"sha256": image[7:]}] * 2


def solve_deep(driver, where):
    deep, asked = "[" * 100_000, {"allowResultReturn": True, "allowResultArrayRef": True}
    if where == "attributes":
        driver.call("Solve", gateway.SolveRequest(Final=True, ExporterAttr=deep.encode(), **asked))
    elif where == "metadata":
        attrs, inputs = {"input-metadata:context": deep}, {"context": encode(files(one="1"))}
        told = {"Frontend": "dockerfile.v0", "FrontendOpt": attrs, "FrontendInputs": inputs}
        driver.call("Solve", gateway.SolveRequest(**told, **asked))
    else:
        refs = gateway.RefMap(refs={"a": driver.solve(files(one="1"), evaluate=False).ref})
        raise driver.end(gateway.Result(refs=refs, metadata={"refs.platforms": deep.encode()}))


@pytest.mark.parametrize("where", ["platforms", "attributes", "metadata"])
def test_json_without_a_bottom_is_refused(connect, where):
    driver = Driver(connect(), Exporters=[exporter("oci")])
    with pytest.raises(grpc.RpcError) as caught:
        solve_deep(driver, where)
    assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNKNOWN)
