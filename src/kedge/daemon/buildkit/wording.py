"""What tools that know BuildKit look for in an error's text.

Owns the few phrases that are compared by programs (BuildKit's own tests among them), and which of ours they stand for.
People get the same facts, and our advice behind them.
"""

import re
from typing import Final

from kedge.model.errors import KedgeError, StepFailed

_TABLE: Final = tuple(
    (re.compile(ours), theirs)
    for ours, theirs in (
        (r"unknown instruction (\S+)", r"unknown instruction: \1"),
        (r"checks failed: ([^\n]+)", r"lint violation found for rules: \1"),
        (r"the platform '(\S+)' is empty", r"empty platform value from expression \1"),
        (
            r"the platform '(\S+)' comes to '((?:[^/']*/)+)': [^\n]*",
            r'failed to parse platform \1: "" is an invalid component of "\2": platform specifier component must match '
            r'"^[A-Za-z0-9_.-]+$": invalid argument',
        ),
        (r"unknown flag (--\S+) for \w+", r"unknown flag: \1"),
        (r"unknown mount option '([^']*)'", r"unexpected key '\1'"),
        (r"mount option 'type': unsupported type '([^']*)'", r'unsupported mount type "\1"'),
        (r"target stage '([^']*)' could not be found", r'target stage "\1" could not be found'),
        (r"the Dockerfile has no stage", "dockerfile contains no stages to build"),
        (
            r"\w+ from stage (\S+) before it is defined",
            r'cannot copy from stage "\1", it needs to be defined before current stage',
        ),
        (
            r"--from cannot have variables",
            "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope "
            "as a workaround",
        ),
        (
            r"'from' of a mount cannot have variables",
            "'from' doesn't support variable expansion, define alias stage instead",
        ),
        (
            r"invalid mode '([^']*)' for --chmod",
            r"invalid chmod parameter: '\1'. it should be octal string and between 0 and 07777",
        ),
        (
            r"the stage (\S+) has no time for SOURCE_DATE_EPOCH",
            r"SOURCE_DATE_EPOCH stage does not meet source-only requirements: \1",
        ),
        (r"invalid SOURCE_DATE_EPOCH: '([^']*)'", r"invalid SOURCE_DATE_EPOCH: \1"),
        (
            r"(/[^\n]*): not found",
            r'failed to compute cache key: failed to calculate checksum of ref input: "\1": not found',
        ),
        (r"no secret was lent under the id '([^']*)'", r"secret \1: not found"),
        (r"the git reference names two refs, '([^']*)' and '([^']*)'", r"ref conflicts: \1 and \2"),
        (r"[^\n]* has no branch or tag '([^']*)'", r"repository does not contain ref \1"),
        (r"[^\n]*: [^\n:]+ is ([0-9a-f]{40,64}), expected ([0-9a-f]+)", r"expected checksum to match \2, got \1"),
        (r"the step needs the entitlement (\S+)", r"\1 is not allowed"),
    )
)


_MISREAD: Final = ("unknown instruction: ",)  # what parsers of Dockerfiles tell with the line
_SUGGESTED: Final = "did you mean "
_MARKS: Final = re.compile(r"(?<= )(\$|--)")  # names are suggested bare


def worded(error: KedgeError, advised: bool = True) -> str:
    """An error's text. Without our advice only what both say is added to the message: what may have been meant."""
    text = reworded(error.message)
    if error.location and text.startswith(_MISREAD):
        text = f"dockerfile parse error on line {error.location.start}: {text}"
    if not error.hint or isinstance(error, StepFailed):
        return text
    hint = error.hint.rstrip(".")
    hint = hint[:1].lower() + hint[1:]
    if hint.startswith(_SUGGESTED):
        return f"{text} ({_MARKS.sub('', hint)})"
    return f"{text} ({hint})" if advised else text


def reworded(message: str) -> str:
    """The message in the words that are looked for; most have none."""
    for ours, theirs in _TABLE:
        if found := ours.fullmatch(message):
            return found.expand(theirs)
    return message
