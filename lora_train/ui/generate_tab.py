"""The *Generate* page: pictures from a prompt, with `<lora:name:strength>`."""

from __future__ import annotations

import html
import inspect
import random
import threading
from pathlib import Path
from typing import Any

import gradio as gr

from lora_train.config.sections.generate import GenerateOptions
from lora_train.config.table import find
from lora_train.config.validate import section_problems
from lora_train.config.wording import hint_of, label_of
from lora_train.console import own_command
from lora_train.errors import LoraTrainError, Problem
from lora_train.lorafile.finding import lora_files, prompt_name, prompt_names
from lora_train.prompt.generate import Generator
from lora_train.runs.bases import base_for, remember_base, usual_guidance
from lora_train.runs.service import Service
from lora_train.showing import as_shown
from lora_train.ui.reading import Reader, path_of
from lora_train.ui.train_tab import clear_first, problems_html

MAX_PICTURES, MAX_STEPS, MORE_GUIDANCE = 16, 150, (1, 20)
"""The limits of the page's sliders, which are within the options' own."""
ELSEWHERE = {
    "generate.lora_dir": "Here they are the WebUI's; the command line can take another folder.",
    "generate.allow_missing": "Here a LoRA that is missing is noted, and the pictures are made.",
    "generate.v_parameterization": "Read from the model's files; the command line can say otherwise.",
    "generate.output": "Pictures are shown, and kept only by saving them.",
    "generate.device": "The base model is used where the program runs it.",
    "generate.offline": "The WebUI's settings say whether anything is downloaded.",
}
"""The options of `generate` without a field on the page, and why."""
MAX_SEED = 2**53
"""Above it a browser's numbers are no longer exact."""
USUAL_GUIDANCE = 7.0
RENEW = """(...all) => {
    const [now, old, fresh] = [0, 3, 6].map(at => all.slice(at, at + 3));  // gradio 3 adds the outputs behind them
    const same = i => now[i] === old[i] || String(now[i] ?? '') === '';
    return [...now.map((value, i) => same(i) ? fresh[i] : value), ...fresh];
}"""
"""Runs on the page, so that text typed while the server answers is not lost."""


def _about(name: str, element: str) -> dict[str, Any]:
    """Label, help and id of the field of an option."""
    path = f"generate.{name}"
    return {"label": label_of(path), "info": hint_of(path), "elem_id": f"lora_train_{element}"}


class GenerateTab:
    """Builds the page, and keeps the last used base model in memory."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._loaded: tuple[str, Generator, tuple[str, ...]] | None = None
        self._build()

    def _build(self) -> None:
        # functions given as values are called at each load of the page
        with gr.Row():
            with gr.Column(scale=1):
                self.prompt = gr.Textbox(self._prompt, lines=2, **_about("prompt", "prompt"))
                self.negative = gr.Textbox("", max_lines=1, **_about("negative", "negative"))
                self.model = gr.Textbox(self._model, max_lines=1, **_about("model", "generate_model"))
                with gr.Row():
                    self.steps = gr.Slider(
                        1, MAX_STEPS, find("generate.steps").default, step=1, **_about("steps", "generate_steps")
                    )
                    self.guidance = gr.Slider(
                        *MORE_GUIDANCE, self._guidance, step=0.5, **_about("guidance", "guidance")
                    )
                with gr.Row():
                    self.seed = gr.Number(find("generate.seed").default, precision=0, **_about("seed", "generate_seed"))
                    self.count = gr.Slider(1, MAX_PICTURES, 4, step=1, **_about("count", "count"))
                button = gr.Button("Generate", variant="primary", elem_id="lora_train_generate")
                self._loras = gr.HTML(self._loras_html, elem_id="lora_train_loras")
                refresh = gr.Button("Refresh the list", elem_id="lora_train_refresh")
                # the last and the current defaults: fields that still hold the former get the latter
                self._offered, self._fresh = self._hidden(), self._hidden()
            with gr.Column(scale=1):
                gallery = gr.Gallery(label="Pictures", columns=4, elem_id="lora_train_gallery")
                notes = gr.HTML("", elem_id="lora_train_notes")
        fields = {self.prompt, self.negative, self.model, self.steps, self.guidance, self.seed, self.count}
        clear_first(button, gallery, notes)
        button.click(self._generate, inputs=fields, outputs=[gallery, notes])
        self.refresh_when(refresh.click)

    def _hidden(self) -> list[Any]:
        """Hidden fields with the defaults of prompt, base model and guidance."""
        texts = [gr.Textbox(offered, visible=False) for offered in (self._prompt, self._model)]
        return [*texts, gr.Number(self._guidance, visible=False)]

    def refresh_when(self, event: Any) -> None:
        """At this event, list the LoRAs again; unchanged fields get the values for the newest one."""
        fields = [self.prompt, self.model, self.guidance]
        asked = event(self._ready, inputs=[], outputs=[self._loras, *self._fresh])
        js = "js" if "js" in inspect.signature(asked.then).parameters else "_js"
        asked.then(None, inputs=[*fields, *self._offered, *self._fresh], outputs=fields + self._offered, **{js: RENEW})

    def _ready(self) -> list[Any]:
        return [self._loras_html(), self._prompt(), self._model(), self._guidance()]

    def _newest(self) -> Path | None:
        """The most recently written LoRA."""
        return max(lora_files(self._service.host.lora_dir()), key=_written, default=None)

    def _prompt(self) -> str:
        """The newest LoRA with its trigger words; empty if there is none."""
        newest = self._newest()
        if newest is None:
            return ""
        return f"{words_for(newest)} <lora:{prompt_name(self._service.host.lora_dir(), newest)}:1>".strip()

    def _model(self) -> str:
        """The base model of the newest LoRA, or the default one."""
        newest = self._newest()
        chosen = base_for([] if newest is None else [newest], self._service.host)
        return "" if chosen is None else str(chosen.path)

    def _guidance(self) -> float:
        guidance = usual_guidance(Path(self._model()))
        return USUAL_GUIDANCE if guidance is None else guidance

    def _loras_html(self) -> str:
        """The LoRAs that can be used in a prompt, or how to get one."""
        names = prompt_names(self._service.host.lora_dir())
        if not names:
            return (
                "<p>There is no LoRA yet. To make one, open the tab <em>Train LoRA</em>, where the demo's pictures are "
                f"filled in, and press <em>Train</em>. Or run <code>{html.escape(own_command('demo'))}</code>.</p>"
            )
        listed = ", ".join(f"<code>&lt;lora:{html.escape(as_shown(name))}:1&gt;</code>" for name in names)
        return f"<p>Add one of these to the prompt: {listed}</p>"

    def _generate(self, given: dict[Any, Any]) -> tuple[list[Any], str]:
        """Make the pictures; returns them and the notes. Never raises for what a person can mend."""
        try:
            model, (options, seeds, chosen) = path_of(given[self.model]), self._asked(given)
            if not model:
                raise LoraTrainError("no base model is given.", "generate.model", "Give a file or folder.")
            with self._lock:
                generator, said = self._generator(model)
                made = generator.generate(
                    options.prompt, seeds, options.negative, steps=options.steps, guidance=options.guidance
                )
            remember_base(Path(model).expanduser(), self._service.host)
        except LoraTrainError as error:
            return [], problems_html(error.problems)
        return made.pictures, "".join(f"<p>{html.escape(as_shown(note))}</p>" for note in (*chosen, *said, *made.notes))

    def _asked(self, given: dict[Any, Any]) -> tuple[GenerateOptions, range, tuple[str, ...]]:
        """The options in the fields, the seeds, and notes on them. Raises LoraTrainError with all problems."""
        read = Reader()
        names = ("prompt", "negative", "steps", "guidance", "count")
        values = {name: read(find(f"generate.{name}"), given[getattr(self, name)]) for name in names}
        options = GenerateOptions(**values)
        found = read.problems + section_problems(options)
        if options.count > MAX_PICTURES:
            found.append(Problem("too many at once.", "generate.count", f"Give at most {MAX_PICTURES} here."))
        try:
            seeds, notes = seeds_of(given[self.seed], options.count)
        except LoraTrainError as error:
            raise LoraTrainError.of(found + error.problems) from error
        if found:
            raise LoraTrainError.of(found)
        return options, seeds, notes

    def _generator(self, model: str) -> tuple[Generator, tuple[str, ...]]:
        """The generator of the loaded model, and notes on the model."""
        from lora_train.models.opening import open_model
        from lora_train.models.tokenizers import TokenizerSources

        loaded, host = self._loaded, self._service.host
        if loaded is None or loaded[0] != model:
            self._loaded = None
            said: list[str] = []
            base = open_model(Path(model).expanduser(), TokenizerSources(host.tokenizers, host.downloads, said.append))
            loaded = self._loaded = model, Generator(base, host.lora_dir()), (*said, *base.notes)
        return loaded[1], loaded[2]


def seeds_of(given: Any, count: int) -> tuple[range, tuple[str, ...]]:
    """The seeds of `count` pictures, and notes on them; a seed below 0 means a random one, as in the WebUI.

    Raises LoraTrainError for a seed that is too large for a generator.
    """
    seed = int(given or 0)
    if not seed < MAX_SEED - count:
        raise LoraTrainError(f"the seed {seed} is too large.", "generate.seed", f"Give 0 to {MAX_SEED - count - 1}.")
    if seed >= 0:
        return range(seed, seed + count), ()
    seed = random.randrange(2**32)
    return range(seed, seed + count), (f"The seed is chosen at random: {seed} for the first picture.",)


def words_for(lora: Path) -> str:
    """The LoRA's trigger words: from its card, otherwise from its file, otherwise none."""
    from lora_train.lorafile.reading import file_metadata
    from lora_train.lorafile.sidecar import activation_text

    try:
        words = activation_text(lora) or file_metadata(lora).get("modelspec.trigger_phrase", "")
    except (LoraTrainError, OSError):
        return ""
    return as_shown(words, lines=False).strip()


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
