"""Images into a running Docker Engine or Podman (`--load`), by the Engine API on its socket.

Owns finding the engine, what it has already, and the request. Layers that it has are left out where it takes that:
Docker's own store looks for a layer before it reads its file, and Podman does so for OCI archives. Where no socket
answers, the engine's command line is fed (`engine`). Does not know archives.
"""

import http.client
import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, TypeAlias, cast
from urllib.parse import quote

from kedge.model.digest import Digest
from kedge.model.errors import InvalidInput, KedgeError
from kedge.model.reference import Reference
from kedge.model.value import dataclass

Kind: TypeAlias = Literal["docker", "containerd", "podman"]
_TIMEOUT: Final = 60.0  # seconds for an answer; unpacking a large layer has no answer before its end
_LOADING: Final = 3600.0
_MOST_IMAGES: Final = 500  # that are asked for their layers
_ANSWER: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine: where it listens, and which kind of store it has."""

    address: str
    kind: Kind

    @property
    def name(self) -> str:
        return "podman" if self.kind == "podman" else "docker"

    @property
    def leaves_out(self) -> bool:
        """Does it take archives without the layers it has?"""
        return self.kind != "containerd"

    def layers(self) -> set[tuple[Digest, ...]]:
        """The chains of layers, each from the bottom up to some layer, that its images have."""
        chains = set[tuple[Digest, ...]]()
        for each in self._json("GET", "/images/json")[:_MOST_IMAGES]:
            try:
                found = self._json("GET", f"/images/{quote(str(each['Id']), safe='')}/json")
                diffs = [Digest(text) for text in found["RootFS"]["Layers"] or ()]
            except (KedgeError, KeyError, TypeError):
                continue  # it may be gone by now
            chains |= {tuple(diffs[: end + 1]) for end in range(len(diffs))}
        return chains

    def load(self, write: Callable[[BinaryIO], object]) -> None:
        """Send what `write` writes as an archive. Raises KedgeError with the engine's words when it refuses."""
        connection = _connect(self.address, _LOADING)
        try:
            connection.putrequest("POST", "/images/load?quiet=1")
            connection.putheader("Content-Type", "application/x-tar")
            connection.putheader("Transfer-Encoding", "chunked")
            connection.endheaders()
            broken = None
            try:
                body = _Chunked(connection)
                write(cast(BinaryIO, body))
                body.end()
            except (BrokenPipeError, ConnectionError) as error:
                broken = error  # it has answered already
            self._require_loaded(connection, broken)
        except (OSError, http.client.HTTPException) as error:
            raise KedgeError(f"{self.name} broke off: {error}") from None
        finally:
            connection.close()

    def tag(self, image: str, name: Reference) -> None:
        """Give an image of the engine another name."""
        query = f"repo={quote(name.name, safe='')}&tag={quote(name.tag or '', safe='')}"
        self._request("POST", f"/images/{quote(image, safe='')}/tag?{query}")

    def _require_loaded(self, connection: http.client.HTTPConnection, broken: Exception | None) -> None:
        answer = connection.getresponse()
        data = answer.read(_ANSWER)
        errors = [line["error"] for line in _lines(data) if line.get("error")]
        if answer.status != 200 or errors or broken:
            words = errors[0] if errors else _message(data) or broken or "it did not say why"
            raise KedgeError(f"{self.name} could not load the image: {str(words)[:300]}")

    def _json(self, method: str, path: str) -> Any:
        try:
            return json.loads(self._request(method, path))
        except ValueError:
            raise KedgeError(f"{self.name} answered {path} with something else than JSON") from None

    def _request(self, method: str, path: str) -> bytes:
        return _ask(self.address, method, path, self.name)


def find_engine(environ: Mapping[str, str] = os.environ) -> Engine | None:
    """The engine that listens where Docker's and Podman's clients would look; None if none answers.

    Raises InvalidInput for a DOCKER_HOST of a kind that is not spoken here.
    """
    for address in _addresses(environ):
        try:
            version = json.loads(_ask(address, "GET", "/version", "engine"))
        except (KedgeError, ValueError):
            continue
        parts = [str(part.get("Name", "")) for part in version.get("Components") or ()]
        if any("podman" in part.lower() for part in parts):
            return Engine(address, "podman")
        return Engine(address, "containerd" if _has_containerd_store(address) else "docker")
    return None


def _addresses(environ: Mapping[str, str]) -> Iterator[str]:
    for name in ("DOCKER_HOST", "CONTAINER_HOST"):
        if address := environ.get(name):
            if not address.startswith(("unix://", "tcp://", "http://")):
                return  # ssh:// and others: the client's command line knows the way
            yield address
            return
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    places = ["/var/run/docker.sock", *([f"{runtime}/docker.sock", f"{runtime}/podman/podman.sock"] if runtime else [])]
    yield from (f"unix://{place}" for place in (*places, "/run/podman/podman.sock") if Path(place).is_socket())


def _has_containerd_store(address: str) -> bool:
    try:
        info = json.loads(_ask(address, "GET", "/info", "docker"))
        return "io.containerd" in json.dumps(info.get("DriverStatus"))
    except (KedgeError, ValueError):
        return True  # whatever it is, send it all


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _connect(address: str, timeout: float) -> http.client.HTTPConnection:
    scheme, _, rest = address.partition("://")
    if scheme == "unix":
        return _UnixConnection(rest, timeout)
    if os.environ.get("DOCKER_TLS_VERIFY"):
        raise InvalidInput("an engine behind TLS is not spoken to", hint="Use a unix socket, or push to a registry.")
    return http.client.HTTPConnection(rest.rstrip("/"), timeout=timeout)


def _ask(address: str, method: str, path: str, name: str) -> bytes:
    connection = _connect(address, _TIMEOUT)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        data = answer.read(_ANSWER)
    except (OSError, http.client.HTTPException) as error:
        raise KedgeError(f"{name} at {address} does not answer: {error}") from None
    finally:
        connection.close()
    if answer.status not in (200, 201):
        raise KedgeError(f"{name} refused {path.partition('?')[0]}: {_message(data) or answer.status}")
    return data


class _Chunked:
    """A stream that takes a body of unknown length (RFC 9112, 7.1)."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        self._buffer = bytearray()

    def write(self, data: bytes) -> int:
        self._buffer += data
        if len(self._buffer) >= 1 << 20:
            self.flush()
        return len(data)

    def flush(self) -> None:
        if self._buffer:
            self._connection.send(b"%x\r\n%b\r\n" % (len(self._buffer), bytes(self._buffer)))
            self._buffer.clear()

    def end(self) -> None:
        self.flush()
        self._connection.send(b"0\r\n\r\n")


def _lines(data: bytes) -> Iterable[dict[str, Any]]:
    for line in data.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def _message(data: bytes) -> str:
    found = next((str(line.get("message") or line.get("cause") or "") for line in _lines(data)), "")
    return found or data[:200].decode(errors="replace").strip()


def known_layers(engine: Engine, chains: Sequence[Sequence[Digest]]) -> set[tuple[Digest, ...]]:
    """Of the chains of diff ids of some images, those beginnings that the engine has."""
    if not engine.leaves_out:
        return set()
    there = engine.layers()
    return {tuple(chain[:end]) for chain in chains for end in range(1, len(chain) + 1) if tuple(chain[:end]) in there}
