"""The Forge family: Forge, Forge Classic, reForge, Forge Neo."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lora_train.hosts.base import Note
from lora_train.hosts.webui import WebuiHost

log = logging.getLogger("lora_train")


class ForgeHost(WebuiHost):
    """Forge's memory management moves models by itself, and brings them back at the next picture."""

    name = "Forge"
    _tokenizer_folders = (
        "backend/huggingface/*/*/tokenizer",
        "ldm_patched/modules/sd1_tokenizer",  # reForge and the first Forge
    )

    def _loaded_model(self) -> Any:
        model = super()._loaded_model()
        # before the first picture this is a placeholder
        return model if hasattr(model, "forge_objects") else None

    def current_checkpoint(self) -> Path | None:
        """See Host: the one chosen at the top of the page, which Forge loads lazily."""
        from modules import sd_models

        parameters = getattr(sd_models.model_data, "forge_loading_parameters", {})
        info = parameters.get("checkpoint_info")
        return Path(info.filename) if info is not None else super().current_checkpoint()

    def _loaded_tokenizers(self) -> list[Any]:
        tokenizers = getattr(getattr(self._loaded_model(), "forge_objects", None), "clip", None)
        found = [getattr(tokenizers, "tokenizer", None)]
        found += list(vars(found[0]).values()) if found[0] is not None and hasattr(found[0], "__dict__") else []
        return [tokenizer for tokenizer in found if hasattr(tokenizer, "get_vocab")]

    def _unload_helpers(self) -> None:
        from modules import devices

        self._unload_all()
        devices.torch_gc()

    @staticmethod
    def _unload_all() -> None:
        try:
            from backend import memory_management
        except ImportError:  # reForge and the first Forge keep it elsewhere
            from ldm_patched.modules import model_management as memory_management
        memory_management.unload_all_models()
        memory_management.soft_empty_cache()

    @contextmanager
    def _models_off(self, keep: bool, note: Note) -> Iterator[None]:
        """See WebuiHost. With `keep` the model stays in the computer's memory; else it is freed, and loaded
        again at the next picture."""
        from modules import devices, sd_models

        self._unload_all()
        data = sd_models.model_data
        if not keep and hasattr(data, "forge_hash") and self._loaded_model() is not None:
            data.sd_model = type(data)().sd_model
            data.forge_hash = ""
        devices.torch_gc()
        try:
            yield
        finally:
            try:
                devices.torch_gc()
            except Exception as error:
                log.exception("emptying the caches failed")
                note(f"The GPU's caches could not be emptied ({error}).")

    def _forget_applied(self, networks: Any, changed: Path) -> None:
        """Forge compares the list of files and strengths; a different text makes it apply them again."""
        networks.loaded_networks.clear()
        model = self._loaded_model()
        if hasattr(model, "current_lora_hash"):
            model.current_lora_hash = ""
        clear = getattr(getattr(networks, "load_lora_state_dict", None), "cache_clear", None)
        if clear is not None:
            clear()
