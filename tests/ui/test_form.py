"""The training form: made from the table of options, complete, and read back without a loss."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Any

import gradio as gr
import pytest

from lora_train.config import RunConfig
from lora_train.config.arguments import algorithms
from lora_train.config.option import COMMON, GROUPS, LEVELS, REPEATED, WORDS
from lora_train.config.table import Option, find, known, options
from lora_train.config.values import item_type, plain_type
from lora_train.config.wording import hint_of
from lora_train.errors import LoraTrainError
from lora_train.hosts.standalone import StandaloneHost
from lora_train.records.families import FAMILIES
from lora_train.runs.service import Service
from lora_train.ui.form import ELSEWHERE, component, element_of, folded, info_of, on_page
from lora_train.ui.reading import Reader, written
from lora_train.ui.train_tab import ARGUMENTS, STATE_MINUTES, Defaults, TrainTab

FIELDS = on_page()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> StandaloneHost:
    return StandaloneHost(tmp_path_factory.mktemp("host") / "data")


@pytest.fixture(scope="module")
def tab(host: StandaloneHost) -> TrainTab:
    """One for all: building it takes longer than everything that is asked of it."""
    with gr.Blocks():
        return TrainTab(Service(host), Defaults("model", "folder", "sks"))


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    """The fields as the table alone makes them."""
    with gr.Blocks():
        return {option.path: component(option) for option in FIELDS}


def shown(tab: TrainTab) -> dict[str, Any]:
    """What the fields hold before anybody has touched them."""
    return {path: component.value for path, component in tab._fields.items()}


def test_every_option_has_a_field_or_a_reason_why_not(tab: TrainTab) -> None:
    fields = {path for path in tab._fields if known(path)}
    assert fields.isdisjoint(ELSEWHERE) and fields | {*ELSEWHERE} == {option.path for option in options()}
    assert all(why.endswith(".") for why in ELSEWHERE.values())
    assert {*tab._fields} - fields == {ARGUMENTS, "followed"}


def test_no_element_of_the_page_has_the_name_of_another(host: StandaloneHost) -> None:
    from lora_train.ui.standalone import build_page

    found = [one["props"].get("elem_id") for one in build_page(Service(host)).get_config_file()["components"]]
    assert [name for name, count in Counter(filter(None, found)).items() if count > 1] == []
    assert {element_of(option) for option in FIELDS} <= {*found}


@pytest.mark.parametrize(
    ("path", "element"),
    [
        ("model.path", "model"),
        ("data.folder", "folder"),
        ("data.tag", "tag"),
        ("save.output_name", "name"),
        ("save.overwrite", "overwrite"),
        ("train.max_train_steps", "steps"),
        ("train.seed", "seed"),
        ("network.kind", "algo"),
        ("network.conv_dim", "conv_dim"),
        ("preview.prompts", "preview"),
        ("preview.steps", "preview_steps"),
        ("preview.seed", "preview_seed"),
    ],
)
def test_elements_are_called_by_their_options(path: str, element: str) -> None:
    assert element_of(find(path)) == f"lora_train_{element}"


def test_the_groups_are_the_tables_with_what_many_look_for_first() -> None:
    assert [*folded()] == [group for group in GROUPS[1:] if any(one.about.group == group for one in FIELDS)]
    for members in folded().values():
        levels = [LEVELS.index(one.about.level) for one in members]
        assert levels == sorted(levels)
    beside = [one for one in FIELDS if one.about.group == GROUPS[0]]
    assert {one.path for one in beside if one.about.level == COMMON} == {"save.overwrite"}


@pytest.mark.parametrize("option", FIELDS, ids=lambda option: option.path)
def test_a_field_says_what_the_table_says(option: Option, plain: dict[str, Any]) -> None:
    about, field = option.about, plain[option.path]
    assert field.label == about.label and field.info == info_of(option)
    assert about.help[1:] in f"{field.label} {field.info}" and about.unset in field.info
    assert field.info.casefold() != field.label.casefold(), "the same is not said twice"
    families = about.families if len(about.families) < len(FAMILIES) else ()
    assert all(word in field.info for word in (*about.kinds, *families, *about.operations))
    if type(field) is gr.Textbox:
        assert field.value == ""
        given = option.default not in (None, "", ())
        assert not given or field.placeholder == written(option, option.default)
    else:
        assert Reader()(option, field.value) == option.default


def other(option: Option) -> tuple[Any, Any]:
    """What a field holds that a person has changed, and what is meant."""
    hint = plain_type(option.hint)
    if hint is bool:
        return ("off", False) if option.default is None else (not option.default, not option.default)
    if option.about.choices:
        last = [one for one in option.about.choices if one not in (option.default, "command")][-1:] or [option.default]
        return (last, tuple(last)) if item_type(hint) else (last[0], last[0])
    if option.about.written == REPEATED:
        return " one: off \n\n two: dim=4\n", ("one: off", "two: dim=4")
    if option.about.written == WORDS:
        return " a=1 b=2,3\n", ("a=1", "b=2,3")
    if item := item_type(hint):
        meant = ("a=1", "b=2") if item is str else (item(1), item(2))
        return written(option, meant), meant
    if hint is str:
        return " some text ", "some text"
    low, high = option.about.range or (2, 99)
    value = hint(min(high, low + (high - low) / 2))
    return f" {value} ", value


@pytest.mark.parametrize("option", FIELDS, ids=lambda option: option.path)
def test_every_field_goes_to_its_option_and_to_nothing_else(option: Option, tab: TrainTab) -> None:
    values = shown(tab) | {"data.tag": "", "save.output_name": "name", "preview.prompts": "a prompt"}
    before, (text, meant) = tab.config_of(values), other(option)
    found = tab.config_of(values | {option.path: text})
    expected = replace(before, **{option.section: replace(getattr(before, option.section), **{option.name: meant})})
    if option.path == "network.base_weights":
        expected = replace(expected, network=replace(expected.network, base_weights_multiplier=(1.0, 1.0)))
    assert option.of(found) == meant and found == expected


def test_an_untouched_form_asks_for_the_defaults_but_for_the_pages_own(tab: TrainTab, host: StandaloneHost) -> None:
    found, plain = tab.config_of(shown(tab)), RunConfig()
    changed = {one.path for one in options() if one.of(found) != one.of(plain)}
    given = {"model.path", "data.folder", "data.tag", "save.output_name", "save.output_dir", "preview.prompts"}
    assert changed == given | {"preview.sample_every_n_steps"}
    assert found.preview.sample_every_n_steps == 100


def test_how_often_the_state_is_saved_is_the_settings_until_a_person_says_it(
    tab: TrainTab, host: StandaloneHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tab._fields[STATE_MINUTES].placeholder == "2"
    monkeypatch.setattr(host, "settings", lambda: {"state_minutes": 7.5})
    minutes = [tab.config_of({STATE_MINUTES: text}).save.save_state_every_n_minutes for text in ("", None, "0", "3,5")]
    assert minutes == [7.5, 7.5, 0.0, 3.5]


def test_every_kind_that_the_command_line_knows_can_be_chosen(tab: TrainTab) -> None:
    for name, sets in algorithms().items():
        network = tab.config_of({"network.kind": name}).network
        assert network.kind == sets.get("kind", "lora") and network.dora_wd == (name == "dora")
    assert tab.config_of({"network.kind": "lora", "network.dora_wd": True}).network.dora_wd


def test_a_merged_lora_has_its_strength_behind_it(tab: TrainTab) -> None:
    text = '"/loras/a b.safetensors"\n/loras/c.safetensors:0.5\nC:\\d.safetensors'
    network = tab.config_of({"network.base_weights": text}).network
    assert network.base_weights == ("/loras/a b.safetensors", "/loras/c.safetensors", "C:\\d.safetensors")
    assert network.base_weights_multiplier == (1.0, 0.5, 1.0)


def test_no_program_can_be_named_here(tab: TrainTab) -> None:
    for path in ("prepare.captioner", "prepare.tagger"):
        assert "command" in find(path).about.choices and "command" not in str(tab._fields[path].choices)


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("train.learning_rate", "0,0001", 1e-4),
        ("train.learning_rate", " 1e-4 ", 1e-4),
        ("train.max_train_steps", "8.0", 8),
        ("train.max_train_steps", "1e3", 1000),
        ("train.seed", str(2**63 - 1), 2**63 - 1),
        ("train.seed", "", 42),
        ("train.seed", 0, 0),
        ("train.weight_decay", None, 0.01),
        ("network.block_dims", "1, 2,3", (1, 2, 3)),
        ("data.mask_folder", '"/a b"', "/a b"),
        ("data.tag", '"a b"', '"a b"'),
        ("train.gradient_checkpointing", "automatic", None),
        ("train.gradient_checkpointing", ["on"], True),
        ("prepare.operations", ["resize", "face"], ("face", "resize")),
    ],
)
def test_what_a_field_holds_is_read_as_its_option(path: str, text: Any, value: Any) -> None:
    read = Reader()
    found = read(find(path), text)
    assert (found, type(found)) == (value, type(value)) and not read.problems


@pytest.mark.parametrize("text", ["1,000", "one", "1.5", "nan", "inf"])
def test_a_number_that_may_mean_two_things_is_refused(text: str) -> None:
    read = Reader()
    assert read(find("train.max_train_steps"), text) is None
    with pytest.raises(LoraTrainError, match=f"{text}.* is not a whole number"):
        read.check()


@pytest.mark.parametrize("option", FIELDS, ids=lambda option: option.path)
def test_what_a_field_shows_is_read_the_same(option: Option) -> None:
    _, value = other(option)
    assert Reader()(option, written(option, value)) == value


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("prepare.tag_blacklist", ("a b", "c"), "a b, c"),
        ("network.block_alphas", (1.0, 0.5), "1.0, 0.5"),
        ("network.network_rules", ("a, b: off", "c: dim=4"), "a, b: off\nc: dim=4"),
    ],
)
def test_lists_are_shown_as_they_are_written(path: str, value: Any, text: str) -> None:
    assert written(find(path), value) == text and Reader()(find(path), text) == value


def test_all_mistakes_are_reported_together_each_with_its_label(tab: TrainTab) -> None:
    wrong = {
        "train.max_train_steps": "many",
        "network.block_dims": "1,x",
        "train.weight_decay": "7",
        "data.folder": "/no/such/folder",
        "save.output_name": "a/b",
        ARGUMENTS: "factr=8",
    }
    given = shown(tab) | wrong
    answer = tab._start({tab._fields[path]: value for path, value in given.items()})
    labels = re.findall(r"<b>(.*?)</b>", answer)
    for path in ("train.max_train_steps", "network.block_dims", "train.weight_decay", "save.output_name"):
        assert find(path).about.label in labels
    assert ARGUMENTS in labels and "no such folder" in answer and "out of range" in answer
    assert "Did you mean factor?" in answer and "rs_lora" not in answer
    assert not tab._service.runs_dir.exists()


def test_latents_are_not_written_beside_any_pictures(tab: TrainTab) -> None:
    given = shown(tab) | {"data.write_npz": True}
    assert "outside the folders" in tab._start({tab._fields[path]: value for path, value in given.items()})


def test_hints_say_how_a_list_is_written() -> None:
    assert hint_of("network.network_rules").endswith("; one per line")
    assert "; separated by commas" in hint_of("prepare.tag_blacklist")
    assert "commas" not in hint_of("prepare.operations")
    assert "(automatic: read from the model's files" in hint_of("model.v_parameterization")
    assert hint_of("train.learning_rate").startswith("Empty: by the base model") and not hint_of("train.optimizer")
