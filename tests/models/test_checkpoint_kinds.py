"""Base checkpoints as they are passed around: each is the model that it was, and what is odd of it is said."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_train.config import RunConfig
from lora_train.errors import LoraTrainError
from lora_train.hosts.standalone import StandaloneHost
from lora_train.lorafile.extracting import Extraction, extract
from lora_train.lorafile.factors import Cut
from lora_train.lorafile.merging_into import merge_into
from lora_train.lorafile.reading import LoraFile, read_lora
from lora_train.models.beside import read_beside
from lora_train.models.opening import look, open_model, require_tokenizer
from lora_train.models.tokenizers import TokenizerSources
from lora_train.runs.execute import run_training
from lora_train.runs.folder import RunFolder
from tests.models.tiny import checkpoint_tensors, tiny_sd1, tiny_sdxl, write_checkpoint, write_tokenizer
from tests.test_pickled import save_as_lightning

Tensors = dict[str, torch.Tensor]
UNET, TEXT = "model.diffusion_model.", "cond_stage_model.transformer."
IDS = f"{TEXT}text_model.embeddings.position_ids"


@pytest.fixture(scope="module")
def plain() -> Tensors:
    """SD 1.x in the original layout."""
    return checkpoint_tensors(tiny_sd1())


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Tensors], Path]:
    def written(tensors: Tensors) -> Path:
        if not (tmp_path / "tokenizer").exists():
            write_tokenizer(tmp_path / "tokenizer", pad_with_first=False)
        save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "x.safetensors")
        return tmp_path / "x.safetensors"

    return written


@pytest.fixture(scope="module")
def expected(plain: Tensors, tmp_path_factory: pytest.TempPathFactory) -> Tensors:
    """All weights of the model that each kind should be."""
    folder = tmp_path_factory.mktemp("plain")
    write_tokenizer(folder / "tokenizer", pad_with_first=False)
    save_file(plain, folder / "x.safetensors")
    return weights(open_model(folder / "x.safetensors"))


def weights(model: Any) -> Tensors:
    """All of a model's, by part."""
    parts = {"unet": model.unet, "vae": model.vae} | {f"te{i}": text for i, text in enumerate(model.text_encoders)}
    return {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}


def ema(plain: Tensors) -> Tensors:
    own = {name: value for name, value in plain.items() if name.startswith(UNET)}
    averaged = {"model_ema." + name[6:].replace(".", ""): value + 1 for name, value in own.items()}
    return averaged | {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(1)}


EXTRA = {
    "cond_stage_model.logit_scale": torch.tensor(4.6),
    f"{TEXT}text_projection.weight": torch.zeros(8, 8),
    f"{TEXT}visual_projection.weight": torch.zeros(2, 2),
}
KINDS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "ema beside": (lambda plain: plain | ema(plain), "averaged weights"),
    "extra text keys": (lambda plain: plain | EXTRA, "text_projection.weight"),
    "extra UNet keys": (
        lambda plain: plain | {f"{UNET}more.weight": torch.ones(2)},
        "Left out of the checkpoint's UNet",
    ),
    "no position ids": (lambda plain: {name: value for name, value in plain.items() if name != IDS}, ""),
    "position ids": (lambda plain: plain | {IDS: torch.arange(77)[None]}, ""),
    "position ids as numbers": (lambda plain: plain | {IDS: torch.arange(77).half()[None]}, ""),
    "wrong position ids": (lambda plain: plain | {IDS: torch.zeros(1, 77)}, ""),
    "no text_model": (
        lambda plain: {name.replace(f"{TEXT}text_model.", TEXT): value for name, value in plain.items()},
        "",
    ),
    "the loop's own tensors": (lambda plain: plain | {"alphas_cumprod": torch.ones(1000), "betas": torch.ones(1)}, ""),
    "the VAE's loss": (lambda plain: plain | {"first_stage_model.loss.logvar": torch.ones(1)}, ""),
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_same_model(kind: str, plain: Tensors, expected: Tensors, write: Callable[[Tensors], Path]) -> None:
    change, said = KINDS[kind]
    path = write(change(plain))
    model: Any = open_model(path)
    assert look(path).family == "sd1"
    assert model.prediction_type == "epsilon"
    found = weights(model)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    notes = " ".join(model.notes)
    assert said in notes if said else not notes


def test_sdxls_first_text_encoder_without_text_model(tmp_path: Path) -> None:
    path = write_checkpoint(tiny_sdxl(), tmp_path / "x.safetensors")
    expected = weights(open_model(path))
    renamed = {name.replace(".transformer.text_model.", ".transformer."): v for name, v in load_file(path).items()}
    other = tmp_path / "y.safetensors"  # the first one is mapped into memory
    save_file({name: value.clone() for name, value in renamed.items()}, other)
    found = weights(open_model(other))
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def pickled(plain: Tensors, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same under each of the forms that pickles have."""
    if path.stem == "lightning":
        save_as_lightning(plain, path, monkeypatch)
    else:
        torch.save({"nested": {"state_dict": {"state_dict": plain}}, "bare": plain}[path.stem], path)


@pytest.mark.parametrize("name", ["lightning", "nested", "bare"])
def test_pickles_are_the_same_model(
    name: str, plain: Tensors, expected: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"{name}.ckpt"
    write_tokenizer(tmp_path / "tokenizer", pad_with_first=False)
    pickled(plain, path, monkeypatch)
    model: Any = open_model(path)
    found = weights(model)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    notes = " ".join(model.notes)
    assert ("ModelCheckpoint" in notes and "none of it was run" in notes) == (name == "lightning")


def test_eight_bits_are_the_same_within_their_rounding(
    plain: Tensors, expected: Tensors, write: Callable[[Tensors], Path]
) -> None:
    model: Any = open_model(write(fp8(plain)))
    found = weights(model)
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        assert torch.allclose(found[name], value, rtol=2**-4, atol=2**-9), name
    assert any("8-bit" in note and "float8_e4m3fn" in note for note in model.notes)


def fp8(plain: Tensors) -> Tensors:
    eight = torch.float8_e4m3fn
    return {name: v.to(eight) if name.startswith(UNET) and v.ndim > 1 else v for name, v in plain.items()}


@pytest.mark.parametrize("algorithm", ["lora", "dora"])
def test_eight_bits_are_trained_on(
    algorithm: str,
    plain: Tensors,
    write: Callable[[Tensors], Path],
    make_config: Callable[..., RunConfig],
    host: StandaloneHost,
) -> None:
    config = make_config(
        model={"path": str(write(fp8(plain)))},
        data={"resolution": 128, "train_batch_size": 1},
        network={"dora_wd": algorithm == "dora"},
        train={"max_train_steps": 1},
    )
    result = run_training(config, host)
    assert result.path is not None
    assert all(torch.isfinite(value).all() for value in read_lora(result.path).tensors.values())
    notes = [event.get("text", "") for event in RunFolder(result.folder).events()]
    assert any("8-bit" in note for note in notes)


def test_v_is_said(plain: Tensors, write: Callable[[Tensors], Path]) -> None:
    model: Any = open_model(write(plain | {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}))
    assert model.prediction_type == "v_prediction" and model.zero_terminal_snr
    assert any("predicts v" in note and "zero terminal SNR" in note for note in model.notes)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"scaled_fp8": torch.zeros(0)}, "scaled fp8"),
        ({f"{UNET}out.2.scale_weight": torch.ones(1)}, "scaled fp8"),
        ({"edm_mean": torch.zeros(4)}, "EDM"),
        ({f"{UNET}out.2.weight.absmax": torch.ones(1)}, "quantised"),
    ],
)
def test_numbers_that_mean_something_else_are_refused(
    extra: Tensors, said: str, plain: Tensors, write: Callable[[Tensors], Path]
) -> None:
    with pytest.raises(LoraTrainError, match=said):
        look(write(plain | extra))


@pytest.mark.parametrize("metadata", [None, [], {"steps": 3, "modelspec.prediction_type": None}, {}])
def test_metadata_that_are_no_texts_are_no_reason_to_refuse(
    metadata: Any, plain: Tensors, expected: Tensors, write: Callable[[Tensors], Path]
) -> None:
    path = with_metadata(write(plain), metadata)
    assert look(path).family == "sd1"
    assert_same(weights(open_model(path)), expected)


def test_safetensors_under_another_name_keep_what_their_metadata_say(
    plain: Tensors, write: Callable[[Tensors], Path]
) -> None:
    path = with_metadata(write(plain), {"modelspec.prediction_type": "v"})
    other = path.rename(path.with_suffix(".ckpt"))
    model: Any = open_model(other)
    assert model.scheduler_config["prediction_type"] == "v_prediction"


def with_metadata(path: Path, metadata: Any) -> Path:
    """The file with other metadata, of whatever kind."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.dumps(json.loads(data[8 : 8 + length]) | {"__metadata__": metadata}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])
    return path


def assert_same(found: Tensors, expected: Tensors) -> None:
    """Bit by bit."""
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_averages_alone_are_no_model(plain: Tensors, write: Callable[[Tensors], Path]) -> None:
    with pytest.raises(LoraTrainError, match="averaged weights"):
        look(write({name: value for name, value in plain.items() if not name.startswith(UNET)} | ema(plain)))


YAML = '{"model": {"params": {"parameterization": "v", "linear_start": "1e-3", "cond_stage_config": null}}}'


@pytest.mark.parametrize(
    ("content", "prediction", "said"),
    [
        (YAML.encode(), "v_prediction", ""),
        (YAML.replace('"v"', '"v\\n"').encode() + b"\r\n\r\n...\r\n", "v_prediction", ""),
        (b"\xef\xbb\xbf" + YAML.encode(), "v_prediction", ""),
        (YAML.encode("utf-16"), "v_prediction", ""),
        (b"", "epsilon", "does not describe a model"),
        (b"name: a model card\n", "epsilon", "does not describe a model"),
        (b"- a\n- b\n", "epsilon", "does not describe a model"),
        (b"model:\n", "epsilon", "does not describe a model"),
        (b"model:\n  params:\n    image_size: [64, 64]\n    unet_config:\n", "epsilon", ""),
        (
            b"model:\n  params:\n    cond_stage_config:\n      params:\n        version: |\n          words\n",
            "epsilon",
            "",
        ),
    ],
)
def test_odd_yaml(content: bytes, prediction: str, said: str, plain: Tensors, write: Callable[[Tensors], Path]) -> None:
    path = write(plain)
    path.with_suffix(".yaml").write_bytes(content)
    seen, beside = look(path), read_beside(path)
    assert seen.schedule["prediction_type"] == prediction and seen.native_resolution == 512
    assert seen.schedule["beta_start"] == (1e-3 if b"linear_start" in content or b"l\0i" in content else 0.00085)
    assert said in beside.note if said else not beside.note
    if b"words" in content:  # the folder's name with a new line behind it
        (path.parent / "tokenizer").rename(path.parent / "words")
    require_tokenizer(path, TokenizerSources())


def test_a_yaml_that_is_not_used_is_said(plain: Tensors, expected: Tensors, write: Callable[[Tensors], Path]) -> None:
    path = write(plain)
    path.with_suffix(".yaml").write_text("name: a model card\n", encoding="utf-8")
    model: Any = open_model(path)
    assert model.notes == ("x.yaml beside the checkpoint does not describe a model and is not used.",)
    assert all(torch.equal(value, expected[name]) for name, value in weights(model).items())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"model: [", "not valid YAML"),
        (b"\xff\xfe\x00", "not valid YAML"),
        (b"model: !!python/object/apply:os.mkdir [ran]\n", "not valid YAML"),
        (b"model:\n  params:\n    linear_start: much\n", "linear_start is not a number"),
    ],
)
def test_yaml_that_cannot_be_read_is_named(
    content: bytes, said: str, plain: Tensors, write: Callable[[Tensors], Path]
) -> None:
    path = write(plain)
    path.with_suffix(".yaml").write_bytes(content)
    with pytest.raises(LoraTrainError, match=said) as caught:
        look(path)
    assert "x.yaml" in str(caught.value)


MODULES = ("lora_unet_mid_block_attentions_0_proj_in", "lora_te_text_model_encoder_layers_0_mlp_fc1")


def lora(plain: Tensors) -> LoraFile:
    """A change of one module of the UNet and one of the text encoder."""
    tensors: dict[str, torch.Tensor] = {}
    for name, shape in zip(MODULES, ((32, 32), (128, 64))):
        down, up = torch.ones(1, shape[1]), torch.ones(shape[0], 1)
        if "unet" in name:
            down, up = down[..., None, None], up[..., None, None]
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(1.0)}
    return LoraFile(Path("a.safetensors"), tensors, {})


@pytest.mark.parametrize("kind", ["v-prediction", "no text_model", "ema beside", "lightning"])
def test_merging_and_extracting_know_them_too(
    kind: str, plain: Tensors, write: Callable[[Tensors], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
    tensors = plain | marks if kind == "v-prediction" else KINDS[kind][0](plain) if kind in KINDS else plain
    path = write(tensors)
    if kind == "lightning":
        path = tmp_path / "lightning.ckpt"
        save_as_lightning(plain, path, monkeypatch)
    output = tmp_path / "merged.safetensors"
    assert merge_into(path, [lora(plain)], [0.5], output) == ()
    merged = load_file(output)
    assert merged.keys() == tensors.keys(), "nothing is lost, empty tensors included"
    for name, value in tensors.items():
        changed = name.endswith(("middle_block.1.proj_in.weight", "encoder.layers.0.mlp.fc1.weight"))
        assert merged[name].dtype == value.dtype and merged[name].shape == value.shape
        assert torch.allclose(merged[name].float(), value.float() + 0.5 * changed, atol=1e-6), name
    file, _ = extract(path, output, Extraction(Cut(1)))
    assert {name.split(".")[0] for name in file.tensors} == set(MODULES)


def test_two_names_of_one_text_encoder_are_compared(plain: Tensors, tmp_path: Path) -> None:
    short = {name.replace(f"{TEXT}text_model.", TEXT): value for name, value in plain.items()}
    name = f"{TEXT}encoder.layers.0.mlp.fc1.weight"
    save_file(plain, tmp_path / "a.safetensors")
    save_file(short | {name: short[name] + 1}, tmp_path / "b.safetensors")
    file, _ = extract(tmp_path / "a.safetensors", tmp_path / "b.safetensors", Extraction(Cut(1)))
    assert {name.split(".")[0] for name in file.tensors} == {MODULES[1]}
