from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from lora_train import patterns
from lora_train.patterns import Faulty, PatternError, TooSlow, check_pattern, search, substitute


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "SECONDS", 0.5)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(a*)*b", r"^(\w+\s?)*$", "(.*a){25}"])
def test_a_pattern_that_never_ends_is_ended(pattern: str) -> None:
    text = "a" * 60 + "!"
    for call in (lambda: search(pattern, [text]), lambda: substitute(pattern, "x", [text])):
        with pytest.raises(TooSlow) as told:
            call()
        assert str(told.value) == "takes too long" and told.value.fix


def test_what_is_found_and_put_in_is_as_re_does_it() -> None:
    texts = ["red hair", "brown hair", "a (b) c", "", "Ärmel\ud800"]
    assert search("(red|brown) hair", texts) == {"red hair", "brown hair"}
    assert search(r"^Ä.*\Z", texts) == {texts[4]}
    assert search("", texts) == set(texts)
    assert search("x+", []) == frozenset()
    assert substitute(r"(\w+) hair", r"hair of \1", texts[:2]) == ["hair of red", "hair of brown"]
    assert substitute(r"\(b\)", "b", texts) == [*texts[:2], "a b c", *texts[3:]]


def test_plain_text_needs_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*given: object, **options: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(subprocess, "run", refused)
    assert search("^attn", ["attn1", "xattn"]) == {"attn1"}
    assert substitute(r"a\+b$", "x", ["a+b", "a+bc"]) == ["x", "a+bc"]
    with pytest.raises(PatternError, match="no process for it can be started here"):
        search("a+", ["a"])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: check_pattern("("),
        lambda: check_pattern("a{99999999999999999999}"),
        lambda: check_pattern("(" * 999),
        lambda: check_pattern("(a)", r"\2"),
        lambda: check_pattern("plain", r"\1"),
        lambda: check_pattern("plain", "\\"),
        lambda: substitute("a", "x" * 1000, ["a" * 1_000_000]),
        lambda: substitute("(a+)", r"\1" * 400, ["a" * 30_000]),
    ],
)
def test_what_is_faulty_is_said(wrong: Callable[[], object]) -> None:
    with pytest.raises(Faulty, match="is faulty"):
        wrong()


def test_a_pattern_has_a_longest_length() -> None:
    with pytest.raises(PatternError, match="longer than 1000"):
        check_pattern("a" * 1001)
    with pytest.raises(PatternError, match="longer than 1000"):
        substitute("a", "b" * 1001, ["a"])


@pytest.mark.usefixtures("impatient")
def test_a_pattern_that_takes_ages_to_compile_is_ended() -> None:
    with pytest.raises(TooSlow):
        check_pattern("(?i)" + "[\x00-\U0010fffe]" * 150)
