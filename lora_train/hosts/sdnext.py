"""SD.Next: diffusers pipelines in `shared.sd_model`, LoRA code in its core."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lora_train.errors import LoraTrainError
from lora_train.hosts.base import Note
from lora_train.hosts.webui import WebuiHost

log = logging.getLogger("lora_train")
_LISTS_LORAS = ("modules.lora.lora_load", "modules.lora.networks")
_CAPTIONERS = ("modules.interrogate.interrogate", "modules.interrogate.openclip", "modules.interrogate")
_TAGGERS = ("modules.interrogate.deepbooru", "modules.deepbooru")


def _first_with(modules: tuple[str, ...], attribute: str) -> Any:
    """The attribute of the first module that has it: SD.Next moves them between versions."""
    for name in modules:
        try:
            found = getattr(importlib.import_module(name), attribute, None)
        except ImportError:
            continue
        if found is not None:
            return found
    return None


class SdNextHost(WebuiHost):
    """Checked against SD.Next's sources by contract tests only."""

    name = "SD.Next"
    _tokenizer_folders = ("configs/*/tokenizer",)

    def checkpoints(self) -> list[Path]:
        listed = _first_with(("modules.sd_checkpoint", "modules.sd_models"), "checkpoints_list") or {}
        return [Path(info.filename) for info in listed.values() if Path(info.filename).exists()]

    def current_checkpoint(self) -> Path | None:
        """See Host: the chosen one, else the loaded one."""
        from modules import shared

        aliases = _first_with(("modules.sd_checkpoint", "modules.sd_models"), "checkpoint_aliases") or {}
        info = aliases.get(getattr(shared.opts, "sd_model_checkpoint", None))
        info = info or getattr(self._loaded_model(), "sd_checkpoint_info", None)
        return Path(info.filename) if info is not None else next(iter(self.checkpoints()), None)

    def _loaded_tokenizers(self) -> list[Any]:
        found = [getattr(self._loaded_model(), name, None) for name in ("tokenizer", "tokenizer_2")]
        return [tokenizer for tokenizer in found if hasattr(tokenizer, "get_vocab")]

    def lora_dir(self) -> Path:
        """See Host: an option here, not an argument."""
        from modules import shared

        named = getattr(shared.opts, "lora_dir", None)
        return Path(named).absolute() if named else super().lora_dir()

    def _blip(self) -> tuple[Callable[[], Any], Callable[[Any], str], Callable[[], Any]]:
        interrogate = _first_with(_CAPTIONERS, "interrogate")
        if interrogate is None:
            raise LoraTrainError("this SD.Next has no captioner that LoRA Train knows.", "captions", "Write captions.")

        def one(picture: Any) -> str:
            text = str(interrogate(picture))
            if "error" in text.lower() or not text.strip():
                raise RuntimeError(text or "it returned nothing")
            return text

        return lambda: None, one, self._unload_helpers

    def _deepbooru(self) -> tuple[Callable[[], Any], Callable[[Any], str], Callable[[], Any]]:
        model = _first_with(_TAGGERS, "model")
        if model is None:
            raise LoraTrainError("this SD.Next has no DeepDanbooru.", "captions", "Choose another captioner.")
        return model.start, lambda picture: str(model.tag_multi(picture)), model.stop

    def _unload_helpers(self) -> None:
        from modules import devices

        devices.torch_gc()

    @contextmanager
    def _models_off(self, keep: bool, note: Note) -> Iterator[None]:
        """See WebuiHost: SD.Next's own unload and reload, which free the model entirely."""
        from modules import devices, sd_models

        was_there = self._loaded_model() is not None
        if was_there:
            sd_models.unload_model_weights(op="model")
        devices.torch_gc()
        try:
            yield
        finally:
            if was_there:
                try:
                    sd_models.reload_model_weights(op="model")
                except Exception as error:
                    log.exception("the generation model could not be brought back")
                    note(f"The checkpoint could not be loaded again ({error}); choose it again in SD.Next.")

    @contextmanager
    def _job(self) -> Iterator[None]:
        """See WebuiHost: SD.Next's jobs have an id."""
        from modules import shared

        job = shared.state.begin("lora_train")
        try:
            yield
        finally:
            shared.state.end(job)

    def refresh_loras(self, changed: Path | None = None) -> None:
        refresh = _first_with(_LISTS_LORAS, "list_available_networks")
        if refresh is not None:
            try:
                refresh()
            except Exception:
                log.exception("SD.Next's list of LoRAs could not be refreshed")
