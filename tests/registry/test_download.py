"""Blobs that come broken, slow, longer, shorter, or as somebody else's."""

import random
import threading
import time

import pytest

from kedge.model.digest import Digest
from kedge.model.errors import Cancelled, IntegrityError, NotFound, RegistryError
from kedge.model.image import Descriptor
from kedge.model.reference import Reference, parse_reference
from kedge.model.settings import NetworkSettings, Settings
from kedge.registry.client import Registry
from kedge.registry.fake import FakeRegistry, answer, bend, header
from tests.registry.conftest import QUICK, Connect, Memory

DATA = random.Random(1).randbytes(3_000_000)


def at(fake: FakeRegistry) -> Reference:
    return parse_reference(f"{fake.address}/some/image")


def test_a_blob_arrives(fake: FakeRegistry, client: Registry) -> None:
    blob = fake.add_blob("some/image", DATA)
    sink, told = Memory(blob), []
    client.download(at(fake), blob, sink, lambda current, total: told.append((current, total)))
    assert sink.committed
    assert bytes(sink.data) == DATA
    assert told[-1] == (len(DATA), len(DATA))
    assert sorted(told) == told


def test_an_empty_blob_arrives(fake: FakeRegistry, client: Registry) -> None:
    blob = fake.add_blob("some/image", b"")
    sink = Memory(blob)
    client.download(at(fake), blob, sink)
    assert sink.committed


@pytest.mark.parametrize("seed", range(6))
def test_cut_connections_at_random_bytes_end_in_the_right_bytes(
    fake: FakeRegistry, client: Registry, seed: int
) -> None:
    blob = fake.add_blob("some/image", DATA)
    dice = random.Random(seed)
    for _ in range(4):
        fake.on("GET", "/blobs/", bend(cut_at=dice.choice([0, 1, dice.randrange(len(DATA))])))
    sink = Memory(blob)
    client.download(at(fake), blob, sink)
    assert bytes(sink.data) == DATA


def test_a_resumed_download_asks_only_for_the_rest(fake: FakeRegistry, client: Registry) -> None:
    blob = fake.add_blob("some/image", DATA)
    sink = Memory(blob, bytearray(DATA[:1_000_000]))
    client.download(at(fake), blob, sink)
    assert sink.committed
    assert fake.requests("GET", "/blobs/")[0].headers["range"] == "bytes=1000000-"


def test_a_server_without_ranges_sends_all_again_and_the_start_is_skipped(fake: FakeRegistry, client: Registry) -> None:
    fake.ranges = False
    blob = fake.add_blob("some/image", DATA)
    sink = Memory(blob, bytearray(DATA[:1_000_000]))
    client.download(at(fake), blob, sink)
    assert bytes(sink.data) == DATA


def test_wrong_bytes_of_an_earlier_attempt_are_thrown_away_once(fake: FakeRegistry, client: Registry) -> None:
    blob = fake.add_blob("some/image", DATA)
    sink = Memory(blob, bytearray(b"x" * 1000))
    client.download(at(fake), blob, sink)
    assert bytes(sink.data) == DATA


def test_more_bytes_than_the_blob_has_from_an_earlier_attempt(fake: FakeRegistry, client: Registry) -> None:
    blob = fake.add_blob("some/image", DATA)
    sink = Memory(blob, bytearray(DATA + b"more"))
    client.download(at(fake), blob, sink)
    assert bytes(sink.data) == DATA


@pytest.mark.parametrize(
    "lie",
    [
        DATA + b"x",
        DATA[:-1],
        b"x" + DATA[1:],
        b"",
    ],
    ids=["longer", "shorter", "different", "empty"],
)
def test_other_bytes_than_promised_are_refused(fake: FakeRegistry, client: Registry, lie: bytes) -> None:
    blob = fake.add_blob("some/image", DATA)
    fake.repository("some/image").blobs[blob.digest] = lie
    sink = Memory(blob)
    with pytest.raises(IntegrityError):
        client.download(at(fake), blob, sink)
    assert not sink.committed
    assert sink.offset <= blob.size
    with pytest.raises(IntegrityError), client.open_blob(at(fake), blob) as source:
        source.read()


def test_a_longer_body_without_a_length_is_refused(fake: FakeRegistry, client: Registry) -> None:
    blob = fake.add_blob("some/image", b"short")
    fake.on("GET", "/blobs/", bend(endless=True), -1)
    with pytest.raises(IntegrityError, match="more than"):
        client.download(at(fake), blob, Memory(blob))


@pytest.mark.parametrize("text", ["bytes 5-9/10", "bytes 1000-2999999/3000001", "bytes */10", "nonsense", None])
def test_another_range_than_asked_for_is_refused(fake: FakeRegistry, client: Registry, text: str | None) -> None:
    blob = fake.add_blob("some/image", DATA)
    fake.on("GET", "/blobs/", header("Content-Range", text), 1)
    sink = Memory(blob, bytearray(DATA[:1000]))
    client.download(at(fake), blob, sink)  # after the refusal, once more from the start
    assert bytes(sink.data) == DATA
    assert "range" not in fake.requests("GET", "/blobs/")[-1].headers


def test_a_missing_blob_is_not_found(fake: FakeRegistry, client: Registry) -> None:
    blob = Descriptor("x", Digest("sha256:" + "0" * 64), 4)
    with pytest.raises(NotFound):
        client.download(at(fake), blob, Memory(blob))


def test_a_registry_that_always_breaks_gives_up_with_a_clear_error(fake: FakeRegistry, client: Registry) -> None:
    blob = fake.add_blob("some/image", DATA)
    fake.on("GET", "/blobs/", bend(cut_at=0), -1)
    with pytest.raises(RegistryError, match="broke") as caught:
        client.download(at(fake), blob, Memory(blob))
    assert caught.value.retryable
    assert len(fake.requests("GET", "/blobs/")) == QUICK.attempts


def test_attempts_start_anew_while_bytes_keep_coming(fake: FakeRegistry, client: Registry) -> None:
    data = random.Random(2).randbytes(12_000_000)
    blob = fake.add_blob("some/image", data)
    for _ in range(QUICK.attempts * 2):
        fake.on("GET", "/blobs/", bend(drip=(1_100_000, 0.02), cut_at=1_100_000))
    sink = Memory(blob)
    client.download(at(fake), blob, sink)
    assert bytes(sink.data) == data


def test_a_server_that_says_nothing_meets_a_deadline(fake: FakeRegistry, connect: Connect) -> None:
    client = connect(network=NetworkSettings(attempts=1, timeout=0.5))
    blob = fake.add_blob("some/image", DATA)
    fake.on("GET", "/blobs/", bend(delay=60), -1)
    started = time.monotonic()
    with pytest.raises(RegistryError, match="stopped answering"):
        client.download(at(fake), blob, Memory(blob))
    assert time.monotonic() - started < 30


def test_a_slow_loris_meets_a_deadline(fake: FakeRegistry, connect: Connect) -> None:
    client = connect(network=NetworkSettings(attempts=1, timeout=0.5))
    blob = fake.add_blob("some/image", b"x" * 1000)
    fake.on("GET", "/blobs/", bend(drip=(1, 0.1)), -1)
    started = time.monotonic()
    with pytest.raises(RegistryError, match="stopped answering"):
        client.download(at(fake), blob, Memory(blob))
    assert time.monotonic() - started < 30


def test_a_transfer_can_be_stopped(fake: FakeRegistry) -> None:
    cancel = threading.Event()
    blob = fake.add_blob("some/image", DATA)
    fake.on("GET", "/blobs/", bend(delay=60), -1)
    threading.Timer(0.3, cancel.set).start()
    started = time.monotonic()
    with Registry(Settings(), cancel=cancel) as client, pytest.raises(Cancelled):
        client.download(at(fake), blob, Memory(blob))
    assert time.monotonic() - started < 30


def test_a_stream_can_be_opened_from_an_offset_and_survives_a_cut(fake: FakeRegistry, client: Registry) -> None:
    blob = fake.add_blob("some/image", DATA)
    fake.on("GET", "/blobs/", bend(cut_at=500_000), 2)
    with client.open_blob(at(fake), blob, 1234) as source:
        assert source.read() == DATA[1234:]


def test_many_blobs_arrive_at_once(fake: FakeRegistry, client: Registry) -> None:
    from concurrent.futures import ThreadPoolExecutor

    blobs = [fake.add_blob("some/image", random.Random(seed).randbytes(200_000)) for seed in range(30)]
    sinks = [Memory(blob) for blob in blobs]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda pair: client.download(at(fake), *pair), zip(blobs, sinks, strict=True)))
    assert all(sink.committed for sink in sinks)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_passing_failures_are_asked_again(fake: FakeRegistry, client: Registry, status: int) -> None:
    blob = fake.add_blob("some/image", DATA)
    fake.on("GET", "/blobs/", answer(status, b"<html><h1>Oops</h1></html>", Content_Type="text/html"), 3)
    sink = Memory(blob)
    client.download(at(fake), blob, sink)
    assert sink.committed


@pytest.mark.parametrize("status", [400, 405, 406, 451, 501, 505])
def test_lasting_failures_are_not(fake: FakeRegistry, client: Registry, status: int) -> None:
    blob = fake.add_blob("some/image", DATA)
    fake.on("GET", "/blobs/", answer(status, b"no \x1b[31m way"), -1)
    with pytest.raises(RegistryError, match=f"answered {status}: no") as caught:
        client.download(at(fake), blob, Memory(blob))
    assert "\x1b" not in caught.value.message
    assert caught.value.status == status
    assert len(fake.requests("GET", "/blobs/")) == 1


def test_retry_after_is_heeded(fake: FakeRegistry, client: Registry) -> None:
    blob = fake.add_blob("some/image", DATA)
    fake.on("GET", "/blobs/", answer(429, b"", Retry_After="0"), 1)
    client.download(at(fake), blob, Memory(blob))
    fake.on("GET", "/blobs/", answer(429, b'{"errors":[{"code":"TOOMANYREQUESTS"}]}', Retry_After="3600"), 1)
    with pytest.raises(RegistryError, match="toomanyrequests") as caught:
        client.download(at(fake), blob, Memory(blob))
    assert "3600 seconds" in caught.value.hint
