"""Diffusers and peft in a plain loop, the way their own example trains a LoRA, without its options.

    python bench/peft_side.py BASE PICTURES OUT SIDE BATCH STEPS PRECISION DEVICE CHECKPOINTING

Latents are encoded once before the first step, as the other sides do; UNet and text encoders are trained with rank 16
on the modules that kohya's LoRA has; the result is a safetensors file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

UNET = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
RANK = 16


def adapted(module: Any, names: list[str], half: torch.dtype, device: str) -> Any:
    """The module with peft's layers, in `half`, its LoRA in fp32."""
    module.to(device, half).requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=names), module)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return module


@torch.no_grad()
def latents_of(base: str, folder: Path, side: int, device: str) -> torch.Tensor:
    """Scaled latents of all pictures."""
    vae = AutoencoderKL.from_pretrained(base, subfolder="vae", torch_dtype=torch.float32).to(device)
    made = []
    for path in sorted(folder.glob("*/*.png")):
        pixels = np.asarray(Image.open(path).convert("RGB").resize((side, side)), np.float32) / 127.5 - 1
        mean = vae.encode(torch.from_numpy(pixels).permute(2, 0, 1)[None].to(device)).latent_dist.mean
        made.append(mean * vae.config.scaling_factor)
    return torch.cat(made)


def main() -> None:
    """Train, and save."""
    base, pictures, out, *numbers, precision, device, checkpointing = sys.argv[1:]
    side, batch, steps = map(int, numbers)
    half = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    torch.manual_seed(0)
    folder = Path(pictures)
    latents = latents_of(base, folder, side, device)
    captions = [path.read_text() for path in sorted(folder.glob("*/*.txt"))]
    xl = (Path(base) / "text_encoder_2").exists()
    unet = adapted(UNet2DConditionModel.from_pretrained(base, subfolder="unet", torch_dtype=half), UNET, half, device)
    texts = [CLIPTextModel.from_pretrained(base, subfolder="text_encoder", torch_dtype=half)]
    if xl:
        texts.append(CLIPTextModelWithProjection.from_pretrained(base, subfolder="text_encoder_2", torch_dtype=half))
    texts = [adapted(text, TEXT, half, device) for text in texts]
    tokenizers = [CLIPTokenizer.from_pretrained(f"{base}/tokenizer{'_2' if n else ''}") for n in range(len(texts))]
    if checkpointing == "1":
        unet.enable_gradient_checkpointing()
        unet.train()
    parameters = [p for module in (unet, *texts) for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    noising = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    ids = torch.tensor([[side, side, 0, 0, side, side]] * batch, device=device, dtype=half)
    for step in range(steps):
        chosen = [(step * batch + i) % len(captions) for i in range(batch)]
        x = latents[chosen]
        noise, t = torch.randn_like(x), torch.randint(0, 1000, (batch,), device=device)
        with torch.autocast(device, half if half != torch.float32 else None, enabled=half != torch.float32):
            states, added = [], None
            for text, tokenizer in zip(texts, tokenizers):
                tokens = tokenizer(
                    [captions[i] for i in chosen], padding="max_length", max_length=77, truncation=True,
                    return_tensors="pt",
                ).input_ids.to(device)  # fmt: skip
                made = text(tokens, output_hidden_states=xl)
                states.append(made.hidden_states[-2] if xl else made[0])
                if len(states) == 2:
                    added = {"text_embeds": made.text_embeds, "time_ids": ids}
            noisy = noising.add_noise(x, noise, t).to(half)
            predicted = unet(noisy, t, torch.cat(states, -1), added_cond_kwargs=added).sample
        loss = torch.nn.functional.mse_loss(predicted.float(), noise.float())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        print(step + 1, float(loss.detach()), flush=True)
    tensors = {
        f"{number}.{name}": value
        for number, module in enumerate((unet, *texts))
        for name, value in module.named_parameters()
        if value.requires_grad
    }
    save_file({n: v.detach().half().cpu().contiguous() for n, v in tensors.items()}, out)


if __name__ == "__main__":
    main()
