"""Files by http: names, modes, revalidation, and servers that do wrong. Real HTTP on loopback."""

import hashlib
import http.server
import os
import threading

import pytest

from kedge.model.digest import digest_of
from kedge.model.errors import IntegrityError, InvalidInput, SourceError
from kedge.model.ops import Source
from kedge.session.local import LocalSession
from kedge.session.secrets import Secret
from kedge.sources.handler import Work
from kedge.sources.http import HttpSource, file_name
from kedge.sources.once import Once
from kedge.storage.store import Store


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        self.seen, self.methods, self.answer = [], [], None
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, path):
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.server.methods.append(self.command)
        self.server.answer(self)

    def do_GET(self):
        self.server.methods.append(self.command)
        self.server.seen.append((self.path, {name.title(): value for name, value in self.headers.items()}))
        self.server.answer(self)

    def log_message(self, *_):
        pass


def plain(body, status=200, **headers):
    def answer(handler):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)

    return answer


@pytest.fixture
def server():
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store") as store:
        yield store


def bring(store, url, secrets=(), **attrs):
    """(name, content, status of the file) and the pin's digest."""
    handler = HttpSource(store, LocalSession(secrets=secrets))
    source = Source(url, tuple(sorted((f"http.{k.replace('_', '.')}", v) for k, v in attrs.items())))
    work = Work(digest_of(url))
    pin = handler.pin(source, None, work)
    (layer,) = handler.fetch(source, None, pin, work)
    directory = store.layers.directory(layer)
    (path,) = directory.iterdir()
    return path.name, path.read_bytes(), path.stat(), pin


def test_a_file_is_private_and_as_old_as_the_server_says(server, store):
    server.answer = plain(b"body", Last_Modified="Tue, 01 Jan 2019 00:00:00 GMT")
    name, content, status, _ = bring(store, server.url("/dir/file.txt?token=x"))
    assert (name, content, oct(status.st_mode & 0o777)) == ("file.txt", b"body", "0o600")
    assert status.st_mtime == 1546300800
    assert len(server.seen) == 1  # what was downloaded to pin it is what is fetched


def test_without_a_time_it_is_as_old_as_the_epoch(server, store):
    server.answer = plain(b"")
    assert bring(store, server.url("/x"))[2].st_mtime == 0


@pytest.mark.parametrize(
    ("url", "given", "disposition", "name"),
    [
        ("http://h/a/b.tar.gz", "", "", "b.tar.gz"),
        ("http://h/a/", "", "", "a"),
        ("http://h/", "", "", "download"),
        ("http://h", "", "", "download"),
        ("http://h/%2e%2e%2fetc", "", "", "etc"),
        ("http://h/..", "", "", "download"),
        ("http://h/a", "", 'attachment; filename="../../etc/passwd"', "passwd"),
        ("http://h/a", "", "attachment; filename=b.txt", "b.txt"),
        ("http://h/a", "", 'attachment; filename="dir/"', "a"),
        ("http://h/a", "", 'attachment; filename="\x01"', "download"),
        ("http://h/a", "c", "attachment; filename=b", "c"),
        ("http://h/a", "../../c", "", "c"),
        ("http://h/" + "x" * 300, "", "", "download"),
    ],
)
def test_names(url, given, disposition, name):
    assert file_name(url, given, disposition) == name


def test_mode_and_owner_attributes(server, store):
    server.answer = plain(b"x")
    _, _, status, _ = bring(store, server.url("/x"), perm="0755", uid="7", gid="8")
    assert status.st_mode & 0o777 == 0o755
    if os.geteuid() == 0:
        assert (status.st_uid, status.st_gid) == (7, 8)
    for wrong in ({"perm": "0999"}, {"uid": "-1"}, {"uid": "4294967296"}):
        with pytest.raises(InvalidInput):
            bring(store, server.url("/x"), **wrong)


def test_an_unchanged_file_is_not_sent_again(server, store):
    def answer(handler):
        if handler.headers.get("If-None-Match") == '"v1"':
            return plain(b"", 304, ETag='"v1"')(handler)
        return plain(b"body", ETag='"v1"')(handler)

    server.answer = answer
    first = bring(store, server.url("/x"))
    second = bring(store, server.url("/x"))
    assert first[3].digest == second[3].digest
    assert server.methods == ["GET", "HEAD"]
    assert second[1] == b"body"


def test_a_server_that_knows_no_head_is_asked_with_get(server, store):
    def answer(handler):
        if handler.command == "HEAD":
            return plain(b"", 405)(handler)
        unchanged = handler.headers.get("If-None-Match") == '"v1"'
        return plain(b"" if unchanged else b"body", 304 if unchanged else 200, ETag='"v1"')(handler)

    server.answer = answer
    assert bring(store, server.url("/x"))[1] == bring(store, server.url("/x"))[1] == b"body"
    assert server.methods == ["GET", "HEAD", "GET"]


def test_a_changed_file_has_another_pin(server, store):
    server.answer = plain(b"one", ETag='"1"')
    first = bring(store, server.url("/x"))
    server.answer = plain(b"two", ETag='"2"')
    second = bring(store, server.url("/x"))
    assert (first[1], second[1]) == (b"one", b"two")
    assert first[3].digest != second[3].digest


def test_a_checksum_pins_without_a_request_and_is_held_to(server, store):
    server.answer = plain(b"body")
    good = "sha256:" + hashlib.sha256(b"body").hexdigest()
    handler = HttpSource(store, LocalSession())
    source = Source(server.url("/x"), (("http.checksum", good),))
    handler.pin(source, None, Work(digest_of("x")))
    assert server.seen == []
    assert bring(store, server.url("/x"), checksum=good)[1] == b"body"
    with pytest.raises(IntegrityError, match="expected sha256:0000"):
        bring(store, server.url("/x"), checksum="sha256:" + "0" * 64)


def test_a_url_means_the_same_until_the_build_ends(server, store):
    server.answer = plain(b"one", ETag='"1"')
    asked, work, source = Once(), Work(digest_of("x")), Source(server.url("/x"))
    pin = HttpSource(store, LocalSession(), asked).pin(source, None, work)
    server.answer = plain(b"two", ETag='"2"')
    assert bring(store, server.url("/x"))[1] == b"two"  # another build, in the same store
    again = HttpSource(store, LocalSession(), asked)
    assert again.pin(source, None, work) == pin
    (layer,) = again.fetch(source, None, pin, work)
    assert (store.layers.directory(layer) / "x").read_bytes() == b"one"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_and_drop_credentials_for_other_hosts(server, store, status):
    other = Server()
    other.answer = plain(b"there")
    server.answer = plain(b"", status, Location=f"http://localhost:{other.server_port}/target")
    _, content, _, _ = bring(store, server.url("/x").replace("//", "//user:pass@"))
    assert content == b"there"
    assert "Authorization" in server.seen[0][1]
    assert "Authorization" not in other.seen[0][1]
    other.shutdown()
    other.server_close()


def test_endless_redirects_end(server, store):
    server.answer = plain(b"", 302, Location="/again")
    with pytest.raises(SourceError):
        bring(store, server.url("/x"))
    assert len(server.seen) < 20


@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_an_error_status_is_told_without_secrets(server, store, status):
    server.answer = plain(b"no", status)
    with pytest.raises(SourceError) as raised:
        bring(store, server.url("/x?token=hunter2").replace("//", "//user:hunter2@"))
    assert str(status) in raised.value.message
    assert "hunter2" not in raised.value.message


def test_a_short_body_is_no_file(server, store):
    def answer(handler):
        plain(b"half", Content_Length="8")(handler)
        handler.close_connection = True

    server.answer = answer
    with pytest.raises(SourceError):
        bring(store, server.url("/x"))


def test_no_server(store):
    with pytest.raises(SourceError, match="cannot connect"):
        bring(store, "http://127.0.0.1:1/x")


def test_a_secret_header_goes_to_its_host(server, store):
    server.answer = plain(b"x")
    bring(store, server.url("/x"), [Secret("TOKEN", data=b"Bearer abc\n")], authheadersecret="TOKEN")
    assert server.seen[0][1]["Authorization"] == "Bearer abc"


def test_only_harmless_headers_may_be_set_by_a_graph(server, store):
    server.answer = plain(b"x")
    bring(store, server.url("/x"), header_accept="a/b", header_cookie="c", header_authorization="d")
    headers = server.seen[0][1]
    assert headers["Accept"] == "a/b"
    assert "Cookie" not in headers
    assert "Authorization" not in headers


def test_a_stop_does_not_wait_for_a_slow_server(server, store):
    import time

    from kedge.model.errors import Cancelled

    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "10")
        handler.end_headers()
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(60)

    server.answer = answer
    handler, work = HttpSource(store, LocalSession()), Work(digest_of("x"))
    threading.Timer(0.3, work.cancel.set).start()
    begun = time.monotonic()
    with pytest.raises(Cancelled):
        handler.pin(Source(server.url("/x")), None, work)
    assert time.monotonic() - begun < 30


def test_what_the_client_has_for_a_host_is_sent_there(store, server):
    server.answer = plain(b"1")
    bring(store, server.url("/x"), [Secret("HTTP_AUTH_TOKEN_127.0.0.1", data=b"abc\n")])
    assert server.seen[0][1]["Authorization"] == "Bearer abc"
    bring(store, server.url("/x"), [Secret("HTTP_AUTH_HEADER_127.0.0.1", data=b"Basic x")])
    assert server.seen[-1][1]["Authorization"] == "Basic x"


def test_a_header_of_the_clients_takes_the_place_of_ours(store, server):
    server.answer = plain(b"1")
    bring(store, server.url("/x"), **{"header.user-agent": "theirs"})
    agents = [value for name, value in server.seen[0][1].items() if name.lower() == "user-agent"]
    assert agents == ["theirs"]
