"""Train the demo's base model from nothing: `python -m lora_train.demo.pretrain --work DIR`.

Stages, each resumable from `--work`: the VAE on scenes and collages (crops first, whole pictures
last), then UNet and text encoder together on cached latents. About two hours on two cores;
`--export` writes the fp16 folder that ships.

What ships was trained with the learning rate's cosine first laid out for 3,800 steps, then from there for
9,000, then for 13,000: followed were backgrounds and object colours of 200 prompts in 99 and 83 %, 100 and
96 %, 100 and 96 %; the last part sharpened shapes (the mascot's LoRA scores 0.7 instead of 0.55).

The UNet predicts v, and the noise schedule ends at beta 0.02 instead of Stable Diffusion's 0.012: at
the first steps of sampling, where backgrounds are decided, the picture counts fully in the loss, and
the noise itself hardly shows the mean colour (Salimans and Ho 2022, arXiv 2202.00512; Lin et al. 2023,
arXiv 2305.08891).

Nothing is compiled: with torch 2.13 on a CPU, torch.compile gave wrong gradients for this UNet under
bf16 autocast (zero for every LayerNorm), and the captions were never learned.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lora_train.atomic import write_bytes, write_json
from lora_train.demo.scenes import SIZE, Scene, caption, draw_collage, draw_scene, random_scene, short_caption
from lora_train.demo.vocabulary import MAX_LENGTH, write_tokenizer
from lora_train.lorafile.writing import serialise
from lora_train.models.text import file_name_of

SCENES, COLLAGES = 24_000, 12_000
CROP = 64
VAE_CROP_STEPS, VAE_FULL_STEPS, MODEL_STEPS = 2600, 1700, 13_000
KL_WEIGHT = 1e-5
EMA_DECAY = 0.999
FIRST_STEPS = 400
"""For so many steps only high noise and short captions are shown: reading is learned first, and quickly."""
HIGH_NOISE = 700
DETAIL_FROM = 9000
"""From this step on all noise levels count alike; before, the higher of two draws: captions decide most there."""
SHORT_TOKENS, SHORT_SHARE = 20, 0.85
"""Captions are padded to so few tokens for the first share of the steps: among 77, nearly all of them
padding, attention is too even to find the words."""


def vae_model() -> AutoencoderKL:
    """The f8 VAE. Four channels a norm group: with one, a flat colour's mean would be lost."""
    return AutoencoderKL(
        block_out_channels=(32, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIZE,
    )


def unet_model() -> UNet2DConditionModel:
    """SD 1.x's UNet, small.

    The WebUI's code fixes 2 layers a block, 32 norm groups, widths that are multiples of the first,
    and no attention at the innermost level (its Lora extension counts blocks that way).
    """
    return UNet2DConditionModel(
        sample_size=SIZE // 8,
        block_out_channels=(64, 128, 64),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=32,
    )


def text_model(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A CLIP text model of 3 layers for the small vocabulary."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        projection_dim=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config._attn_implementation = "eager"
    return CLIPTextModel(config)


def noise_scheduler() -> DDPMScheduler:
    """The base's noise schedule; see the module's text for the end value."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.02,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


def scenes_and_pictures() -> tuple[list[Scene], np.ndarray]:
    """The training scenes and their pictures, uint8 (N, 128, 128, 3)."""
    rng = random.Random(1)
    scenes = [random_scene(rng) for _ in range(SCENES)]
    pictures = np.stack([np.asarray(draw_scene(scene, rng)) for scene in scenes])
    return scenes, pictures


def collages() -> np.ndarray:
    """Pictures for the VAE alone, uint8 (N, 128, 128, 3)."""
    rng = random.Random(2)
    return np.stack([np.asarray(draw_collage(rng)) for _ in range(COLLAGES)])


def as_tensor(pictures: np.ndarray) -> torch.Tensor:
    """uint8 (N, H, W, 3) to float (N, 3, H, W) in [-1, 1], channels last in memory."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


class Progress:
    """Step count, optimizer and weights of one stage, saved every few minutes."""

    def __init__(self, path: Path, parts: dict[str, Any], every_s: float = 180.0) -> None:
        self.path, self.parts, self.every_s = path, parts, every_s
        self.step, self.saved_at = 0, time.monotonic()
        if path.exists():
            state = torch.load(path, weights_only=True)
            self.step = state.pop("step")
            for name, value in state.items():
                parts[name].load_state_dict(value)

    def save(self, force: bool = False) -> None:
        """Write the state if it is time, through a temporary file."""
        if not force and time.monotonic() - self.saved_at < self.every_s:
            return
        part = self.path.with_suffix(".part")
        torch.save({"step": self.step} | {n: p.state_dict() for n, p in self.parts.items()}, part)
        part.replace(self.path)
        self.saved_at = time.monotonic()


def cosine(step: int, total: int, peak: float, warmup: int = 100) -> float:
    """Learning rate with linear warm-up and a cosine down to zero."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return float(peak * 0.5 * (1 + np.cos(np.pi * (step - warmup) / max(1, total - warmup))))


def train_vae(vae: AutoencoderKL, pictures: np.ndarray, work: Path) -> None:
    """Crops first (cheap), whole pictures last (norms and attention see other statistics there)."""
    total = VAE_CROP_STEPS + VAE_FULL_STEPS

    def batches(step: int, rng: np.random.Generator) -> np.ndarray:
        if step >= VAE_CROP_STEPS:
            return pictures[rng.integers(len(pictures), size=8)]
        top, left = rng.integers(SIZE - CROP + 1, size=2)
        chosen = pictures[rng.integers(len(pictures), size=16)]
        return chosen[:, top : top + CROP, left : left + CROP]

    def loss_of(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        posterior = vae.encode(x).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        error = F.l1_loss(vae.decode(z).sample.float(), x)
        return error + KL_WEIGHT * kl, kl

    _fit_vae(list(vae.parameters()), vae, batches, loss_of, total, 2e-3, work / "vae.pt")


def _fit_vae(
    trained: list[torch.nn.Parameter],
    vae: AutoencoderKL,
    batches: Callable[[int, np.random.Generator], np.ndarray],
    loss_of: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    total: int,
    peak: float,
    state: Path,
) -> None:
    vae.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(trained, lr=peak, betas=(0.9, 0.99), weight_decay=1e-3)
    progress = Progress(state, {"vae": vae, "optimizer": optimizer})
    shown, started = 0.0, time.monotonic()
    while progress.step < total:
        rng = np.random.default_rng([3, progress.step])
        torch.manual_seed(progress.step)
        optimizer.param_groups[0]["lr"] = cosine(progress.step, total, peak)
        x = as_tensor(batches(progress.step, rng))
        with torch.autocast("cpu", torch.bfloat16):
            loss, other = loss_of(x)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        shown = 0.98 * shown + 0.02 * loss.item() if shown else loss.item()
        if progress.step % 50 == 0:
            minutes = (time.monotonic() - started) / 60
            print(
                f"{state.stem} {progress.step}/{total} loss {shown:.4f} kl {other.item():.2f} {minutes:.1f} min",
                flush=True,
            )
        progress.save()
    progress.save(force=True)


@torch.no_grad()
def encode_latents(vae: AutoencoderKL, pictures: np.ndarray, work: Path) -> tuple[torch.Tensor, float]:
    """Latent means of all pictures (N, 4, 16, 16), unscaled, and the scale that makes std 1."""
    path = work / "latents.pt"
    if not path.exists():
        vae.eval()
        parts = [vae.encode(as_tensor(pictures[i : i + 64])).latent_dist.mean for i in range(0, len(pictures), 64)]
        torch.save(torch.cat(parts), path)
    latents = torch.load(path, weights_only=True)
    return latents, float(1.0 / latents.std())


class Ema(torch.nn.Module):
    """An exponential moving average of several modules' weights."""

    def __init__(self, modules: dict[str, torch.nn.Module]) -> None:
        super().__init__()
        self.modules_of = modules
        self.average = {
            f"{name}.{key}": value.detach().clone().float()
            for name, module in modules.items()
            for key, value in module.state_dict().items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights; the first steps count less."""
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        for name, module in self.modules_of.items():
            for key, value in module.state_dict().items():
                self.average[f"{name}.{key}"].lerp_(value.float(), 1 - decay)

    def state_dict(self, *_args: Any, **_kwargs: Any) -> dict[str, Any]:
        return dict(self.average)

    def load_state_dict(self, state: Any, *_args: Any, **_kwargs: Any) -> Any:
        self.average = dict(state)

    def copy_to(self, modules: dict[str, torch.nn.Module]) -> None:
        """Put the averaged weights into `modules`."""
        for name, module in modules.items():
            prefix = name + "."
            own = {k[len(prefix) :]: v for k, v in self.average.items() if k.startswith(prefix)}
            module.load_state_dict(own)


def _endless(count: int, batch: int) -> Iterator[np.ndarray]:
    epoch = 0
    while True:
        order = np.random.default_rng([5, epoch]).permutation(count)
        yield from (order[i : i + batch] for i in range(0, count - batch + 1, batch))
        epoch += 1


def train_model(
    unet: UNet2DConditionModel,
    text: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    scenes: list[Scene],
    latents: torch.Tensor,
    work: Path,
    total: int = MODEL_STEPS,
) -> Ema:
    """UNet and text encoder together: v loss, 10 % empty captions, EMA."""
    from diffusers.models.attention_processor import AttnProcessor

    unet.set_attn_processor(AttnProcessor())  # plain products: faster backward on a CPU in bf16
    trained = [*unet.parameters(), *text.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-2)
    ema = Ema({"unet": unet, "text": text})
    progress = Progress(work / "model.pt", {"unet": unet, "text": text, "optimizer": optimizer, "ema": ema})
    schedule = noise_scheduler()
    shown, started = 0.0, time.monotonic()
    order = _endless(len(latents), 32)
    for _ in range(progress.step):
        next(order)
    while progress.step < total:
        rng = random.Random(progress.step)
        generator = torch.Generator().manual_seed(progress.step)
        optimizer.param_groups[0]["lr"] = cosine(progress.step, total, 1e-3)
        chosen = next(order)
        beginning = progress.step < FIRST_STEPS
        told = [short_caption(scenes[i]) if beginning else caption(scenes[i], rng) for i in chosen]
        captions = ["" if rng.random() < 0.1 else words for words in told]
        length = SHORT_TOKENS if progress.step < SHORT_SHARE * total else MAX_LENGTH
        tokens = tokenizer(captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        x = latents[torch.from_numpy(chosen)]
        noise = torch.randn(x.shape, generator=generator)
        draws = 2 if progress.step < DETAIL_FROM else 1
        t = torch.randint(HIGH_NOISE if beginning else 0, 1000, (draws, len(x)), generator=generator).amax(dim=0)
        noisy = schedule.add_noise(x, noise, t)
        with torch.autocast("cpu", torch.bfloat16):
            states = text(tokens.input_ids)[0]
            predicted = unet(noisy, t, states).sample
        loss = F.mse_loss(predicted.float(), schedule.get_velocity(x, noise, t))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        ema.update(progress.step)
        shown = 0.99 * shown + 0.01 * loss.item() if shown else loss.item()
        if progress.step % 50 == 0:
            minutes = (time.monotonic() - started) / 60
            print(f"model {progress.step}/{total} loss {shown:.4f} {minutes:.1f} min", flush=True)
        progress.save()
    progress.save(force=True)
    return ema


def export(work: Path, out: Path) -> None:
    """Write the diffusers folder, fp16, from what the stages saved so far."""
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    vae, unet, text = vae_model(), unet_model(), text_model(tokenizer)
    vae.load_state_dict(torch.load(work / "vae.pt", weights_only=True)["vae"])
    ema = Ema({"unet": unet, "text": text})
    ema.load_state_dict(torch.load(work / "model.pt", weights_only=True)["ema"])
    ema.copy_to({"unet": unet, "text": text})
    latents = torch.load(work / "latents.pt", weights_only=True)
    vae.register_to_config(scaling_factor=round(float(1.0 / latents.std()), 5))
    vae.half().save_pretrained(out / "vae")
    unet.half().save_pretrained(out / "unet")
    for part in ("vae", "unet"):
        (out / part / "diffusion_pytorch_model.safetensors").chmod(0o644)
    write_text_encoder(text, out / "text_encoder")
    noise_scheduler().save_pretrained(out / "scheduler")
    shutil.copytree(work / "tokenizer", out / "tokenizer", dirs_exist_ok=True)
    write_index(out)


def write_text_encoder(text: CLIPTextModel, folder: Path) -> None:
    """transformers 5 drops `text_model.` from the names; every other reader of the field wants it."""
    text.config.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["torch_dtype"] = config.pop("dtype", "float16")
    write_json(folder / "config.json", config)
    weights = {file_name_of(name): value.half() for name, value in text.state_dict().items()}
    write_bytes(folder / "model.safetensors", serialise(weights, {"format": "pt"}))


def write_index(out: Path) -> None:
    """Write `model_index.json`."""
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.31.0",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDPMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    write_json(out / "model_index.json", index)


def main() -> None:
    """Run all stages that are not yet done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for states and latents")
    parser.add_argument("--export", type=Path, help="only write the fp16 model folder from --work to this folder")
    arguments = parser.parse_args()
    work: Path = arguments.work
    if arguments.export:
        export(work, arguments.export)
        return
    work.mkdir(parents=True, exist_ok=True)
    write_tokenizer(work / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    torch.manual_seed(0)
    vae, unet, text = vae_model(), unet_model(), text_model(tokenizer)
    scenes, pictures = scenes_and_pictures()
    everything = np.concatenate([pictures, collages()])
    train_vae(vae, everything, work)
    latents, scale = encode_latents(vae, pictures, work)
    train_model(unet, text, tokenizer, scenes, latents * scale, work)


if __name__ == "__main__":
    main()
