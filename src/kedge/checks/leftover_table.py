"""What multi-stage builds exist to leave behind, as a table: where it is found, what it is, what to do instead.

Owns the table. Does not look at files. Paths are relative to the root, without a leading slash; `~` stands for /root
and for each directory of /home.
"""

from typing import Final, Literal, TypeAlias

from kedge.model.value import dataclass

Kind: TypeAlias = Literal["tool", "cache", "source", "secret"]
MULTI_STAGE: Final = "Build in a stage of its own, and COPY --from it what was made"


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of leftover. `what` reads on in a sentence, `instead` is a sentence without a full stop."""

    kind: Kind
    what: str
    instead: str


def _cache(what: str, target: str, *paths: str, instead: str = "") -> dict[str, Row]:
    row = Row("cache", what, instead or f"Keep it out of the layer: RUN --mount=type=cache,target={target}")
    return dict.fromkeys(paths, row)


def _tool(what: str, *paths: str) -> dict[str, Row]:
    return dict.fromkeys(paths, Row("tool", what, MULTI_STAGE))


# Whole directories, by their path.
DIRECTORIES: Final[dict[str, Row]] = {
    **_cache("apt's package lists", "/var/lib/apt", "var/lib/apt/lists",
             instead="End the same RUN with rm -rf /var/lib/apt/lists/*, or RUN --mount=type=cache"),
    **_cache("apt's package cache", "/var/cache/apt", "var/cache/apt"),
    **_cache("apk's cache", "/var/cache/apk", "var/cache/apk", "etc/apk/cache", instead="Use apk add --no-cache"),
    **_cache("dnf's cache", "/var/cache/dnf", "var/cache/dnf", "var/cache/libdnf5", "var/cache/yum"),
    **_cache("zypper's cache", "/var/cache/zypp", "var/cache/zypp"),
    **_cache("pacman's cache", "/var/cache/pacman", "var/cache/pacman"),
    **_cache("pip's cache", "/root/.cache/pip", "~/.cache/pip",
             instead="Use pip install --no-cache-dir, or RUN --mount=type=cache,target=/root/.cache/pip"),
    **_cache("uv's cache", "/root/.cache/uv", "~/.cache/uv"),
    **_cache("Poetry's cache", "/root/.cache/pypoetry", "~/.cache/pypoetry"),
    **_cache("conda's packages", "/opt/conda/pkgs", "opt/conda/pkgs", instead="End the same RUN with conda clean -afy"),
    **_cache("npm's cache", "/root/.npm", "~/.npm"),
    **_cache("Yarn's cache", "/usr/local/share/.cache", "usr/local/share/.cache", "~/.cache/yarn",
             "~/.yarn/berry/cache"),
    **_cache("pnpm's store", "/root/.local/share/pnpm", "~/.local/share/pnpm/store"),
    **_cache("Go's build cache", "/root/.cache/go-build", "~/.cache/go-build"),
    **_cache("Go's module cache", "/go/pkg/mod", "go/pkg/mod", "~/go/pkg/mod"),
    **_cache("Cargo's registry", "/usr/local/cargo/registry", "~/.cargo/registry", "~/.cargo/git",
             "usr/local/cargo/registry", "usr/local/cargo/git"),
    **_cache("Maven's repository", "/root/.m2", "~/.m2/repository"),
    **_cache("Gradle's caches", "/root/.gradle", "~/.gradle/caches", "home/gradle/.gradle/caches"),
    **_cache("NuGet's packages", "/root/.nuget", "~/.nuget/packages"),
    **_cache("Composer's cache", "/root/.composer/cache", "~/.composer/cache", "~/.cache/composer"),
    **_cache("RubyGems' cache", "/usr/local/bundle/cache", "usr/local/bundle/cache", "~/.bundle/cache"),
    **_cache("ccache's cache", "/root/.cache/ccache", "~/.cache/ccache", "~/.ccache"),
    **_cache("Bazel's cache", "/root/.cache/bazel", "~/.cache/bazel"),
    **_tool("GCC", "usr/lib/gcc", "usr/libexec/gcc", "usr/local/lib/gcc", "usr/local/libexec/gcc"),
    **_tool("Go", "usr/local/go", "usr/lib/go"),
    **_tool("Rust", "usr/local/rustup", "~/.rustup"),
    **_tool("the .NET SDK", "usr/share/dotnet/sdk", "usr/lib/dotnet/sdk"),
    **_tool("C headers", "usr/include", "usr/local/include"),
    **_tool("npm", "usr/lib/node_modules/npm", "usr/local/lib/node_modules/npm", "usr/share/nodejs/npm"),
    **_tool("Maven", "usr/share/maven", "opt/maven"),
    **_tool("Gradle", "opt/gradle"),
}  # fmt: skip

# Whole directories, by their name, wherever they are.
NAMED_DIRECTORIES: Final[dict[str, Row]] = {
    name: Row("source", f"a {what} repository", f"Put {name} into .dockerignore, or COPY only what is needed")
    for name, what in ((".git", "Git"), (".hg", "Mercurial"), (".svn", "Subversion"), (".bzr", "Bazaar"))
}

# Programs in a directory called bin, sbin or libexec.
PROGRAMS: Final[dict[str, Row]] = {
    **_tool("GCC", "gcc", "g++", "cc1", "cc1plus"),
    **_tool("Clang", "clang", "clang++"),
    **_tool("binutils", "ld.bfd", "ld.gold"),
    **_tool("Rust", "rustc", "cargo"),
    **_tool("the JDK's compiler", "javac"),
    **_tool("make", "make", "gmake"),
    **_tool("CMake", "cmake"),
    **_tool("Ninja", "ninja"),
    **_tool("Maven", "mvn"),
    **_tool("Gradle", "gradle"),
    **_tool("GHC", "ghc", "cabal", "stack"),
    **_tool("Zig", "zig"),
    **_tool("Swift", "swiftc"),
    **_tool("Bazel", "bazel", "bazelisk"),
    **_tool("protoc", "protoc"),
    **_tool("Composer", "composer"),
    **_tool("Yarn", "yarn"),
    **_tool("pnpm", "pnpm"),
    **_tool("Poetry", "poetry"),
}
PROGRAM_DIRECTORIES: Final = frozenset({"usr/bin", "usr/local/bin", "bin", "usr/local/cargo/bin", "opt/bin"})

# A file that says: here stands the source of a compiled program; with the suffixes of that source.
SOURCE_MARKS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "go.mod": ("Go", (".go",)),
    "Cargo.toml": ("Rust", (".rs",)),
    "pom.xml": ("Java", (".java", ".kt", ".scala")),
    "build.gradle": ("Java", (".java", ".kt")),
    "build.gradle.kts": ("Kotlin", (".kt", ".java")),
    "CMakeLists.txt": ("C or C++", (".c", ".cc", ".cpp", ".cxx", ".h", ".hpp")),
}
SOURCE_INSTEAD: Final = "COPY the program alone, by --from the stage that compiles it"
# What stands below these is somebody's package, and its own business.
PACKAGES: Final = frozenset({"node_modules", "site-packages", "dist-packages", "vendor", "gems", "testdata"})
NOT_SOURCE: Final = ("usr/share", "usr/lib", "usr/src", "usr/include", "usr/local/go", "go/pkg", "usr/local/lib")

LEAST_CACHE: Final = 1 << 20  # bytes of caches that one instruction may leave without a word
LEAST_HEADERS: Final = 4 << 20  # the same of C headers, which runtime packages bring too


@dataclass(frozen=True, slots=True)
class BuildImage:
    """An image made to build with. `slim`: a tag with one of these words in it is made to run things."""

    what: str
    instead: str
    slim: tuple[str, ...] = ()


_SLIM = ("slim", "alpine", "distroless", "runtime", "jre")
BUILD_IMAGES: Final[dict[str, BuildImage]] = {
    "golang": BuildImage("the Go compiler", "scratch or debian:bookworm-slim"),
    "rust": BuildImage("the Rust compiler", "debian:bookworm-slim"),
    "gcc": BuildImage("GCC", "debian:bookworm-slim"),
    "buildpack-deps": BuildImage("compilers and headers", "debian:bookworm-slim"),
    "maven": BuildImage("Maven and a JDK", "eclipse-temurin:21-jre"),
    "gradle": BuildImage("Gradle and a JDK", "eclipse-temurin:21-jre"),
    "eclipse-temurin": BuildImage("a JDK", "the same image's -jre tag", ("jre",)),
    "openjdk": BuildImage("a JDK", "eclipse-temurin:21-jre", ("jre",)),
    "amazoncorretto": BuildImage("a JDK", "eclipse-temurin:21-jre", ("headless", "al2023")),
    "haskell": BuildImage("GHC", "debian:bookworm-slim"),
    "swift": BuildImage("the Swift compiler", "the same image's -slim tag", ("slim",)),
    "node": BuildImage("compilers and headers", "the same image's -slim tag", _SLIM),
    "python": BuildImage("compilers and headers", "the same image's -slim tag", _SLIM),
    "ruby": BuildImage("compilers and headers", "the same image's -slim tag", _SLIM),
    "mcr.microsoft.com/dotnet/sdk": BuildImage("the .NET SDK", "mcr.microsoft.com/dotnet/aspnet of the same version"),
}


def build_image(name: str) -> BuildImage | None:
    """The row for an image's name as FROM has it (`golang:1.25`), if it is one to build with."""
    path = name.partition("@")[0]
    repository, colon, tag = path.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = path, "latest"
    repository = repository.removeprefix("docker.io/").removeprefix("library/")
    row = BUILD_IMAGES.get(repository)
    return None if row is None or any(word in tag for word in row.slim) else row
