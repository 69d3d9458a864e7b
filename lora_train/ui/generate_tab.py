"""The *Generate* page: pictures from a prompt, with `<lora:name:strength>`."""

from __future__ import annotations

import html
import threading
from pathlib import Path
from typing import Any

import gradio as gr

from lora_train.errors import LoraTrainError
from lora_train.prompt.finding import prompt_names
from lora_train.prompt.generate import Generator
from lora_train.runs.service import Service
from lora_train.showing import as_shown
from lora_train.ui.train_tab import clear_first, path_of, problems_html

MAX_PICTURES, MAX_STEPS = 16, 150


class GenerateTab:
    """Builds the page and keeps the base model that was used last in memory."""

    def __init__(self, service: Service, model: str) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._loaded: tuple[str, Generator, tuple[str, ...]] | None = None
        self._build(model)

    def _build(self, model: str) -> None:
        with gr.Row():
            with gr.Column(scale=1):
                self.prompt = gr.Textbox("", label="Prompt", lines=2, elem_id="lora_train_prompt")
                self.negative = gr.Textbox("", label="Negative prompt", max_lines=1, elem_id="lora_train_negative")
                self.model = gr.Textbox(model, label="Base model", max_lines=1, elem_id="lora_train_generate_model")
                with gr.Row():
                    self.steps = gr.Slider(1, MAX_STEPS, 20, step=1, label="Steps", elem_id="lora_train_generate_steps")
                    self.guidance = gr.Slider(1, 20, 7, step=0.5, label="Guidance", elem_id="lora_train_guidance")
                with gr.Row():
                    self.seed = gr.Number(1, label="Seed", precision=0, elem_id="lora_train_generate_seed")
                    self.count = gr.Slider(1, MAX_PICTURES, 4, step=1, label="Pictures", elem_id="lora_train_count")
                button = gr.Button("Generate", variant="primary", elem_id="lora_train_generate")
                loras = gr.HTML(self._loras_html, elem_id="lora_train_loras")  # asked at each load of the page
                refresh = gr.Button("Refresh the list", elem_id="lora_train_refresh")
            with gr.Column(scale=1):
                gallery = gr.Gallery(label="Pictures", columns=4, elem_id="lora_train_gallery")
                notes = gr.HTML("", elem_id="lora_train_notes")
        fields = {self.prompt, self.negative, self.model, self.steps, self.guidance, self.seed, self.count}
        clear_first(button, gallery, notes)
        button.click(self._generate, inputs=fields, outputs=[gallery, notes])
        refresh.click(self._loras_html, inputs=[], outputs=[loras])

    def _loras_html(self) -> str:
        """The LoRAs that a prompt can name."""
        names = prompt_names(self._service.host.lora_dir())
        if not names:
            return "<p>There is no LoRA yet. What you train appears here.</p>"
        listed = ", ".join(f"<code>&lt;lora:{html.escape(as_shown(name))}:1&gt;</code>" for name in names)
        return f"<p>Add one of these to the prompt: {listed}</p>"

    def _generate(self, given: dict[Any, Any]) -> tuple[list[Any], str]:
        """Make the pictures; returns them and the notes. Never raises for what a person can mend."""
        count = min(MAX_PICTURES, max(1, int(given[self.count] or 1)))
        seed = max(0, int(given[self.seed] or 0))
        try:
            with self._lock:
                generator, said = self._generator(path_of(given[self.model]))
                made = generator.generate(
                    given[self.prompt] or "",
                    range(seed, seed + count),
                    given[self.negative] or "",
                    steps=min(MAX_STEPS, max(1, int(given[self.steps] or 20))),
                    guidance=float(given[self.guidance] or 1),
                )
        except LoraTrainError as error:
            return [], problems_html(error.problems)
        return made.pictures, "".join(f"<p>{html.escape(as_shown(note))}</p>" for note in (*said, *made.notes))

    def _generator(self, model: str) -> tuple[Generator, tuple[str, ...]]:
        """The loaded model's, and what there is to say of the model."""
        from lora_train.models.opening import open_model
        from lora_train.models.tokenizers import TokenizerSources

        loaded, host = self._loaded, self._service.host
        if loaded is None or loaded[0] != model:
            self._loaded = None
            said: list[str] = []
            base = open_model(Path(model).expanduser(), TokenizerSources(host.tokenizers, host.downloads, said.append))
            loaded = self._loaded = model, Generator(base, host.lora_dir()), (*said, *base.notes)
        return loaded[1], loaded[2]
