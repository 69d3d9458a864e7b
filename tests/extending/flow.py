"""A family from outside: a tiny transformer trained by flow matching (Lipman et al. 2022, arXiv 2210.02747).

16-channel latents of 1/16 of the side with scale and shift, two text encoders of different lengths and widths that
read bytes, module names and a checkpoint layout of its own. With s the share of noise: x_s = (1 - s) x + s e, and the
model predicts e - x. The last line adds it; `ADDED` is there for the tests, which take it away again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torch.utils.checkpoint import checkpoint

from lora_train.config import RunConfig
from lora_train.config.extending import register
from lora_train.errors import LoraTrainError, Problem
from lora_train.models.base import BaseModel, Conditioning, Frame, Look
from lora_train.records.families import FAMILIES
from lora_train.records.family import DIFFUSION, TWO_ENCODERS, Family, Latents, Predicts, Side, numbered
from lora_train.tensors import header_metadata, holds_safetensors, read_header, read_tensors

CHANNELS, WIDTH, BLOCKS = 16, 32, 3
LENGTHS = {"short": (12, 16), "long": (40, 24)}
"""Bytes that each text encoder reads, and its width."""
MARK = {"model": "tiny flow"}
"""In the checkpoint's metadata."""

_LAYERS = ("query", "key", "value", "result", "grow", "shrink", "entry", "exit", "time")
_CORE_WORDS = frozenset(("blocks", "attention", "words", *_LAYERS, *LENGTHS))
_TEXT_WORDS = frozenset(["letters", "layers", "mix"])


def owns(names: Iterable[str]) -> bool:
    """Whether these are names of modules of such a LoRA."""
    return any(name.startswith(("flow_core_", "flow_short_", "flow_long_")) for name in names)


FLOW = Family(
    name="tiny-flow",
    title="Tiny Flow",
    opening=f"{__name__}:OPENING",
    latents=Latents(channels=CHANNELS, factor=16, scale=0.6, shift=0.25),
    denoiser=Side("flow_core", "core", "transformer", words=_CORE_WORDS),
    texts=(
        Side("flow_short", "short_encoder", "short text encoder", words=_TEXT_WORDS),
        Side("flow_long", "long_encoder", "long text encoder", words=_TEXT_WORDS),
    ),
    predictions=(Predicts("flow", "tiny_flow_v1", "tiny-flow-v1/lora"),),
    blocks=numbered("flow_core", {"blocks": BLOCKS}),
    features=frozenset((TWO_ENCODERS,)),
    without={DIFFUSION: "Tiny Flow is trained by flow matching: there is no signal-to-noise ratio and no v."},
    refused={"network.train_norm": "there are no norms in Tiny Flow."},
    implementation="https://example.com/tiny-flow",
    said="tiny_flow",
    owns=owns,
    guidance=2.0,
    card="Other",
)


class Text(nn.Module):
    """Letters and one layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.letters = nn.Embedding(256, width)
        self.layers = nn.ModuleList([nn.ModuleDict({"mix": nn.Linear(width, width)})])

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, T) to (B, T, width)."""
        states = self.letters(ids)
        for layer in self.layers:
            states = states + F.silu(layer["mix"](states))  # type: ignore[index]
        return states  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention over the picture and the words, and two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in ("query", "key", "value", "result")})
        self.grow, self.shrink = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, N, width) and (B, M, width) to (B, N, width); `mask` (B, 1, N + M) says what is there."""
        everything = torch.cat([x, words], 1)
        key, value = self.attention["key"](everything), self.attention["value"](everything)
        found = F.scaled_dot_product_attention(self.attention["query"](x), key, value, mask)
        x = x + self.attention["result"](found)
        return x + self.shrink(F.silu(self.grow(x)))  # type: ignore[no-any-return]


class Core(nn.Module):
    """The transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.exit, self.time = nn.Linear(CHANNELS, WIDTH), nn.Linear(WIDTH, CHANNELS), nn.Linear(8, WIDTH)
        self.words = nn.ModuleDict({name: nn.Linear(width, WIDTH) for name, (_, width) in LENGTHS.items()})
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.keeps_activations = True

    def forward(self, x: torch.Tensor, s: torch.Tensor, words: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Latents (B, C, h, w) and times (B,) to the velocity; packed into tokens in here alone."""
        batch, channels, height, width = x.shape
        angles = s[:, None] * math.pi * torch.arange(1, 5, device=x.device)
        time = self.time(torch.cat([angles.sin(), angles.cos()], 1).to(x.dtype))
        tokens = self.entry(x.flatten(2).transpose(1, 2)) + time[:, None]
        said = torch.cat([self.words[name](words[name].to(x.dtype)) for name in LENGTHS], 1)
        there = [words[f"{name}_mask"] for name in LENGTHS]
        mask = torch.cat([there[0].new_ones(tokens.shape[:2]), *there], 1)[:, None]
        for block in self.blocks:
            if self.keeps_activations:
                tokens = block(tokens, said, mask)
            else:
                tokens = checkpoint(block, tokens, said, mask, use_reentrant=False)
        return self.exit(tokens).transpose(1, 2).reshape(batch, channels, height, width)  # type: ignore[no-any-return]


class Picture(nn.Module):
    """What stands for a VAE: 16 x 16 pixels to 16 values and back."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Conv2d(3, CHANNELS, FLOW.latents.factor, FLOW.latents.factor)
        self.decode = nn.ConvTranspose2d(CHANNELS, 3, FLOW.latents.factor, FLOW.latents.factor)


class Euler:
    """Steps along the velocity, from pure noise to none; see `BaseModel.sampler`."""

    init_noise_sigma = 1.0

    def __init__(self, steps: int, device: torch.device) -> None:
        self._sigmas = torch.linspace(1, 0, steps + 1, device=device)
        self.timesteps = self._sigmas[:-1]
        self._done = 0

    def scale_model_input(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """As it is."""
        return x

    def step(self, velocity: torch.Tensor, t: torch.Tensor, x: torch.Tensor) -> Any:
        """x at the next time."""
        self._done += 1
        return SimpleNamespace(prev_sample=x + (self._sigmas[self._done] - t) * velocity)


class TinyFlow:
    """See BaseModel."""

    family = FLOW.name
    version, architecture = FLOW.predictions[0].version, FLOW.predictions[0].architecture
    implementation, guidance = FLOW.implementation, FLOW.guidance
    text_prefixes = tuple(side.prefix for side in FLOW.texts)
    notes: tuple[str, ...] = ()
    native_resolution, size_step = 128, FLOW.latents.factor
    prediction_type, zero_terminal_snr = "flow", False
    text_room = min(length for length, _ in LENGTHS.values())

    def __init__(self, source: Path) -> None:
        self.source, self.device = source, torch.device("cpu")
        self.core, self.picture = Core(), Picture()
        self.texts = {name: Text(width) for name, (_, width) in LENGTHS.items()}
        for module in self._modules().values():
            module.requires_grad_(False).eval()

    def _modules(self) -> dict[str, nn.Module]:
        return {"core": self.core, "picture": self.picture, **self.texts}

    def tensors(self) -> dict[str, torch.Tensor]:
        """All weights as the checkpoint has them."""
        return {f"{part}/{name}": v for part, one in self._modules().items() for name, v in one.state_dict().items()}

    def fill(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """The inverse."""
        for part, module in self._modules().items():
            start = f"{part}/"
            module.load_state_dict({n.removeprefix(start): v for n, v in tensors.items() if n.startswith(start)})

    @property
    def vae_hash(self) -> str:
        """See BaseModel."""
        return hashlib.sha256(self.picture.encode.weight.detach().numpy().tobytes()).hexdigest()[:32]

    def roots(self) -> dict[str, nn.Module]:
        """See BaseModel."""
        return {FLOW.denoiser.prefix: self.core, **dict(zip(self.text_prefixes, self.texts.values()))}

    def layers(self) -> dict[str, nn.Module]:
        """See BaseModel."""
        return {
            f"{prefix}_{path}".replace(".", "_"): module
            for prefix, root in self.roots().items()
            for path, module in root.named_modules()
            if isinstance(module, nn.Linear)
        }

    def module_names(self, convolutions: bool = False, norms: bool = False) -> dict[str, str]:
        """See BaseModel: all Linear layers."""
        return {
            f"{prefix}_{path}".replace(".", "_"): f"{prefix}:{path}"
            for prefix, root in self.roots().items()
            for path, module in root.named_modules()
            if isinstance(module, nn.Linear)
        }

    def block_of(self, name: str) -> str:
        """See BaseModel."""
        assert FLOW.blocks is not None
        number = FLOW.blocks.number(name)
        return "BASE" if number is None else f"B{number:02d}"

    def checkpoint_activations(self, share: float = 1.0) -> None:
        """See BaseModel."""
        self.core.keeps_activations = False

    def vae_to(self, device: torch.device) -> None:
        """See BaseModel."""
        self.picture.to(device, torch.float32)

    def texts_to(self, device: torch.device) -> None:
        """See BaseModel."""
        for module in self.texts.values():
            module.to(device)

    @contextmanager
    def texts_at_work(self) -> Iterator[None]:
        """See BaseModel."""
        self.texts_to(self.device)
        yield

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """See BaseModel."""
        self.device = device
        modules: tuple[nn.Module, ...] = (self.core, *self.texts.values())
        for module in modules:
            module.to(device, dtype)
        self.vae_to(device)

    @torch.no_grad()
    def encode_pictures(self, pixels: torch.Tensor, tiled: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """See BaseModel."""
        mean = self.picture.encode(pixels)
        return mean, torch.zeros_like(mean)

    def scale_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """See BaseModel."""
        return (latents - FLOW.latents.shift) * FLOW.latents.scale

    @torch.no_grad()
    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """See BaseModel."""
        return self.picture.decode(latents.float() / FLOW.latents.scale + FLOW.latents.shift)  # type: ignore[no-any-return]

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """See BaseModel."""
        return CHANNELS, height // FLOW.latents.factor, width // FLOW.latents.factor

    def count_tokens(self, text: str) -> int:
        """See BaseModel."""
        return len(text.encode())

    def encode_text(self, captions: Sequence[str], clip_skip: int = 1) -> Conditioning:
        """See BaseModel: {"short": (B, 12, 16), "long": (B, n, 24)} and their masks, n the bytes of the longest of
        the captions, up to 40."""
        assert clip_skip == 1
        found = {}
        for name, (length, _) in LENGTHS.items():
            spelled = [list(caption.encode())[:length] for caption in captions]
            wide = length if name == "short" else max(1, *map(len, spelled))
            ids = torch.tensor([row + [0] * (wide - len(row)) for row in spelled], device=self.device)
            found[name] = self.texts[name](ids)
            there = [[True] * max(1, len(row)) + [False] * (wide - max(1, len(row))) for row in spelled]
            found[f"{name}_mask"] = torch.tensor(there, device=self.device)
        return found

    def unconditional(self, negatives: Sequence[str], encoded: Conditioning) -> Conditioning:
        """See BaseModel."""
        return encoded

    def extra_inputs(self, frames: Sequence[Frame]) -> Conditioning:
        """See BaseModel."""
        return {}

    training_times = 1

    def as_times(self, places: torch.Tensor) -> torch.Tensor:
        """See BaseModel."""
        return places

    def draw_timesteps(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """See BaseModel: the share of noise, logit-normal."""
        return torch.sigmoid(torch.randn(count, generator=generator)).to(self.device)

    def noised(self, x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """See BaseModel."""
        s = t.reshape(-1, 1, 1, 1).to(x.dtype)
        return (1 - s) * x + s * noise

    def target(self, x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """See BaseModel."""
        return noise - x

    def snr(self, t: torch.Tensor) -> torch.Tensor:
        """See BaseModel."""
        raise NotImplementedError("there is none")

    def predict(self, noisy: torch.Tensor, t: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """See BaseModel."""
        return self.core(noisy.to(self.core.entry.weight.dtype), t, conditioning)  # type: ignore[no-any-return]

    def sampler(self, steps: int) -> Euler:
        """See BaseModel."""
        return Euler(steps, self.device)


class Opening:
    """See models.base.Opening."""

    def look(self, path: Path) -> Look | None:
        """See Opening."""
        if not path.is_file() or not holds_safetensors(path):
            return None
        header = read_header(path)
        if header_metadata(header).get("model") != MARK["model"]:
            return None
        if "core/entry.weight" not in header:
            raise LoraTrainError("this Tiny Flow has no core.", str(path), "Use another.")
        return Look(FLOW.name, {}, TinyFlow.native_resolution)

    def refusals(self, look: Look, config: RunConfig) -> list[Problem]:
        """See Opening."""
        return []

    def require_tokenizer(self, path: Path, sources: Any) -> None:
        """See Opening: bytes need none."""

    def open(self, path: Path, tokenizers: Any, assumed: Any) -> BaseModel:
        """See Opening."""
        model = TinyFlow(path)
        model.fill(read_tensors(path))
        return model


OPENING = Opening()


def write_checkpoint(path: Path) -> Path:
    """A base of random weights."""
    torch.manual_seed(7)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.clone() for name, value in TinyFlow(path).tensors().items()}, path, MARK)
    return path


ADDED = ((FAMILIES, FLOW),)


def add() -> None:
    """The one line."""
    register(*ADDED)
