"""Single-file checkpoints in the original layout, read tensor by tensor, and the places of a LoRA's modules in them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from lora_train.errors import LoraTrainError
from lora_train.lorafile.names import flat_name
from lora_train.lorafile.reading import file_metadata
from lora_train.lorafile.writing import dtype_name
from lora_train.models.checkpoint_names import usual_names
from lora_train.models.ldm_configs import LAYOUTS, TextLayout, numbers
from lora_train.models.ldm_keys import UNET_PREFIX, Translator, UnetShape, unet_pairs
from lora_train.models.names import ONE_ENCODER, TWO_ENCODERS, UNET
from lora_train.models.open_clip_keys import ATTENTION, module_path
from lora_train.tensors import (
    GIVE_ANOTHER,
    header_metadata,
    holds_safetensors,
    odd_metadata,
    read_header,
    read_tensors,
)

_WEIGHT = ".weight"
_FUSED = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class Place:
    """The place of a module's weight: a tensor, or one of three equal parts of its rows."""

    key: str
    path: str
    """The module's path in diffusers' or transformers' terms."""
    part: int | None = None

    def view(self, tensor: torch.Tensor) -> torch.Tensor:
        """The module's weight in the checkpoint's tensor."""
        return tensor if self.part is None else tensor.chunk(len(_FUSED))[self.part]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose tensors are read on demand."""

    path: Path
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    """As in the safetensors header ("F16")."""
    metadata: dict[str, str]
    get: Callable[[str], torch.Tensor]


def require_checkpoint(path: Path) -> None:
    """Raise LoraTrainError when there is no such file."""
    if not path.is_file():
        raise LoraTrainError("there is no such checkpoint file.", str(path), "Give one .safetensors or .ckpt file.")


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a safetensors file (memory-mapped), or another file, which is read as a whole. Raises LoraTrainError."""
    require_checkpoint(path)
    header = read_header(path) if holds_safetensors(path) else {}
    if not header or odd_metadata(header):  # the library does not open files with metadata that are not texts
        tensors = read_tensors(path, stand_ins=True)
        shapes = {name: tuple(value.shape) for name, value in tensors.items()}
        dtypes = {name: dtype_name(value) for name, value in tensors.items()}
        return Checkpoint(path, shapes, dtypes, header_metadata(header), tensors.__getitem__)
    try:
        file = safe_open(path, framework="pt")
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise LoraTrainError(f"the file is damaged ({error}).", str(path), "Download it again.") from error
    dtypes = {name: str(header[name]["dtype"]) for name in shapes}
    return Checkpoint(path, shapes, dtypes, file_metadata(path), file.get_tensor)


def family_of(checkpoint: Checkpoint) -> str:
    """The key in LAYOUTS whose text encoders the checkpoint has. Raises LoraTrainError if there is none."""
    names = usual_names(checkpoint.shapes).values()
    if any(name.startswith(UNET_PREFIX) for name in names):
        for family, layout in LAYOUTS.items():
            if all(any(name.startswith(text.prefix) for name in names) for text in layout.text):
                return family
    raise LoraTrainError("this is not a Stable Diffusion checkpoint.", str(checkpoint.path), GIVE_ANOTHER)


def places_of(checkpoint: Checkpoint) -> dict[str, Place]:
    """The place of each module that a LoRA can change, by its name in LoRA files.

    SDXL's UNet modules have both of their names, kohya's first. Raises LoraTrainError.
    """
    family = family_of(checkpoint)
    layout = LAYOUTS[family]
    places = _unet_places(checkpoint, sgm=len(layout.text) > 1)
    prefixes = ONE_ENCODER if len(layout.text) == 1 else TWO_ENCODERS
    own = {usual: name for name, usual in usual_names(checkpoint.shapes).items()}
    for prefix, text in zip(prefixes, layout.text):
        found = _text_places(own, f"{prefix}_", text)
        places |= {name: replace(place, key=own[place.key]) for name, place in found.items()}
    return places


def _unet_places(checkpoint: Checkpoint, sgm: bool) -> dict[str, Place]:
    rests = [name.removeprefix(UNET_PREFIX) for name in checkpoint.shapes if name.startswith(UNET_PREFIX)]
    try:
        translator = Translator(unet_pairs(_shape(rests)))
    except IndexError as error:
        raise LoraTrainError("its UNet has an unknown shape.", str(checkpoint.path), GIVE_ANOTHER) from error
    theirs, ours = {}, {}
    for rest in rests:
        if not rest.endswith(_WEIGHT):
            continue
        ldm = rest.removesuffix(_WEIGHT)
        place = Place(UNET_PREFIX + rest, translator.to_diffusers(ldm))
        theirs[flat_name(f"{UNET}_", ldm)] = place
        ours[flat_name(f"{UNET}_", place.path)] = place
    return theirs | ours if sgm else ours


def _shape(names: Collection[str]) -> UnetShape:
    """The shape of a UNet from its names. Raises IndexError if it is not a UNet."""
    last = numbers(names, r"input_blocks\.(\d+)\.")[-1]
    downs = numbers(names, r"input_blocks\.(\d+)\.0\.op\.")
    layers = downs[0] - 1 if downs else last
    with_attention = set(numbers(names, r"input_blocks\.(\d+)\.1\.norm\."))
    return UnetShape(layers, tuple(1 + level * (layers + 1) in with_attention for level in range(len(downs) + 1)))


def _text_places(names: Collection[str], prefix: str, text: TextLayout) -> dict[str, Place]:
    rests = [name.removeprefix(text.prefix) for name in names if name.startswith(text.prefix)]
    found: dict[str, Place] = {}
    for rest in rests:
        for path, part in _open_clip_paths(rest) if text.open_clip else _transformers_paths(rest):
            found[flat_name(prefix, path)] = Place(text.prefix + rest, path, part)
    last = numbers(rests, r"transformer\.resblocks\.(\d+)\.")[-text.unused_layers :] if text.unused_layers else []
    unused = tuple(flat_name(prefix, f"text_model.encoder.layers.{number}") + "_" for number in last)
    return {name: place for name, place in found.items() if not unused or not name.startswith(unused)}


def _transformers_paths(name: str) -> list[tuple[str, int | None]]:
    return [(name.removesuffix(_WEIGHT), None)] if name.endswith(_WEIGHT) else []


def _open_clip_paths(name: str) -> list[tuple[str, int | None]]:
    fused = ATTENTION.fullmatch(name)
    if fused is not None and fused[2] == "weight":
        layer = fused[1].rpartition(".")[2]
        return [(f"text_model.encoder.layers.{layer}.self_attn.{part}", at) for at, part in enumerate(_FUSED)]
    path = module_path(name.removesuffix(_WEIGHT)) if name.endswith(_WEIGHT) else None
    return [(path, None)] if path is not None else []


def require_same_shape(name: str, place: Place, a: Checkpoint, other: Place | None, b: Checkpoint) -> Place:
    """The module's place in `b`. Raises LoraTrainError unless it has the same shape there as in `a`."""
    if other is not None and a.shapes[place.key] == b.shapes[other.key]:
        return other
    raise LoraTrainError(
        f"{place.key} ({name}) has another shape than in {a.path.name}, or is missing.",
        str(b.path),
        "Give two checkpoints of the same family.",
    )
