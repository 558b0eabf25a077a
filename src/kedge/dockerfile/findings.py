"""What a check found, as values: the collector that reading and lowering report to while they resolve a Dockerfile.

Reading (`stages`, `read`) reports StageNameCasing, FromAsCasing, MaintainerDeprecated, InvalidDefinitionDescription,
ReservedStageName, DuplicateStageName and ConsistentInstructionCasing. Lowering reports InvalidDefaultArgInFrom,
UndefinedArgInFrom, RedundantTargetPlatform, FromPlatformFlagConstDisallowed, InvalidBaseImagePlatform, UndefinedVar,
SecretsUsedInArgOrEnv, LegacyKeyValueFormat, WorkdirRelativePath, MultipleInstructionsDisallowed, JSONArgsRecommended,
ExposeProtoCasing, ExposeInvalidFormat and CopyIgnoredFile. Arguments are those of BuildKit's message formats, in order.

Owns the finding and its collector. Does not know which rules exist, how a message reads or what is silenced (that is
lint's).
"""

from kedge.model.errors import Location
from kedge.model.value import dataclass, field


@dataclass(frozen=True, slots=True)
class Finding:
    """One breach of `rule` (BuildKit's name, such as UndefinedVar) at `location`.

    `arguments` fill the rule's message, in the rule's own order. `comments` are the comment lines right above the
    instruction: they may hold a `check=skip=…` of its own.
    """

    rule: str
    location: Location
    arguments: tuple[str, ...] = ()
    comments: tuple[str, ...] = ()


@dataclass(slots=True)
class Findings:
    """Collects findings in the order they are met; the same finding is kept once."""

    found: list[Finding] = field(default_factory=list)
    _seen: set[tuple[str, int, tuple[str, ...]]] = field(default_factory=set)

    def report(self, rule: str, location: Location, *arguments: str, comments: tuple[str, ...] = ()) -> None:
        """Note a breach of `rule`."""
        key = (rule, location.start, arguments)
        if key not in self._seen:
            self._seen.add(key)
            self.found.append(Finding(rule, location, arguments, comments))
