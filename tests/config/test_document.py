from __future__ import annotations

from pathlib import Path

from lora_train.config.document import MARK, document, main
from lora_train.config.table import COMMANDS, in_section, options

PAGE = Path(__file__).parents[2] / "docs" / "options.md"


def test_the_page_of_options_is_current() -> None:
    _, mark, written = PAGE.read_text(encoding="utf-8").partition(MARK)
    assert mark and written == document(), "run: python -m lora_train.config.document docs/options.md"


def test_what_stands_before_the_mark_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text(f"Mine.\n{MARK}old", encoding="utf-8")
    assert main([str(path)]) == 0 and path.read_text(encoding="utf-8") == f"Mine.\n{MARK}{document()}"


def test_every_option_is_on_it_with_its_flags_and_kohyas_names(tmp_path: Path) -> None:
    assert main([str(tmp_path / "a.md")]) == 0
    lines = (tmp_path / "a.md").read_text(encoding="utf-8").splitlines()
    commands = [option for section in COMMANDS for option in in_section(section)]
    for option in (*options(), *commands):
        (line,) = [line for line in lines if line.startswith((f"| {option.path} |", f"| **{option.path}** |"))]
        assert all(f"`{word}`" in line for word in (*option.flags, *option.about.kohya, *option.about.choices))
        assert option.about.help.replace("|", "\\|") in line and f"| {option.about.label} |" in line


def test_a_page_written_by_hand_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text("Mine.", encoding="utf-8")
    assert main([str(path)]) == 2 and path.read_text(encoding="utf-8") == "Mine."
