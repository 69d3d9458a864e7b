"""The *Train LoRA* page: the first-time form, more options folded below it, and the live view."""

from __future__ import annotations

import html
import inspect
import json
import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from lora_train.config import (
    DataOptions,
    ModelOptions,
    NetworkOptions,
    PreviewOptions,
    RunConfig,
    SaveOptions,
    TrainOptions,
)
from lora_train.config.arguments import algorithms, named_network
from lora_train.config.table import options
from lora_train.config.wording import in_labels, label_of
from lora_train.errors import LoraTrainError, Problem
from lora_train.runs.service import Service
from lora_train.showing import as_shown

NO_PREVIEW = "-"

LIVE_VIEW = (
    '<div id="lora_train_live" class="lora-train-live" aria-live="polite" '
    'data-page="{page}" data-labels="{labels}"></div>'
)
"""The page's script fills it; `page` is the token that its requests carry, `labels` what the page calls each option."""

ARGUMENTS = "Options of the network"
"""What the field is called that takes NAME=VALUE, as the command line's --args."""


@dataclass(frozen=True)
class Defaults:
    """What the form shows at first."""

    model: str = ""
    folder: str = ""
    tag: str = ""
    preview_every: int = 100


class TrainTab:
    """Builds the page and starts runs; its components are kept by name."""

    def __init__(self, service: Service, defaults: Defaults, page_token: str = "") -> None:
        self._service = service
        self._fields: dict[str, Any] = {}
        self._build(defaults, page_token)
        for component in self._fields.values():
            # the WebUI would keep values by label, and later defaults would never reach anybody
            component.do_not_save_to_config = True

    def _build(self, defaults: Defaults, page_token: str) -> None:
        with gr.Row():
            with gr.Column(scale=1):
                self._model(defaults.model)
                self._text(
                    "folder", label_of("data.folder"), defaults.folder, "With captions in .txt files, if there are any"
                )
                with gr.Row():
                    self._text(
                        "tag",
                        label_of("data.tag"),
                        defaults.tag,
                        "Calls the subject in prompts; a word the model does not know",
                    )
                    self._text("name", label_of("save.output_name"), "", "Of the LoRA file; the tag word if left empty")
                with gr.Accordion("More options (what is left empty is chosen for you)", open=False):
                    self._more(defaults)
                with gr.Row():
                    start = gr.Button("Train", variant="primary", elem_id="lora_train_start")
                message = gr.HTML("", elem_id="lora_train_message")
            with gr.Column(scale=1):
                gr.HTML(LIVE_VIEW.format(page=html.escape(page_token), labels=html.escape(labels_json())))
        # a set of inputs makes gradio hand over a dictionary by component, whatever their order
        clear_first(start, message)
        start.click(self._start, inputs=set(self._fields.values()), outputs=[message])

    def _model(self, chosen: str) -> None:
        """The base model: the checkpoint in use, until a person chooses another."""
        with gr.Row():
            self._fields["model"] = gr.Dropdown(
                self._checkpoints(),
                value=chosen or None,
                label=label_of("model.path"),
                info="Checkpoint (.safetensors, .ckpt) or diffusers folder; a path can be typed",
                allow_custom_value=True,
                elem_id="lora_train_model",
                scale=5,
            )
            refresh = gr.Button("Refresh", elem_id="lora_train_model_refresh", scale=1, min_width=80)
        # what was in use when it was last shown: the field still holds it where nobody has chosen another
        self._fields["followed"] = gr.Textbox(chosen, visible=False)
        follow = gr.Button("Follow", elem_id="lora_train_model_follow")  # hidden; pressed by the page's script
        shown = [self._fields["model"], self._fields["followed"]]
        follow.click(self._follow, inputs=shown, outputs=shown)
        refresh.click(self._refresh, inputs=shown, outputs=shown)

    def _follow(self, model: Any, followed: str) -> tuple[Any, str]:
        """The field and what it follows, once another checkpoint may be in use."""
        if (chosen := _text_of(model)) and chosen != (followed or ""):
            return gr.update(), followed
        current = self._current()
        return gr.update(choices=self._checkpoints(), value=current or None), current

    def _refresh(self, model: Any, followed: str) -> tuple[Any, str]:
        """As `_follow`, with what is new in the folders; a chosen checkpoint that is gone is not kept either."""
        self._service.host.look_for_checkpoints()
        chosen, there = _text_of(model), self._checkpoints()
        if chosen and chosen != (followed or "") and (chosen in there or _exists(chosen)):
            return gr.update(choices=there, value=chosen), followed
        current = self._current()
        return gr.update(choices=there, value=current or None), current

    def _current(self) -> str:
        return str(self._service.host.current_checkpoint() or "")

    def _checkpoints(self) -> list[str]:
        return [str(path) for path in self._service.host.checkpoints()]

    def _more(self, defaults: Defaults) -> None:
        with gr.Row():
            self._number("steps", "train.max_train_steps", None)
            self._number("batch", "data.train_batch_size", None)
            self._number("resolution", "data.resolution", None)
        with gr.Row():
            self._number("lr", "train.learning_rate", None)
            self._number("textlr", "train.text_encoder_lr", None)
        with gr.Row():
            self._fields["algo"] = gr.Dropdown(
                list(algorithms()),
                value="lora",
                label=label_of("network.kind"),
                info="lora is read by every tool",
                elem_id="lora_train_algo",
            )
            self._text("args", ARGUMENTS, "", "NAME=VALUE, for example factor=8 rank_dropout=0.1")
        with gr.Row():
            self._number("dim", "network.network_dim", None)
            self._number("alpha", "network.network_alpha", None)
            self._number("seed", "train.seed", TrainOptions().seed)
        self._text(
            "preview",
            label_of("preview.prompts"),
            "",
            "A picture of it is made at the start, while training and at the end; the tag word if left empty, "
            f"a single {NO_PREVIEW} for no pictures",
        )
        self._number("preview_every", "preview.sample_every_n_steps", defaults.preview_every)
        self._fields["overwrite"] = gr.Checkbox(False, label=label_of("save.overwrite"), elem_id="lora_train_overwrite")

    def _text(self, name: str, label: str, value: str, info: str) -> None:
        self._fields[name] = gr.Textbox(value, label=label, info=info, elem_id=f"lora_train_{name}", max_lines=1)

    def _number(self, name: str, path: str, value: float | None) -> None:
        """A number that may be left open. A text field: number fields turn empty into 0 in some versions of gradio."""
        shown = "" if value is None else f"{value:g}"
        self._fields[name] = gr.Textbox(
            shown, label=label_of(path), placeholder="automatic", elem_id=f"lora_train_{name}", max_lines=1
        )

    def _start(self, given: dict[Any, Any]) -> str:
        """Start a run; returns the message for the page. Never raises for what a person can mend."""
        values = {name: given[component] for name, component in self._fields.items()}
        try:
            values["model"] = path_of(_text_of(values["model"]))
            if values["model"] == (values["followed"] or ""):  # nobody chose another than the one in use
                values["model"] = self._current()
            self._service.start(self.config_of(values))
        except LoraTrainError as error:
            return problems_html(error.problems)
        name = html.escape(Path(values["model"]).name)
        return f'<p class="lora-train-ok">Started on {name}. It goes on when you close or reload this page.</p>'

    def config_of(self, values: dict[str, Any]) -> RunConfig:
        """The run that the form asks for."""
        tag, name = (values["tag"] or "").strip(), (values["name"] or "").strip()
        preview = (values["preview"] or "").strip() or tag
        number = Numbers(values)
        whole = number.whole
        prompts = (preview,) if preview not in ("", NO_PREVIEW) else ()
        every = whole("preview_every", "preview.sample_every_n_steps")
        config = RunConfig(
            model=ModelOptions(path=path_of(values["model"])),
            data=DataOptions(
                folder=path_of(values["folder"]),
                tag=tag,
                resolution=whole("resolution", "data.resolution"),
                train_batch_size=whole("batch", "data.train_batch_size"),
            ),
            network=self._network(values, number),
            train=TrainOptions(
                max_train_steps=whole("steps", "train.max_train_steps"),
                learning_rate=number("lr", "train.learning_rate"),
                text_encoder_lr=number("textlr", "train.text_encoder_lr"),
                seed=TrainOptions().seed if (seed := whole("seed", "train.seed")) is None else seed,
            ),
            save=SaveOptions(
                output_name=name or tag,
                output_dir=str(self._service.host.lora_dir()),
                overwrite=bool(values["overwrite"]),
                save_state_every_n_minutes=self._service.host.settings()["state_minutes"],
            ),
            preview=PreviewOptions(prompts=prompts, sample_every_n_steps=every if prompts and every else 0),
        )
        number.check()
        return config

    @staticmethod
    def _network(values: dict[str, Any], number: Numbers) -> NetworkOptions:
        """The network that the form asks for; options that are not understood are noted with the numbers."""
        network = NetworkOptions(
            network_dim=number.whole("dim", "network.network_dim"),
            network_alpha=number("alpha", "network.network_alpha"),
        )
        try:
            return named_network(network, values["algo"] or "lora", shlex.split(values["args"] or ""))
        except LoraTrainError as error:
            number.problems += error.problems
        except ValueError as error:  # a quotation mark that is not closed
            number.problems.append(Problem(f"{values['args']!r}: {error}.", "--args"))
        return network


def labels_json() -> str:
    """What the page calls each option, by its path, for the page's script."""
    return json.dumps({option.path: option.about.label for option in options()})


def _text_of(model: Any) -> str:
    """What the field holds: a dropdown that may be typed into gives a list in some versions of gradio."""
    if isinstance(model, list):
        model = model[0] if model else ""
    return str(model or "").strip()


def path_of(text: str | None) -> str:
    """The path in a text field, without the quotation marks that "Copy as path" and shells put around it."""
    path = (text or "").strip()
    quoted = len(path) > 2 and path[0] == path[-1] and path[0] in "\"'"
    return path[1:-1].strip() if quoted and not _exists(path) else path


def clear_first(button: Any, *shown: Any) -> None:
    """Have a press of `button` empty these before the server is asked.

    Otherwise the last answer ("Started ...") would stay where the server is gone, as if it were this press's.
    """
    js = "js" if "js" in inspect.signature(button.click).parameters else "_js"
    emptied = "''" if len(shown) == 1 else f"[{', '.join(['null'] * (len(shown) - 1))}, '']"
    button.click(None, inputs=[], outputs=list(shown), **{js: f"() => {emptied}"})


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long, "~nobody", a NUL
        return False


class Numbers:
    """Reads the form's number fields; what is no number is told together by `check`."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values
        self.problems: list[Problem] = []
        """What is wrong so far."""

    def __call__(self, name: str, field: str) -> float | None:
        """The number in the form's field `name`, None when it is empty; `field` is its name in the config."""
        text = str(self._values[name] if self._values[name] is not None else "").strip()
        if not text:
            return None
        try:
            # "0,5" is half in many countries; "1,000" is one there and a thousand elsewhere
            return float(text if re.search(r",\d{3}\b", text) else text.replace(",", "."))
        except ValueError:
            self.problems.append(Problem(f"{text!r} is not a number.", field, "Give a number, or leave it empty."))
            return None

    def whole(self, name: str, field: str) -> int | None:
        """As calling it, for whole numbers."""
        value = self(name, field)
        if value is None or (math.isfinite(value) and value == int(value)):
            return None if value is None else int(value)
        self.problems.append(Problem(f"{value:g} is not a whole number.", field))
        return None

    def check(self) -> None:
        """Raises LoraTrainError with every field that held no number."""
        if self.problems:
            raise LoraTrainError.of(self.problems)


def problems_html(problems: list[Problem]) -> str:
    """All problems as a list, in the words of the page."""
    items = []
    for problem in problems:
        where = as_shown(ARGUMENTS if problem.where == "--args" else label_of(problem.where))
        text = as_shown(in_labels(f"{problem.what} {problem.fix}".strip()))
        items.append(f"<li><b>{html.escape(where)}</b> {html.escape(text)}</li>")
    return f'<div class="lora-train-problems" role="alert"><ul>{"".join(items)}</ul></div>'
