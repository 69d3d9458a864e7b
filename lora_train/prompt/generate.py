"""Text to picture with `<lora:...>` in the prompt, without a WebUI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lora_train.errors import LoraTrainError, Problem, shortened
from lora_train.lorafile.finding import look_up
from lora_train.prompt.syntax import LoraTag, parse_prompt
from lora_train.prompt.words import words_of

if TYPE_CHECKING:
    from PIL import Image

    from lora_train.models.base import BaseModel

Find = Callable[[Path, str], tuple[Path, str]]


@dataclass
class Generated:
    """Pictures, and what a person should know about how they were made."""

    pictures: list[Image.Image]
    notes: list[str] = field(default_factory=list)


class Generator:
    """A loaded base model and a folder of LoRA files; `find` returns the file of a name in that folder; see
    `look_up`."""

    def __init__(self, model: BaseModel, lora_dir: Path, find: Find = look_up) -> None:
        from lora_train.lorafile.applying import Applier, modules_by_file_name

        self.model = model
        self.lora_dir = lora_dir
        self._find = find
        self._applier = Applier(modules_by_file_name(model))

    def generate(
        self,
        prompt: str,
        seeds: Sequence[int] = (1,),
        negative: str = "",
        steps: int = 20,
        guidance: float | None = None,
        size: tuple[int, int] | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
        allow_missing: bool = True,
    ) -> Generated:
        """One picture per seed. A network that is missing or does not fit is noted, and generation continues; without
        `allow_missing` it is an error instead.

        `guidance` is the usual one of the model's family when it is None. Raises LoraTrainError."""
        from lora_train.models.sampling import Request, sample

        parsed, without = parse_prompt(prompt), parse_prompt(negative)
        words, against = words_of(parsed.text), words_of(without.text)
        notes = [*parsed.notes, *words.notes]
        if without.tags or without.notes:
            notes.append("LoRAs in the negative prompt are ignored.")
        notes += [f"In the negative prompt: {note}" for note in against.notes]
        notes += [self._cut(name, text) for name, text in (("prompt", words.text), ("negative prompt", against.text))]
        width, height = size or (self.model.native_resolution, self.model.native_resolution)
        strength = self.model.guidance if guidance is None else guidance
        request = Request(words.text, seeds, width, height, against.text, steps, strength)
        try:
            left_out = self._apply(parsed.tags, notes)
            if left_out and not allow_missing:
                raise LoraTrainError.of(left_out)
            return Generated(sample(self.model, request, progress), [shortened(note) for note in notes if note])
        finally:
            self._applier.remove()

    def _cut(self, name: str, text: str) -> str:
        """What there is to say where a text is longer than what the model reads; "" where it is not."""
        from lora_train.models.base import PROMPT_CHUNKS, reading

        with reading(self.model, PROMPT_CHUNKS):
            room, count = self.model.text_room, self.model.count_tokens(text)
        if count <= room:
            return ""
        return f"The {name} is {count} tokens long; the model reads {room}, and what is behind them is cut off."

    def _apply(self, tags: Sequence[LoraTag], notes: list[str]) -> list[Problem]:
        """Apply what can be applied; the rest is noted. Returns its problems."""
        found: list[tuple[LoraTag, Path]] = []
        left_out: list[Problem] = []
        for tag in tags:
            try:
                path, note = self._find(self.lora_dir, tag.written)
                found.append((tag, path))
                notes += [note] if note else []
            except LoraTrainError as error:
                notes.append(f"<lora:{tag.name}> is left out. {error}")
                left_out += error.problems
        notes += self._applier.apply_usable(found, left_out)[1]
        return left_out


def generate(
    prompt: str,
    model: str | Path,
    lora_dir: str | Path,
    seeds: Sequence[int] = (1,),
    steps: int = 20,
    guidance: float | None = None,
) -> Generated:
    """Load a base model and make one picture per seed. The Python API's second function.

    Raises LoraTrainError when the model cannot be loaded. Downloads nothing.
    """
    from lora_train.models.opening import open_model

    return Generator(open_model(Path(model)), Path(lora_dir)).generate(prompt, seeds, steps=steps, guidance=guidance)
