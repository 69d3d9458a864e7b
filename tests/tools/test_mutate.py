"""The tool that tries the tests: on a small project of its own, and that its list of mutants fits the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tools import mutate

LIST = """# a remark
file package/sums.py
tests tests/test_sums.py

minus
-return a + b
+return a - b

unheard
-    if b > 1000:
-        return 0
+    if b > 2000:
+        return 0

for-ever
tests tests/test_sums.py::test_sum
-return a + b
+while True:
+        pass

left-out
-    log.append(a)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in {
        "package/__init__.py": "",
        "package/sums.py": "log = []\n\n\ndef add(a, b):\n    log.append(a)\n"
        "    if b > 1000:\n        return 0\n    return a + b\n",
        "tests/test_sums.py": "from package.sums import add, log\n\n\ndef test_sum():\n    assert add(1, 2) == 3\n"
        "    assert log == [1]\n",
        "mutants.txt": LIST,
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def run(project: Path, *arguments: str) -> int:
    return mutate.main([*arguments], project, project / "mutants.txt")


def test_what_the_tests_notice_is_killed_and_what_they_do_not_survives(
    project: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutate, "SLOW", {})
    before = (project / "package" / "sums.py").read_bytes()
    assert run(project, "--limit", "20", "minus", "unheard", "left-out") == 1
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "without a fault: tests/test_sums.py"
    assert [line.split()[:2] for line in lines[1:4]] == [
        ["killed", "minus"],
        ["SURVIVED", "unheard"],
        ["killed", "left-out"],
    ]
    assert "tests/test_sums.py::test_sum" in lines[1]
    assert lines[4:] == ["2 of 3 killed", "survived: unheard"]
    assert run(project, "--limit", "2", "--trust", "for-ever") == 0
    assert "not finished after 2 seconds" in capfd.readouterr().out
    assert (project / "package" / "sums.py").read_bytes() == before, "faults belong into a copy"


def test_the_copy_has_all_of_the_code_and_nothing_else(project: Path) -> None:
    for name in ("package/runs/a.py", "package/build/b.py", "runs/1/run.json", ".git/index", ".venv/lib/c.py"):
        (project / name).parent.mkdir(parents=True)
        (project / name).touch()
    with mutate.copied(project) as copy:
        there = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
    assert {"package/runs/a.py", "package/build/b.py", "package/sums.py", "tests/test_sums.py"} <= there
    assert not [name for name in there if name.startswith((".", "runs"))]


def test_tests_that_fail_without_a_fault_are_told(
    project: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutate, "SLOW", {})
    (project / "tests" / "test_sums.py").write_text("def test_sum():\n    assert False\n", encoding="utf-8")
    assert run(project, "minus") == 2
    assert "do not pass as they are: FAILED tests/test_sums.py::test_sum" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "names", "said"),
    [
        (LIST.replace("-return a + b\n+return a - b", "-return b + a\n+0"), [], "minus: the text to replace is in"),
        (LIST.replace("-return a + b\n+return a - b", "-a\n+b"), [], "times, not once"),
        (LIST + "\nminus\n-b > 1000\n+b\n", [], "named twice"),
        (LIST.replace("+return a - b", "+return a + b"), [], "changing nothing"),
        (LIST.replace("tests tests/test_sums.py\n", "", 1), [], "without file or tests"),
        (LIST, ["plus"], "no mutant is called plus"),
    ],
)
def test_a_list_that_is_wrong_is_told(
    project: Path, capfd: pytest.CaptureFixture[str], text: str, names: list[str], said: str
) -> None:
    (project / "mutants.txt").write_text(text, encoding="utf-8")
    assert run(project, "--list", *names) == 2 and said in capfd.readouterr().err


def test_some_are_chosen_by_name_file_or_folder() -> None:
    mutants = mutate.load()
    assert {one.file for one in mutate.chosen(mutants, ["lora_train/api"])} == {
        one.file for one in mutants if one.file.startswith("lora_train/api/")
    }
    assert {one.file for one in mutate.chosen(mutants, ["install-*"])} == {"install.py"}
    assert [one.name for one in mutate.chosen(mutants, ["loop-no-clipping"])] == ["loop-no-clipping"]
    assert mutate.chosen(mutants, []) == mutants and len(mutants) >= 60


def test_every_mutant_fits_the_code_and_has_tests() -> None:
    """A fault that cannot be applied any more would count for nothing."""
    for mutant in mutate.load():
        text = (mutate.ROOT / mutant.file).read_text(encoding="utf-8")
        ast.parse(mutant.applied(text), mutant.file)
        for test in mutant.tests:
            file, _, name = test.partition("::")
            assert (mutate.ROOT / file).exists(), mutant.name
            there = re.findall(r"(?:def|class) (\w+)", (mutate.ROOT / file).read_text(encoding="utf-8")) if name else []
            assert {*re.sub(r"\[.*", "", name).split("::")} - {""} <= {*there}, f"{mutant.name}: there is no {test}"
