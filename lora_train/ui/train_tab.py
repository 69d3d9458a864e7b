"""The *Train LoRA* page: the first-time form, more options folded below it, and the live view."""

from __future__ import annotations

import html
import inspect
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from lora_train.config import RunConfig
from lora_train.config.arguments import merged_files, named_network
from lora_train.config.option import NETWORK
from lora_train.config.table import find, options
from lora_train.config.wording import in_labels, label_of, sentence
from lora_train.errors import LoraTrainError, Problem
from lora_train.runs.check import npz_outside
from lora_train.runs.service import Service
from lora_train.showing import as_shown
from lora_train.ui.form import Own, add_fields, beside, folded, group_element, on_page, search_html
from lora_train.ui.reading import Reader, exists, path_of

MODEL, STATE_MINUTES = "model.path", "save.save_state_every_n_minutes"
NO_PREVIEW = "-"

LIVE_VIEW = (
    '<div id="lora_train_live" class="lora-train-live" aria-live="polite" '
    'data-page="{page}" data-labels="{labels}"></div>'
)
"""Filled by the page's script; `page` is the token that its requests carry, `labels` the labels of the options."""

ARGUMENTS = "Network arguments"
"""The label of the field for NAME=VALUE, like --args on the command line."""

ARGUMENTS_FOUND = {
    "id": "lora_train_args",
    "group": group_element(NETWORK),
    "words": f"{ARGUMENTS} --args network_args NAME=VALUE kohya LyCORIS",
}
"""The search's entry for that field."""


@dataclass(frozen=True)
class Defaults:
    """The initial values of the form."""

    model: str = ""
    folder: str = ""
    tag: str = ""
    preview_every: int = 100


class TrainTab:
    """Builds the page and starts runs."""

    def __init__(self, service: Service, defaults: Defaults, page_token: str = "") -> None:
        self._service = service
        self._fields: dict[str, Any] = {}
        """The components by the path of their option."""
        self._build(defaults, page_token)
        for component in self._fields.values():
            # the WebUI would keep values by label, and later defaults would never reach anybody
            component.do_not_save_to_config = True

    def _build(self, defaults: Defaults, page_token: str) -> None:
        own = self._own(defaults)
        with gr.Row():
            with gr.Column(scale=1):
                self._model(defaults.model)
                self._add(own, "data.folder")
                with gr.Row():
                    self._add(own, "data.tag", "save.output_name")
                add_fields(self._fields, beside(self._fields), own)
                start = gr.Button("Train", variant="primary", elem_id="lora_train_start")
                message = gr.HTML("", elem_id="lora_train_message")
                gr.HTML(search_html([ARGUMENTS_FOUND]))
                for group, members in folded().items():
                    with gr.Accordion(sentence(group), open=False, elem_id=group_element(group)), gr.Row():
                        add_fields(self._fields, members, own)
                        if group == NETWORK:
                            self._arguments()
            with gr.Column(scale=1):
                gr.HTML(LIVE_VIEW.format(page=html.escape(page_token), labels=html.escape(labels_json())))
        # with a set of inputs gradio passes a dictionary by component
        clear_first(start, message)
        start.click(self._start, inputs=set(self._fields.values()), outputs=[message])

    def _own(self, defaults: Defaults) -> dict[str, Own]:
        """The page's own values and texts for options, where they differ from the table's."""
        return {
            "data.folder": Own(defaults.folder, "With captions in .txt files, if there are any"),
            "data.tag": Own(defaults.tag, "Trigger word for prompts; a word that the model does not know"),
            "save.output_name": Own("", "Name of the LoRA file; the tag word if left empty"),
            "preview.prompts": Own(
                info="Generated at the start, while training and at the end; the tag word if left empty, "
                f"a single {NO_PREVIEW} for no previews. One per line",
            ),
            "preview.sample_every_n_steps": Own(defaults.preview_every),
            STATE_MINUTES: Own(empty=f"{self._state_minutes():g}"),
        }

    def _add(self, own: dict[str, Own], *paths: str) -> None:
        add_fields(self._fields, [find(path) for path in paths], own)

    def _arguments(self) -> None:
        """The field for network arguments by kohya's or LyCORIS' names."""
        self._fields[ARGUMENTS] = gr.Textbox(
            "",
            label=ARGUMENTS,
            info="NAME=VALUE, for example factor=8 rank_dropout=0.1; overrides the other fields",
            elem_id="lora_train_args",
            max_lines=1,
            min_width=240,
        )

    def _state_minutes(self) -> float:
        return float(self._service.host.settings()["state_minutes"])

    def _model(self, chosen: str) -> None:
        """The field for the base model: the checkpoint in use, until another is chosen."""
        with gr.Row():
            self._fields[MODEL] = gr.Dropdown(
                self._checkpoints(),
                value=chosen or None,
                label=label_of(MODEL),
                info="Checkpoint (.safetensors, .ckpt) or diffusers folder; a path can be typed",
                allow_custom_value=True,
                elem_id="lora_train_model",
                scale=5,
            )
            refresh = gr.Button("Refresh", elem_id="lora_train_model_refresh", scale=1, min_width=80)
        # the checkpoint in use when last shown; the field still holds it if no other was chosen
        self._fields["followed"] = gr.Textbox(chosen, visible=False)
        follow = gr.Button("Follow", elem_id="lora_train_model_follow")  # hidden; pressed by the page's script
        shown = [self._fields[MODEL], self._fields["followed"]]
        follow.click(self._follow, inputs=shown, outputs=shown)
        refresh.click(self._refresh, inputs=shown, outputs=shown)

    def _follow(self, model: Any, followed: str) -> tuple[Any, str]:
        """Update the field and the checkpoint that it follows, when another checkpoint may be in use."""
        if (chosen := _text_of(model)) and chosen != (followed or ""):
            return gr.update(), followed
        current = self._current()
        return gr.update(choices=self._checkpoints(), value=current or None), current

    def _refresh(self, model: Any, followed: str) -> tuple[Any, str]:
        """Like `_follow`, with new files in the folders; a chosen checkpoint that no longer exists is replaced."""
        self._service.host.look_for_checkpoints()
        chosen, there = _text_of(model), self._checkpoints()
        if chosen and chosen != (followed or "") and (chosen in there or exists(chosen)):
            return gr.update(choices=there, value=chosen), followed
        current = self._current()
        return gr.update(choices=there, value=current or None), current

    def _current(self) -> str:
        return str(self._service.host.current_checkpoint() or "")

    def _checkpoints(self) -> list[str]:
        return [str(path) for path in self._service.host.checkpoints()]

    def _start(self, given: dict[Any, Any]) -> str:
        """Start a run; returns the message for the page. Never raises for what a person can mend."""
        values = {name: given[component] for name, component in self._fields.items()}
        try:
            values[MODEL] = path_of(_text_of(values[MODEL]))
            if values[MODEL] == (values["followed"] or ""):  # no other than the one in use was chosen
                values[MODEL] = self._current()
            config, found = self._asked(values)
            self._service.start(config, known=found + npz_outside(config, self._service.host))
        except LoraTrainError as error:
            return problems_html(error.problems)
        name = html.escape(Path(values[MODEL]).name)
        return f'<p class="lora-train-ok">Started on {name}. It continues when you close or reload this page.</p>'

    def config_of(self, values: Mapping[str, Any]) -> RunConfig:
        """The run's configuration from the values of the form's fields, by the paths of their options.

        Raises LoraTrainError with every field that cannot be parsed.
        """
        config, found = self._asked(values)
        if found:
            raise LoraTrainError.of(found)
        return config

    def _asked(self, values: Mapping[str, Any]) -> tuple[RunConfig, list[Problem]]:
        """The configuration, with defaults for fields that cannot be parsed; and their problems."""
        read = Reader()
        given = {option.path: read(option, values.get(option.path)) for option in on_page()}
        given["save.output_name"] = given["save.output_name"] or given["data.tag"]
        given["save.output_dir"] = str(self._service.host.lora_dir())
        if not str(values.get(STATE_MINUTES) or "").strip():
            given[STATE_MINUTES] = self._state_minutes()
        prompts = given["preview.prompts"] or ((given["data.tag"],) if given["data.tag"] else ())
        given["preview.prompts"] = prompts = () if prompts == (NO_PREVIEW,) else prompts
        given["preview.sample_every_n_steps"] = (
            given["preview.sample_every_n_steps"] if prompts or given["preview.sample_prompts"] else 0
        )
        merged = merged_files(given["network.base_weights"])
        given |= {f"network.{name}": value for name, value in merged.items()}
        algorithm = given.pop("network.kind")
        config = RunConfig.from_dict(_by_section(given))
        try:
            network = named_network(config.network, algorithm, shlex.split(values.get(ARGUMENTS) or ""))
            config = replace(config, network=network)
        except LoraTrainError as error:
            read.problems += error.problems
        except ValueError as error:  # a quotation mark that is not closed
            read.problems.append(Problem(f"{values[ARGUMENTS]!r}: {error}.", "--args"))
        return config, read.problems


def _by_section(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Values by path, grouped for `RunConfig.from_dict`."""
    sections: dict[str, dict[str, Any]] = {}
    for path, value in given.items():
        section, _, name = path.partition(".")
        sections.setdefault(section, {})[name] = value
    return sections


def labels_json() -> str:
    """The label of each option by its path, for the page's script."""
    return json.dumps({option.path: option.about.label for option in options()})


def _text_of(model: Any) -> str:
    """The field's text: an editable dropdown returns a list in some versions of gradio."""
    if isinstance(model, list):
        model = model[0] if model else ""
    return str(model or "").strip()


def clear_first(button: Any, *shown: Any) -> None:
    """Make a click on `button` empty these before the server is called.

    Otherwise the last answer ("Started ...") would remain if the server is gone, as if it belonged to this click.
    """
    js = "js" if "js" in inspect.signature(button.click).parameters else "_js"
    emptied = "''" if len(shown) == 1 else f"[{', '.join(['null'] * (len(shown) - 1))}, '']"
    button.click(None, inputs=[], outputs=list(shown), **{js: f"() => {emptied}"})


def problems_html(problems: list[Problem]) -> str:
    """All problems as a list, in the words of the page."""
    items = []
    for problem in problems:
        where = as_shown(ARGUMENTS if problem.where == "--args" else label_of(problem.where))
        text = as_shown(in_labels(f"{problem.what} {problem.fix}".strip()))
        items.append(f"<li><b>{html.escape(where)}</b> {html.escape(text)}</li>")
    return f'<div class="lora-train-problems" role="alert"><ul>{"".join(items)}</ul></div>'
