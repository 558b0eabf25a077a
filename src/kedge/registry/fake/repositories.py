"""What the fake registry holds, and how the distribution specification reads and writes it.

Owns blobs, manifests, tags and uploads in progress. Does not know who asks, nor what becomes of an answer on its way.
"""

import hashlib
import json
import re
import secrets
import threading
from typing import Any
from urllib.parse import parse_qs

from kedge.model.digest import Digest, sha256
from kedge.model.image import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    canonical_json,
    referring,
)
from kedge.model.value import dataclass, field
from kedge.registry.fake.replies import Body, Reply, Seen, error_reply, json_reply


@dataclass(slots=True)
class Contents:
    """One repository."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


class Repositories:
    """The part of a fake registry that holds things; see `FakeRegistry` for the attributes."""

    def __init__(self) -> None:
        self.referrers_api, self.ranges, self.resumes = True, True, True
        self.page_size = 0
        self.repositories: dict[str, Contents] = {}
        self.lock = threading.RLock()
        self._uploads: dict[str, bytearray] = {}
        self._breaks: list[int] = []

    def repository(self, name: str) -> Contents:
        with self.lock:
            return self.repositories.setdefault(name, Contents())

    def add_blob(self, repository: str, data: bytes, media_type: str = OCI_LAYER) -> Descriptor:
        digest = sha256(data)
        self.repository(repository).blobs[digest] = data
        return Descriptor(media_type, digest, len(data))

    def add_manifest(self, repository: str, tag: str, data: bytes, media_type: str = OCI_MANIFEST) -> Descriptor:
        contents, digest = self.repository(repository), sha256(data)
        contents.manifests[digest] = (media_type, data)
        if tag:
            contents.tags[tag] = digest
        return Descriptor(media_type, digest, len(data))

    def add_image(
        self, repository: str, tag: str = "latest", layers: tuple[bytes, ...] = (b"layer",), **config: Any
    ) -> Descriptor:
        """An image of uncompressed layers; `config` are top-level fields of its config."""
        whole = {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [sha256(layer) for layer in layers]},
        } | config
        blobs = tuple(self.add_blob(repository, layer) for layer in layers)
        manifest = Manifest(self.add_blob(repository, canonical_json(whole), OCI_CONFIG), blobs)
        return self.add_manifest(repository, tag, manifest.to_bytes())

    def break_upload(self, *after: int) -> None:
        """Reset the connections of the next uploads once that many bytes of each body have come."""
        with self.lock:
            self._breaks.extend(after)

    # ---- the specification -------------------------------------------------------------------------------------------

    def serve(self, seen: Seen, name: str, kind: str, rest: str, body: Body) -> Reply:
        """The answer to a request for a thing of `kind` in a repository."""
        if kind == "blobs/uploads":
            return self._upload(seen, name, rest, body)
        serve = {"blobs": self._blob, "manifests": self._manifest, "tags": self._tag_list, "referrers": self._referrers}
        return serve[kind](seen, self.repository(name), rest, body)

    def _blob(self, seen: Seen, contents: Contents, digest: str, body: Body) -> Reply:
        data = contents.blobs.get(digest)
        if data is None:
            return error_reply(404, "BLOB_UNKNOWN", "blob unknown to registry")
        headers = {"Content-Type": "application/octet-stream", "Docker-Content-Digest": digest}
        wanted = re.fullmatch(r"bytes=(\d+)-", seen.headers.get("range", ""))
        if wanted and self.ranges:
            start = int(wanted[1])
            if start >= len(data):
                return Reply(416, {"Content-Range": f"bytes */{len(data)}"})
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return Reply(206, headers, data[start:])
        return Reply(200, headers, data)

    def _manifest(self, seen: Seen, contents: Contents, name: str, body: Body) -> Reply:
        if seen.method == "PUT":
            data = body.read()
            kind, digest = seen.headers.get("content-type", ""), sha256(data)
            if ":" in name and name != digest:
                return error_reply(400, "DIGEST_INVALID", "digest invalid")
            contents.manifests[digest] = (kind, data)
            if ":" not in name:
                contents.tags[name] = digest
            subject = (json.loads(data).get("subject") or {}).get("digest")
            headers = {"Docker-Content-Digest": digest, "Location": seen.path}
            return Reply(201, headers | ({"OCI-Subject": subject} if subject and self.referrers_api else {}))
        wanted = contents.tags.get(name, name)
        if wanted not in contents.manifests:
            return error_reply(404, "MANIFEST_UNKNOWN", "manifest unknown")
        kind, data = contents.manifests[wanted]
        return Reply(200, {"Content-Type": kind, "Docker-Content-Digest": wanted}, data)

    def _tag_list(self, seen: Seen, contents: Contents, rest: str, body: Body) -> Reply:
        tags = sorted(contents.tags)
        last = parse_qs(seen.query).get("last", [""])[0]
        left = [tag for tag in tags if tag > last]
        page = left[: self.page_size or None]
        reply = json_reply(200, {"name": "", "tags": page})
        if len(page) < len(left):
            reply.headers["Link"] = f'<{seen.path}?last={page[-1]}>; rel="next"'
        return reply

    def _referrers(self, seen: Seen, contents: Contents, digest: str, body: Body) -> Reply:
        if not self.referrers_api:
            return error_reply(404, "NOT_FOUND", "no such page")
        known = ((Descriptor(kind, Digest(own), len(data)), data) for own, (kind, data) in contents.manifests.items())
        listed = [about[1] for one in known if (about := referring(*one)) and about[0] == digest]
        return Reply(200, {"Content-Type": OCI_INDEX}, Index(tuple(listed)).to_bytes())

    def _upload(self, seen: Seen, name: str, session: str, body: Body) -> Reply:
        query = {key: values[0] for key, values in parse_qs(seen.query).items()}
        if seen.method == "POST":
            mounted = self.repositories.get(query.get("from", ""), Contents()).blobs.get(query.get("mount", ""))
            if mounted is not None:
                self.repository(name).blobs[query["mount"]] = mounted
                return Reply(201, {"Location": f"/v2/{name}/blobs/{query['mount']}"})
            session = secrets.token_hex(8)
            self._uploads[session] = bytearray()
            return Reply(202, {"Location": f"/v2/{name}/blobs/uploads/{session}", "Range": "0-0"})
        data = self._uploads.get(session)
        if data is None:
            return error_reply(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        if seen.method == "DELETE":
            del self._uploads[session]
            return Reply(204)
        headers = {"Location": f"/v2/{name}/blobs/uploads/{session}"}
        if seen.method == "GET":
            return Reply(204, headers | {"Range": f"0-{max(0, len(data) - 1)}"})
        wanted = seen.headers.get("content-range", "").partition("-")[0]
        if wanted and int(wanted) != len(data):
            return Reply(416, headers | {"Range": f"0-{max(0, len(data) - 1)}"})
        with self.lock:
            broken_after = self._breaks.pop(0) if self._breaks and body.left else None
        try:
            body.receive(data, broken_after)
        except ConnectionError:
            if not self.resumes:
                del self._uploads[session]
            raise
        if seen.method == "PATCH":
            return Reply(202, headers | {"Range": f"0-{max(0, len(data) - 1)}"})
        del self._uploads[session]
        algorithm = query.get("digest", "").partition(":")[0]
        if (
            algorithm not in ("sha256", "sha512")
            or f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}" != query["digest"]
        ):
            return error_reply(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        self.repository(name).blobs[query["digest"]] = bytes(data)
        return Reply(201, {"Location": f"/v2/{name}/blobs/{query['digest']}", "Docker-Content-Digest": query["digest"]})
