"""The *Dataset* page: operations on the pictures, and a view of the result that the page's script draws."""

from __future__ import annotations

import html
import json
import time
from typing import Any

import gradio as gr

from lora_train.config import PrepareOptions
from lora_train.config.sections.captions import EDITS
from lora_train.config.table import CHOICES, find
from lora_train.config.wording import hint_of, label_of
from lora_train.errors import LoraTrainError
from lora_train.runs.service import Service
from lora_train.ui.reading import Reader, path_of
from lora_train.ui.train_tab import clear_first, problems_html

DATASET_VIEW = (
    '<div id="lora_train_dataset" class="lora-train-dataset" data-page="{page}" data-edits="{edits}">'
    "<p>The pictures will appear here once the page's script has loaded.</p></div>"
)
"""Filled by the page's script; `page` is the token that its requests carry, `edits` the changes to captions."""

ON = ("original", "similar", "resize")
"""The operations that are on at first: none that needs a detector or a model, and no score that depends on the kind of
picture. The light score of flat drawings is 0 to 0.15, like that of photographs that are nearly black or white."""

OPERATIONS: dict[str, tuple[str, str]] = {
    "original": ("Original", "The whole picture"),
    "face": ("Face", "A square around the face, as a picture of its own"),
    "body": ("Body", "A box around the whole person, as a picture of its own"),
    "blur": ("Blur check", "Leaves out noisy and over-sharpened pictures"),
    "range": ("Light check", "Leaves out photos that are too dark, too bright or too flat; not for drawings"),
    "similar": ("Similar check", "Keeps only the first of nearly identical pictures"),
    "upscale": ("Upscale", "Doubles pictures smaller than the target; needs a WebUI"),
    "restore": ("Restore faces", "CodeFormer or GFPGAN; needs a WebUI"),
    "segment": ("Replace background", "One colour around people; also saved as a mask"),
    "resize": ("Resize", "Longest side to the target, aspect ratio kept"),
    "square": ("Square", "Pads to a square; not needed with buckets"),
    "interrogate": ("Caption", "Describes pictures that have no caption; needs a captioner"),
}

NUMBERS = (
    *("target", "min_size", "max_blur", "min_range", "max_similarity", "face_score", "face_pad", "body_parts"),
    *("tag_limit", "restore_weight"),
)
WHO = ("captioner", "tagger")
TEXTS = ("captioner_model", "tagger_model", "caption_template", "tag_blacklist")
LOOKS = ("background", "upscaler")
"""The options of the preparation that have a field, in order; labels and hints come from the table."""


def view_html(page_token: str) -> str:
    """The place of the view, with what its script needs to know."""
    return DATASET_VIEW.format(page=html.escape(page_token), edits=html.escape(edits_json()))


def edits_json() -> str:
    """Each change to captions by its operation: its label and its fields (label, example, choices with labels)."""
    return json.dumps({one.operation: [one.label, {name: _edit_field(name) for name in one.options}] for one in EDITS})


def _edit_field(name: str) -> list[Any]:
    about = find(f"captions.{name}").about
    choices = {choice: about.choice_labels.get(choice, choice) for choice in about.choices}
    return [about.label, about.example, *([choices] if choices else [])]


class DatasetTab:
    """Builds the page and starts preparations; `_fields` has its components by name."""

    def __init__(self, service: Service, page_token: str = "", folder: str = "") -> None:
        self._datasets = service.datasets
        self._fields: dict[str, Any] = {}
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                self._form(folder)
            with gr.Column(scale=3, min_width=320):
                gr.HTML(view_html(page_token))
        for component in self._fields.values():
            # the WebUI would keep values by label, and later defaults would never reach anybody
            component.do_not_save_to_config = True

    def _form(self, folder: str) -> None:
        self._fields["folder"] = gr.Textbox(
            folder,
            label="Folder of pictures to prepare",
            info="Copies are prepared; nothing is written to this folder",
            elem_id="lora_train_dataset_folder",
            max_lines=1,
        )
        self._fields["tag"] = gr.Textbox(
            "",
            label="Tag word",
            info="Comes first in the captions made here",
            elem_id="lora_train_dataset_tag",
            max_lines=1,
        )
        with gr.Row():
            start = gr.Button("Prepare", variant="primary", elem_id="lora_train_prepare", min_width=100)
            stop = gr.Button("Stop", elem_id="lora_train_prepare_stop", min_width=80)
        message = gr.HTML("", elem_id="lora_train_dataset_message")
        with gr.Accordion("Operations on the pictures", open=True):
            for name, (label, info) in OPERATIONS.items():
                self._fields[name] = gr.Checkbox(
                    name in ON, label=label, info=info, elem_id=f"lora_train_operation_{name}"
                )
        with gr.Accordion("Sizes and limits", open=False):
            self._texts(NUMBERS, placeholder="automatic")
            self._texts(LOOKS)
        with gr.Accordion("Captions", open=False):
            self._captions()
        chosen = gr.Textbox("", label="Dataset", elem_id="lora_train_dataset_chosen", max_lines=1)
        chosen.do_not_save_to_config = True
        chosen.change(self._show, inputs=[chosen], outputs=list(self._fields.values()))
        # with a set of inputs gradio passes a dictionary by component
        clear_first(start, message)
        start.click(self._start, inputs=set(self._fields.values()), outputs=[message])
        clear_first(stop, message)
        stop.click(self._stop, inputs=[], outputs=[message])

    def _captions(self) -> None:
        """The fields for captioner, tagger and caption template."""
        for name in WHO:
            self._fields[name] = gr.Radio(
                # a command can only be given on the command line; a WebUI's page may be open to others
                [choice for choice in CHOICES[f"prepare.{name}"] if choice != "command"],
                value=DEFAULTS[name],
                label=label_of(f"prepare.{name}"),
                info=hint_of(f"prepare.{name}"),
                elem_id=f"lora_train_prepare_{name}",
            )
        self._texts(TEXTS)
        self._fields["recaption"] = gr.Checkbox(
            DEFAULTS["recaption"],
            label=label_of("prepare.recaption"),
            info=hint_of("prepare.recaption"),
            elem_id="lora_train_prepare_recaption",
        )

    def _texts(self, wanted: tuple[str, ...], placeholder: str = "") -> None:
        """Text fields, also for optional numbers: number fields turn empty into 0 in some versions of gradio."""
        for name in wanted:
            self._fields[name] = gr.Textbox(
                DEFAULTS[name],
                label=label_of(f"prepare.{name}"),
                info=hint_of(f"prepare.{name}"),
                placeholder=placeholder,
                elem_id=f"lora_train_prepare_{name}",
                max_lines=1,
            )

    def _start(self, given: dict[Any, Any]) -> str:
        """Start a preparation; returns the message for the page. Never raises for what a person can mend."""
        values = {name: given[component] for name, component in self._fields.items()}
        try:
            id = self._datasets.start(path_of(values["folder"]), options_of(values), values["tag"] or "")
        except LoraTrainError as error:
            return problems_html(error.problems)
        # the page's script shows the dataset that is named here, again at each start
        return (
            f'<p class="lora-train-ok" data-dataset="{html.escape(id)}" data-started="{time.time_ns()}">Started. '
            "It continues when you close or reload this page.</p>"
        )

    def _show(self, id: str) -> list[Any]:
        """Values of all fields for the dataset that the page's script names in a field of its own.

        The id is followed by "?" and a text that changes when the same dataset is prepared differently.
        """
        try:
            dataset = self._datasets.get(id.rpartition("?")[0])
            values = values_of(dataset.options) | {"folder": str(dataset.folder), "tag": dataset.tag}
        except LoraTrainError:
            return [gr.update() for _ in self._fields]
        return [values[name] for name in self._fields]

    def _stop(self) -> str:
        if self._datasets.stop():
            return "<p>Stopping. Finished pictures are kept; Prepare continues from there.</p>"
        return "<p>Nothing is being prepared.</p>"


def values_of(options: PrepareOptions) -> dict[str, Any]:
    """The values of the form's fields for these options: the inverse of `options_of`."""
    shown: dict[str, Any] = {name: name in options.operations for name in OPERATIONS} | {"recaption": options.recaption}
    for name in (*NUMBERS, *TEXTS, *LOOKS, *WHO):
        value = getattr(options, name)
        if isinstance(value, tuple):
            value = ", ".join(value)
        shown[name] = "" if value is None else value if isinstance(value, str) else f"{value:g}"
    return shown


DEFAULTS = values_of(PrepareOptions())


def options_of(values: dict[str, Any]) -> PrepareOptions:
    """The options in the form. Raises LoraTrainError with every field that is not a number."""
    read = Reader()
    given = {
        name: read(find(f"prepare.{name}"), values[name]) for name in (*NUMBERS, *TEXTS, *LOOKS, *WHO, "recaption")
    }
    read.check()
    return PrepareOptions(operations=tuple(name for name in OPERATIONS if values[name]), **given)
