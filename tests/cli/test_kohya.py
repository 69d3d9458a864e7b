"""The command line under sd-scripts' names, and all that is wrong with one in one message."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from lora_train.cli import build_parser, main
from lora_train.cli.parser import Switch
from lora_train.cli.train import _config, config_of
from lora_train.config import RunConfig, TrainOptions, kohya
from lora_train.errors import LoraTrainError, Problem
from lora_train.hosts.standalone import StandaloneHost
from lora_train.models.hub import is_hub_id, local_model


def config(line: str) -> RunConfig:
    return config_of(build_parser().parse_args(["train", *shlex.split(line)]), "", "")


def wrong(line: str, command: str = "train") -> list[Problem]:
    return build_parser().parse([command, *shlex.split(line)])[1]


KOHYAS = """--pretrained_model_name_or_path=base.safetensors --train_data_dir=pictures --output_dir=loras
 --output_name=sara
 --network_module=networks.lora --network_dim=32 --network_alpha=16 --max_train_steps=1000 --learning_rate=2e-4
 --unet_lr=1e-4 --text_encoder_lr=5e-5 --lr_scheduler=cosine --lr_warmup_steps=50 --optimizer_type=AdamW
 --train_batch_size=2 --gradient_accumulation_steps=3 --mixed_precision=bf16 --save_precision=float --seed=7
 --resolution=512,512 --enable_bucket --min_bucket_reso=256 --max_bucket_reso=1024 --bucket_reso_steps=64
 --bucket_no_upscale --flip_aug --shuffle_caption --keep_tokens=1 --caption_dropout_rate=0.1 --clip_skip=2
 --min_snr_gamma=5 --noise_offset=0.05 --max_grad_norm=0.5 --save_every_n_epochs=2 --save_every_n_steps=100
 --training_comment=hello --network_dropout=0.2 --scale_weight_norms=1 --sample_every_n_steps=10
 --network_args conv_dim=8 conv_alpha=4 --cache_latents --xformers --sdpa --gradient_checkpointing
 --save_model_as=safetensors --max_data_loader_n_workers=8 --persistent_data_loader_workers --logging_dir=logs"""


def test_a_line_of_kohyas_is_understood() -> None:
    made = config(KOHYAS)
    assert (made.model.path, made.model.clip_skip) == ("base.safetensors", 2)
    data = made.data
    assert (data.folder, data.train_batch_size, data.resolution, data.keep_tokens) == ("pictures", 2, 512, 1)
    assert (data.min_bucket_reso, data.max_bucket_reso, data.bucket_no_upscale) == (256, 1024, True)
    assert (data.flip_aug, data.shuffle_caption, data.caption_dropout_rate) == (True, True, 0.1)
    network = made.network
    assert (network.network_dim, network.network_alpha, network.conv_dim, network.conv_alpha) == (32, 16, 8, 4)
    assert (network.network_dropout, network.scale_weight_norms) == (0.2, 1)
    train = made.train
    assert (train.max_train_steps, train.learning_rate, train.unet_lr, train.text_encoder_lr) == (
        1000,
        2e-4,
        1e-4,
        5e-5,
    )
    assert (train.lr_scheduler, train.lr_warmup_steps, train.optimizer, train.seed) == ("cosine", 50, "adamw", 7)
    assert (train.gradient_accumulation_steps, train.mixed_precision, train.max_grad_norm) == (3, "bf16", 0.5)
    assert (train.min_snr_gamma, train.noise_offset) == (5, 0.05)
    save = made.save
    assert (save.output_name, save.output_dir, save.save_precision) == ("sara", "loras", "fp32")
    assert (save.save_every_n_epochs, save.save_every_n_steps, save.training_comment) == (2, 100, "hello")
    assert made.preview.sample_every_n_steps == 10


def test_every_name_of_kohyas_table_means_something() -> None:
    train = build_parser().parse(["train"])[0].parser
    known = train._option_string_actions
    for name, flag in kohya.FLAGS.items():
        assert known[f"--{name}"] is known[flag], name
        assert known[f"--{name.replace('_', '-')}"] is known[flag], name
    assert not set(kohya.FLAGS) & (set(kohya.ABSENT) | set(kohya.NOTED))
    assert kohya.NOTED.keys() >= kohya.TAKES_NO_VALUE and not set(kohya.ABSENT) & set(kohya.NOTED)
    assert set(kohya.VALUES) <= set(known)
    assert set(kohya.SAME) <= set(kohya.ABSENT)


def every_parser(parser: Any, name: str = "") -> list[tuple[str, Any]]:
    found = [(name, parser)]
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for command, inner in action.choices.items():
                found += every_parser(inner, f"{name} {command}")
    return found


def test_every_flag_of_every_command_is_known_with_underscores() -> None:
    for name, parser in every_parser(build_parser()):
        for action in parser._actions:
            for flag in action.option_strings:
                if flag.startswith("--"):
                    other = "--" + flag[2:].replace("-", "_")
                    assert parser._option_string_actions[other] is action, f"{name} {other}"


def test_switches_with_underscores_switch() -> None:
    """argparse's own action is silent about a name that it was not given."""
    assert config("").model.v_parameterization is None
    for flag, expected in (("--v_parameterization", True), ("--no_v_parameterization", False)):
        assert config(flag).model.v_parameterization is config(flag.replace("_", "-")).model.v_parameterization
        assert config(flag).model.v_parameterization is expected
    for name, parser in every_parser(build_parser()):
        for action in parser._actions:
            assert not isinstance(action, argparse.BooleanOptionalAction) or isinstance(action, Switch), name


def test_what_makes_no_difference_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--xformers", "--log_prefix", "logs", "--input", "nowhere"]) == 2
    told = capsys.readouterr().err
    assert (
        "note: --xformers is replaced by torch's own attention" in told
        and "note: --log_prefix is not available" in told
    )


def test_what_kohya_has_and_we_do_not_is_named() -> None:
    found = {one.where: one for one in wrong("--save_n_epoch_ratio=10 --vae x.pt --initial_step 3 --vae-x y")}
    found |= {one.where: one for one in wrong("--async-upload 1")}
    assert found.keys() == {"--save_n_epoch_ratio", "--vae", "--initial_step", "--vae-x", "--async-upload"}
    assert all("sd-scripts has it" in one.what for where, one in found.items() if where != "--vae-x")
    assert "--save-every" in found["--save_n_epoch_ratio"].fix


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("--modle", "--model"),
        ("--ouput", "--output"),
        ("--networkdim", "--dim"),
        ("--train_data_di", "--input"),
        ("--step", "--steps"),
        ("--zzzzzzzz", "--help"),
    ],
)
def test_an_unknown_flag_suggests_the_nearest(given: str, meant: str) -> None:
    (problem,) = wrong(f"{given} 5")
    assert problem.where == given and meant in problem.fix


def test_a_wrong_command_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    for line, meant in (("trian", "train"), ("file inspekt a", "inspect")):
        assert main(line.split()) == 2
        told = capsys.readouterr().err
        assert f"Did you mean {meant}?" in told and "usage" not in told


def test_all_that_is_wrong_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "--lr abc --dim 1.5 --algo lorra --resolution 512,y --precision fp17 --frobnicate --color_aug 3"
    line += f" --seed -1 --input {tmp_path / 'nowhere'} --model {tmp_path / 'none.ckpt'} --output a/b"
    assert main(["train", *line.split()]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert all(text.startswith("error: ") for text in told) and len(told) == 11
    for text in ("--lr: 'abc' is not a number", "--dim: '1.5' is not a whole number", "--algo: 'lorra' is not known",
                 "--resolution: '512,y' is neither a number", "--precision: 'fp17' is not known", "--frobnicate",
                 "--color_aug", "--seed: -1 is out of range", "no such folder", "no such file or folder",
                 "'a/b'"):  # fmt: skip
        assert sum(text in line for line in told) == 1, text


def test_generate_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "a cat", "--seed", "x", "--count", "0", "--guidence", "3"]) == 2
    told = capsys.readouterr().err
    for text in ("--seed: 'x' is not a whole number", "--count: 0 is out of range", "Did you mean --guidance?"):
        assert text in told


def test_a_flag_without_its_value_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--frob", "--lr"]) == 2
    assert "--lr: needs a value" in capsys.readouterr().err


def test_network_modules() -> None:
    assert config("--network_module lycoris.kohya --network_args algo=loha").network.kind == "loha"
    assert config("--network_module networks.oft").network.kind == "oft"
    assert config("--network_module networks.lora --algo lokr").network.kind == "lokr"
    with pytest.raises(LoraTrainError, match="networks.dylora"):
        config("--network_module networks.dylora")


def test_ids_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert is_hub_id("stabilityai/sdxl-turbo") and is_hub_id("runwayml/stable-diffusion-v1-5")
    for path in ("model.ckpt", "a/b/c", "./a/b", "/a/b", "models/sd15.safetensors", "a\\b", "~/x", "../b"):
        assert not is_hub_id(path), path
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--model", "runwayml/no-such-model", "--input", "x", "--output", "a"]) == 2
    told = capsys.readouterr().err
    assert "Hugging Face hub" in told and "hf download runwayml/no-such-model" in told
    index = tmp_path / "cache" / "model_index.json"
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda name, file: str(index) if name == "a/cached" else None
    )
    assert local_model("a/cached") == str(index.parent)
    options = build_parser().parse_args(["train", "--model", "a/cached"])
    assert _config(options, StandaloneHost(tmp_path)).model.path == str(index.parent)
    (tmp_path / "a" / "cached").mkdir(parents=True)
    assert local_model("a/cached") == "a/cached", "a folder of that name comes first"


GUIS = """--caption_extension=.txt --prior_loss_weight=1 --loss_type=l2 --huber_c=0.1 --huber_schedule=snr
 --huber_scale=1
 --lr_scheduler_num_cycles=1 --lr_scheduler_power=1 --max_timestep=1000 --min_timestep 0 --multires_noise_iterations=0
 --multires_noise_discount=0.3 --adaptive_noise_scale=0 --ip_noise_gamma=0.0 --noise_offset_type=Original
 --caption_tag_dropout_rate=0 --caption_dropout_every_n_epochs=0 --save_last_n_steps=0
 --token_warmup_min=1 --token_warmup_step=0 --optimizer_args weight_decay=0.01 eps=1e-8 --sample_sampler=euler_a
 --dynamo_backend=no --wandb_run_name=last --reg_data_dir= --vae "" --keep_tokens_separator= --resume=
 --initial_epoch=1 --num_processes=1 --max-train-epochs 0"""


def test_values_that_say_what_is_done_anyway_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert wrong(GUIS) == []
    assert config(GUIS) == config(
        "--optimizer_args weight_decay=0.01 eps=1e-8 --wandb_run_name last --preview-sampler euler_a"
    )
    assert main(["train", "--num_processes=1", "--save_n_epoch_ratio", "0.0", "--input", "nowhere"]) == 2
    told = capsys.readouterr().err
    assert "note: already the behaviour here: --num_processes 1, --save_n_epoch_ratio 0.0." in told


def test_what_guis_leave_empty_is_as_if_it_were_not_given() -> None:
    line = " ".join(f"--{name}=" for name in sorted(kohya.MAY_BE_EMPTY)) + " --max_timestep None --optimizer_args="
    assert wrong(line) == [] and config(line).train == TrainOptions(optimizer_args=("",))
    assert [one.where for one in wrong("--steps= --min-snr=")] == ["--steps", "--min-snr"]


def test_what_kohya_says_of_loss_noise_and_optimizer_is_meant_here_too() -> None:
    line = "--loss_type=huber --huber_schedule exponential --huber_c=0.2 --huber_scale 2 --v_pred_like_loss=0.1"
    line += " --debiased_estimation_loss --scale_v_pred_loss_like_noise_pred --noise_offset_random_strength"
    line += " --adaptive_noise_scale=0.05 --multires_noise_iterations=6 --multires_noise_discount=0.4"
    line += " --ip_noise_gamma=0.1 --ip_noise_gamma_random_strength --min_timestep 10 --max_timestep=900"
    line += " --lr_scheduler=cosine_with_restarts --lr_scheduler_num_cycles=3 --lr_scheduler_power 2"
    line += " --lr_scheduler_min_lr_ratio 0.1 --lr_warmup_steps=0.05 --timestep_sampling sigmoid --sigmoid_scale 1.5"
    line += " --optimizer_type=AdamW8bit --optimizer_args weight_decay=0.1 betas=0.9,0.99 --seed 1"
    assert config(line).train == TrainOptions(
        loss_type="huber",
        huber_schedule="exponential",
        huber_c=0.2,
        huber_scale=2,
        v_pred_like_loss=0.1,
        debiased_estimation_loss=True,
        scale_v_pred_loss_like_noise_pred=True,
        noise_offset_random_strength=True,
        adaptive_noise_scale=0.05,
        multires_noise_iterations=6,
        multires_noise_discount=0.4,
        ip_noise_gamma=0.1,
        ip_noise_gamma_random_strength=True,
        min_timestep=10,
        max_timestep=900,
        lr_scheduler="cosine_with_restarts",
        lr_scheduler_num_cycles=3,
        lr_scheduler_power=2,
        lr_scheduler_min_lr_ratio=0.1,
        lr_warmup_steps=0.05,
        timestep_sampling="logit_normal",
        logit_std=1.5,
        optimizer="adamw8bit",
        optimizer_args=("weight_decay=0.1", "betas=0.9,0.99"),
        seed=1,
    )
    for theirs, ours in (("AdamW", "adamw"), ("AdaFactor", "adafactor"), ("DAdaptation", "dadaptadam")):
        assert config(f"--optimizer_type {theirs}").train.optimizer == ours
    assert config("--lr_scheduler constant_with_warmup").train.lr_scheduler == "constant"


def test_other_values_of_theirs_are_refused() -> None:
    line = "--loss_type=huberr --async_upload 0.5 --caption_extension=.tags"
    line += " --vae=x.pt"
    found = {problem.where: problem for problem in wrong(line)}
    assert list(found) == [
        *("--loss-type", "--caption_extension", "--async_upload"),
        "--vae",
    ]
    assert "'huberr'" in found["--loss-type"].what and "huber?" in found["--loss-type"].fix


def test_a_flag_that_is_given_several_times_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    line = "--train_data_dir a --input=nowhere --steps 3 --steps 3 --preview x --preview y --args a=1 --args b=2"
    options, _ = build_parser().parse(["train", *line.split()])
    assert options.repeated == ["--input"] and options.input == "nowhere"
    assert main(["file", "resize", "nowhere", "--rank", "2", "--rank", "3", "--output", "a.safetensors"]) == 2
    assert "note: --rank is given several times; the last one is used." in capsys.readouterr().err
