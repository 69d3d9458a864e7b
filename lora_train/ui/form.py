"""The fields of the training form, made from the table of options: one for each option, in the table's groups."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from lora_train.config.arguments import algorithms
from lora_train.config.option import GROUPS, LEVELS, REPEATED
from lora_train.config.table import Option, options
from lora_train.config.values import item_type, may_be_none, plain_type
from lora_train.config.wording import AUTOMATIC, concerns, hint_of
from lora_train.ui.reading import SWITCH, written

NAMES = {
    "model.path": "model",
    "save.output_name": "name",
    "train.max_train_steps": "steps",
    "data.train_batch_size": "batch",
    "train.learning_rate": "lr",
    "train.text_encoder_lr": "textlr",
    "train.seed": "seed",
    "network.kind": "algo",
    "network.network_dim": "dim",
    "network.network_alpha": "alpha",
    "preview.prompts": "preview",
    "preview.sample_every_n_steps": "preview_every",
    "preview.guidance": "preview_guidance",
}
"""The names of fields on the page that differ from their options' names."""

CHOICES: dict[str, Callable[[], Collection[str]]] = {"network.kind": algorithms}
"""Options whose choices have other names on the page."""

PROGRAM = "command"
"""The choice that runs a program, which cannot be given on the page."""
_PROGRAM = "A program can be given on the command line, or through the API if the settings allow it."
ELSEWHERE = {
    "save.output_dir": "LoRAs go where prompts find them; the command line can write them elsewhere.",
    "network.base_weights_multiplier": "Write it after the file of a merged LoRA: FILE:0.5.",
    "prepare.captioner_command": _PROGRAM,
    "prepare.tagger_command": _PROGRAM,
}
"""The options without a field on the page, and why."""

SEARCH = '<div id="lora_train_search" class="lora-train-search" data-options="{options}"></div>'
"""Filled by the page's script."""


def on_page() -> list[Option]:
    """The options that have a field, in the order of the form."""
    shown = [option for option in options() if option.path not in ELSEWHERE]
    return sorted(shown, key=lambda one: (GROUPS.index(one.about.group), LEVELS.index(one.about.level)))


def folded() -> dict[str, list[Option]]:
    """The fields under each heading; the basic options are not folded away."""
    groups = {group: [one for one in on_page() if one.about.group == group] for group in GROUPS[1:]}
    return {group: members for group, members in groups.items() if members}


def name_of(option: Option) -> str:
    """The name of an option's field on the page."""
    if option.path in NAMES:
        return NAMES[option.path]
    taken = {*NAMES.values(), *(one.name for one in options() if one.path != option.path)}
    return f"{option.section}_{option.name}" if option.name in taken else option.name


def element_of(option: Option) -> str:
    """The id of an option's field in the page."""
    return f"lora_train_{name_of(option)}"


def group_element(group: str) -> str:
    """The id of the fold with this heading in the page."""
    return "lora_train_group_" + re.sub(r"\W+", "_", group).strip("_")


def info_of(option: Option) -> str:
    """The text below a field's label: what it does, what an empty field means, and what it applies to."""
    return hint_of(option.path) + (f" ({concerns(option)})" if concerns(option) else "")


@dataclass(frozen=True)
class Own:
    """The page's own value or text for an option, in place of the table's."""

    shown: Any = None
    """The initial value of the field."""
    info: str = ""
    empty: str = ""
    """The placeholder of an empty field."""


def component(option: Option, own: Own = Own()) -> Any:
    """The field of an option."""
    hint = plain_type(option.hint)
    shown = option.default if own.shown is None else own.shown
    about = {
        "label": option.about.label,
        "info": own.info or info_of(option),
        "elem_id": element_of(option),
        "min_width": 240,
    }
    choices = _choices(option)
    if hint is bool and not may_be_none(option.hint):
        return gr.Checkbox(shown, **about)
    if item_type(hint) and choices:
        return gr.CheckboxGroup(choices, value=list(shown), **about)
    if choices or hint is bool:
        return gr.Dropdown(choices or list(SWITCH), value=written(option, shown), **about)
    several = option.about.written == REPEATED
    return gr.Textbox(
        "" if own.shown is None else written(option, own.shown),
        placeholder=own.empty or _placeholder(option),
        lines=2 if several else 1,
        max_lines=8 if several else 1,
        **about,
    )


def search_html(more: Iterable[dict[str, str]] = ()) -> str:
    """The place of the search field, with the words by which each option is found; `more` are other fields."""
    found = [
        {
            "id": element_of(option),
            "group": group_element(option.about.group) if option.about.group in GROUPS[1:] else "",
            "words": _words(option),
        }
        for option in on_page()
    ]
    elsewhere = [
        {"label": option.about.label, "why": ELSEWHERE[option.path], "words": _words(option)}
        for option in options()
        if option.path in ELSEWHERE
    ]
    found += more
    return SEARCH.format(options=html.escape(json.dumps({"fields": found, "elsewhere": elsewhere})))


def add_fields(fields: dict[str, Any], shown: Iterable[Option], own: Mapping[str, Own]) -> None:
    """Add a field for each option of `shown` to `fields`, by its path; `own` has the page's own values and texts."""
    for option in shown:
        fields[option.path] = component(option, own.get(option.path, Own()))


def beside(fields: Mapping[str, Any]) -> list[Option]:
    """The basic options that are not in `fields` yet."""
    return [one for one in on_page() if one.about.group == GROUPS[0] and one.path not in fields]


def _choices(option: Option) -> list[str]:
    return [one for one in CHOICES.get(option.path, lambda: option.about.choices)() if one != PROGRAM]


def _placeholder(option: Option) -> str:
    """The placeholder of an empty field: the default, or the form of a list's items."""
    if option.default not in (None, "", ()):
        return written(option, option.default)
    return AUTOMATIC if option.about.unset else option.about.metavar if option.about.written else ""


def _words(option: Option) -> str:
    about = option.about
    lists = (option.flags, about.kohya, _choices(option), about.kinds, about.families)
    return " ".join([about.label, about.help, option.path, about.group, *(word for words in lists for word in words)])
