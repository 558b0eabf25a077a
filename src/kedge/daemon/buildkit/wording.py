"""What programs that know BuildKit look for in an error's text.

Owns the few phrases that are compared, and which of our messages they stand for. A gRPC status has one code for every
failed build, so a program that wants to know what failed looks into the text; BuildKit's own integration tests, which
Kedge must pass, do so, too. A phrase is here only if one of those tests (named beside it) fails without it; words of it
that no test compares are ours. All else that Kedge tells through the service is worded as on its command line, and our
advice stands behind either.
"""

import re
from typing import Final

from kedge.model.errors import KedgeError, StepFailed
from kedge.model.event import visible

# our message, what is looked for in its place, and the test in BuildKit's frontend/dockerfile or client that does
_TABLE: Final = tuple(
    (re.compile(ours), theirs)
    for ours, theirs, _ in (
        (r"unknown instruction (\S+)", r"unknown instruction: \1", "testUndeclaredArg"),
        (r"checks failed: ([^\n]+)", r"lint violation found for rules: \1", "testRuleCheckOption"),
        (r"the platform '(\S+)' is empty", r"empty platform value from expression \1", "testUndeclaredArg"),
        (
            r"the platform '(\S+)' comes to '((?:[^/']*/)+)': [^\n]*",
            r'failed to parse platform \1: "" is an invalid component of "\2": platform specifier component must match '
            r'"^[A-Za-z0-9_.-]+$": invalid argument',
            "testUndeclaredArg, which compares the whole text",
        ),
        (r"unknown flag (--\S+) for \w+", r"unknown flag: \1", "testMountInvalid"),
        (r"unknown mount option '([^']*)'", r"unexpected key '\1'", "testMountInvalid"),
        (r"mount option 'type': unsupported type '([^']*)'", r'unsupported mount type "\1"', "testMountInvalid"),
        (r"target stage '([^']*)' could not be found", r'target stage "\1" could not be found', "testTargetMistype"),
        (r"the Dockerfile has no stage", "the dockerfile contains no stages to build", "testEmptyStages"),
        (
            r"\w+ from stage (\S+) before it is defined",
            r"cannot copy from stage \1: it needs to be defined before current stage",
            "testOutOfOrderStage",
        ),
        (
            r"--from cannot have variables",
            "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope "
            "as a workaround",
            "testDockerfileCopyFromArgs",
        ),
        (
            r"'from' of a mount cannot have variables",
            "'from' doesn't support variable expansion, define alias stage instead",
            "testMountFromError",
        ),
        (
            r"invalid mode '([^']*)' for --chmod",
            r"invalid chmod parameter: '\1'. it should be octal string and between 0 and 07777",
            "testCopyInvalidChmod",
        ),
        (
            r"the stage (\S+) has no time for SOURCE_DATE_EPOCH",
            r"SOURCE_DATE_EPOCH stage does not meet source-only requirements: \1",
            "testSourceDateEpochStageInvalid",
        ),
        (
            r"invalid SOURCE_DATE_EPOCH: '([^']*)'",
            r"invalid SOURCE_DATE_EPOCH: \1",
            "testSourceDateEpochDockerfileDefaultInvalid",
        ),
        (
            r"(/[^\n]*): not found",
            r'failed to compute cache key: failed to calculate checksum of ref input: "\1": not found',
            "testCopyIgnoredFiles, testCopyParentsMissingDirectory",
        ),
        (r"no secret was lent under the id '([^']*)'", r"secret \1: not found", "testSecretRequiredWithoutValue"),
        (
            r"the git reference names two refs, '([^']*)' and '([^']*)'",
            r"ref conflicts: both \1 and \2 are named",
            "testGitQueryString",
        ),
        (
            r"([^\n]*) has no branch or tag '([^']*)'",
            r"\1: the repository does not contain ref \2",
            "testGitQueryString",
        ),
        (
            r"([^\n]*): ([^\n:]+) is ([0-9a-f]{40,64}), expected ([0-9a-f]+)",
            r"\1: expected checksum to match \4, and \2 is \3",
            "testGitQueryString, testAddGit",
        ),
        (
            r"([^\n]*): the server answered (\d+[^\n]*)",
            r"\1: invalid response status \2",
            "testBuildHTTPSource, testBuildHTTPSourceUnauthorizedChecksumRace",
        ),
        (
            r"([^\n]*) of (\S+) would replace that of (\S+)",
            r"cannot overwrite \1 from \3 with that from \2 when split option is disabled",
            "testExportLocalNoPlatformSplitOverwrite",
        ),
        (r"the step needs the entitlement (\S+)", r"entitlement \1 is not allowed", "testRunHostNetwork"),
    )
)


_MISREAD: Final = ("unknown instruction: ",)  # what parsers of Dockerfiles tell with the line
_SUGGESTED: Final = "did you mean "
_MARKS: Final = re.compile(r"(?<= )(\$|--)")  # names are suggested bare


def worded(error: KedgeError, advised: bool = True) -> str:
    """An error's text. Without our advice only what both say is added to the message: what may have been meant."""
    text = reworded(error.message)
    advice = visible(error.hint)
    if error.location and text.startswith(_MISREAD):
        text = f"dockerfile parse error on line {error.location.start}: {text}"
    if not advice or isinstance(error, StepFailed):
        return text
    hint = advice.rstrip(".")
    hint = hint[:1].lower() + hint[1:]
    if hint.startswith(_SUGGESTED):
        return f"{text} ({_MARKS.sub('', hint)})"
    return f"{text} ({hint})" if advised else text


def reworded(message: str) -> str:
    """The message in the words that are looked for; most have none. Bytes that are no text are shown as such."""
    message = visible(message)
    for ours, theirs in _TABLE:
        if found := ours.fullmatch(message):
            return found.expand(theirs)
    return message
