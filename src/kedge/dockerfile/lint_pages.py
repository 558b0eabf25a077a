"""The reference pages of the checks, as texts: one for each rule, and a list of them.

Owns their layout. Does not write files: `make docs` does, and a test compares docs/rules with what comes from here.
"""

import textwrap
from collections.abc import Mapping

from kedge.dockerfile.lint_image_rules import IMAGE_RULES
from kedge.dockerfile.lint_rules import RULES, Rule

INDEX = "README.md"


def pages() -> dict[str, str]:
    """All pages by file name."""
    rules = (*RULES.values(), *IMAGE_RULES.values())
    return {INDEX: _index()} | {f"{rule.slug}.md": _page(rule) for rule in rules}


def _index() -> str:
    return f"""# Checks of Dockerfiles

Every build looks for these, and `kedge build --check` does nothing else. A finding is a warning, with its line.

| rule | what it finds |
|---|---|
{_rows(RULES)}

## Checks of the final image

These look at the files of the final stage, so they are done at the end of a build that makes an image; `--check`, which
builds nothing, cannot do them. Layers that are not on this machine are not fetched for it. Only Kedge has them.

| rule | what it finds |
|---|---|
{_rows(IMAGE_RULES)}

## Choosing checks

A directive at the top of the file, above any other comment, chooses for the whole file:

```dockerfile
# check=skip=JSONArgsRecommended,StageNameCasing;error=true
```

- `skip=RULE,RULE` silences rules, `skip=all` all of them.
- `error=true` makes a build with warnings fail.
- `experimental=RULE,RULE` switches on rules that are off by default, `experimental=all` all of them.

`--build-arg BUILDKIT_DOCKERFILE_CHECK=skip=all` replaces the directive for one build.

A comment `# check=skip=RULE` above an instruction silences a rule for that instruction only.
"""


def _rows(rules: Mapping[str, Rule]) -> str:
    lines = (f"| [{rule.name}]({rule.slug}.md) | {rule.summary}{_mark(rule)} |" for rule in rules.values())
    return "\n".join(lines)


def _mark(rule: Rule) -> str:
    if rule.own:
        return " (only Kedge has this check)"
    return " (experimental: off unless switched on)" if rule.experimental else ""


def _page(rule: Rule) -> str:
    link = f"\nDocker's page on this rule: <{rule.url}>\n" if rule.documented else ""
    verb, option = ("switch it on", "experimental") if rule.experimental else ("silence it", "skip")
    switch = f"To {verb}: `# check={option}={rule.name}`, at the top of the file or above the instruction."
    given = f", with `{rule.option}`" if rule.option else ""
    return f"""# {rule.name}

{rule.summary}{_mark(rule)}.

{textwrap.fill(rule.why, 120)}

Reported{given}:

```dockerfile
{rule.bad.rstrip()}
```

Not reported{given}:

```dockerfile
{rule.good.rstrip()}
```

{switch}
{link}"""
