"""The storeys of docs/architecture.md, enforced: a package imports only packages on lines below its own."""

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "kedge"
STOREYS = """
    cli
    daemon
    builder images containers
    operations exporters checks progress
    solver sources dockerfile
    storage registry sandbox session
    kernel
    model
"""
ALLOWED_ONLY = {
    "solver": {"model"},
    "dockerfile": {"model"},
    "progress": {"model"},
    "registry": {"model"},
    "kernel": {"model"},
}
RANK = {name: -n for n, line in enumerate(STOREYS.split("\n")) for name in line.split()}


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write absolute imports"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith(PACKAGE.name + ".")}


def test_every_import_points_down() -> None:
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if here.startswith("__"):
            continue
        for name in imports(path):
            there = name.split(".")[1]
            if there == "__version__" or there == here:
                continue
            if RANK[there] >= RANK[here] or there not in ALLOWED_ONLY.get(here, {there}):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_no_file_is_over_700_lines() -> None:
    long = {
        str(p.relative_to(PACKAGE)): n for p in PACKAGE.rglob("*.py") if (n := len(p.read_text().splitlines())) > 700
    }
    assert not long


def test_the_document_shows_the_house_as_it_is() -> None:
    text = (PACKAGE.parents[1] / "docs" / "architecture.md").read_text()
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages == set(RANK)
    assert packages == set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)), "the table of packages"
    house = text[text.index("src/kedge/") :].partition("```")[0]
    assert packages <= set(re.findall(r"\b(\w+)/ ", house)), "the house"
    named = set(re.findall(r"`((?:\w+/)+\w+\.py)`", text)) - {"tests/test_architecture.py"}
    assert not [name for name in sorted(named) if not (PACKAGE / name).is_file()]
