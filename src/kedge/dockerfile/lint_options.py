"""What the user asked of the checks: `# check=skip=…;error=…;experimental=…`, and where that may be written.

Owns the grammar and precedence. Does not know the rules by name: skipping one that does not exist is no error.
"""

from collections.abc import Iterable, Mapping

from kedge.dockerfile.directives import Directive
from kedge.dockerfile.parser import Dockerfile
from kedge.model.errors import DockerfileError, Location, SourceFile
from kedge.model.suggest import did_you_mean
from kedge.model.value import dataclass

BUILD_ARG = "BUILDKIT_DOCKERFILE_CHECK"
_ALL = "all"
_KEYS = ("skip", "error", "experimental")
_BOOLEANS = dict.fromkeys(["1", "t", "T", "true", "TRUE", "True"], True) | dict.fromkeys(
    ["0", "f", "F", "false", "FALSE", "False"], False
)


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """Which rules are silenced or, being experimental, switched on; `all` stands for each. `error` fails the build."""

    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error: bool = False

    def reports(self, rule: str, *, experimental: bool = False, comments: Iterable[str] = ()) -> bool:
        """Whether a breach of `rule` is to be shown, where `comments` stand above the instruction.

        An experimental rule is silent unless switched on, and then cannot be skipped. A check comment above an
        instruction adds to what holds for the file; one that cannot be read is ignored, being a comment after all.
        """
        options = self._with_comments(comments)
        if experimental:
            return bool({rule, _ALL} & options.experimental)
        return not {rule, _ALL} & options.skip

    def _with_comments(self, comments: Iterable[str]) -> "CheckOptions":
        for comment in comments:
            name, separator, value = comment.partition("=")
            if not separator or name.strip().lower() != "check":
                continue
            try:
                local = parse_check_options(value.strip().partition(" ")[0])
            except DockerfileError:
                return self
            return CheckOptions(self.skip | local.skip, self.experimental | local.experimental, self.error)
        return self


def parse_check_options(text: str, location: Location | None = None) -> CheckOptions:
    """The options that `skip=Rule,Rule;error=true;experimental=all` spells; raises DockerfileError."""
    rules: dict[str, frozenset[str]] = {}
    error = False
    for part in text.strip().split(";", 2) if text.strip() else ():
        key, separator, value = (piece.strip() for piece in part.partition("="))
        if not separator or key not in _KEYS:
            nearest = "" if key in _KEYS else did_you_mean(key, _KEYS)
            hint = nearest or "Write skip=RULE,RULE;error=true;experimental=RULE, or parts of it."
            raise DockerfileError(f"invalid check option {part.strip()!r}", location=location, hint=hint)
        if key != "error":
            rules[key] = frozenset(rule.strip() for rule in value.split(","))
        elif value in _BOOLEANS:
            error = _BOOLEANS[value]
        else:
            raise DockerfileError(f"invalid check option {part.strip()!r}", location=location, hint="Write error=true.")
    return CheckOptions(rules.get("skip", frozenset()), rules.get("experimental", frozenset()), error)


def check_options(file: Dockerfile, build_args: Mapping[str, str] | None = None) -> CheckOptions:
    """The options in force for a file: of the build argument if given, even empty, else of the `check` directive.

    Call it before lowering: bad options fail a build that would else succeed. Raises DockerfileError.
    """
    override = (build_args or {}).get(BUILD_ARG)
    if override is not None:
        return parse_check_options(override, Location(SourceFile(f"--build-arg {BUILD_ARG}", override), 1, 1))
    directive: Directive | None = file.directive("check")
    return parse_check_options(directive.word, directive.location) if directive else CheckOptions()
