"""What a run writes: LoRA files, the card beside the result, previews."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lora_train.data.scan import Manifest, Picture
from lora_train.data.tag_statistics import tag_frequency
from lora_train.data.trigger import trigger_of
from lora_train.errors import LoraTrainError
from lora_train.links import MayRead, anywhere
from lora_train.memory import is_out_of_memory, memory_given_back
from lora_train.prompt.lines import Line, read_line
from lora_train.prompt.syntax import LoraTag, parse_prompt
from lora_train.prompt.words import words_of
from lora_train.runs.folder import RunFolder
from lora_train.runs.previews import find_lora, others, preview_lines

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
    lora_dir: Path = Path()
    """Where the LoRAs in prompts of previews are."""
    _base_hashes: dict[str, str] | None = None
    _said: set[str] = field(default_factory=set)
    _read: list[Line] | None = None

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
        from lora_train.lorafile.metadata import TrainingFacts, base_hashes

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

    def _note_once(self, text: str) -> None:
        """A note that several saves or previews would repeat."""
        if text not in self._said:
            self._said.add(text)
            self.folder.event("note", text=text)

    def preview(self, step: int) -> None:
        """Make a picture of each line of prompts with the current LoRA. A failure does not end the training: it is
        noted."""
        if step == 0 and not self.trainer.config.preview.sample_at_first:
            return
        for number, line in enumerate(self._lines()):
            name = f"step{step:08d}-{number}.png"
            try:
                with memory_given_back():
                    self._preview(line, self.folder.path / "samples" / name)
            except Exception as error:
                log.warning("the preview %s failed", name, exc_info=True)
                self.folder.event("note", text=f"The preview of step {step} was not made: {in_words(error)}")
                continue
            self.folder.event("preview", step=step, prompt=line.written, file=name)

    def _lines(self) -> list[Line]:
        """The lines of prompts, read once: the pictures of all steps are of the same ones."""
        if self._read is None:
            try:
                self._read = preview_lines(self.trainer.config)
            except LoraTrainError as error:
                self._note_once(f"The file of preview prompts is not used: {error}")
                self._read = [read_line(one) for one in self.trainer.config.preview.prompts]
        return self._read

    def _preview(self, line: Line, path: Path) -> None:
        from lora_train.models.sampling import Request, sample
        from lora_train.runs.pictures import save_picture

        trainer = self.trainer
        options = trainer.config.preview
        parsed = parse_prompt(line.prompt)
        words, against = words_of(parsed.text), words_of(line.negative)
        for note in (*parsed.notes, *words.notes, *(f"in the negative prompt: {one}" for one in against.notes)):
            self._note_once(f"The preview {line.written!r}: {note}")
        width, height = self._shape()
        guidance = options.guidance if line.guidance is None else line.guidance
        request = Request(
            words.text,
            [options.seed if line.seed is None else line.seed],
            line.width or width,
            line.height or height,
            against.text,
            steps=line.steps or options.steps,
            guidance=trainer.model.guidance if guidance is None else guidance,
            clip_skip=trainer.config.model.clip_skip,
            sampler=line.sampler or options.sampler,
        )
        with self._with_others(line, parsed.tags), trainer.autocast:
            picture = sample(trainer.model, request)[0]
        save_picture(picture, path)

    def _shape(self) -> tuple[int, int]:
        """The most frequent shape of the pictures, in pixels."""
        counts = self.trainer.dataset.bucket_counts()
        return max(counts, key=lambda shape: counts[shape])

    @contextmanager
    def _with_others(self, line: Line, tags: tuple[LoraTag, ...]) -> Iterator[None]:
        """Within the block, the other LoRAs of a line are in the base model's weights; then these are as before, bit
        for bit. One that does not fit is noted."""
        config = self.trainer.config
        if not tags:
            yield
            return
        from lora_train.lorafile.applying import Applier, modules_by_file_name

        if len(others(tags, config)) < len(tags):
            self._note_once(f"The preview {line.written!r}: the LoRA being trained is in it anyway, at strength 1.")
        applier = Applier(modules_by_file_name(self.trainer.model))
        found = []
        for tag in others(tags, config):
            try:
                found.append((tag, find_lora(tag, config, self.lora_dir)))
            except LoraTrainError as error:
                self._note_once(f"The preview {line.written!r}: <lora:{tag.name}> is left out. {error}")
        try:
            for note in applier.apply_usable(found)[1]:
                self._note_once(f"The preview {line.written!r}: {note}")
            yield
        finally:
            applier.remove()


def _folders(pictures: Sequence[Picture]) -> dict[str, tuple[int, int]]:
    """Each folder's name, with the repeats of its pictures and their number."""
    folders = Counter((picture.path.parent.name, picture.repeats) for picture in pictures)
    return {name: (repeats, count) for (name, repeats), count in folders.items()}


def in_words(error: Exception) -> str:
    """The error as text for a note: readable for a person, and enough for a bug report."""
    if is_out_of_memory(error):
        return "there was not enough memory."
    return str(error) if isinstance(error, LoraTrainError) else f"{type(error).__name__}: {error}"
