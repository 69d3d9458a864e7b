"""Train the demo's base model from scratch: `python -m tools.demo_base.pretrain --work DIR`.

Stages, each of which continues from what is in `--work`: drawing pictures; the VAE; then UNet and text encoder
together on cached latents. On a GPU larger batches are used. `--export` writes the fp16 folder that ships,
`--measure` the rates of 200 prompts and the round trip of unseen drawings, from what is saved so far.

Nothing is compiled: with torch 2.13 on a CPU, torch.compile gave wrong gradients for this UNet under
bf16 autocast (zero for every LayerNorm), and the captions were never learned.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from lora_train.atomic import write_bytes, write_json
from lora_train.lorafile.writing import serialise
from lora_train.models.text import file_name_of
from tools.demo_base import model as base_model
from tools.demo_base import vae as base_vae
from tools.demo_base.drawing import captioned, captioned_pictures, vae_pictures
from tools.demo_base.measuring import measure
from tools.demo_base.unseen import unseen_drawings
from tools.demo_base.vocabulary import write_tokenizer

MERGES = 420


def tokenizer_of(work: Path) -> CLIPTokenizer:
    """The tokenizer, learned once from 6,000 of the training captions."""
    if not (work / "tokenizer" / "vocab.json").exists():
        rng = random.Random(0)
        captions = [captioned(rng)[1][1] for _ in range(6000)]
        write_tokenizer(work / "tokenizer", MERGES, captions)
    return CLIPTokenizer.from_pretrained(work / "tokenizer")


def drawn_for_vae(work: Path, count: int) -> np.ndarray:
    """The VAE's pictures, drawn once."""
    path = work / "vae_pictures.npy"
    if not path.exists():
        np.save(path, vae_pictures(count))
    pictures: np.ndarray = np.load(path, mmap_mode="c")
    return pictures


def latents_and_captions(
    vae: AutoencoderKL, work: Path, count: int, device: torch.device
) -> tuple[torch.Tensor, list[tuple[str, str]]]:
    """The latents (unscaled) and captions of the base's pictures, drawn and encoded once."""
    latents, captions = work / "latents.pt", work / "captions.json"
    if not latents.exists():
        pictures, words = captioned_pictures(count)
        write_json(captions, words)
        torch.save(base_model.encode_latents(vae, pictures, device), latents)
    return (
        torch.load(latents, weights_only=True),
        [(short, full) for short, full in json.loads(captions.read_text(encoding="utf-8"))],
    )


def trained_parts(work: Path) -> tuple[AutoencoderKL, UNet2DConditionModel, CLIPTextModel, CLIPTokenizer]:
    """The models as saved so far, UNet and text encoder averaged, fp32 on the CPU."""
    tokenizer = tokenizer_of(work)
    vae, unet, text = base_vae.vae_model(), base_model.unet_model(), base_model.text_model(tokenizer)
    vae.load_state_dict(torch.load(work / "vae.pt", weights_only=True, map_location="cpu")["vae"])
    ema = base_model.Ema({"unet": unet, "text": text})
    ema.load_state_dict(torch.load(work / "model.pt", weights_only=True, map_location="cpu")["ema"])
    ema.copy_to({"unet": unet, "text": text})
    latents = torch.load(work / "latents.pt", weights_only=True)
    vae.register_to_config(scaling_factor=round(float(1.0 / latents.std()), 5))
    return vae, unet, text, tokenizer


def export(work: Path, out: Path) -> None:
    """Write the diffusers folder, fp16, from what the stages saved so far."""
    vae, unet, text, _ = trained_parts(work)
    vae.half().save_pretrained(out / "vae")
    unet.half().save_pretrained(out / "unet")
    for part in ("vae", "unet"):
        (out / part / "diffusion_pytorch_model.safetensors").chmod(0o644)
    write_text_encoder(text, out / "text_encoder")
    base_model.noise_scheduler().save_pretrained(out / "scheduler")
    shutil.copytree(work / "tokenizer", out / "tokenizer", dirs_exist_ok=True)
    write_index(out)


def write_text_encoder(text: CLIPTextModel, folder: Path) -> None:
    """Write it with `text_model.` in the names: transformers 5 drops it, every other reader expects it."""
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
    parser.add_argument("--export", type=Path, help="only write the fp16 model from --work to this folder")
    parser.add_argument("--measure", type=Path, metavar="SHEET", help="only measure, and write a sheet of pictures")
    parser.add_argument("--threads", type=int, help="threads for torch (default: its own choice)")
    arguments = parser.parse_args()
    work: Path = arguments.work
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.export:
        export(work, arguments.export)
        return
    if arguments.measure:
        with tempfile.TemporaryDirectory() as folder:
            export(work, Path(folder))
            measure(Path(folder), arguments.measure)
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer_of(work)
    torch.manual_seed(0)
    vae, unet, text = base_vae.vae_model(), base_model.unet_model(), base_model.text_model(tokenizer)
    unseen = np.stack([np.asarray(picture) for picture in unseen_drawings(24)])
    how_vae = base_vae.GPU if device.type == "cuda" else base_vae.CPU
    how_model = base_model.GPU if device.type == "cuda" else base_model.CPU
    base_vae.train_vae(vae, drawn_for_vae(work, how_vae.pictures), unseen, work, how_vae, device)
    latents, captions = latents_and_captions(vae, work, how_model.pictures, device)
    base_model.train_model((unet, text, tokenizer), captions, latents / latents.std(), work, how_model, device)


if __name__ == "__main__":
    main()
