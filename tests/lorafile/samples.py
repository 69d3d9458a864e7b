"""LoRA files for tests."""

from __future__ import annotations

import torch


def lora_tensors(rank: int = 4, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """A few modules of SD 1.x under kohya's names, random, alpha half the rank."""
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
        "lora_unet_mid_block_attentions_0_proj_in": ((rank, 8), (8, rank)),
        "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn2_to_k": ((rank, 12), (8, rank)),
        "lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0": ((rank, 8), (8, rank)),
        "lora_unet_up_blocks_3_resnets_2_conv1": ((rank, 8, 3, 3), (16, rank, 1, 1)),
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj": ((rank, 12), (12, rank)),
        "lora_te_text_model_encoder_layers_11_mlp_fc1": ((rank, 12), (48, rank)),
    }
    out = {}
    for name, (down, up) in shapes.items():
        out[f"{name}.lora_down.weight"] = torch.randn(down, generator=generator).to(dtype)
        out[f"{name}.lora_up.weight"] = torch.randn(up, generator=generator).to(dtype)
        out[f"{name}.alpha"] = torch.tensor(rank / 2).to(dtype)
    return out
