"""docs/rules is what the table of rules says. KEDGE_UPDATE_DOCS=1 writes it anew instead of comparing."""

import os
from pathlib import Path

import pytest

from kedge.dockerfile.lint_image_rules import IMAGE_RULES
from kedge.dockerfile.lint_pages import pages
from kedge.dockerfile.lint_rules import RULES

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "rules"


@pytest.fixture(scope="module", autouse=True)
def _update_if_asked():
    if os.environ.get("KEDGE_UPDATE_DOCS"):
        FOLDER.mkdir(exist_ok=True)
        for name, text in pages().items():
            (FOLDER / name).write_text(text)


@pytest.mark.parametrize("name", pages())
def test_each_page_is_up_to_date(name):
    assert (FOLDER / name).read_text() == pages()[name], "run `make docs`"


def test_there_is_a_page_for_each_rule_and_no_other():
    rules = (*RULES.values(), *IMAGE_RULES.values())
    assert {path.name for path in FOLDER.iterdir()} == {"README.md", *(f"{rule.slug}.md" for rule in rules)}
