"""What a run writes: LoRA files, the card beside the result, previews."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lora_train.data.scan import Manifest, Picture
from lora_train.data.tag_statistics import tag_frequency
from lora_train.data.trigger import trigger_of
from lora_train.errors import LoraTrainError
from lora_train.links import MayRead, anywhere
from lora_train.memory import memory_given_back
from lora_train.runs.folder import RunFolder

if TYPE_CHECKING:
    from lora_train.lorafile.metadata import TrainingFacts
    from lora_train.train.loop import Trainer

log = logging.getLogger("lora_train")

CHECKPOINT_NAME = "{name}-step{step:08d}.safetensors"
"""kohya's pattern for intermediate files."""


@dataclass
class RunWriter:
    """Writes for one run; `started` is its start time in seconds since 1970."""

    folder: RunFolder
    manifest: Manifest
    trainer: Trainer
    started: float
    may_read: MayRead = anywhere
    """Whether a card that is a link to this place may be read, and completed."""
    _base_hashes: dict[str, str] | None = None
    _said: set[str] = field(default_factory=set)

    def save_checkpoint(self, step: int) -> None:
        """Save the LoRA after `step` in the run's folder; a failure is noted."""
        name = CHECKPOINT_NAME.format(name=self.trainer.config.save.output_name, step=step)
        try:
            self._save(self.folder.path / "checkpoints" / name, overwrite=True)
        except LoraTrainError as error:
            self.folder.event("note", text=f"The LoRA after step {step} was not saved: {error}")

    def save_result(self, path: Path, overwrite: bool) -> None:
        """Save the LoRA to `path`; when that fails it is saved in the run's own folder, and the error says so."""
        try:
            self._save(path, overwrite)
        except LoraTrainError as error:
            raise self._rescued(path, error) from error
        except Exception as error:  # hours of training must not be lost to an unforeseen error
            what = f"the LoRA could not be saved: {type(error).__name__}: {error}."
            raise self._rescued(path, LoraTrainError(what, str(path))) from error

    def _save(self, path: Path, overwrite: bool) -> None:
        from lora_train.lorafile.metadata import lora_metadata
        from lora_train.lorafile.writing import write_lora

        trainer, metadata = self.trainer, lora_metadata(self._facts())
        precision, tensors = trainer.config.save.save_precision, trainer.network.file_tensors()
        for note in write_lora(path, tensors, metadata, precision, overwrite, trainer.built.carried):
            self._note_once(note)
        self.folder.event("saved", step=trainer.steps_done, path=str(path))

    def _rescued(self, path: Path, error: LoraTrainError) -> LoraTrainError:
        """Save the LoRA in the run's own folder, because it could not be written to its place."""
        rescued = self.folder.path / path.name
        try:
            self._save(rescued, overwrite=True)
        except LoraTrainError:
            return error
        problem = error.problems[0]
        return LoraTrainError(problem.what, problem.where, f"The LoRA is saved here instead: {rescued}")

    def write_card(self, path: Path) -> None:
        """Write the sidecar and the preview; the LoRA is already saved, so a failure is only noted."""
        from lora_train.lorafile.sidecar import notes_of, write_preview, write_sidecar

        def note(text: str) -> None:
            self.folder.event("note", text=text)

        trainer = self.trainer
        tag = trigger_of(self.manifest, trainer.config.data.tag)
        if tag and not trainer.config.data.tag:
            note(f"The captions begin with {tag!r}: it is the activation text on the LoRA's card.")
        try:
            samples = sorted((self.folder.path / "samples").glob("*.png"))
            notes = notes_of(len(self.manifest.trained), trainer.steps_done)
            write_sidecar(path, tag, trainer.model.version, notes, note, self.may_read)
            picture = samples[-1].read_bytes() if samples else self._thumbnail()
            write_preview(path, picture, note, self.may_read)
        except Exception as error:  # whatever fails, the run has its result
            log.warning("the card of %s was not written", path, exc_info=True)
            note(f"The card beside the LoRA was not written: {in_words(error)}")

    def _thumbnail(self) -> bytes:
        """The first training picture, as cropped, as PNG."""
        from lora_train.data.buckets import cut
        from lora_train.pictures.opening import load_picture
        from lora_train.runs.pictures import png_bytes

        item = self.trainer.dataset.items[0]
        picture = cut(load_picture(item.picture.path), item.placement)
        picture.thumbnail((512, 512))
        return png_bytes(picture)

    def _facts(self) -> TrainingFacts:
        from lora_train.lorafile.metadata import TrainingFacts, base_hashes, vae_hashes

        trainer = self.trainer
        if self._base_hashes is None:  # computing them reads gigabytes
            self._base_hashes = base_hashes(trainer.model.source)
        pictures = [item.picture for item in trainer.dataset.items if not item.picture.again]
        reg = [picture for picture in pictures if picture.reg]
        return TrainingFacts(
            config=trainer.config,
            steps=trainer.steps_done,
            epoch=trainer.epoch,
            batches_per_epoch=trainer.batches_per_epoch,
            pictures=len(pictures) - len(reg),
            looks_per_epoch=self.manifest.looks_per_epoch,
            buckets=trainer.dataset.bucket_counts(),
            folders=_folders([picture for picture in pictures if not picture.reg]),
            reg_folders=_folders(reg),
            vae=vae_hashes(Path(trainer.config.model.vae).expanduser()) if trainer.config.model.vae else {},
            held_out=len(trainer.dataset.held_out),
            reg_looks_per_epoch=sum(picture.repeats for picture in reg),
            tag_frequency=tag_frequency(self.manifest),
            trigger=trigger_of(self.manifest, trainer.config.data.tag),
            base_version=trainer.model.version,
            architecture=trainer.model.architecture,
            implementation=trainer.model.implementation,
            prediction_type=trainer.model.prediction_type,
            zero_terminal_snr=trainer.model.zero_terminal_snr,
            base_name=trainer.model.source.name,
            base_hashes=self._base_hashes,
            started_at=self.started,
            finished_at=time.time(),
            session=self.folder.id,
            extra=dict(trainer.built.metadata),
        )

    def _words(self, prompt: str) -> str:
        """The part of its prompt that a preview draws; unsupported syntax is noted the first time."""
        from lora_train.prompt.syntax import parse_prompt
        from lora_train.prompt.words import words_of

        parsed = parse_prompt(prompt)
        words = words_of(parsed.text)
        notes = [*parsed.notes, *words.notes]
        if parsed.tags:
            notes.append("LoRAs in it are ignored; it shows the one being trained.")
        if notes:
            self._note_once(f"The preview {prompt!r}: {' '.join(notes)}")
        return words.text

    def _note_once(self, text: str) -> None:
        """A note that several saves or previews would repeat."""
        if text not in self._said:
            self._said.add(text)
            self.folder.event("note", text=text)

    def preview(self, step: int) -> None:
        """Make a picture of each prompt with the current LoRA. A failure does not end the training: it is noted."""
        for number, prompt in enumerate(self.trainer.config.preview.prompts):
            name = f"step{step:08d}-{number}.png"
            try:
                with memory_given_back():
                    self._preview(prompt, self.folder.path / "samples" / name)
            except Exception as error:
                log.warning("the preview %s failed", name, exc_info=True)
                self.folder.event("note", text=f"The preview of step {step} was not made: {in_words(error)}")
                continue
            self.folder.event("preview", step=step, prompt=prompt, file=name)

    def _preview(self, prompt: str, path: Path) -> None:
        from lora_train.models.sampling import Request, sample
        from lora_train.runs.pictures import save_picture

        trainer = self.trainer
        options, data = trainer.config.preview, trainer.config.data
        assert data.resolution
        request = Request(
            self._words(prompt),
            [options.seed],
            *data.size,
            steps=options.steps,
            guidance=trainer.model.guidance if options.guidance is None else options.guidance,
            clip_skip=trainer.config.model.clip_skip,
        )
        with trainer.autocast:
            picture = sample(trainer.model, request)[0]
        save_picture(picture, path)


def _folders(pictures: Sequence[Picture]) -> dict[str, tuple[int, int]]:
    """Each folder's name, with the repeats of its pictures and their number."""
    folders = Counter((picture.path.parent.name, picture.repeats) for picture in pictures)
    return {name: (repeats, count) for (name, repeats), count in folders.items()}


def in_words(error: Exception) -> str:
    """The error as text for a note: readable for a person, and enough for a bug report."""
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return "there was not enough memory."
    return str(error) if isinstance(error, LoraTrainError) else f"{type(error).__name__}: {error}"
