"""Advice: from what reading and lowering found to the warnings a user sees.

Owns which findings are shown, and how. Does not look for anything itself: the pass that resolves a file's variables and
stages for the build also notes what is odd about them (see `findings`), so advice never disagrees with the build.
"""

from collections.abc import Iterable

from kedge.dockerfile.findings import Finding
from kedge.dockerfile.lint_options import CheckOptions, check_options, parse_check_options
from kedge.dockerfile.lint_rules import RULES, Rule
from kedge.dockerfile.parser import Dockerfile
from kedge.model.errors import DockerfileError
from kedge.model.event import WarningEvent

__all__ = ["CheckOptions", "check_options", "lint", "lint_image", "parse_check_options", "require_clean"]


def lint(file: Dockerfile, findings: Iterable[Finding], options: CheckOptions) -> tuple[WarningEvent, ...]:
    """The warnings that `options` let through, in the order of their lines."""
    at_parsing = (Finding(w.rule, w.location) for w in file.warnings if w.location is not None)
    shown = [finding for finding in (*at_parsing, *findings) if _is_shown(finding, options)]
    return tuple(_warning(finding) for finding in sorted(shown, key=lambda finding: finding.location.start))


def lint_image(findings: Iterable[Finding], options: CheckOptions) -> tuple[WarningEvent, ...]:
    """The warnings about the final image that `options` let through, in the order of their lines."""
    shown = [finding for finding in findings if _is_shown(finding, options)]
    return tuple(_warning(finding) for finding in sorted(shown, key=lambda finding: finding.location.start))


def _rule_of(finding: Finding) -> Rule:
    if rule := RULES.get(finding.rule):
        return rule
    from kedge.dockerfile.lint_image_rules import IMAGE_RULES

    return IMAGE_RULES[finding.rule]


def _is_shown(finding: Finding, options: CheckOptions) -> bool:
    experimental = _rule_of(finding).experimental
    return options.reports(finding.rule, experimental=experimental, comments=finding.comments)


def _warning(finding: Finding) -> WarningEvent:
    rule = _rule_of(finding)
    text, arguments = rule.text(finding.arguments), finding.arguments
    return WarningEvent(rule.name, text, rule.summary, rule.url, finding.location, arguments=arguments)


def require_clean(warnings: Iterable[WarningEvent], options: CheckOptions) -> None:
    """Raises DockerfileError when there are warnings and `error=true` makes them errors."""
    shown = list(warnings)
    if options.error and shown:
        rules = ", ".join(dict.fromkeys(warning.rule for warning in shown))
        raise DockerfileError(
            f"checks failed: {rules}",
            location=shown[0].location,
            hint="The check option error=true makes every warning an error.",
        )
