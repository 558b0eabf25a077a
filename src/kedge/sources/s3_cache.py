"""A cache in a bucket of an S3-compatible store: `--cache-from type=s3`, and what writing one needs too.

Owns the attributes (BuildKit's, cache/remotecache/s3), the keys of objects, and reading them by boto3, which comes with
the extra `s3`. Credentials given as attributes are kept in this process only; a later build finds them in AWS's usual
places. Does not know what a cache means.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

from kedge.model.cache_document import LARGEST, CacheDocument
from kedge.model.digest import Digest
from kedge.model.errors import IntegrityError, InvalidInput, NotFound, SourceError, Unsupported
from kedge.model.image import COMPRESSION_OF, Descriptor
from kedge.model.value import dataclass
from kedge.sources.cache import Cache, CacheBlob
from kedge.sources.fetch import CACHE_ORIGIN

if TYPE_CHECKING:
    from collections.abc import Callable

    from kedge.storage.blobs import BlobWriter

_PIECE = 1 << 20
_TRUE = frozenset(("1", "t", "true"))
_secrets: dict[str, dict[str, str]] = {}  # access keys by the origin they are for: never written anywhere


@dataclass(frozen=True, slots=True)
class S3Options:
    """Where a cache's objects are."""

    bucket: str
    region: str
    prefix: str = ""
    manifests: str = "manifests/"
    blobs: str = "blobs/"
    names: tuple[str, ...] = ("buildkit",)
    endpoint: str = ""
    path_style: bool = False
    parallel: int = 4

    def blob_key(self, digest: Digest) -> str:
        return f"{self.prefix}{self.blobs}{digest}"

    def manifest_key(self, name: str) -> str:
        return f"{self.prefix}{self.manifests}{name}"

    @property
    def origin(self) -> str:
        """How the store gets a blob later: without any credential."""
        query = {"region": self.region, "endpoint_url": self.endpoint, "use_path_style": str(self.path_style).lower()}
        given = urlencode({name: value for name, value in query.items() if value})
        return f"s3://{self.bucket}/{self.prefix}{self.blobs}?{given}"


def require_library() -> None:
    """Raise Unsupported where boto3 is missing."""
    try:
        import boto3  # noqa: F401
    except ImportError:
        raise Unsupported(
            "a cache of type s3 needs the boto3 library",
            hint="Install Kedge with it, in its checkout: pip install '.[s3]'.",
        ) from None


def read_options(attributes: Mapping[str, str]) -> S3Options:
    """The attributes as typed values; bucket and region also from the environment, as BuildKit. Raises InvalidInput."""
    bucket = attributes.get("bucket") or os.environ.get("AWS_BUCKET", "")
    region = attributes.get("region") or os.environ.get("AWS_REGION", "")
    for value, name in ((bucket, "bucket"), (region, "region")):
        if not value:
            raise InvalidInput(f"a cache of type s3 needs {name}=… (or AWS_{name.upper()} in the environment)")
    parallel = attributes.get("upload_parallelism", "4")
    if not parallel.isdecimal() or not 1 <= int(parallel) <= 64:
        raise InvalidInput("cache attribute upload_parallelism: expected a number from 1 to 64")
    options = S3Options(
        bucket,
        region,
        attributes.get("prefix", ""),
        attributes.get("manifests_prefix", "manifests/"),
        attributes.get("blobs_prefix", "blobs/"),
        tuple(name for name in attributes.get("name", "buildkit").split(";") if name) or ("buildkit",),
        attributes.get("endpoint_url", ""),
        attributes.get("use_path_style", "").lower() in _TRUE,
        int(parallel),
    )
    if attributes.get("access_key_id") and attributes.get("secret_access_key"):
        names = {"access_key_id": "aws_access_key_id", "secret_access_key": "aws_secret_access_key",
                 "session_token": "aws_session_token"}  # fmt: skip
        _secrets[options.origin] = {names[n]: attributes[n] for n in names if attributes.get(n)}
    return options


class Bucket:
    """The objects of one bucket. Blocking; safe from several threads. Raises SourceError for the store's refusals."""

    def __init__(self, options: S3Options) -> None:
        import boto3
        from botocore.config import Config

        self._bucket = options.bucket
        style = "path" if options.path_style and options.endpoint else "auto"
        config = Config(
            connect_timeout=5, read_timeout=20, retries={"max_attempts": 3}, s3={"addressing_style": style},
            request_checksum_calculation="when_required", response_checksum_validation="when_required",
        )  # fmt: skip
        session = boto3.session.Session(**_secrets.get(options.origin, {}))
        endpoint = {"endpoint_url": options.endpoint} if options.endpoint else {}
        self._client: Any = session.client("s3", region_name=options.region, config=config, **endpoint)

    def size(self, key: str) -> int | None:
        """The size of an object; None when there is none."""
        try:
            return int(self._call(self._client.head_object, Key=key)["ContentLength"])
        except NotFound:
            return None

    def read(self, key: str, limit: int) -> bytes:
        """A small object."""
        body = self._call(self._client.get_object, Key=key)["Body"]
        with _translated(self._bucket):
            data: bytes = body.read(limit + 1)
        if len(data) > limit:
            raise IntegrityError(f"s3 object {key} is larger than {limit} bytes")
        return data

    def open(self, key: str, offset: int = 0) -> Any:
        """An object's bytes from `offset` on, as a stream."""
        partial = {"Range": f"bytes={offset}-"} if offset else {}
        return self._call(self._client.get_object, Key=key, **partial)["Body"]

    def write(self, key: str, stream: Any, progress: "Callable[[int], None]") -> None:
        """Store a stream, in parts where it is long; `progress` is told of each piece's bytes and may raise."""
        from boto3.exceptions import S3UploadFailedError
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self._client.upload_fileobj(stream, self._bucket, key, Callback=progress)
        except (BotoCoreError, ClientError, S3UploadFailedError) as error:
            raise SourceError(f"cannot write s3 object {key}: {error}") from None

    def _call(self, function: Any, **arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return function(Bucket=self._bucket, **arguments)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in ("404", "NoSuchKey", "NotFound", "NoSuchBucket"):
                raise NotFound(f"s3 bucket {self._bucket} has no {arguments.get('Key')}") from None
            raise SourceError(f"s3 bucket {self._bucket}: {error}") from None
        except BotoCoreError as error:
            raise SourceError(f"s3 bucket {self._bucket}: {error}") from None


def read_s3(attributes: Mapping[str, str]) -> Cache:
    """The cache under the first of the names. Raises NotFound, SourceError, IntegrityError."""
    options = read_options(attributes)
    document = CacheDocument.from_bytes(Bucket(options).read(options.manifest_key(options.names[0]), LARGEST))
    blobs = {
        layer.blob: CacheBlob(Descriptor(layer.media_type, layer.blob, layer.size), layer.diff_id)
        for layer in document.layers
        if layer.diff_id and layer.media_type in COMPRESSION_OF
    }
    return Cache(f"s3:{options.bucket}", document, blobs, CACHE_ORIGIN + options.origin)


def download(rest: str, descriptor: Descriptor, writer: "BlobWriter", progress: "Callable[[int, int], None]") -> None:
    """Write a blob's bytes from `writer.offset` on. `rest` is an origin's part behind `s3://`."""
    require_library()
    place, _, query = rest.partition("?")
    bucket, _, prefix = place.partition("/")
    given = dict(parse_qsl(query))
    options = S3Options(bucket, given.get("region", ""), prefix, "", "", (), given.get("endpoint_url", ""),
                        given.get("use_path_style") == "true")  # fmt: skip
    stream = Bucket(options).open(f"{prefix}{descriptor.digest}", writer.offset)
    with closing(stream), _translated(bucket):
        while piece := stream.read(_PIECE):
            writer.write(piece)
            progress(writer.offset, descriptor.size)
    writer.commit()


@contextmanager
def _translated(bucket: str) -> Iterator[None]:
    """What breaks while a body is read, as SourceError."""
    from botocore.exceptions import BotoCoreError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (OSError, BotoCoreError, HTTPError) as error:
        raise SourceError(f"s3 bucket {bucket}: {error}") from None
