"""What a client's content store may give, and what it may not make us take."""

import itertools
import json

import pytest

from kedge.daemon.sessions import layouts
from kedge.daemon.sessions.layouts import LentFiles, receive_layout
from kedge.daemon.wire import content
from kedge.model.digest import sha256
from kedge.model.errors import IntegrityError, InvalidInput, KedgeError, StoreError


class Stream:
    def __init__(self, pieces):
        self.pieces, self.cancelled = iter(pieces), False

    def __iter__(self):
        return self

    def __next__(self):
        if self.cancelled:
            raise AssertionError("read after its end")
        return content.ReadContentResponse(data=next(self.pieces))

    def cancel(self):
        self.cancelled = True


class Session:
    """A client's session with some blobs: bytes, or a function that gives endless pieces."""

    def __init__(self):
        self.blobs, self.sizes, self.streams = {}, {}, []

    def add(self, data):
        self.blobs[sha256(data)] = data
        return {"digest": sha256(data), "size": len(data)}

    def calls(self, service):
        return self

    def unary(self, method, request, **options):
        size = self.sizes.get(request.digest, len(self.blobs[request.digest]))
        return content.InfoResponse(info=content.Info(digest=request.digest, size=size))

    def listen(self, method, request, **options):
        data = self.blobs[request.digest]
        endless = request.digest in self.sizes
        pieces = (
            itertools.cycle([data]) if endless else (data[at : at + 7] for at in range(request.offset, len(data), 7))
        )
        self.streams.append(Stream(pieces))
        return self.streams[-1]


def manifest(session, *layers):
    return session.add(json.dumps({"mediaType": "m", "layers": layers, "config": session.add(b"{}")}).encode())


def test_a_cache_is_copied_whole(tmp_path):
    session = Session()
    root = manifest(session, session.add(b"one" * 100), session.add(b"two"))
    receive_layout(session, "s", root["digest"], tmp_path)
    assert {path.read_bytes() for path in (tmp_path / "blobs" / "sha256").iterdir()} == set(session.blobs.values())
    assert json.loads((tmp_path / "index.json").read_text())["manifests"][0]["mediaType"] == "m"
    assert all(stream.cancelled for stream in session.streams)


@pytest.mark.parametrize("claimed", [7, 700_000])
def test_a_blob_that_does_not_end_is_cut_where_its_descriptor_says(tmp_path, claimed):
    session = Session()
    layer = session.add(b"x" * 70)
    session.sizes[layer["digest"]] = 1 << 50  # what the client says of it, and sends forever
    root = manifest(session, layer | {"size": claimed})
    with pytest.raises(IntegrityError):
        receive_layout(session, "s", root["digest"], tmp_path)
    assert len(list((tmp_path / "blobs" / "sha256").iterdir())) == 1


def test_a_root_that_does_not_end_is_no_document(tmp_path, monkeypatch):
    monkeypatch.setattr(layouts, "_LARGEST_DOCUMENT", 1000)
    session = Session()
    root = session.add(b"{}")
    session.sizes[root["digest"]] = 1 << 50
    with pytest.raises(IntegrityError):
        receive_layout(session, "s", root["digest"], tmp_path)


def test_more_than_there_is_room_for_is_not_begun(tmp_path):
    session = Session()
    root = manifest(session, session.add(b"x") | {"size": 1 << 60})
    with pytest.raises(StoreError):
        receive_layout(session, "s", root["digest"], tmp_path)


def test_a_cache_has_no_more_blobs_than_it_may(tmp_path, monkeypatch):
    monkeypatch.setattr(layouts, "_MOST_BLOBS", 10)
    session = Session()
    root = manifest(session, *(session.add(b"%d" % number) for number in range(20)))
    with pytest.raises(InvalidInput):
        receive_layout(session, "s", root["digest"], tmp_path)


@pytest.mark.parametrize(
    "data",
    [b"", b"[", b"[]", b"null", b'{"layers": 1}', b'{"layers": [1]}', b'{"layers": [{"digest": "x", "size": 1}]}',
     b'{"layers": [{"digest": "sha256:", "size": "y"}]}', b"[" * 100_000],
)  # fmt: skip
def test_what_is_no_manifest_names_nothing(tmp_path, data):
    session = Session()
    try:
        receive_layout(session, "s", session.add(data)["digest"], tmp_path)
    except KedgeError:
        return
    assert len(list((tmp_path / "blobs" / "sha256").iterdir())) == 1


def test_reading_stops_where_the_client_said_the_blob_ends():
    session = Session()
    blob = session.add(b"0123456789")
    with LentFiles(session, "s").open("blobs/" + blob["digest"].replace(":", "/")) as file:
        assert file.read(3) == b"012"
        file.seek(8)
        assert file.read() == b"89"
        assert file.read() == b""
    assert all(stream.cancelled for stream in session.streams)


def test_a_blob_of_a_lent_layout_is_a_file(tmp_path):
    from kedge.daemon.sessions.layouts import LentLayouts
    from kedge.model.digest import digest_of
    from kedge.model.ops import Source
    from kedge.model.platform import Platform
    from kedge.sources.blob import BlobSource
    from kedge.sources.handler import Work
    from kedge.storage.store import Store

    session = Session()
    blob = session.add(b"0123456789" * 10)
    source = Source(f"oci-layout+blob://not/real@{blob['digest']}", (("http.filename", "f"), ("oci.store", "s")))
    with Store.open(tmp_path / "store") as store:
        handler = BlobSource(store, LentLayouts(store, Platform("linux", "amd64"), lambda id: session), "none")
        work = Work(digest_of("test"))
        (layer,) = handler.fetch(source, None, handler.pin(source, None, work), work)
        assert (store.layers.directory(layer) / "f").read_bytes() == b"0123456789" * 10
        session.blobs[blob["digest"]] = b"x" * 100
        other = session.add(b"y" * 10)
        session.blobs[other["digest"]] = b"z" * 10
        lying = Source(f"oci-layout+blob://not/real@{other['digest']}", (("oci.store", "s"),))
        with pytest.raises(IntegrityError):
            handler.fetch(lying, None, handler.pin(lying, None, work), work)
