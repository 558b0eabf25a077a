"""The rules about the final image's files, which only a build can check: see `kedge.checks`.

Owns their texts; they are silenced and shown like all others. Does not know how a breach is found.
"""

from typing import Final

from kedge.dockerfile.lint_rules import Rule


def _rule(name: str, summary: str, message: str, why: str, bad: str, good: str) -> Rule:
    return Rule(name, summary, message, why, bad, good, suggestion=". {1}", documented=False, own=True)


_TABLE = (
    _rule(
        "EntrypointNotRunnable",
        "The image's process cannot start",
        "{0}",
        "The program that `ENTRYPOINT` or `CMD` names is looked up in the final image as a container runtime would: by "
        "`PATH` and `WORKDIR`, through `#!` lines and `env`, with the execute permissions of `USER`. The loader that "
        "an ELF program names, and its shared libraries with theirs, are searched as the loaders of glibc and musl do: "
        "`RPATH` and `RUNPATH`, `LD_LIBRARY_PATH`, `ld.so.cache`, the system's directories. What is missing is named, "
        "with the stage that has it. The usual cause: a dynamically linked program was copied into `scratch`, or into "
        "a base with another C library. Of a shell's text only a first, plain command is looked up.",
        "FROM golang:1.25 AS build\nWORKDIR /src\nCOPY . .\nRUN go build -o /app .\n\n"
        'FROM scratch\nCOPY --from=build /app /app\nENTRYPOINT ["/app"]\n',
        "FROM golang:1.25 AS build\nWORKDIR /src\nCOPY . .\nRUN CGO_ENABLED=0 go build -o /app .\n\n"
        'FROM scratch\nCOPY --from=build /app /app\nENTRYPOINT ["/app"]\n',
    ),
    _rule(
        "BuildToolsInFinalStage",
        "The final stage has compilers or other build tools in it",
        "{0}",
        "What is only needed to build makes an image larger, slower to pull, and gives whoever breaks in a workshop. "
        "The final stage should start from a small base and `COPY --from` other stages what they made. A final stage "
        "that stands on an image made to build with (`golang`, `rust`, `maven`, `node` without `-slim` …) is reported "
        "at its `FROM`; tools that an instruction brings, at that instruction. Stages that others copy from are not "
        "looked at, even as the target of a build.",
        'FROM golang:1.25\nWORKDIR /src\nCOPY . .\nRUN CGO_ENABLED=0 go build -o /app .\nENTRYPOINT ["/app"]\n',
        "FROM golang:1.25 AS build\nWORKDIR /src\nCOPY . .\nRUN CGO_ENABLED=0 go build -o /app .\n\n"
        'FROM scratch\nCOPY --from=build /app /app\nENTRYPOINT ["/app"]\n',
    ),
    _rule(
        "PackageCacheInFinalStage",
        "The final stage has caches of package managers or compilers in it",
        "{0}",
        "Package lists, downloaded packages and build caches are of no use to a container, and every pull transfers "
        "them. Deleting them in a later instruction does not help: the layer that has them is still part of the "
        "image. Delete them in the same `RUN`, switch them off, or keep them in a cache mount, which also makes the "
        "next build faster. Less than 1 MB from one instruction is not reported.",
        "FROM debian:bookworm-slim\nRUN apt-get update && apt-get install -y --no-install-recommends ca-certificates\n",
        "FROM debian:bookworm-slim\nRUN apt-get update && apt-get install -y --no-install-recommends ca-certificates "
        "\\\n    && rm -rf /var/lib/apt/lists/*\n",
    ),
    _rule(
        "SourcesInFinalStage",
        "The final stage has a repository or the source of a compiled program in it",
        "{0}",
        "A `.git` directory holds everything that was ever committed. The source of a compiled program is not needed "
        "to run it: Go, Rust, Java, Kotlin, C and C++ are recognised by their project files. Scripts are programs, and "
        "not reported.",
        'FROM debian:bookworm-slim\nCOPY . /app\nCMD ["/app/run.sh"]\n',
        'FROM debian:bookworm-slim\nCOPY run.sh /app/\nCMD ["/app/run.sh"]\n',
    ),
    _rule(
        "SecretsInFinalStage",
        "The final stage has private keys or credentials in it",
        "{0}",
        "Whoever can pull the image can read them, even if a later instruction deletes the files. Files are looked at "
        "by name (SSH and TLS keys, `.netrc`, `.npmrc`, `.pypirc`, `.git-credentials`, AWS, Docker, Kubernetes and "
        "Google Cloud credentials, `.env`) and reported only when they hold what their name promises; their content is "
        "never shown. Keys of tests and of installed packages are left alone.",
        "FROM node:22-slim\nCOPY .npmrc package.json ./\nRUN npm ci\n",
        "FROM node:22-slim\nCOPY package.json ./\nRUN --mount=type=secret,id=npmrc,target=/root/.npmrc npm ci\n",
    ),
)

IMAGE_RULES: Final[dict[str, Rule]] = {rule.name: rule for rule in _TABLE}
