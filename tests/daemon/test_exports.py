"""What goes back to a client of BuildKit's API: archives, and what is told of them."""

import io
import json
import tarfile

import pytest

from kedge.daemon.wire import control

DOCKERFILE = "dockerfile.v0"


def exporter(kind, **attrs):
    return control.Exporter(Type=kind, Attrs=attrs)


def index_of(client):
    with tarfile.open(fileobj=io.BytesIO(client.received["0"])) as archive:
        return json.load(archive.extractfile("index.json"))


def test_a_client_is_told_an_archives_digest_before_its_first_byte(connect, context):
    client = connect(directories={"context": context, "dockerfile": context})
    response, _ = client.solve(Frontend=DOCKERFILE, Exporters=[exporter("oci", name="reg.test/a:1")])
    told = client.told["0"]
    assert told["containerimage.digest"] == index_of(client)["manifests"][0]["digest"]
    assert told["image.name"] == "reg.test/a:1"
    assert told["containerimage.descriptor"] == response.ExporterResponse["containerimage.descriptor"]


@pytest.mark.parametrize("kind", ["oci", "docker", "tar"])
def test_a_client_that_has_an_archive_already_is_not_sent_it(connect, context, kind):
    client = connect(directories={"context": context, "dockerfile": context}, declines=True)
    response, _ = client.solve(Frontend=DOCKERFILE, Exporters=[exporter(kind)])
    assert "0" not in client.received
    assert ("containerimage.digest" in response.ExporterResponse) == (kind != "tar")


@pytest.mark.parametrize(
    ("attrs", "created"), [({}, None), ({"build-arg:SOURCE_DATE_EPOCH": "86400"}, "1970-01-02T00:00:00Z")]
)
def test_an_archives_index_tells_the_epoch_where_there_is_one(connect, context, attrs, created):
    client = connect(directories={"context": context, "dockerfile": context})
    client.solve(Frontend=DOCKERFILE, FrontendAttrs=attrs, Exporters=[exporter("oci")])
    (entry,) = index_of(client)["manifests"]
    assert entry.get("annotations", {}).get("org.opencontainers.image.created") == created


def test_an_annotation_of_the_users_wins_over_the_epoch(connect, context):
    client = connect(directories={"context": context, "dockerfile": context})
    created = "org.opencontainers.image.created"
    attrs = {f"annotation-manifest-descriptor.{created}": "mine", "source-date-epoch": "86400"}
    client.solve(Frontend=DOCKERFILE, Exporters=[exporter("oci", **attrs)])
    assert index_of(client)["manifests"][0]["annotations"][created] == "mine"
