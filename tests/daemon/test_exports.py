"""What goes back to a client of BuildKit's API: archives, and what is told of them."""

import io
import json
import tarfile

import grpc
import pytest

from kedge.daemon.wire import control, gateway
from kedge.daemon.wire import exporter as wire

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


class Chooser:
    """A client that chooses its outputs when it knows the result."""

    def __init__(self, choose, refuses=None):
        self._choose, self._refuses, self.told = choose, refuses, None

    def FindExporters(self, request, context):
        return wire.FindExportersResponse(exporters=self._choose(request))

    def FinalizeExport(self, request, context):
        self.told = dict(request.exporter_response)
        if self._refuses:
            context.abort(*self._refuses)
        return wire.FinalizeExportResponse()


def build(connect, context, chooser, **fields):
    lent = {"context": context, "dockerfile": context}
    client = connect(directories=lent, more=((wire.services["Exporter"], chooser),))
    answer, _ = client.solve(Frontend=DOCKERFILE, EnableSessionExporter=True, **fields)
    return client, answer.ExporterResponse


def test_a_client_chooses_its_outputs_when_it_knows_the_result(connect, context):
    seen = []

    def choose(request):
        names = (("buildkit-controlapi-buildid", ref),)
        found = client.bridge.unary("ReadDir", gateway.ReadDirRequest(Ref=request.refs[0], DirPath="/"), metadata=names)
        seen.append(([one.path for one in found.entries], "containerimage.config" in request.metadata))
        return [wire.ExporterRequest(Type="oci", Attrs={"compression": "uncompressed"})]

    chooser = Chooser(choose)
    client = connect(
        directories={"context": context, "dockerfile": context}, more=((wire.services["Exporter"], chooser),)
    )
    request = client.request(Frontend=DOCKERFILE, EnableSessionExporter=True)
    ref = request.Ref
    client.control.unary("Solve", request, timeout=120)
    assert seen == [(["b.txt"], True)]
    assert index_of(client)["manifests"][0]["digest"] == chooser.told["containerimage.digest"]


def test_chosen_outputs_come_beside_those_asked_for(connect, context):
    chooser = Chooser(lambda request: [wire.ExporterRequest(Type="tar")])
    client, response = build(connect, context, chooser, Exporters=[exporter("oci")])
    assert set(client.received) == {"0", "1"}
    assert chooser.told == dict(response)


def test_a_client_may_have_no_choice_to_make(connect, context):
    client, response = build(connect, context, object(), Exporters=[exporter("oci")])
    assert set(client.received) == {"0"}
    assert "containerimage.digest" in response


@pytest.mark.parametrize(("code", "fails"), [("UNAVAILABLE", False), ("UNIMPLEMENTED", False), ("INTERNAL", True)])
def test_a_client_that_cannot_use_what_was_exported_fails_its_build(connect, context, code, fails):
    chooser = Chooser(lambda request: [], (grpc.StatusCode[code], "no room for it"))
    if not fails:
        build(connect, context, chooser)
        return
    with pytest.raises(grpc.RpcError, match="no room for it"):
        build(connect, context, chooser)


def test_an_output_of_an_unknown_kind_is_refused_whoever_chose_it(connect, context):
    with pytest.raises(grpc.RpcError, match="could not be found"):
        build(connect, context, Chooser(lambda request: [wire.ExporterRequest(Type="floppy")]))


@pytest.mark.parametrize("attrs", [{"build-arg:SOURCE_DATE_EPOCH": "999999999999"}, {}])
def test_an_epoch_beyond_all_years_is_refused(connect, context, attrs):
    client = connect(directories={"context": context, "dockerfile": context})
    asked = {} if attrs else {"source-date-epoch": "999999999999"}
    with pytest.raises(grpc.RpcError) as caught:
        client.solve(Frontend=DOCKERFILE, FrontendAttrs=attrs, Exporters=[exporter("oci", **asked)])
    assert caught.value.code() is grpc.StatusCode.UNKNOWN
    assert "epoch" in caught.value.details().lower()


@pytest.mark.parametrize(
    ("attrs", "fails"), [({"ignore-error": "true"}, False), ({}, False), ({"ignore-error": "false"}, True)]
)
def test_a_cache_that_the_client_cannot_take_fails_the_build_only_where_that_is_asked_for(
    connect, context, attrs, fails
):
    client = connect(directories={"context": context, "dockerfile": context})
    local = control.CacheOptionsEntry(Type="local", Attrs={"dest": "/home/é"} | attrs)
    fields = {"Frontend": DOCKERFILE, "Cache": control.CacheOptions(Exports=[local])}
    if fails:
        with pytest.raises(grpc.RpcError, match="not printable ASCII"):
            client.solve(**fields)
        return
    _, status = client.solve(**fields)
    assert "not printable ASCII" in "".join(one.short.decode() for one in status.warnings)
