"""The rules: BuildKit's checks under BuildKit's names and those of Kedge's own, with what they say and why.

Owns the table from which messages, the reference pages and the tests are made. Does not know how a breach is found:
reading and lowering report it while they resolve the file (see `findings`), with the arguments of `Rule.message`.
"""

import re

from kedge.model.value import dataclass

_URL = "https://docs.docker.com/go/dockerfile/rule/"


@dataclass(frozen=True, slots=True)
class Rule:
    """One check.

    `message` is filled with the finding's arguments; `suggestion` is added to it when the last of them is not empty.
    `summary` is one sentence for lists, `why` the page's text. `bad` breaks this rule and no other, `good` none at all.
    `documented` tells whether Docker's own pages know the rule, `own` that only Kedge has it. An `experimental` rule is
    off unless asked for. `option` is what the examples are built with.
    """

    name: str
    summary: str
    message: str
    why: str
    bad: str
    good: str
    suggestion: str = ""
    documented: bool = True
    experimental: bool = False
    own: bool = False
    option: str = ""

    @property
    def slug(self) -> str:
        """The name as part of a URL or file name: `StageNameCasing` is `stage-name-casing`."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", self.name).lower()

    @property
    def url(self) -> str:
        return f"{_URL}{self.slug}/" if self.documented else ""

    def text(self, arguments: tuple[str, ...]) -> str:
        """The message for one finding."""
        suggestion = self.suggestion if arguments and arguments[-1] else ""
        return (self.message + suggestion).format(*arguments)


_TABLE = (
    Rule(
        "StageNameCasing",
        "A stage's name has capital letters",
        "stage name {0} should be in lower case",
        "Stage names are compared without regard to case, and tools show them in lower case. A name that is "
        "written as it will be shown is found by a search.",
        "FROM busybox AS Build\n",
        "FROM busybox AS build\n",
    ),
    Rule(
        "FromAsCasing",
        "AS is not in the case of its FROM",
        "{1} should be in the case of {0}",
        "FROM and AS are two halves of one instruction. In one case they read as such.",
        "FROM busybox as build\n",
        "FROM busybox AS build\n",
    ),
    Rule(
        "NoEmptyContinuation",
        "An instruction goes on behind an empty line",
        "a line of this instruction is empty",
        "An empty line looks like the end of an instruction, but behind a line that ends in the escape "
        "character it is skipped. BuildKit means to refuse such lines in time. A comment line may stand "
        "there.",
        "FROM busybox\nRUN echo hello \\\n\n  world\n",
        "FROM busybox\nRUN echo hello \\\n  # to all\n  world\n",
    ),
    Rule(
        "ConsistentInstructionCasing",
        "A keyword is not in the case of most others",
        "{0} should be in {1}, as most instructions of this file are",
        "Keywords may be written in any case. One case throughout keeps them apart from their arguments. The "
        "case that most instructions have is taken as meant; mixed case never is.",
        "FROM busybox\nRun echo hello\n",
        "FROM busybox\nRUN echo hello\n",
    ),
    Rule(
        "DuplicateStageName",
        "Two stages have the same name",
        "there is a stage named {0} already",
        "Names of stages are compared without regard to case. Of two stages with one name, later instructions "
        "can only reach the last one above them, which is seldom what was meant.",
        "FROM busybox AS build\nFROM alpine AS build\n",
        "FROM busybox AS build\nFROM alpine AS test\n",
    ),
    Rule(
        "ReservedStageName",
        "A stage has a name with a meaning of its own",
        "{0} should not be the name of a stage, it has a meaning already",
        "`scratch` is the empty image and `context` the build context. A stage of that name would be hidden "
        "by it, or hide it.",
        "FROM busybox AS context\n",
        "FROM busybox AS sources\n",
    ),
    Rule(
        "JSONArgsRecommended",
        "CMD or ENTRYPOINT has no JSON arguments",
        "{0} should have JSON arguments, so that signals reach the program",
        "Without JSON the command runs as a child of `/bin/sh -c`. The shell does not pass on the SIGTERM "
        "that a stop sends, so the program is killed when its time is up, and an image without a shell cannot "
        "start it at all. If a shell is wanted, say so by `SHELL`, or name it in the JSON form.",
        "FROM busybox\nCMD echo hello\n",
        'FROM busybox\nCMD ["echo", "hello"]\n',
    ),
    Rule(
        "MaintainerDeprecated",
        "MAINTAINER is deprecated",
        "MAINTAINER is deprecated, a label should name the author",
        "Labels hold the author as they hold everything else about an image, and can be listed and filtered.",
        "FROM busybox\nMAINTAINER me@example.com\n",
        'FROM busybox\nLABEL org.opencontainers.image.authors="me@example.com"\n',
    ),
    Rule(
        "UndefinedArgInFrom",
        "FROM uses a variable that no ARG above it declares",
        "FROM uses the variable {0}, which is not declared",
        "Only `ARG` instructions above the first `FROM`, and the predefined platform arguments, have values "
        "there. Anything else is empty, whatever is passed to the build.",
        "FROM busybox:1.36${SUFFIX}\n",
        "ARG SUFFIX\nFROM busybox:1.36${SUFFIX}\n",
        suggestion=" (did you mean {1}?)",
    ),
    Rule(
        "WorkdirRelativePath",
        "WORKDIR is relative to what the base image says",
        "the relative directory {0} depends on the base image's",
        "A relative directory starts at the last one set. When that comes from the base image, another "
        "version of the image may move all that follows.",
        "FROM busybox\nWORKDIR srv/app\n",
        "FROM busybox\nWORKDIR /srv\nWORKDIR app\n",
    ),
    Rule(
        "UndefinedVar",
        "An instruction uses a variable that nothing sets",
        "the variable ${0} is used, but nothing sets it",
        "The variable is neither declared in this stage by `ARG` or `ENV`, nor set by the base image, so it "
        "is empty. An `ARG` above the first `FROM` holds in stages only where it is declared again. Commands "
        "of a shell are not looked at: the shell may set variables itself.",
        "FROM busybox\nCOPY ${SOURCE} /app/\n",
        "FROM busybox\nARG SOURCE=src\nCOPY ${SOURCE} /app/\n",
        suggestion=" (did you mean ${1}?)",
    ),
    Rule(
        "MultipleInstructionsDisallowed",
        "A later instruction of the kind makes this one useless",
        "a later {0} in this stage replaces this one",
        "Of `CMD`, `ENTRYPOINT` and `HEALTHCHECK` an image has one each: the last. An earlier one in the same "
        "stage does nothing.",
        'FROM busybox\nCMD ["echo", "hello"]\nCMD ["echo", "world"]\n',
        'FROM busybox\nENTRYPOINT ["echo", "hello"]\nCMD ["world"]\n',
    ),
    Rule(
        "LegacyKeyValueFormat",
        "A name and its value are separated by a blank",
        "write {0} name=value rather than {0} name value",
        "In the old form all that follows the name is the value, quotes and further `=` included. It cannot "
        "set several at once, and is easily misread.",
        "FROM busybox\nENV LANGUAGE en\n",
        "FROM busybox\nENV LANGUAGE=en\n",
    ),
    Rule(
        "InvalidBaseImagePlatform",
        "The base image is for another platform than asked for",
        "the base image {0} is for {2}, this build asks for {1}",
        "The image was found, but not for the platform of this stage. Its programs run only under emulation, "
        "if at all.",
        "FROM --platform=linux/arm64 busybox AS arm64\n",
        "FROM busybox\n",
        documented=False,
    ),
    Rule(
        "RedundantTargetPlatform",
        "FROM asks for the platform it has anyway",
        "--platform={0} is what FROM takes by itself",
        "Without `--platform` a stage is for the target platform. Saying so suggests that something is different here.",
        "FROM --platform=$TARGETPLATFORM busybox\n",
        "FROM --platform=$BUILDPLATFORM busybox\n",
    ),
    Rule(
        "SecretsUsedInArgOrEnv",
        "ARG or ENV holds what seems to be a secret",
        "{0} should not hold a secret, which {1} seems to be",
        "Values of `ENV` are part of the image's configuration, values of `ARG` of its history: who has the "
        "image, has them. Mount a secret instead: it exists for one step, and is in no layer. Only the name "
        "is looked at: `token`, `secret`, `password` and their like, unless `public`, `file` or `version` is "
        "part of it too.",
        "FROM busybox\nARG API_TOKEN\nRUN ./fetch\n",
        "FROM busybox\nRUN --mount=type=secret,id=token,env=API_TOKEN ./fetch\n",
    ),
    Rule(
        "InvalidDefaultArgInFrom",
        "FROM names no image unless a build argument is given",
        "without build arguments {0} is not the name of an image",
        "Everyone who builds the file must know the arguments. A default value, in `ARG` or in the variable's "
        "use, lets it build as it stands.",
        "ARG TAG\nFROM busybox:${TAG}\n",
        "ARG TAG=latest\nFROM busybox:${TAG}\n",
    ),
    Rule(
        "FromPlatformFlagConstDisallowed",
        "FROM asks for a fixed platform",
        "--platform should not be fixed to {0}",
        "The stage is for this one platform, whatever platform the build is for. Use a variable, or choose "
        "the platform when you build. A stage whose name holds the operating system or the architecture is "
        "taken as meant so.",
        "FROM --platform=linux/amd64 busybox AS base\n",
        "FROM --platform=linux/amd64 busybox AS base-amd64\n",
    ),
    Rule(
        "CopyIgnoredFile",
        "COPY or ADD names a file that the ignore file excludes",
        "{0} of {1}, which the ignore file excludes",
        "The file never reaches the build, so the instruction will fail or copy nothing. The example's ignore "
        "file has one line: `secret`. Ignore files with exceptions (`!`) are not looked at.",
        "FROM scratch\nCOPY secret/key /key\n",
        "FROM scratch\nCOPY public/key /key\n",
    ),
    Rule(
        "InvalidDefinitionDescription",
        "The comment above FROM or ARG does not begin with the name",
        "the comment above {0} should read # {1} and what it is for",
        "`kedge build --call outline` shows such comments as descriptions, when they begin with the name of "
        "the stage or argument. An empty comment line (`#`) below the comment says that it is not meant so.",
        "# check=experimental=InvalidDefinitionDescription\n# the version to build\nARG VERSION=1\nFROM busybox\n",
        "# check=experimental=InvalidDefinitionDescription\n"
        "# VERSION is the version to build\n"
        "ARG VERSION=1\n"
        "FROM busybox\n",
        experimental=True,
    ),
    Rule(
        "ExposeProtoCasing",
        "The protocol of EXPOSE has capital letters",
        "the protocol of {0} should be in lower case",
        "Protocols are written in lower case in the image's configuration, whatever case the instruction has.",
        "FROM busybox\nEXPOSE 53/UDP\n",
        "FROM busybox\nEXPOSE 53/udp\n",
    ),
    Rule(
        "ExposeInvalidFormat",
        "EXPOSE has an address or a port of the host",
        "EXPOSE should name a port and no more, not {0}",
        "`EXPOSE` tells which ports of the container are used. Addresses and ports of the host are chosen "
        "when the container is run; here they are ignored, and BuildKit means to refuse them in time.",
        "FROM busybox\nEXPOSE 127.0.0.1:8080:80\n",
        "FROM busybox\nEXPOSE 80\n",
    ),
    Rule(
        "UndeclaredBuildArg",
        "A build argument and an ARG have almost the same name",
        "no ARG declares the build argument {0}",
        "A build argument that no `ARG` declares has no effect. When there is an `ARG` with almost its name, one of "
        "the two is probably mistyped.",
        "ARG VERSOIN=36\nFROM busybox:1.${VERSOIN}\n",
        "ARG VERSION=36\nFROM busybox:1.${VERSION}\n",
        suggestion=" (did you mean {1}?)",
        documented=False,
        own=True,
        option="--build-arg VERSION=37",
    ),
)

RULES: dict[str, Rule] = {rule.name: rule for rule in _TABLE}
