"""The flags of `kedge build`, and how the text of each becomes a value.

Owns names and grammar, which are Docker's (buildx). Does not know what a build does with the values.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from kedge.cli.command import Flag
from kedge.cli.spelling import parse_size
from kedge.model.errors import InvalidInput
from kedge.model.ops import Ulimit
from kedge.progress.display import MODES

_ULIMITS: Final = tuple(
    "as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack".split()
)
OUTPUT_KINDS: Final = ("image", "registry", "oci", "docker", "local", "tar", "cacheonly")
CACHE_KINDS: Final = ("registry", "local", "inline", "s3")
OTHER_CACHE_KINDS: Final = ("gha", "azblob")  # BuildKit's, refused by name


def fields(text: str, what: str) -> dict[str, str]:
    """`type=local,dest=out` as a mapping. A field in double quotes may hold commas (CSV, as Docker reads it)."""
    result: dict[str, str] = {}
    for part in _split(text):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise InvalidInput(f"{what} field {part!r} is no KEY=VALUE")
        result[key.strip()] = value
    return result


def _split(text: str) -> Iterator[str]:
    for match in re.finditer(r'(?:^|,)("(?:[^"]|"")*"|[^,]*)', text):
        part = match[1]
        if part.startswith('"') and part.endswith('"') and len(part) > 1:
            part = part[1:-1].replace('""', '"')
        if part:
            yield part


def output(text: str) -> dict[str, str]:
    """One `--output`: a path alone is a local directory, `-` a tar on standard output."""
    if text == "-":
        return {"type": "tar", "dest": "-"}
    if "=" not in text:
        return {"type": "local", "dest": text}
    attributes = fields(text, "output")
    kind = attributes.get("type", "")
    if not kind:
        raise InvalidInput("an output needs a type", hint=f"Write type=KIND with one of {', '.join(OUTPUT_KINDS)}.")
    if kind not in OUTPUT_KINDS:
        raise InvalidInput(f"unknown output type {kind!r}", hint=f"Use one of {', '.join(OUTPUT_KINDS)}.")
    from kedge.exporters.options import unknown_attribute

    if unknown := unknown_attribute(kind, (name for name in attributes if name not in ("type", "dest"))):
        hint = f"Did you mean {unknown[1]}?" if unknown[1] else ""
        raise InvalidInput(f"unknown attribute {unknown[0][:60]!r} of an output of type {kind}", hint=hint)
    if kind in ("local", "tar") and not attributes.get("dest"):
        raise InvalidInput(f"an output of type {kind} needs dest=PATH")
    return attributes


def cache(text: str) -> dict[str, str]:
    """One `--cache-from` or `--cache-to`: an image name alone is a registry's cache."""
    if "=" not in text:
        return {"type": "registry", "ref": text}
    attributes = fields(text, "cache")
    if attributes.get("type") not in (*CACHE_KINDS, *OTHER_CACHE_KINDS):
        raise InvalidInput(
            f"unknown cache type {attributes.get('type', '')!r}", hint=f"Use one of {', '.join(CACHE_KINDS)}."
        )
    return attributes


def cache_mount(text: str) -> dict[str, str]:
    """One `--cache-mount-from` or `--cache-mount-to`, such as type=registry,ref=IMAGE,id=ID."""
    attributes = fields(text, "cache mount")
    if attributes.get("type") not in ("registry", "local") or not attributes.get("id"):
        raise InvalidInput("a cache mount needs type=registry or type=local, and the id=ID of a RUN --mount=type=cache")
    return attributes


def attestation(text: str) -> tuple[str, str]:
    """`type=provenance,mode=max` as (kind, its attributes)."""
    attributes = fields(text, "attestation")
    kind = attributes.pop("type", "")
    if kind not in ("provenance", "sbom"):
        raise InvalidInput(f"unknown attestation type {kind!r}", hint="Use type=provenance or type=sbom.")
    from kedge.exporters.attest import write_fields

    return kind, write_fields([f"{key}={value}" for key, value in attributes.items()])


def pair(text: str) -> tuple[str, str]:
    """`KEY=VALUE`; a missing value is empty."""
    key, _, value = text.partition("=")
    if not key:
        raise InvalidInput("the name before = is empty")
    return key, value


def annotation(text: str) -> tuple[str, str]:
    """`[TYPE:]KEY=VALUE`."""
    if "=" not in text:
        raise InvalidInput("expected KEY=VALUE, such as org.opencontainers.image.title=Hello")
    return pair(text)


def named_context(text: str) -> tuple[str, str]:
    """`NAME=PATH`, `NAME=https://…`, `NAME=docker-image://…`."""
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise InvalidInput("expected NAME=VALUE, such as base=docker-image://alpine:3.20")
    return name, value


def host(text: str) -> tuple[str, str]:
    """`NAME:ADDRESS` or `NAME=ADDRESS`; the address may be IPv6, in brackets or bare."""
    name, separator, address = text.partition("=") if "=" in text else text.partition(":")
    address = address.removeprefix("[").removesuffix("]")
    if not separator or not name or not (address == "host-gateway" or _is_address(address)):
        raise InvalidInput("expected NAME:ADDRESS, such as db:10.0.0.7")
    return name, address


def _is_address(text: str) -> bool:
    import socket

    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text)
        except (OSError, ValueError):
            continue
        return True
    return False


def ulimit(text: str) -> Ulimit:
    """`nofile=1024:2048`, or one number for both limits; -1 is unlimited."""
    name, _, limits = text.partition("=")
    numbers = limits.split(":")
    if name not in _ULIMITS:
        raise InvalidInput(f"unknown limit {name!r}", hint=f"Use one of {', '.join(_ULIMITS)}.")
    if len(numbers) > 2 or not all(re.fullmatch(r"-1|\d{1,19}", number) for number in numbers):
        raise InvalidInput("expected NAME=SOFT[:HARD], such as nofile=1024:2048")
    soft, hard = int(numbers[0]), int(numbers[-1])
    if hard != -1 and (soft > hard or soft == -1):
        raise InvalidInput(f"the soft limit {soft} is above the hard limit {hard}")
    return Ulimit(name, soft, hard)


def cpus(text: str) -> float:
    """A number of CPUs, such as 1.5."""
    if not re.fullmatch(r"\d{1,6}(\.\d+)?|\.\d+", text) or float(text) <= 0:
        raise InvalidInput("expected a number of CPUs, such as 1.5")
    return float(text)


def words(text: str) -> list[str]:
    """A comma-separated list."""
    return [word.strip() for word in text.split(",") if word.strip()]


def flatten(lists: list[list[Any]]) -> tuple[Any, ...]:
    """The lists that a repeated comma-separated flag collected, as one."""
    return tuple(item for items in lists for item in items)


FLAGS: Final = (
    Flag("add-host", "Add a line to /etc/hosts of every RUN step", metavar="NAME:ADDRESS", many=True, convert=host),
    Flag("allow", "Allow a step what is normally forbidden", metavar="ENTITLEMENT", many=True),
    Flag("annotation", "Add an annotation to the image", metavar="KEY=VALUE", many=True, convert=annotation),
    Flag("attest", "Attach an attestation", metavar="type=KIND[,…]", many=True, convert=attestation),
    Flag("build-arg", "Set a build argument; without =VALUE, from the environment", metavar="NAME[=VALUE]", many=True),
    Flag(
        "build-context",
        "Add a named context, or put one in place of an image or stage",
        metavar="NAME=SOURCE",
        many=True,
        convert=named_context,
    ),
    Flag("cache-from", "Use a cache from elsewhere", metavar="type=KIND[,…]", many=True, convert=cache),
    Flag(
        "cache-mount-from",
        "Fill a new cache mount from elsewhere",
        metavar="type=KIND,id=ID[,…]",
        many=True,
        convert=cache_mount,
    ),
    Flag(
        "cache-mount-to",
        "Write a cache mount elsewhere",
        metavar="type=KIND,id=ID[,…]",
        many=True,
        convert=cache_mount,
    ),
    Flag("cache-to", "Write the cache elsewhere", metavar="type=KIND[,…]", many=True, convert=cache),
    Flag(
        "call",
        "Do not build, but answer",
        metavar="METHOD",
        default="build",
        choices=("build", "check", "lint", "outline", "targets"),
    ),
    Flag("builder", "There is only one", metavar="NAME", hidden=True),
    Flag("cgroup-parent", "Put steps below this control group", metavar="PATH", default=""),
    Flag("check", "Check the Dockerfile; the same as --call=check"),
    Flag("compress", "A context is read in place", hidden=True),
    Flag("cpus", "CPUs that one step may use", metavar="N", convert=cpus, default=0.0),
    Flag("explain", "Say why each step ran that was not cached"),
    Flag(
        "file",
        "The Dockerfile; - reads it from standard input",
        short="f",
        metavar="PATH",
        default="",
        shown_default="CONTEXT/Dockerfile",
    ),
    Flag("force-rm", "There are no intermediate containers", hidden=True),
    Flag(
        "format",
        "How --call answers: text or json",
        metavar="FORMAT",
        default="",
        choices=("text", "json"),
        shown_default="text",
    ),
    Flag("iidfile", "Write the image's id to this file", metavar="PATH"),
    Flag("label", "Set a label", metavar="KEY=VALUE", many=True, convert=pair),
    Flag("load", "Load the image into a running Docker Engine or Podman"),
    Flag("memory", "Memory that one step may use", short="m", metavar="SIZE", convert=parse_size, default=0),
    Flag("metadata-file", "Write what was built, as JSON, to this file", metavar="PATH"),
    Flag(
        "network",
        "Network of RUN steps",
        metavar="MODE",
        default="",
        choices=("default", "none", "host"),
        shown_default="default",
    ),
    Flag("no-cache", "Do not use what earlier builds made"),
    Flag(
        "no-cache-filter",
        "Do not use what earlier builds made of these stages",
        metavar="STAGE[,STAGE]",
        many=True,
        convert=words,
    ),
    Flag(
        "output",
        "What to make of the result, such as type=oci,dest=image.tar or a directory",
        short="o",
        metavar="OUTPUT",
        many=True,
        convert=output,
    ),
    Flag(
        "platform",
        "Build for these platforms",
        metavar="OS/ARCH[,…]",
        many=True,
        convert=words,
        shown_default="this machine's",
    ),
    Flag(
        "progress", "How to show the build", metavar="MODE", choices=MODES, shown_default="$BUILDKIT_PROGRESS or auto"
    ),
    Flag("provenance", "Attach a provenance attestation; mode=min or mode=max", metavar="ATTRIBUTES", optional="true"),
    Flag("pull", "Ask the registries for newer base images"),
    Flag("push", "Push the image; the same as --output=type=registry"),
    Flag("quiet", "Show nothing but the image's id", short="q"),
    Flag("rm", "There are no intermediate containers", default=True, hidden=True),
    Flag("sbom", "Attach a software bill of materials", metavar="ATTRIBUTES", optional="true"),
    Flag("secret", "Lend a secret to RUN --mount=type=secret", metavar="id=ID,src=PATH|env=NAME", many=True),
    Flag(
        "shm-size", "Size of /dev/shm of RUN steps", metavar="SIZE", convert=parse_size, default=0, shown_default="64m"
    ),
    Flag("ssh", "Lend an SSH agent or keys to RUN --mount=type=ssh", metavar="default|ID[=PATH[,PATH]]", many=True),
    Flag("tag", "Name the image; several names are possible", short="t", metavar="NAME[:TAG]", many=True),
    Flag("target", "Stop at this stage", metavar="STAGE", default=""),
    Flag("ulimit", "Resource limit of RUN steps", metavar="NAME=SOFT[:HARD]", many=True, convert=ulimit),
)
