"""Taking the WebUI's models off the GPU while a LoRA trains, and bringing them back.

The facts behind this, as in AUTOMATIC1111 1.10.1: `unload_model_weights` only moves the model to the
computer's memory, and `reload_model_weights` does not move it back; with --medvram the parts move on
their own, and `lowvram.module_in_gpu` is the one on the GPU; `send_model_to_trash` frees the weights
even where others hold references to the module; `load_model` writes what it loads into the setting of the
chosen checkpoint, overwriting what a person chose meanwhile.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_train.errors import LoraTrainError
from lora_train.hosts.base import Note

log = logging.getLogger("lora_train")


@dataclass
class _Loaded:
    """What was loaded before the GPU was lent."""

    current: Any
    models: list[Any]
    was_loaded: bool
    on_device: list[Any] = field(default_factory=list)


@contextmanager
def models_off_the_gpu(keep: bool, note: Note) -> Iterator[None]:
    """Within the block no model of the WebUI is on the GPU: they are moved to memory (`keep`) or freed.

    The caller must hold the WebUI's queue lock. On leaving, the generation model that is chosen then is
    back; should that fail, the WebUI is left in a state in which it loads it at the next picture, and `note` says why.
    """
    from modules import sd_models

    before = _allocated()
    data = sd_models.model_data
    loaded = _Loaded(data.sd_model, _all_models(data), getattr(data, "was_loaded_at_least_once", False))
    data.was_loaded_at_least_once = True  # else any access to shared.sd_model would load one meanwhile
    try:
        try:
            _unload(data, loaded, keep)
            unload_helpers(keep)
            _empty_caches()
        except (AttributeError, ImportError) as error:
            raise LoraTrainError(
                f"this WebUI lacks something that is needed to free the GPU ({error}).", "", "Update the WebUI."
            ) from error
        freed = before - _allocated()
        if freed > 1 << 20:
            note(f"Freed {freed / 2**30:.1f} GB of GPU memory.")
        yield
    finally:
        try:
            _empty_caches()
            _bring_back(data, loaded, keep, note)
        except Exception as error:
            log.exception("the generation model could not be brought back")
            data.sd_model = None
            getattr(data, "loaded_sd_models", []).clear()
            data.was_loaded_at_least_once = False
            note(f"The checkpoint could not be loaded again ({error}); the WebUI tries again at the next picture.")


def _all_models(data: Any) -> list[Any]:
    models = list(getattr(data, "loaded_sd_models", ()))  # before 1.6 there was only one
    if data.sd_model is not None and not any(model is data.sd_model for model in models):
        models.insert(0, data.sd_model)
    return models


def _unload(data: Any, loaded: _Loaded, keep: bool) -> None:
    from modules import devices, lowvram, sd_models

    lowvram.send_everything_to_cpu()
    for model in loaded.models:
        if not keep:
            sd_models.send_model_to_trash(model)
        elif not getattr(model, "lowvram", False):  # with lowvram, the small part that stays on the GPU must stay
            if _device_of(model) != str(devices.cpu):
                loaded.on_device.append(model)
            model.to(devices.cpu)
    if not keep:
        data.sd_model = None
        getattr(data, "loaded_sd_models", []).clear()
        sd_models.checkpoints_loaded.clear()


def chosen_checkpoint() -> Any:
    """The WebUI's entry of the checkpoint that is chosen at the top of its page; None where there is none."""
    from modules import sd_models, shared

    chosen = getattr(shared.opts, "sd_model_checkpoint", None)
    return sd_models.checkpoint_aliases.get(chosen) if chosen else None


def _bring_back(data: Any, loaded: _Loaded, keep: bool, note: Note) -> None:
    from modules import sd_models

    if keep:
        for model in loaded.on_device:
            sd_models.send_model_to_device(model)
    elif loaded.current is not None:
        data.sd_model = None
        before = loaded.current.sd_checkpoint_info
        _load(chosen_checkpoint() or before, before, note)
    data.was_loaded_at_least_once = loaded.was_loaded


def _load(chosen: Any, before: Any, note: Note) -> None:
    """Load the chosen checkpoint, or the previous one where that fails."""
    from modules import sd_models

    try:
        _load_unwritten(chosen)
    except Exception as error:
        if chosen.filename == before.filename:
            raise
        log.exception("%s could not be loaded", chosen.filename)
        names = Path(chosen.filename).name, Path(before.filename).name
        note(f"The checkpoint {names[0]} could not be loaded ({error}); {names[1]} is back instead.")
        sd_models.load_model(before)  # which also makes it the chosen one again


def _load_unwritten(info: Any) -> None:
    """Load a checkpoint without choosing it in the settings, so that what a person chooses meanwhile stays chosen."""
    from modules import sd_models, shared

    with getattr(sd_models, "SkipWritingToConfig", nullcontext)():
        sd_models.load_model(info)
    data = getattr(shared.opts, "data", {})
    if chosen_checkpoint() is info and "sd_model_checkpoint" in data:
        data["sd_model_checkpoint"] = info.title  # with its hash by now, as the page's list has it


def unload_helpers(keep: bool) -> None:
    """Take captioners, face restorers and upscalers off the GPU, whatever the WebUI's settings say.

    Each is loaded again by the WebUI when it is needed.
    """
    from modules import devices, shared

    def off(model: Any) -> Any:
        return model.to(devices.cpu) if keep and model is not None else None

    interrogator = getattr(shared, "interrogator", None)
    deepbooru = sys.modules.get("modules.deepbooru")
    holders: list[tuple[Any, str]] = [(interrogator, "blip_model"), (interrogator, "clip_model")]
    holders.append((getattr(deepbooru, "model", None), "model"))
    holders += [(restorer, "net") for restorer in shared.face_restorers]
    for upscaler in shared.sd_upscalers:
        holders += [(upscaler.scaler, "_cached_model"), (upscaler.scaler, "model")]
    for holder, attribute in holders:
        if hasattr(getattr(holder, attribute, None), "parameters"):
            setattr(holder, attribute, off(getattr(holder, attribute)))
            if attribute == "_cached_model":
                holder._cached_model_config = None
    for restorer in shared.face_restorers:
        # a cached property: accessing it by its name would create it
        getattr(restorer, "__dict__", {}).pop("face_helper", None)


def _empty_caches() -> None:
    from modules import devices, processing, shared

    for cls in (processing.StableDiffusionProcessing, processing.StableDiffusionProcessingTxt2Img):
        for name in ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc"):
            if name in cls.__dict__:
                setattr(cls, name, [None, None])
    shared.state.current_latent = None
    gc.collect()
    devices.torch_gc()


def _device_of(model: Any) -> str:
    return next((parameter.device.type for parameter in model.parameters()), "cpu")


def _allocated() -> int:
    import torch

    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return sum(torch.cuda.memory_allocated(device) for device in devices)
