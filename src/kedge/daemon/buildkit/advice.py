"""Advice as tools that know BuildKit's checks look for it.

Owns what the rules that both have are called and how they are worded there: clients, editors and CI match these texts
against Docker's pages. Does not know what breaks a rule; Kedge's own rules keep their words.
"""

import json
from typing import Final

from kedge.model.event import WarningEvent
from kedge.model.value import replace

# By rule: what it is about, and what is said of one breach. `{0}` is an argument as it stands, `{0:q}` one in quotes;
# what is in the last place is added when the rule's last argument is not empty.
_WORDS: Final[dict[str, tuple[str, str, str]]] = {
    "StageNameCasing": ("Stage names should be lowercase", "Stage name '{0}' should be lowercase", ""),
    "FromAsCasing": (
        "The 'as' keyword should match the case of the 'from' keyword",
        "'{1}' and '{0}' keywords' casing do not match",
        "",
    ),
    "NoEmptyContinuation": (
        "Empty continuation lines will become errors in a future release",
        "Empty continuation line",
        "",
    ),
    "ConsistentInstructionCasing": (
        "All commands within the Dockerfile should use the same casing (either upper or lower)",
        "Command '{0}' should match the case of the command majority ({1})",
        "",
    ),
    "DuplicateStageName": (
        "Stage names should be unique",
        "Duplicate stage name {0:q}, stage names should be unique",
        "",
    ),
    "ReservedStageName": (
        "Reserved words should not be used as stage names",
        "Stage name should not use the same name as reserved stage {0:q}",
        "",
    ),
    "JSONArgsRecommended": (
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
        "JSON arguments recommended for {0} to prevent unintended behavior related to OS signals",
        "",
    ),
    "MaintainerDeprecated": (
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
        "Maintainer instruction is deprecated in favor of using label",
        "",
    ),
    "UndefinedArgInFrom": (
        "FROM command must use declared ARGs",
        "FROM argument '{0}' is not declared",
        " (did you mean {1}?)",
    ),
    "WorkdirRelativePath": (
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the "
        "base image changes",
        "Relative workdir {0:q} can have unexpected results if the base image changes",
        "",
    ),
    "UndefinedVar": (
        "Variables should be defined before their use",
        "Usage of undefined variable '${0}'",
        " (did you mean ${1}?)",
    ),
    "MultipleInstructionsDisallowed": (
        "Multiple instructions of the same type should not be used in the same stage",
        "Multiple {0} instructions should not be used in the same stage because only the last one will be used",
        "",
    ),
    "LegacyKeyValueFormat": (
        "Legacy key/value format with whitespace separator should not be used",
        '"{0} key=value" should be used instead of legacy "{0} key value" format',
        "",
    ),
    "InvalidBaseImagePlatform": (
        "Base image platform does not match expected target platform",
        "Base image {0} was pulled with platform {2:q}, expected {1:q} for current build",
        "",
    ),
    "RedundantTargetPlatform": (
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
        "Setting platform to predefined {0} in FROM is redundant as this is the default behavior",
        "",
    ),
    "SecretsUsedInArgOrEnv": (
        "Sensitive data should not be used in the ARG or ENV commands",
        "Do not use ARG or ENV instructions for sensitive data ({0} {1:q})",
        "",
    ),
    "InvalidDefaultArgInFrom": (
        "Default value for global ARG results in an empty or invalid base image name",
        "Default value for ARG {0} results in empty or invalid base image name",
        "",
    ),
    "FromPlatformFlagConstDisallowed": (
        "FROM --platform flag should not use a constant value",
        "FROM --platform flag should not use constant value {0:q}",
        "",
    ),
    "CopyIgnoredFile": (
        "Attempting to Copy file that is excluded by .dockerignore",
        "Attempting to {0} file {1:q} that is excluded by .dockerignore",
        "",
    ),
    "InvalidDefinitionDescription": (
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is "
        "not intended to be a description comment, add an empty line or comment between the instruction and the "
        "comment.",
        "Comment for {0} should follow the format: `# {1} <description>`",
        "",
    ),
    "ExposeProtoCasing": (
        "Protocol in EXPOSE instruction should be lowercase",
        "Defined protocol '{0}' in EXPOSE instruction should be lowercase",
        "",
    ),
    "ExposeInvalidFormat": (
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a "
        "future release",
        "EXPOSE instruction should not define an IP address or host-port mapping, found '{0}'",
        "",
    ),
}


class _Argument(str):
    """An argument that a format can ask for in quotes, as Go's %q has them."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        return json.dumps(str(self), ensure_ascii=False) if spec == "q" else str(self)


def advice(event: WarningEvent) -> WarningEvent:
    """The same warning in the words that are looked for."""
    if (words := _WORDS.get(event.rule)) is None:
        return event
    detail, message, suggestion = words
    if event.arguments and event.arguments[-1]:
        message += suggestion
    try:
        message = message.format(*map(_Argument, event.arguments))
    except IndexError:
        return replace(event, detail=detail)
    return replace(event, detail=detail, message=message)
