"""Messages in the words of each face."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import lora_train
from lora_train.config import RunConfig, problems
from lora_train.config.table import find, options
from lora_train.config.wording import flag_of, hint_of, in_flags, in_labels, label_of


@pytest.mark.parametrize("option", options(), ids=lambda option: option.path)
def test_each_option_has_a_word_on_each_face(option: object) -> None:
    path = option.path  # type: ignore[attr-defined]
    assert in_flags(f"{path}: wrong. Give {path}.") == f"{flag_of(find(path))}: wrong. Give {flag_of(find(path))}."
    assert in_labels(f"Give {path}, or not.") == f"Give “{label_of(path)}”, or not."
    assert path not in hint_of(path) and "--" not in hint_of(path)


@pytest.mark.parametrize(
    "text",
    [
        "train.nothing",
        "/x/train.seed",
        "train.seed.png",
        "'train.seed=7'",
        "my-train.seed",
        "train.seed/a",
        "strain.seed",
    ],
)
def test_what_is_no_path_of_an_option_stays(text: str) -> None:
    assert in_flags(f"See {text} there.") == in_labels(f"See {text} there.") == f"See {text} there."


def test_several_in_one_sentence() -> None:
    assert in_flags("save.overwrite=true (network.base_weights_multiplier)") == "--overwrite=true (--merge-base)"


def test_messages_of_the_core_name_no_flag_of_an_option() -> None:
    """They are shown on pages and by the API as well."""
    flags = "|".join(re.escape(flag) for option in options() for flag in option.flags)
    assert not [str(one) for one in problems(RunConfig()) if re.search(rf"({flags})\b", str(one))]
    package = Path(lora_train.__file__).parent
    found = []
    for room in ("config", "data", "models", "networks", "runs", "train"):
        for path in (package / room).rglob("*.py"):
            if path.name in ("kohya.py", "terminal.py") or "sections" in path.parts:
                continue
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                words = line.replace("resume {folder.id} --steps N", "").replace("lora-train resume", "")
                if re.search(rf"""["'][^"']*(?<![\w-])({flags})(?![\w-])""", words) and '"""' not in line:
                    found.append(f"{path.relative_to(package)}:{number}: {line.strip()}")
    assert found == []
