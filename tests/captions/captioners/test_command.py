from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from lora_train.captions.captioners.command import command_captions
from lora_train.captions.captioners.registry import CaptionerOptions, captions, ours
from lora_train.errors import LoraTrainError

SIZE = "import sys; from PIL import Image; print(' wide', Image.open(sys.argv[1][2:]).size[0], '\\n')"
PICTURES = [Image.new("RGBA", (30 + n, 20)) for n in range(2)]


def test_what_the_program_prints_is_the_caption() -> None:
    assert list(command_captions([sys.executable, "-c", SIZE, "i={picture}"], PICTURES)) == ["wide 30", "wide 31"]
    options = CaptionerOptions(command=(sys.executable, "-c", "print('é')", "{picture}"))
    assert len(list(captions("command", options, PICTURES))) == 2


def test_no_shell_sees_the_command(tmp_path: Path) -> None:
    code = "import sys; print(sys.argv[2])"
    hostile = f"; touch {tmp_path}/x $(id) `id`"
    assert list(command_captions([sys.executable, "-c", code, "{picture}", hostile], PICTURES[:1])) == [hostile]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ([sys.executable, "-c", "import sys; sys.exit('no model')", "{picture}"], "failed with code 1: no model"),
        ([sys.executable, "-c", "raise SystemExit(3)", "{picture}"], r"failed with code 3\."),
        ([sys.executable, "-c", "import time; time.sleep(60)", "{picture}"], "longer than 1 seconds"),
        (["/nowhere/program", "{picture}"], "cannot be started"),
        ([sys.executable, "a\0", "{picture}"], "cannot be started"),
        ([sys.executable, "-V"], "one of them with {picture}"),
        (["{picture}"], "one of them with {picture}"),
        ([], "one of them with {picture}"),
        ("cat {picture}", "must be a program and its arguments"),
    ],
)
def test_failures_are_told(command: list[str], told: str) -> None:
    with pytest.raises(LoraTrainError, match=told):
        list(command_captions(command, PICTURES[:1], timeout=1))


def test_the_table_of_kinds() -> None:
    assert set(ours()) == {"transformers", "wd14", "command"}
    with pytest.raises(LoraTrainError, match="no captioner 'oracle'.*transformers, command, wd14"):
        captions("oracle", CaptionerOptions(), [])
