"""Real layouts at full size: SD 1.x as published, with random weights, trained for one step at 64 px."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_train.config import RunConfig
from lora_train.hosts.standalone import StandaloneHost
from lora_train.lorafile.reading import read_lora
from lora_train.runs.execute import run_training
from tests.full_size import write_layouts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """diffusers folder, `.safetensors` and `.ckpt` of one random SD 1.x."""
    root = tmp_path_factory.mktemp("sd1")
    yield write_layouts(root)
    shutil.rmtree(root)


@pytest.mark.parametrize("layout", ["folder", "safetensors", "ckpt"])
def test_one_step(models: Any, layout: str, make_config: Callable[..., RunConfig], host: StandaloneHost) -> None:
    config = make_config(
        model={"path": str(models[layout])},
        data={"resolution": 64, "min_bucket_reso": 64, "max_bucket_reso": 64, "train_batch_size": 1},
        network={"network_dim": 8, "network_alpha": 4.0},
        train={"max_train_steps": 1},
        save={"output_name": layout, "save_precision": "fp32"},
    )
    result = run_training(config, host)
    assert result.path is not None
    file = read_lora(result.path)
    golden = _golden()
    assert {k: tuple(v.shape) for k, v in file.tensors.items()} == {k: tuple(shape) for k, (_, shape) in golden.items()}
    assert file.metadata["ss_base_model_version"] == "sd_v1"
    assert any(value.abs().max() > 0 for key, value in file.tensors.items() if "lora_up" in key)


def test_all_layouts_load_the_same_weights(models: Any) -> None:
    from lora_train.models.opening import open_model

    folder = open_model(models["folder"])
    for layout in ("safetensors", "ckpt"):
        other = open_model(models[layout])
        for part in ("unet", "vae", "text_encoder"):
            expected = getattr(folder, part).state_dict()
            for name, value in getattr(other, part).state_dict().items():
                assert torch.equal(value.float(), expected[name].float()), (layout, part, name)
        del other


def _golden() -> dict[str, Any]:
    import gzip

    path = Path(__file__).parents[1] / "golden" / "sd1_lora.json.gz"
    content: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return content
