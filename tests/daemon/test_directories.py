"""A client's directory, of which only the names are wanted but for some files."""

import io
import json
import os
import struct
import tarfile

import pytest

from kedge.daemon.buildkit.definition import encode
from kedge.daemon.sessions.receive import receive
from kedge.daemon.sessions.send import _converse
from kedge.daemon.wire import fsutil, fsutil_stat
from kedge.model.errors import Unsupported
from kedge.model.graph import Edge, Vertex
from kedge.model.ops import Source
from kedge.model.patterns import Patterns
from kedge.session.local import LocalSession
from kedge.session.session import Wanted
from tests.daemon.test_exports import exporter
from tests.daemon.transfers import Told


@pytest.fixture
def directory(tmp_path):
    for name in ("data", "dir/file1", "dir/file2", "dir/sub/bar1", "dir/other/bar2", "foo"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


def built(client, *only, **attrs):
    """The files of the graph's result, and the names that stand in the one that tells them."""
    attrs = {"metadatatransfer": "true", "metadatatransferexclude": json.dumps(only), **attrs}
    source = Source("local://mine", tuple(sorted((f"local.{key}", value) for key, value in attrs.items())))
    client.solve(Definition=encode(Edge(Vertex(source))), Exporters=[exporter("tar")])
    with tarfile.open(fileobj=io.BytesIO(client.received["0"])) as archive:
        files = {one.name: archive.extractfile(one).read() for one in archive.getmembers() if one.isfile()}
        folders = {one.name for one in archive.getmembers() if one.isdir()}
    data, names = files.pop(".fsutil-metadata"), []
    while data:
        (size,) = struct.unpack("<I", data[:4])
        names.append(fsutil_stat.Stat.FromString(data[4 : 4 + size]).path)
        data = data[4 + size :]
    return files, folders, names


ALL = ["data", "dir", "dir/file1", "dir/file2", "dir/other", "dir/other/bar2", "dir/sub", "dir/sub/bar1", "foo"]


def test_only_what_is_wanted_comes_and_the_names_of_all(connect, directory):
    client = connect(directories={"mine": directory})
    files, folders, names = built(client, "dir/**/*1", "foo")
    assert files == {"dir/file1": b"dir/file1", "dir/sub/bar1": b"dir/sub/bar1", "foo": b"foo"}
    assert folders == {"dir", "dir/sub"}
    assert names == ALL
    assert set(client.requested) == set(files)


def test_what_is_other_the_next_time_is_other(connect, directory):
    client = connect(directories={"mine": directory})
    built(client, "foo", "dir/file1")
    (directory / "foo").unlink()
    (directory / "dir" / "file1").write_text("changed")
    (directory / "new").write_text("new")
    files, _, names = built(client, "foo", "dir/file1")
    assert files == {"dir/file1": b"changed"}
    assert names == [name for name in ALL if name != "foo"] + ["new"]


def test_names_and_files_of_one_directory_do_not_mix(connect, directory):
    client = connect(directories={"mine": directory})
    built(client, "foo")
    client.solve(Definition=encode(Edge(Vertex(Source("local://mine")))), Exporters=[exporter("tar")])
    with tarfile.open(fileobj=io.BytesIO(client.received["0"])) as archive:
        assert sorted(archive.getnames()) == ALL
    assert built(client)[0] == {}


def test_a_clients_own_file_of_that_name_is_left_out(connect, directory):
    (directory / ".fsutil-metadata").write_text("mine")
    assert built(connect(directories={"mine": directory}), "**")[2] == ALL


def test_a_link_to_what_is_left_out_is_a_file_of_its_own(tmp_path):
    def packets():
        for told in ({"path": b"one", "mode": 0o644, "size": 4}, {"path": b"two", "mode": 0o644, "linkname": b"one"}):
            yield fsutil.Packet(type=fsutil.Packet.PACKET_STAT, stat=fsutil.RawStat(**told))
        yield fsutil.Packet(type=fsutil.Packet.PACKET_STAT)
        yield fsutil.Packet(type=fsutil.Packet.PACKET_DATA, ID=1, data=b"data")
        yield fsutil.Packet(type=fsutil.Packet.PACKET_DATA, ID=1)
        yield fsutil.Packet(type=fsutil.Packet.PACKET_FIN)

    call = Told(packets())
    receive(call, tmp_path, lambda size, done: None, only=Patterns(["two"]))
    assert (tmp_path / "two").read_bytes() == b"data"
    assert [one.ID for one in call.answers if one.type == fsutil.Packet.PACKET_REQ] == [1]
    assert sorted(os.listdir(tmp_path)) == [".fsutil-metadata", "two"]


def test_names_that_are_no_utf8_come_and_go_as_they_are(connect, tmp_path):
    odd = os.fsencode(tmp_path) + b"/mine/caf\xe9"
    (tmp_path / "mine").mkdir()
    with open(odd, "wb") as file:
        file.write(b"latin")
    os.symlink(b"caf\xe9", os.fsencode(tmp_path) + b"/mine/l\xefnk")
    client = connect(directories={"mine": tmp_path / "mine"})
    graph = encode(Edge(Vertex(Source("local://mine"))))
    client.solve(Definition=graph, Exporters=[exporter("tar")])
    with tarfile.open(fileobj=io.BytesIO(client.received["0"]), encoding="utf-8", errors="surrogateescape") as archive:
        told = {one.name: one.linkname for one in archive.getmembers()}
    assert told == {"caf\udce9": "", "l\udcefnk": "caf\udce9"}
    there = Told([fsutil.Packet(type=fsutil.Packet.PACKET_REQ, ID=0), fsutil.Packet(type=fsutil.Packet.PACKET_FIN)])
    _converse(there, tmp_path / "mine")
    stats = [(one.stat.path, one.stat.linkname) for one in there.answers if one.HasField("stat")]
    assert stats == [(b"caf\xe9", b""), (b"l\xefnk", b"caf\xe9")]
    assert [one.data for one in there.answers if one.data] == [b"latin"]


def test_a_directory_in_place_is_not_taken_apart(directory):
    with pytest.raises(Unsupported):
        LocalSession({"mine": directory}).directory("mine", Wanted(only=()))
    assert sorted(os.listdir(directory)) == ["data", "dir", "foo"]
