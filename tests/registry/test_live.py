"""The client against Debian's docker-registry: plain, TLS, basic and token authorisation."""

import io

from kedge.model.digest import sha256
from kedge.model.image import Descriptor, Manifest
from kedge.model.reference import parse_reference
from kedge.registry.client import Registry


def test_push_and_pull(registry: str) -> None:
    data = bytes(range(256)) * 4096
    blob = Descriptor("application/octet-stream", sha256(data), len(data))
    reference = parse_reference(f"{registry}/live/first:v1")
    with Registry() as client:
        assert client.upload(reference, blob, lambda offset: io.BytesIO(data[offset:]))
        assert not client.upload(reference, blob, lambda offset: io.BytesIO(data[offset:]))
        other = parse_reference(f"{registry}/live/second")
        assert not client.upload(other, blob, lambda offset: io.BytesIO(data[offset:]), mount_from=[reference])
        manifest = Manifest(blob, (blob,))
        digest = client.put_manifest(reference, manifest.to_bytes(), manifest.media_type)
        assert client.resolve(reference).digest == digest
        assert client.read_blob(reference, blob) == data
