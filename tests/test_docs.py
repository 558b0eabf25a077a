"""Documents that can rot are compared with what they describe."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from kedge.cli.command import Command
from kedge.cli.help import overview, page
from kedge.cli.parse import parse
from kedge.cli.start import ALIASES, GROUPS, command_names, load

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md"), *ROOT.glob("bench/**/*.md")]
)


def test_the_command_reference_is_what_make_docs_writes() -> None:
    script = ROOT / "scripts" / "reference.py"
    done = subprocess.run([sys.executable, str(script), "--check"], check=False)
    assert done.returncode == 0, "docs/reference/commands.md is out of date: run `make docs`"


@pytest.mark.parametrize("name", command_names())
def test_a_command_is_what_the_overview_says(name: str) -> None:
    command = load(name)
    assert command.name == name
    assert command.summary == next(group[name] for group in GROUPS.values() if name in group)
    assert all(ALIASES[alias] == name for alias in command.aliases)


@pytest.mark.parametrize("name", command_names())
def test_help_reads_well(name: str) -> None:
    command = load(name)
    assert all(len(line) <= 100 for line in page(command).splitlines())
    names = [flag.name for flag in command.flags]
    shorts = [flag.short for flag in command.flags if flag.short]
    assert len(set(names)) == len(names)
    assert len(set(shorts)) == len(shorts)
    for flag in command.flags:
        assert flag.help[0].isupper(), f"--{flag.name}"
        assert not flag.help.endswith("."), f"--{flag.name}"


def test_the_overview_fits_a_terminal() -> None:
    assert all(len(line) <= 100 for line in overview().splitlines())


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_tests_that_hold_an_attack_are_there() -> None:
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", (ROOT / "docs/security.md").read_text())
    assert len(named) > 100
    for path, name in named:
        assert f"def {name}(" in (ROOT / "tests" / path).read_text(), f"{path}::{name}"


def example_lines() -> list[str]:
    """Every `$ kedge …` line that the documents show."""
    lines = []
    for path in PAGES:
        lines += re.findall(r"^\$ (kedge [^\n#]*)", path.read_text(), re.MULTILINE)
    return sorted({line.strip() for line in lines})


@pytest.mark.parametrize("line", example_lines())
def test_every_command_line_in_the_documents_can_be_read(line: str) -> None:
    import shlex

    words = shlex.split(re.sub(r"\$\(.*?\)", "x", line).split(" | ")[0].split(" > ")[0].split(" < ")[0])[1:]
    for count in (2, 1):
        if " ".join(words[:count]) in command_names():
            command: Command = load(" ".join(words[:count]))
            parse(command, words[count:])
            return
    assert words[:1] == [] or words[0].startswith("-") or " ".join(words[:2]) in ALIASES


def test_no_name_of_a_package_registrys_host_is_committed() -> None:
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    hosts = re.compile(r"(?:pypi|npmjs|debian|ubuntu)\.(?:org|com)|pythonhosted", re.IGNORECASE)
    own = "tests/test_docs.py"
    wrong = []
    for name in files:
        path = ROOT / name
        if name != own and path.is_file() and path.suffix in {".py", ".md", ".sh", ".toml", ".yml", ""}:
            wrong += [name] if hosts.search(path.read_text(errors="replace")) else []
    assert not wrong


@pytest.mark.parametrize("path", [p for p in PAGES if "```toml" in p.read_text()], ids=lambda path: path.name)
def test_configuration_in_the_documents_can_be_read(path: Path) -> None:
    from kedge.session.settings import parse_settings

    for block in re.findall(r"```toml\n(.*?)```", path.read_text(), re.DOTALL):
        parse_settings(block, path.name)
