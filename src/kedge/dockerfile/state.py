"""A stage while it is lowered: its root file system so far, its environment, its config; and what all stages share.

Owns variable expansion inside stages and the names of vertices. Does not know what single instructions do.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from kedge.dockerfile.config import ConfigDraft
from kedge.dockerfile.drafts import DraftEdge, Drafts
from kedge.dockerfile.instructions import Command
from kedge.dockerfile.stage_plan import Plan, StagePlan
from kedge.dockerfile.variables import NOT_IN_ENVIRONMENT, platform_text
from kedge.dockerfile.words import Expansion, expand
from kedge.model.errors import DockerfileError, KedgeError, Location
from kedge.model.event import visible
from kedge.model.graph import Hints
from kedge.model.platform import Platform, normalize, parse_platform
from kedge.model.suggest import nearest
from kedge.model.value import dataclass, field

if TYPE_CHECKING:
    from kedge.model.patterns import Patterns

MAX_GROWTH = 64 << 20  # characters, roughly bytes: of all that instructions come to in the steps and the history
_ENTRY = 24  # bytes that an entry of the history takes in each stage that inherits it
_MANY = 100  # findings, after which nobody reads which variable each one may have meant


@dataclass(slots=True)
class Lowering:
    """What the stages of one build share. `states` holds those lowered so far; `context` is the build context.

    A short Dockerfile can come to a great deal: each step has the whole environment, its history all arguments, and
    each stage the history of the one below. `growth` counts that, so that it ends in an error.
    """

    plan: Plan
    drafts: Drafts
    proxies: tuple[tuple[str, str], ...]
    context: DraftEdge | None = None
    context_paths: set[str] = field(default_factory=set)
    states: dict[StagePlan, "StageState"] = field(default_factory=dict)
    growth: int = 0
    _ignored: "Patterns | None" = None

    def grow(self, size: int) -> None:
        """Count so many characters more; raises DockerfileError for more than anybody means."""
        self.growth += size
        if self.growth > MAX_GROWTH:
            raise DockerfileError(
                f"the Dockerfile comes to more than {MAX_GROWTH >> 20} MiB of text",
                hint="Variables stand whole in each step that has them: put large values into files.",
            )

    def ignored(self, lines: tuple[str, ...]) -> "Patterns":
        """The context's ignore file, read once for all instructions."""
        if self._ignored is None:
            from kedge.model.patterns import Patterns

            self._ignored = Patterns(lines)
        return self._ignored

    def inherit(self, history: Sequence[object]) -> None:
        """Count a history that one more stage begins with."""
        self.grow(_ENTRY * len(history))


@dataclass(slots=True)
class StageState:
    """One stage. `root` is None while it is empty; `env` holds ARGs too, `config.env` does not.

    `paths` are those that others copy out of this stage (or of what it is built on, which shares the set); a named
    local context is read only there. `declared` are the stage's ARGs with their values. `number` counts the named
    steps.
    """

    lowering: Lowering
    plan: StagePlan
    platform: Platform
    config: ConfigDraft
    root: DraftEdge | None = None
    env: dict[str, str] = field(default_factory=dict)
    cwd: str = "/"
    user: str = ""
    declared: dict[str, str] = field(default_factory=dict)
    paths: set[str] = field(default_factory=set)
    number: int = 0
    workdir_set: bool = False
    in_trigger: bool = False
    once: dict[str, Location] = field(default_factory=dict)

    # ---- variables ----

    def set_env(self, name: str, value: str) -> None:
        """Give a variable a value; it becomes the last one, as processes see the order."""
        self.env.pop(name, None)
        self.env[name] = value

    def expand(self, text: str, command: Command) -> str:
        """A word of an instruction with its variables replaced; reports those that do not exist."""
        return self._expanded(expand(text, self.env, self.escape), command)

    def expand_body(self, text: str, command: Command) -> str:
        """A heredoc's body with its variables replaced, quotes left alone.

        The escape character is always a backslash.
        """
        return self._expanded(expand(text, self.env, "\\", process_quotes=False), command)

    def _expanded(self, result: Expansion, command: Command) -> str:
        self.lowering.grow(len(result.text))
        self._report_unset(result.unmatched, command)
        return result.text

    def expand_words(self, text: str) -> tuple[str, ...]:
        """The words that a text becomes."""
        return expand(text, self.env, self.escape).words

    def report(self, rule: str, command: Command, *arguments: str, location: Location | None = None) -> None:
        """Note a breach of a rule by an instruction."""
        findings = self.lowering.plan.findings
        findings.report(rule, location or command.location, *arguments, comments=command.comments)

    def _report_unset(self, names: tuple[str, ...], command: Command) -> None:
        for name in names:
            if name not in self.declared and name not in NOT_IN_ENVIRONMENT:
                few = len(self.lowering.plan.findings.found) < _MANY
                self.report("UndefinedVar", command, name, (nearest(name, list(self.env)) or "") if few else "")

    @property
    def escape(self) -> str:
        return self.lowering.plan.file.file.escape

    # ---- names ----

    def shown(self, text: str, env: Mapping[str, str] | None = None, **how: bool) -> str:
        """An instruction as its vertex shows it: keyword in capitals, variables replaced."""
        with suppress(KedgeError):  # only a name: an error is met where the text means something
            text = expand(text, self.env if env is None else env, self.escape, **how).text
        keyword, blank, rest = text.partition(" ")
        return keyword.upper() + blank + rest

    def title(self, text: str) -> str:
        """The next step's name: `[stage 2/4] text`, with the platform before it in multi-platform builds."""
        self.number += 1
        return self.title_again(text)

    def title_of_base(self, text: str) -> str:
        """The name of FROM, if it is a step: no variable of the stage and no trigger of the base is known yet."""
        if not self.plan.written:
            return text
        self.number += 1
        return self._title(text, {}, self.plan.written)

    def title_again(self, text: str) -> str:
        """A name under the current step's number."""
        return self._title(text, self.env, self.plan.total)

    def _title(self, text: str, env: Mapping[str, str], total: int) -> str:
        words = [self.plan.label] if self.plan.label else []
        if self.lowering.plan.options.multi_platform:
            words.insert(0, platform_text(self.platform) + self._cross(env))
        words.append(f"{self.number:{len(str(total))}d}/{total}")
        return f"[{' '.join(words)}] {'ONBUILD ' if self.in_trigger else ''}{text}"

    def _cross(self, env: Mapping[str, str]) -> str:
        """`->arm64` when the stage runs on one platform and, by its TARGET arguments, makes things for another."""
        target = _platform_of(env, self.platform)
        if target is None or (target.os, target.architecture) == (self.platform.os, self.platform.architecture):
            return ""
        if target.os != self.platform.os:
            return f"->{platform_text(target)}"
        return f"->{target.architecture}" + (f"/{target.variant}" if target.variant else "")

    def hints(self, name: str, location: Location, group: str = "", *, rerun: bool = True) -> Hints:
        """The hints of a step of this stage; `rerun` False for what --no-cache need not run again."""
        return Hints(visible(name), self.plan.no_cache and rerun, group, location, self.plan.called)


def _platform_of(env: Mapping[str, str], default: Platform) -> Platform | None:
    parts = {"TARGETOS": default.os, "TARGETARCH": default.architecture, "TARGETVARIANT": ""}
    if "TARGETPLATFORM" in env:
        try:
            return parse_platform(env["TARGETPLATFORM"], default)
        except KedgeError:
            return None
    if not any(name in env for name in parts):
        return None
    found = [env.get(name) or value for name, value in parts.items()]
    return normalize(found[0], found[1], found[2])
