"""Bytes become blobs only when they are what was promised; broken attempts are continued."""

# ruff: noqa: PT012 (what is opened must be used to fail)

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kedge.model.digest import Digest, hex_part, sha256
from kedge.model.errors import IntegrityError, InvalidDigest, NotFound
from kedge.model.image import OCI_LAYER, Descriptor
from kedge.storage.store import Store

DATA = os.urandom(300_000)
WHOLE = Descriptor(OCI_LAYER, sha256(DATA), len(DATA))


def test_what_was_put_is_read_back(store: Store) -> None:
    digest = store.blobs.put(b"hello")
    assert digest == sha256(b"hello")
    assert store.blobs.has(digest)
    assert store.blobs.read(digest) == b"hello"
    assert store.blobs.size(digest) == 5
    assert store.blobs.path(digest).read_bytes() == b"hello"


def test_putting_twice_is_putting_once(store: Store) -> None:
    assert store.blobs.put(b"x") == store.blobs.put(b"x")


def test_a_blob_lies_where_an_oci_layout_has_it(store: Store, root: Path) -> None:
    digest = store.blobs.put(b"x")
    assert (root / "blobs" / "sha256" / hex_part(digest)).read_bytes() == b"x"


def test_a_blob_that_is_not_there_is_not_found(store: Store) -> None:
    digest = sha256(b"nobody")
    assert not store.blobs.has(digest)
    for ask in (store.blobs.open, store.blobs.size, store.blobs.read, store.blobs.path):
        with pytest.raises(NotFound):
            ask(digest)


def test_a_document_over_its_limit_is_refused(store: Store) -> None:
    digest = store.blobs.put(b"x" * 100)
    with pytest.raises(IntegrityError):
        store.blobs.read(digest, 99)


def test_other_bytes_than_promised_are_dropped(store: Store, root: Path) -> None:
    wrong = bytes([DATA[0] ^ 1]) + DATA[1:]
    with store.blobs.writer(WHOLE) as writer:
        writer.write(wrong)
        with pytest.raises(IntegrityError):
            writer.commit()
    assert not store.blobs.has(WHOLE.digest)
    assert os.listdir(root / "ingest") == []


def test_more_bytes_than_promised_are_refused_before_they_are_written(store: Store) -> None:
    with store.blobs.writer(WHOLE) as writer:
        writer.write(DATA)
        with pytest.raises(IntegrityError):
            writer.write(b"x")


def test_a_broken_attempt_is_continued_where_it_stopped(root: Path) -> None:
    with Store.open(root) as store, store.blobs.writer(WHOLE) as writer:
        writer.write(DATA[:1000])
    with Store.open(root) as store, store.blobs.writer(WHOLE) as writer:
        assert writer.offset == 1000
        writer.write(DATA[1000:])
        assert writer.commit() == WHOLE.digest


def test_too_few_bytes_are_kept_for_the_next_attempt(store: Store) -> None:
    with store.blobs.writer(WHOLE) as writer:
        writer.write(DATA[:1000])
        with pytest.raises(IntegrityError):
            writer.commit()
    with store.blobs.writer(WHOLE) as writer:
        assert writer.offset == 1000


def test_a_writer_can_start_again(store: Store) -> None:
    with store.blobs.writer(WHOLE) as writer:
        writer.write(b"rubbish")
        writer.restart()
        assert writer.offset == 0
        writer.write(DATA)
        writer.commit()
    assert store.blobs.read(WHOLE.digest) == DATA


def test_two_writers_of_one_blob_do_not_disturb_each_other(store: Store) -> None:
    with store.blobs.writer(WHOLE) as one, store.blobs.writer(WHOLE) as two:
        one.write(DATA[:5])
        two.write(DATA)
        two.commit()
        one.write(DATA[5:])
        one.commit()
    assert store.blobs.read(WHOLE.digest) == DATA


def test_an_unexpected_stream_that_is_not_committed_leaves_nothing(store: Store, root: Path) -> None:
    with pytest.raises(RuntimeError), store.blobs.writer() as writer:
        writer.write(b"x")
        raise RuntimeError
    assert os.listdir(root / "ingest") == []


def test_a_digest_that_is_none_never_becomes_a_path(store: Store) -> None:
    with pytest.raises(InvalidDigest):
        store.blobs.writer(Descriptor(OCI_LAYER, Digest("sha256:../../x"), 1))


def test_sha512_is_a_digest_too(store: Store) -> None:
    import hashlib

    digest = Digest("sha512:" + hashlib.sha512(DATA).hexdigest())
    with store.blobs.writer(Descriptor(OCI_LAYER, digest, len(DATA))) as writer:
        writer.write(DATA)
        writer.commit()
    assert store.blobs.read(digest) == DATA


def test_many_threads_put_the_same_bytes(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: store.blobs.put(DATA), range(32))) == {WHOLE.digest}
    assert store.verify() == []
