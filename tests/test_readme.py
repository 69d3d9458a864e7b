"""What README and the pages it links to promise: their links lead somewhere, their commands are understood."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from lora_train.cli import build_parser

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text(encoding="utf-8")


def blocks(text: str) -> list[list[str]]:
    """The lines of each block of code."""
    return [block.splitlines() for block in re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing


def test_every_page_is_reached_from_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[^)]+\.md)\)", README))
    assert linked == {page.relative_to(ROOT).as_posix() for page in PAGES[1:]}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_understood(page: Path) -> None:
    parser = build_parser()
    for line in (line for block in blocks(page.read_text(encoding="utf-8")) for line in block):
        words = shlex.split(line, comments=True)
        if words[:2] == ["python3", "start.py"] and words[2:] != ["test"]:
            parser.parse_args(words[2:])


def test_the_first_screen_has_what_it_is_the_picture_and_the_two_commands() -> None:
    first = README[: README.index("## Train on your own pictures")]
    assert blocks(first)[0] == ["python3 start.py demo", "python3 start.py test"]
    assert "docs/demo-contact-sheet.png" in first and first.index("](docs/demo-contact-sheet.png)") < first.index("```")
    assert "minutes" in first and "GB" in first
    assert len(first.splitlines()) < 50
