"""Options, optimizers, losses and schedules from outside go everywhere that the package's own go."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from lora_train.cli import build_parser, main
from lora_train.cli.train import config_of
from lora_train.config import RunConfig, problems
from lora_train.config.document import document
from lora_train.config.extending import unregister
from lora_train.config.methods import Method, Table
from lora_train.config.table import CHOICES, Option, options
from lora_train.hosts.standalone import StandaloneHost
from lora_train.lorafile.reading import LoraFile, read_lora
from lora_train.runs.execute import resume_training, run_training
from lora_train.runs.folder import RunFolder
from tests.conftest import draw_pictures
from tests.extending import grain, power, signum, stairs


@dataclass(frozen=True)
class Case:
    """One addition and what is to become of it."""

    module: ModuleType
    line: str
    """At the command line."""
    train: dict[str, Any]
    """The same as options."""
    metadata: dict[str, str]

    @property
    def option(self) -> Option:
        return self.module.ADDED[0]  # type: ignore[no-any-return]

    @property
    def method(self) -> tuple[Table, Method]:
        return self.module.ADDED[1]  # type: ignore[no-any-return]


CASES = {
    "option": Case(grain, "--grain 0.5", {"grain": 0.5}, {"ss_grain": "0.5"}),
    "optimizer": Case(
        signum,
        "--optimizer_type Signum --signum-momentum 0.5",
        {"optimizer": "signum", "signum_momentum": 0.5},
        {"ss_optimizer": "signum(momentum=0.5)"},
    ),
    "loss": Case(
        power,
        "--loss-type power --loss_exponent 3",
        {"loss_type": "power", "loss_power": 3.0},
        {"ss_loss_type": "power", "ss_loss_power": "3.0"},
    ),
    "schedule": Case(
        stairs, "--scheduler stairs --stairs 2", {"lr_scheduler": "stairs", "stairs": 2}, {"ss_stairs": "2"}
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    """One of them, there within the test and gone after it."""
    found = CASES[request.param]
    found.module.add()
    yield found
    unregister(*found.module.ADDED)


def asked(base: Path, folder: Path, train: dict[str, Any]) -> RunConfig:
    """A short run with these options, as from a file; always on the same pictures."""
    usual = {"max_train_steps": 3, "lr_warmup_steps": 0, "learning_rate": 0.01, "preserve": 0.0, "device": "cpu"}
    return RunConfig.from_dict(
        {
            "model": {"path": str(base)},
            "data": {"folder": str(draw_pictures(folder / "10_sks")), "tag": "sks", "train_batch_size": 1},
            "network": {"network_dim": 2, "conv_dim": 0, "network_train_unet_only": True},
            "train": usual | train,
            "save": {"output_name": "own", "output_dir": str(folder / "loras"), "save_precision": "fp32"},
        }
    )


@pytest.fixture(scope="module")
def plain(base: Path, tmp_path_factory: pytest.TempPathFactory) -> LoraFile:
    """What the same run learns without any of them."""
    folder = tmp_path_factory.mktemp("plain")
    return trained(asked(base, folder, {}), folder)[0]


def test_every_face_has_it(case: Case, tmp_path: Path) -> None:
    method = case.method[1]
    config = RunConfig.from_dict({"train": case.train})
    assert config_of(build_parser().parse_args(["train", *case.line.split()]), "", "") == config
    assert case.option in options() and RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert f"| {method.name} | {method.does} |" in document() and f"| {case.option.path} |" in document()
    help_text = " ".join(build_parser().parse(["train"])[0].parser.format_help().split())
    assert case.option.flags[0] in help_text and case.option.about.help in help_text
    assert not [one for one in problems(config) if one.where.startswith("train.") and "rate" not in one.where]
    path = tmp_path / "a.toml"
    main(["train", "--input", str(tmp_path), "--output", "x", *case.line.split(), "--save-config", str(path)])
    assert config_of(build_parser().parse_args(["train", "--config", str(path)]), "", "").train == config.train
    high = (case.option.about.range or (0, 0))[1]
    beyond = RunConfig.from_dict({"train": {case.option.name: type(case.option.default)(high + 1)}})
    assert [one.where for one in problems(beyond) if "range" in one.what] == [case.option.path]


def trained(config: RunConfig, folder: Path, stop_after: int = 0) -> tuple[LoraFile, list[Any]]:
    """The file of a run, which is stopped and resumed where that is said; and its steps."""
    host, steps = StandaloneHost(folder), list[Any]()

    def listen(event: dict[str, Any]) -> None:
        if event["kind"] == "step":
            steps.append(event)

    result = run_training(config, host, listen, lambda: bool(stop_after) and len(steps) >= stop_after)
    if stop_after:
        assert result.stopped
        run = RunFolder(result.folder)
        result = resume_training(run, host)
        steps = [event for event in run.events() if event["kind"] == "step"]
    assert result.path is not None
    file = read_lora(result.path)
    result.path.unlink()
    return file, steps


def test_a_run_uses_it_says_so_and_goes_on_with_the_same_bits(
    case: Case, base: Path, plain: LoraFile, tmp_path: Path
) -> None:
    config = asked(base, tmp_path, case.train)
    whole, steps = trained(config, tmp_path / "whole")
    parts, _ = trained(config, tmp_path / "parts", stop_after=2)
    assert {key: whole.metadata[key] for key in case.metadata} == case.metadata
    assert [event["step"] for event in steps] == [1, 2, 3]
    assert whole.tensors.keys() == parts.tensors.keys() == plain.tensors.keys()
    assert all(torch.equal(value, parts.tensors[key]) for key, value in whole.tensors.items())
    assert any(not torch.equal(value, plain.tensors[key]) for key, value in whole.tensors.items())
    CHECKS[case.module](config, steps, whole)


def _stairs(config: RunConfig, steps: list[Any], file: LoraFile) -> None:
    rates = [event["learning_rates"]["lora_unet"] for event in steps]
    assert rates == pytest.approx([0.01, 0.01, 0.005]), "steps 0, 1 of 3 lie in the first half, step 2 in the second"
    assert file.metadata["ss_lr_scheduler"] == "stairs"


def _signum(config: RunConfig, steps: list[Any], file: LoraFile) -> None:
    ups = [value for key, value in file.tensors.items() if key.startswith("lora_unet") and "lora_up" in key]
    values = torch.cat([up.flatten().abs() for up in ups]).unique()
    assert float(values.max()) < 0.01 * 3 * 1.001, "each step is as long as the rate"


def _grain(config: RunConfig, steps: list[Any], file: LoraFile) -> None:
    draw = torch.Generator().manual_seed(0)
    noise, x = torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 8, 8)
    found = grain.grain(noise, x, draw, config)
    assert torch.equal(found[:, :, ::2, ::2], found[:, :, 1::2, 1::2]) and 0.3 < float(found.std()) < 0.7


def _power(config: RunConfig, steps: list[Any], file: LoraFile) -> None:
    assert float(power.power(torch.tensor(3.0), torch.tensor(1.0), torch.zeros(1), None, config)) == 8.0  # type: ignore[arg-type]


CHECKS: dict[ModuleType, Callable[[RunConfig, list[Any], LoraFile], None]] = {
    grain: _grain,
    signum: _signum,
    power: _power,
    stairs: _stairs,
}


def test_nothing_is_left_after_it() -> None:
    before, page = options(), document()
    for case in CASES.values():
        case.module.add()
        assert options() != before and document() != page
        unregister(*case.module.ADDED)
        table, method = case.method
        assert options() == before and document() == page and method.name not in table
        option = getattr(table, "option", "")
        assert not option or method.name not in CHOICES[option]
