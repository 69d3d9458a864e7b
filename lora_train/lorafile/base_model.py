"""For which family of base models a LoRA file was made, by its metadata or else by its keys and shapes."""

from __future__ import annotations

from lora_train.lorafile.reading import LoraFile

_VERSIONS = (("sdxl", "SDXL"), ("sd_v2", "SD 2.x"), ("sd_v1", "SD 1.x"))
"""Beginnings of kohya's `ss_base_model_version`."""
_ARCHITECTURES = (
    ("stable-diffusion-xl", "SDXL"),
    ("stable-diffusion-v2", "SD 2.x"),
    ("stable-diffusion-v1", "SD 1.x"),
)
"""Beginnings of `modelspec.architecture`."""
_CONTEXTS = {768: "SD 1.x", 1024: "SD 2.x", 2048: "SDXL"}
"""Width of the text that the UNet's cross attention reads."""


def made_for(file: LoraFile) -> str:
    """ "SD 1.x", "SD 2.x" or "SDXL"; empty when nothing tells."""
    for field, table in (("ss_base_model_version", _VERSIONS), ("modelspec.architecture", _ARCHITECTURES)):
        said = file.metadata.get(field, "")
        for start, family in table:
            if said.startswith(start):
                return family
    for key, value in file.tensors.items():
        if key.startswith(("lora_te1_", "lora_te2_", "lora_unet_input_blocks_", "lora_unet_output_blocks_")):
            return "SDXL"
        if "attn2_to_k" in key and key.endswith("lora_down.weight") and value.ndim >= 2:
            family = _CONTEXTS.get(value.shape[1], "")
            if family:
                return family
    return ""
