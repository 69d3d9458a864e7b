"""Text to picture with `<lora:...>` in the prompt, without a WebUI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lora_train.errors import LoraTrainError
from lora_train.prompt.syntax import LoraTag, parse_prompt

if TYPE_CHECKING:
    from PIL import Image

    from lora_train.models.base import BaseModel


@dataclass
class Generated:
    """Pictures, and what a person should know about how they were made."""

    pictures: list[Image.Image]
    notes: list[str] = field(default_factory=list)


class Generator:
    """A loaded base model and a folder of LoRA files."""

    def __init__(self, model: BaseModel, lora_dir: Path) -> None:
        from lora_train.prompt.apply import Applier, modules_by_file_name

        self.model = model
        self.lora_dir = lora_dir
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
    ) -> Generated:
        """One picture per seed. A network that is missing or does not fit is noted, and generation goes on.

        `guidance` is the usual one of the model's family when it is None."""
        from lora_train.models.sampling import Request, sample

        parsed = parse_prompt(prompt)
        without = parse_prompt(negative)
        notes = list(parsed.notes)
        if without.tags:
            notes.append("LoRAs in the negative prompt are ignored.")
        width, height = size or (self.model.native_resolution, self.model.native_resolution)
        strength = self.model.guidance if guidance is None else guidance
        request = Request(parsed.text, seeds, width, height, without.text, steps, strength)
        try:
            self._apply(parsed.tags, notes)
            return Generated(sample(self.model, request, progress), notes)
        finally:
            self._applier.remove()

    def _apply(self, tags: Sequence[LoraTag], notes: list[str]) -> None:
        """Apply what can be applied; the rest is noted."""
        found: list[tuple[LoraTag, Path]] = []
        for tag in tags:
            try:
                found.append((tag, find_lora(self.lora_dir, tag.name)))
            except LoraTrainError as error:
                notes.append(f"<lora:{tag.name}> is left out. {error}")
        notes += self._applier.apply_usable(found)[1]


def find_lora(folder: Path, name: str) -> Path:
    """The file that a prompt's name means: by file name, below `folder`; case counts where
    names differ by nothing else. Raises LoraTrainError."""
    files = sorted(path for path in folder.rglob("*.safetensors") if not path.name.startswith("."))
    names = {path: (path.stem, path.relative_to(folder).with_suffix("").as_posix(), path.name) for path in files}
    for path in files:
        if name in names[path]:
            return path
    for path in files:
        if name.lower() in (known.lower() for known in names[path]):
            return path
    known = ", ".join(path.stem for path in files[:8]) or "none"
    raise LoraTrainError(f"there is no LoRA called {name!r} (there: {known}).", str(folder), "Check its name.")


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
