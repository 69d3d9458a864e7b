"""Every flag of `train` goes to its own option: values that no other flag has."""

from __future__ import annotations

from dataclasses import fields, replace

from lora_train.cli import build_parser
from lora_train.cli.prepare import prepare_of
from lora_train.cli.train import _stages, config_of
from lora_train.config import (
    DataOptions,
    ModelOptions,
    NetworkOptions,
    PrepareOptions,
    PreviewOptions,
    RunConfig,
    SaveOptions,
    TrainOptions,
)
from lora_train.runs.stages import Stages

LINE = """train --model base.ckpt --input pictures --output sara.safetensors --tag sks --dir loras --overwrite
 --in-json meta.json --dataset-config set.toml --masked-loss --mask-folder masks --read-npz --write-npz
 --steps 1111 --dim 12 --alpha 7 --conv-dim 9 --conv-alpha 5 --repeats 13 --batch 3 --gradient 6
 --lr 0.001 --unetlr 0.002 --textlr 0.003 --textlr1 0.004 --textlr2 0.005 --scheduler linear --warmup 66
 --resolution 704 --flip --shuffle --keep-tokens 4 --caption-dropout 0.15 --no-upscale --min-bucket-reso 320
 --max-bucket-reso 1408 --bucket-reso-steps 32 --max-grad-norm 0.8 --min-snr 5.5 --noise-offset 0.07 --clip-skip 2
 --v-parameterization --zero-terminal-snr --precision bf16 --device cuda:1 --seed 4242
 --interim 14 --save-every 150 --save-precision fp32 --comments words --preview one --preview two --preview-every 16
 --dropout 0.21 --continue before.safetensors --merge-base a.safetensors:0.5 --unet-only --stop-text 17 --max-norm 0.9
 --rule attn:off"""


def test_every_flag_goes_to_its_own_option() -> None:
    options = build_parser().parse_args(LINE.split())
    found = config_of(options, "the host's checkpoint", "the host's folder")
    assert replace(found, prepare=RunConfig().prepare) == RunConfig(
        model=ModelOptions("base.ckpt", clip_skip=2, v_parameterization=True),
        data=DataOptions(
            folder="pictures",
            in_json="meta.json",
            dataset_config="set.toml",
            tag="sks",
            resolution=704,
            repeats=13,
            train_batch_size=3,
            min_bucket_reso=320,
            max_bucket_reso=1408,
            bucket_reso_steps=32,
            bucket_no_upscale=True,
            flip_aug=True,
            shuffle_caption=True,
            keep_tokens=4,
            caption_dropout_rate=0.15,
            mask_folder="masks",
            read_npz=True,
            write_npz=True,
        ),
        network=NetworkOptions(
            network_dim=12,
            network_alpha=7,
            conv_dim=9,
            conv_alpha=5,
            network_train_unet_only=True,
            network_dropout=0.21,
            network_rules=("attn:off",),
            scale_weight_norms=0.9,
            network_weights="before.safetensors",
            base_weights=("a.safetensors",),
            base_weights_multiplier=(0.5,),
        ),
        train=TrainOptions(
            max_train_steps=1111,
            gradient_accumulation_steps=6,
            learning_rate=0.001,
            unet_lr=0.002,
            text_encoder_lr=0.003,
            text_encoder_lr1=0.004,
            text_encoder_lr2=0.005,
            stop_text_encoder_training=17,
            lr_scheduler="linear",
            lr_warmup_steps=66,
            max_grad_norm=0.8,
            min_snr_gamma=5.5,
            noise_offset=0.07,
            zero_terminal_snr=True,
            masked_loss=True,
            mixed_precision="bf16",
            seed=4242,
            device="cuda:1",
        ),
        save=SaveOptions(
            "sara",
            "loras",
            overwrite=True,
            save_every_n_steps=150,
            save_every_n_epochs=14,
            save_precision="fp32",
            training_comment="words",
        ),
        preview=PreviewOptions(("one", "two"), sample_every_n_steps=16),
    )


def test_without_flags_it_is_the_default_run_on_what_the_host_has() -> None:
    found = config_of(build_parser().parse_args(["train"]), "the host's checkpoint", "the host's folder")
    assert replace(found, prepare=RunConfig().prepare) == RunConfig(
        model=ModelOptions("the host's checkpoint"), save=SaveOptions(output_dir="the host's folder")
    )


def test_each_stage_has_its_flag() -> None:
    for flag, stages in (
        ("--notrain", Stages(train=False)),
        ("--noprocess", Stages(process=False)),
        ("--nolatents", Stages(latents=False)),
        ("--shutdown", Stages(shutdown=True)),
        ("--text-only", Stages()),
    ):
        assert _stages(build_parser().parse_args(["train", flag])) == stages


PREPARE = """--process face,segment,interrogate --target 640 --min-size 320 --background #102030 --upscaler Lanczos
 --face-score 0.11 --face-pad 0.12 --body-score 0.13 --body-pad 0.14 --body-visibility 0.15 --body-parts 16
 --restore-weight 0.17 --segment-threshold 0.18 --blur-score 1.9 --range-score 0.21 --similar-score 0.22 --workers 3
 --captioner command --captioner-model blip --captioner-command say --tagger wd14 --tagger-model tags
 --tagger-command list --tag-limit 8 --tag-threshold 0.23 --character-threshold 0.24 --tag-blacklist hat,*hair
 --caption-template {caption} --recaption --backup --caption-device cuda:1"""


def test_every_flag_of_a_preparation_goes_to_its_own_option() -> None:
    expected = PrepareOptions(
        operations=("face", "segment", "interrogate"),
        target=640,
        min_size=320,
        background="#102030",
        face_score=0.11,
        face_pad=0.12,
        body_score=0.13,
        body_pad=0.14,
        body_visibility=0.15,
        body_parts=16,
        upscaler="Lanczos",
        restore_weight=0.17,
        segment_threshold=0.18,
        max_blur=1.9,
        min_range=0.21,
        max_similarity=0.22,
        captioner="command",
        captioner_model="blip",
        captioner_command=("say",),
        tagger="wd14",
        tagger_model="tags",
        tagger_command=("list",),
        tag_threshold=0.23,
        character_threshold=0.24,
        tag_limit=8,
        tag_blacklist=("hat", "*hair"),
        caption_template="{caption}",
        recaption=True,
        backup=True,
        caption_device="cuda:1",
        workers=3,
    )
    assert all(getattr(expected, field.name) != field.default for field in fields(expected) if field.name != "more"), (
        "a new option: its flag?"
    )
    for command in (["train"], ["prepare", "--input", "pictures"]):
        parse = build_parser().parse_args
        assert prepare_of(parse([*command, *PREPARE.split()])) == expected
        without = replace(expected, operations=("face", "segment"))
        assert prepare_of(parse([*command, *PREPARE.split(), "--nocaptions"])) == without
        assert prepare_of(parse([*command, *PREPARE.split(), "--sdxl"])) == expected
        assert prepare_of(parse([*command, "--sdxl"])).target == 1024
    assert prepare_of(build_parser().parse_args(["train"])) == PrepareOptions()
