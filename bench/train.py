"""A training's speed: ours, diffusers + peft and, where SD_SCRIPTS_DIR names a checkout, sd-scripts, in one run.

    python bench/train.py --sizes sd15-256 --precisions fp32,bf16 --rounds 3 --work /tmp/bench-train

Sizes are `tiny-64`, `sd15-256`, `sd15-512`, `sdxl-512`, `sdxl-1024`: random weights of that model, made once in the
work folder, and the pictures' side. All sides train a LoRA of rank 16 on UNet and text encoders with AdamW, with the
latents encoded before the first step, from the same folder to a file. Each round is one process per side, one after
the other, so that what else the machine does meets all of them.

    s/step        median over all steps but the first, of all rounds
    to file       from the process' start to its end with the file written, the best round
    memory        the largest of the rounds: the GPU's peak, or the process' on a CPU
    share         floating-point operations of the step (counted by torch, forward and backward) per second, as a share
                  of what one large matrix product reaches in that precision on this machine at this moment
    operations    per step in eager mode, views left out: about the kernel launches on a GPU

SD_SCRIPTS_PYTHON is the interpreter for sd-scripts, by default this one. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bases import write_pictures, write_tokenizer

BENCH = Path(__file__).parent
SIZES = ("tiny-64", "sd15-256", "sd15-512", "sdxl-512", "sdxl-1024")


@dataclass(frozen=True)
class Case:
    """One row of the table, for all sides."""

    size: str
    precision: str
    batch: int
    steps: int
    device: str
    checkpointing: bool

    @property
    def base(self) -> str:
        """The base model's name."""
        return self.size.partition("-")[0]

    @property
    def side(self) -> int:
        """The pictures' side in pixels."""
        return int(self.size.partition("-")[2])


@dataclass
class Found:
    """What was measured of one side in one case."""

    seconds: list[float] = field(default_factory=list)
    to_file: list[float] = field(default_factory=list)
    rss: int = 0
    gpu: int = 0
    operations: int = 0
    flops: int = 0
    why: str = ""
    """Why there is nothing."""


class Work:
    """The folder of a benchmark: bases, pictures, results."""

    def __init__(self, folder: Path, extra: list[str]) -> None:
        self.folder, self.extra = folder, extra
        folder.mkdir(parents=True, exist_ok=True)

    def base(self, case: Case) -> Path:
        """The base model, made when it is not there."""
        made = self.folder / "bases" / case.base
        if not (made / "model_index.json").exists():
            code = "import sys; from pathlib import Path; from bases import write_base; "
            code += "write_base(Path(sys.argv[1]), sys.argv[2], sys.argv[3])"
            call = [sys.executable, "-c", code, str(made), case.base, case.device]
            subprocess.run(call, check=True, env=environment() | {"PYTHONPATH": str(BENCH)})
        return made

    def pictures(self, case: Case) -> Path:
        """The training pictures."""
        return write_pictures(self.folder / f"pictures-{case.side}", case.side)

    def ours(self, case: Case, out: Path) -> list[str]:
        """The command line of ours."""
        flags = ["--gradient-checkpointing" if case.checkpointing else "--no-gradient-checkpointing"]
        return [
            "lora_train", "train", "--model", str(self.base(case)), "--input", str(self.pictures(case) / "1_thing"),
            "--tag", "sks", "--output", "ours", "--dir", str(out), "--overwrite", "--steps", str(case.steps),
            "--batch", str(case.batch), "--resolution", str(case.side), "--dim", "16", "--alpha", "16",
            "--optimizer", "adamw", "--precision", case.precision, "--device", case.device, "--repeats", "1",
            *flags, *self.extra,
        ]  # fmt: skip

    def peft(self, case: Case, out: Path) -> list[str]:
        """The command line of diffusers and peft."""
        return [
            str(BENCH / "peft_side.py"), str(self.base(case)), str(self.pictures(case)), str(out / "peft.safetensors"),
            str(case.side), str(case.batch), str(case.steps), case.precision, case.device, str(int(case.checkpointing)),
        ]  # fmt: skip

    def sd_scripts(self, case: Case, out: Path) -> list[str]:
        """The command line of sd-scripts."""
        tokenizers = self.folder / "tokenizers"
        for name in ("openai_clip-vit-large-patch14", "laion_CLIP-ViT-bigG-14-laion2B-39B-b160k"):
            if not (tokenizers / name).exists():
                write_tokenizer(tokenizers / name)
        script = "sdxl_train_network.py" if case.base == "sdxl" else "train_network.py"
        precision = {"fp32": "no"}.get(case.precision, case.precision)
        return [
            str(Path(os.environ["SD_SCRIPTS_DIR"]) / script), "--pretrained_model_name_or_path", str(self.base(case)),
            "--train_data_dir", str(self.pictures(case)), "--resolution", f"{case.side},{case.side}",
            "--output_dir", str(out), "--output_name", "scripts", "--max_train_steps", str(case.steps),
            "--train_batch_size", str(case.batch), "--network_module", "networks.lora", "--network_dim", "16",
            "--network_alpha", "16", "--mixed_precision", precision, "--optimizer_type", "AdamW",
            "--learning_rate", "1e-4", "--sdpa", "--cache_latents", "--save_model_as", "safetensors",
            "--max_data_loader_n_workers", "0", "--tokenizer_cache_dir", str(tokenizers),
            "--caption_extension", ".txt", "--seed", "1",
            *(["--gradient_checkpointing"] if case.checkpointing else []),
            *(["--no_half_vae"] if case.base == "sdxl" else []),
        ]  # fmt: skip


def environment() -> dict[str, str]:
    """Of the children: no network, this checkout first."""
    paths = [str(BENCH.parent), os.environ.get("PYTHONPATH", "")]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **offline, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def run(side: str, arguments: list[str], work: Path, out: Path, counted: int, timeout: float) -> tuple[Any, float, str]:
    """One process; returns its log (None where it failed), its seconds, and the end of what it said."""
    log = work / "log.json"
    log.unlink(missing_ok=True)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    python = os.environ.get("SD_SCRIPTS_PYTHON", sys.executable) if side == "sd-scripts" else sys.executable
    env = environment() | {"LORA_TRAIN_DATA": str(out / "data")}
    if side == "sd-scripts":
        env["PYTHONPATH"] = os.environ["SD_SCRIPTS_DIR"]
    started = time.perf_counter()
    call = [python, str(BENCH / "child.py"), str(log), str(counted), *arguments]
    try:
        done = subprocess.run(call, env=env, cwd=out, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return None, timeout, f"longer than {timeout:.0f} s"
    seconds = time.perf_counter() - started
    said = " ".join((done.stderr or done.stdout).split())[-300:]
    if done.returncode or not log.exists() or not list(out.glob("*.safetensors")):
        return None, seconds, said or f"exit {done.returncode}"
    return json.loads(log.read_text(encoding="utf-8")), seconds, ""


def matrix_rate(precision: str, device: str) -> float:
    """Floating-point operations a second of a product of two large matrices: the best of several."""
    dtype = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[precision]
    side = 8192 if device.startswith("cuda") else 2048
    code = f"""
import time, torch
a = torch.randn({side}, {side}, device={device!r}, dtype=torch.{dtype})
best = 9e9
for _ in range(6):
    if {device.startswith("cuda")}: torch.cuda.synchronize()
    start = time.perf_counter(); b = a @ a
    if {device.startswith("cuda")}: torch.cuda.synchronize()
    best = min(best, time.perf_counter() - start)
print(2 * {side} ** 3 / best)
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure(case: Case, sides: list[str], work: Work, rounds: int, timeout: float) -> dict[str, Found]:
    """All sides of one case, interleaved."""
    make = {"ours": work.ours, "peft": work.peft, "sd-scripts": work.sd_scripts}
    found = {side: Found() for side in sides}
    for number in range(rounds + 1):  # the last one counts operations, and its time means nothing
        for side in sides:
            one, counting = found[side], number == rounds
            if one.why:
                continue
            out = work.folder / "out" / side
            shorter = Case(case.size, case.precision, case.batch, 3, case.device, case.checkpointing)
            arguments = make[side](shorter if counting else case, out)
            log, seconds, said = run(side, arguments, work.folder, out, 3 if counting else 0, timeout)
            if log is None:
                one.why = said
                print(f"  {side} failed: {said}", file=sys.stderr, flush=True)
            elif counting:
                one.operations, one.flops = sum(log["operations"].values()), log["flops"]
                (work.folder / f"operations-{side}.json").write_text(json.dumps(log["operations"], indent=1))
            else:
                one.seconds += log["seconds"]
                one.to_file.append(seconds)
                one.rss, one.gpu = max(one.rss, log["rss"]), max(one.gpu, log["gpu"])
                print(f"  round {number + 1} {side}: {statistics.median(log['seconds']):.3f} s/step, {seconds:.1f} s")
                sys.stdout.flush()
    return found


def row(case: Case, side: str, found: Found, rate: float) -> list[str]:
    """A line of the table."""
    name = f"{case.size} b{case.batch} {case.precision}{' checkpointing' if case.checkpointing else ''}"
    if not found.seconds:
        return [name, side, found.why[-60:] or "not measured", "", "", "", ""]
    per = statistics.median(found.seconds)
    return [
        name, side, f"{per:.3f}", f"{min(found.to_file):.1f}", f"{(found.gpu or found.rss) / 1e9:.2f}",
        f"{100 * found.flops / per / rate:.0f} %" if found.flops else "", f"{found.operations:,}",
    ]  # fmt: skip


def print_table(rows: list[list[str]]) -> None:
    """As Markdown."""
    head = ["case", "side", "s/step", "to file, s", "memory, GB", "share", "operations"]
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    for line in (head, ["-" * width for width in widths], *rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |")


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="tiny-64", help=f"with commas: {', '.join(SIZES)}")
    parser.add_argument("--batches", default="1")
    parser.add_argument("--precisions", default="fp32", help="with commas: fp32, bf16, fp16")
    parser.add_argument("--sides", default="", help="with commas: ours, peft, sd-scripts; all that are there")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--work", type=Path, default=Path("/tmp/bench-train"))
    parser.add_argument("--timeout", type=float, default=900, help="seconds for one process")
    parser.add_argument("ours", nargs="*", help="after --: more options of ours, for example --set ...")
    return parser.parse_args()


def main() -> int:
    """Measure and print."""
    options = read_arguments()
    device = options.device
    if not device:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    sides = options.sides.split(",") if options.sides else ["ours", "peft"]
    if not options.sides and os.environ.get("SD_SCRIPTS_DIR"):
        sides.append("sd-scripts")
    work = Work(options.work, options.ours)
    rows, failed = [], False
    for size in options.sizes.split(","):
        for precision in options.precisions.split(","):
            rate = matrix_rate(precision, device)
            print(f"{size} {precision}: a matrix product reaches {rate / 1e9:.0f} GFLOP/s", flush=True)
            for batch in map(int, options.batches.split(",")):
                case = Case(size, precision, batch, options.steps, device, options.checkpointing)
                found = measure(case, sides, work, options.rounds, options.timeout)
                rows += [row(case, side, one, rate) for side, one in found.items()]
                failed |= any(one.why for one in found.values())
    print_table(rows)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
