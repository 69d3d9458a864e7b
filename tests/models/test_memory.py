"""Loading an SDXL of real size: no second copy of its weights. Needs 7 GB of disk and of memory."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_train.models.ldm_keys import (
    SDXL_TEXT_PREFIXES,
    UNET_PREFIX,
    VAE_PREFIX,
    Translator,
    UnetShape,
    unet_pairs,
    vae_pairs,
)
from lora_train.models.open_clip_keys import to_open_clip
from lora_train.models.text import file_name_of
from tests.full_size import write_tokenizer
from tests.models.test_real_sizes import texts_of, unet_of, vae

pytestmark = pytest.mark.slow

CHUNK = 1 << 24
ROOM = 8 << 30

OPEN = """
import sys
from pathlib import Path
import torch
from lora_train.models.opening import open_model
model = open_model(Path(sys.argv[1]), keep_dtype=True)
model.to(torch.device("cpu"), torch.bfloat16)
touched = sum(float(p.sum()) for root in model.roots().values() for p in root.parameters())
print(model.family, model.unet.dtype, model.vae.dtype, touched == touched)
status = Path("/proc/self/status").read_text()
print(int(status.split("VmHWM:")[1].split()[0]) * 1024)
"""
"""Not `ru_maxrss`, which also counts what the process was before it started Python: a copy of this one."""


def _shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of an SDXL checkpoint, from models on the meta device."""
    to_unet = Translator(unet_pairs(UnetShape.of_config(unet_of("sdxl").config)))
    to_vae = Translator(vae_pairs(4, 2))
    out = {UNET_PREFIX + to_unet.to_ldm(n): v for n, v in unet_of("sdxl").state_dict().items()}
    out |= {VAE_PREFIX + to_vae.to_ldm(n): v for n, v in vae().state_dict().items()}
    first, second = (
        {file_name_of(n): v for n, v in text.state_dict().items() if "position_ids" not in n}
        for text in texts_of("sdxl")
    )
    out |= {SDXL_TEXT_PREFIXES[0] + n: v for n, v in first.items()}
    out |= {SDXL_TEXT_PREFIXES[1] + n: v for n, v in to_open_clip(second).items()}
    return {name: tuple(value.shape) for name, value in out.items()}


def _write(path: Path) -> None:
    """The checkpoint in bf16, written piece by piece: the same small random values over and over."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in _shapes().items():
        start, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    values = (torch.randn(CHUNK // 2) * 0.02).bfloat16().view(torch.uint8).numpy().tobytes()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for start in range(0, end, CHUNK):
            file.write(values[: min(CHUNK, end - start)])


def _memory_free() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="measures memory as Linux tells it")
def test_peak_memory_is_little_more_than_the_file(tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < ROOM or _memory_free() < ROOM:
        pytest.skip("needs 8 GB of free disk and memory")
    path = tmp_path / "xl.safetensors"
    try:
        _write(path)
        write_tokenizer(tmp_path / "tokenizer")
        size = path.stat().st_size
        told = subprocess.run([sys.executable, "-c", OPEN, str(path)], capture_output=True, text=True, check=True)
        first, peak = told.stdout.strip().splitlines()[-2:]
        assert first == "sdxl torch.bfloat16 torch.float32 True"
        assert size > 6.5e9
        assert int(peak) < 1.25 * size, f"{int(peak) / size:.2f} times the file"
        print(f"peak {int(peak) / size:.3f} times the file of {size / 1e9:.2f} GB")
    finally:
        path.unlink(missing_ok=True)
