"""One command that tells whether training works on this machine's GPU, in how much memory, and how fast.

    python bench/gpu.py [PART ...] [--cpu] [--seconds 460]

Needs a CUDA GPU, the project with its packages, and no network; makes its random bases in a temporary folder (9 GB).
Prints one table, and exits with 1 where a check fails. In about eight minutes; a part for which no time is left says
so. Parts, in the order in which they run:

    demo        the mascot's LoRA in bf16, fp16 and fp32, with a preview: it is learned
    recovery    memory "runs out" at two steps and in a preview: the run goes on, and no step is skipped
    resume      a run that was stopped and resumed has the bits of one that was not (deterministic; and without)
    sd15, sdxl  512 and 1024 pixels with all memory and under caps of 4, 8 and 12 GB; what was planned, and the peak
    speed       SD 1.5 at 512 with and without each technique, beside diffusers + peft (and SDXL with peft)

`--cpu` runs it small, to try the script.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent
sys.path[:0] = [str(BENCH), str(BENCH.parent)]
PARTS = ("demo", "recovery", "resume", "sd15", "sdxl", "speed")
CAPS = {"sd15": (4.0,), "sdxl": (8.0, 12.0)}
LEARNED = 0.5
"""The least mean mascot score; without a LoRA it is 0.2, after the whole recipe above 0.8."""


class Table:
    """Rows as they come, and whether a check failed."""

    def __init__(self, work: Path, cpu: bool, seconds: float) -> None:
        self.work, self.cpu, self.failed = work, cpu, False
        self.device = "cpu" if cpu else "cuda"
        self.ends, self.rows = time.monotonic() + seconds, list[tuple[str, str, str]]()

    @property
    def left(self) -> float:
        """Seconds."""
        return self.ends - time.monotonic()

    def row(self, name: str, said: str, passed: bool | None = None) -> None:
        """One line; `passed` where it is a check."""
        verdict = "" if passed is None else "ok" if passed else "FAILED"
        self.failed |= passed is False
        self.rows.append((name, verdict, said))
        print(f"{name:40} {verdict:6} {said}", flush=True)

    def child(self, name: str, *arguments: str, cap: float = 0.0) -> dict[str, Any] | None:
        """Run one of the CHILDREN in a process of its own; its result, or None and a failed row."""
        if self.left < 15:
            self.row(name, "not run: no time left")
            return None
        data = self.work / "data" / name.replace(" ", "_").replace(",", "")
        env = {**os.environ, "LORA_TRAIN_DATA": str(data), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        env["PYTHONPATH"] = str(BENCH.parent)
        call = [sys.executable, str(BENCH / "gpu.py"), "--child", str(cap), self.device, *arguments]
        try:
            done = subprocess.run(call, env=env, capture_output=True, text=True, timeout=max(15, self.left))
        except subprocess.TimeoutExpired:
            self.row(name, "not finished: no time left")
            return None
        found = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
        if done.returncode or found is None:
            self.row(name, " ".join((done.stderr or done.stdout).split())[-300:], False)
            return None
        return dict(json.loads(found.removeprefix("RESULT ")))

    def base(self, name: str) -> Path:
        """A random base at full size."""
        from bases import write_base

        made = self.work / name
        if not made.exists():
            started = time.monotonic()
            write_base(made, name, self.device)
            self.row(f"base {name}", f"made in {time.monotonic() - started:.0f} s")
            if not self.cpu:
                import torch

                torch.cuda.empty_cache()
        return made

    def pictures(self, side: int) -> Path:
        """Eight pictures."""
        from bases import write_pictures

        return write_pictures(self.work / f"pictures-{side}", side) / "1_thing"


def part_demo(table: Table) -> None:
    """The demo's base, in each precision."""
    for precision in ("fp32",) if table.cpu else ("bf16", "fp16", "fp32"):
        steps = "6" if table.cpu else "300"
        found = table.child(f"demo {precision}", "demo", precision, steps)
        if found is None:
            continue
        learned = table.cpu or (found["score"] > LEARNED and found["score"] > found["without"] + 0.1)
        said = f"mascot {found['score']:.2f}, without {found['without']:.2f}; {found['seconds']:.3f} s/step, "
        said += f"{found['skipped']} skipped, {found['previews']} previews, peak {found['peak']:.2f} GB"
        table.row(f"demo {precision}", said, learned and found["previews"] > 0 and found["finite"])


def part_recovery(table: Table) -> None:
    """Out of memory, made by hand."""
    found = table.child("recovery", "recovery")
    if found is not None:
        said = f"{found['steps']} steps, {found['eased']} times repeated with less, LoRA {found['saved']}"
        table.row("recovery", said, found["steps"] == 8 and found["eased"] >= 1 and found["saved"])


def part_resume(table: Table) -> None:
    """Stopped after half, and resumed."""
    for sure in (True, False):
        name = "resume, deterministic" if sure else "resume"
        found = table.child(name, "resume", str(int(sure)))
        if found is not None:
            said = f"same bits: {found['same']}; largest difference {found['difference']:.2g}"
            table.row(name, said, found["same"] if sure else None)


def part_base(table: Table, name: str) -> None:
    """SD 1.5 or SDXL at full size."""
    if table.cpu:
        return table.row(name, "left out on a CPU: bench/train.py measures it")
    side = 512 if name == "sd15" else 1024
    for cap in (0.0, *CAPS[name]):
        call = ["train", "--model", str(table.base(name)), "--input", str(table.pictures(side)), "--tag", "sks"]
        call += ["--resolution", str(side), "--precision", "bf16", "--dim", "16", "--batch", "1", "--steps", "10"]
        title = f"{name} {side} b1" + (f" under {cap:g} GB" if cap else "")
        found = table.child(title, *call, cap=cap)
        if found is None:
            continue
        said = f"{found['seconds']:.3f} s/step, peak {found['peak']:.2f} GB (reserved {found['reserved']:.2f}), "
        said += f"{found['wall']:.0f} s in all" + (f"; {'; '.join(found['why'])}" if found["why"] else "")
        table.row(title, said, found["finite"] and (not cap or found["reserved"] <= cap))
    return None


def part_speed(table: Table) -> None:
    """With and without each technique, and peft."""
    base, side = ("tiny", 64) if table.cpu else ("sd15", 512)
    found = table.child("speed", "speed", str(table.base(base)), str(side))
    for name, seconds in (found or {}).items():
        table.row(f"speed {base} {side} b1, {name}", f"{seconds:.4f} s/step")
    cases = [(base, side, 1, "0")] + ([] if table.cpu else [("sd15", 512, 4, "0"), ("sdxl", 1024, 1, "0")])
    for name, pixels, batch, checkpointing in cases:
        title = f"peft {name} {pixels} b{batch}"
        call = ["peft", str(table.base(name)), str(table.pictures(pixels).parent), str(table.work / "peft.safetensors")]
        call += [str(pixels), str(batch), "10", "fp32" if table.cpu else "bf16", table.device, checkpointing]
        peft = table.child(title, *call)
        if peft is not None:
            table.row(title, f"{peft['seconds']:.4f} s/step, peak {peft['peak']:.2f} GB")


# what runs in processes of their own


def memory() -> dict[str, float]:
    """Peaks in GB; 0 on a CPU."""
    import torch

    if not torch.cuda.is_available():
        return {"peak": 0.0, "reserved": 0.0}
    return {"peak": torch.cuda.max_memory_allocated() / 1e9, "reserved": torch.cuda.max_memory_reserved() / 1e9}


def hold_to(cap: float) -> None:
    """Let this process see and use `cap` GB of the GPU, as if it had no more."""
    import torch

    limit = int(cap * 1e9)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total))
    torch.cuda.mem_get_info = lambda device=None: (max(0, limit - torch.cuda.memory_reserved()), limit)


def events() -> list[dict[str, Any]]:
    """Of all runs in this process' data folder, in order."""
    found = []
    for path in sorted(Path(os.environ["LORA_TRAIN_DATA"]).glob("runs/*/events.jsonl")):
        found += [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return found


def of_kind(kind: str) -> list[dict[str, Any]]:
    """The events of one kind."""
    return [event for event in events() if event.get("kind") == kind]


def step_seconds(steps: list[dict[str, Any]]) -> float:
    """The median, without the first two."""
    times = [float(step["time"]) for step in steps]
    return median_gap(times[2:])


def median_gap(times: list[float]) -> float:
    """The median of the differences; 0 where there are none."""
    gaps = sorted(b - a for a, b in pairwise(times))
    return gaps[len(gaps) // 2] if gaps else 0.0


def output() -> Path:
    """Where LoRAs go."""
    return Path(os.environ["LORA_TRAIN_DATA"]) / "out"


def command(*arguments: str) -> None:
    """`lora-train train`. Exits where it fails."""
    from lora_train.cli import main as lora_train

    code = lora_train(["train", "--output", "x", "--dir", str(output()), "--overwrite", *arguments])
    if code:
        sys.exit(code)


def child_train(device: str, *arguments: str) -> dict[str, Any]:
    """A whole run, by the command line."""
    started = time.monotonic()
    command("--device", device, *arguments)
    wall, steps = time.monotonic() - started, of_kind("step")
    why = [one["why"] for event in of_kind("choices") for one in event["choices"] if "GB" in str(one.get("why"))]
    finite = bool(steps) and all(step["loss"] is not None for step in steps)
    return {"seconds": step_seconds(steps), "wall": wall, "why": why, "finite": finite, **memory()}


def demo_flags(device: str, steps: int, precision: str = "fp32") -> list[str]:
    """A training on the demo's base."""
    folder = BENCH.parent / "lora_train" / "demo"
    flags = ["--model", str(folder / "base"), "--input", str(folder / "pictures"), "--tag", "sks", "--device", device]
    return [*flags, "--steps", str(steps), "--precision", precision, "--batch", "4", "--seed", "7"]


def child_demo(device: str, precision: str, steps: str) -> dict[str, Any]:
    """Train, and look for the mascot in pictures with and without the LoRA."""
    import torch

    from lora_train.demo.files import GUIDANCE, base_folder
    from lora_train.demo.score import mascot_score
    from lora_train.models.opening import open_model
    from lora_train.prompt.generate import Generator

    command(*demo_flags(device, int(steps), precision), "--preview", "sks on blue", "--preview-every", steps)
    made = of_kind("step")
    model = open_model(base_folder())
    model.to(torch.device(device), torch.float32)
    generator = Generator(model, output())

    def score(tag: str) -> float:
        prompts = [f"sks on {colour}" for colour in (("blue",) if device == "cpu" else ("blue", "green", "white"))]
        pictures = [generator.generate(f"{p} {tag}", [1, 2], guidance=GUIDANCE).pictures for p in prompts]
        found = [mascot_score(picture) for some in pictures for picture in some]
        return sum(found) / len(found)

    return {
        "seconds": step_seconds(made),
        "skipped": sum(bool(step.get("skipped")) for step in made),
        "finite": all(step["loss"] is not None and step["grad_norm"] is not None for step in made),
        "previews": len(list(Path(os.environ["LORA_TRAIN_DATA"]).glob("runs/*/samples/*.png"))),
        "score": score("<lora:x:1>"),
        "without": score(""),
        **memory(),
    }


def child_recovery(device: str) -> dict[str, Any]:
    """An out-of-memory error at steps 3 and 7, and one in a preview."""
    import torch

    from lora_train.runs.writer import RunWriter
    from lora_train.train import loop

    plain, calls = loop.backward, [0]

    def backward(*given: Any, **named: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] in (3, 8):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. (made by hand)")
        return plain(*given, **named)

    def preview(self: RunWriter, prompt: str, path: Path) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. (made by hand)")

    loop.backward = backward
    RunWriter._preview = preview  # type: ignore[method-assign]
    command(*demo_flags(device, 8), "--preview", "sks", "--preview-every", "4")
    repeated = [event for event in events() if "memory" in str(event.get("text", "")) and "repeated" in event["text"]]
    numbers = [step["step"] for step in of_kind("step")]
    steps = len(numbers) if numbers == list(range(1, len(numbers) + 1)) else 0
    return {"steps": steps, "eased": len(repeated), "saved": (output() / "x.safetensors").exists()}


def child_resume(device: str, sure: str) -> dict[str, Any]:
    """Ten steps, and ten of which the last five are resumed."""
    from dataclasses import replace

    import torch
    from safetensors.torch import load_file

    from lora_train.config import DataOptions, RunConfig, SaveOptions, TrainOptions
    from lora_train.demo.files import pictures_folder
    from lora_train.runs.demo import demo_config
    from lora_train.runs.execute import resume_training, run_training
    from lora_train.runs.folder import RunFolder

    more = {"deterministic": True} if sure == "1" and hasattr(TrainOptions(), "deterministic") else {}
    train = TrainOptions(
        max_train_steps=10, device=device, mixed_precision="fp32" if device == "cpu" else "bf16", **more
    )
    config: RunConfig = replace(demo_config(output()), train=train)
    config = replace(config, data=DataOptions(folder=str(pictures_folder()), tag="sks", train_batch_size=2))

    def named(name: str) -> RunConfig:
        return replace(config, save=SaveOptions(output_name=name, output_dir=str(output()), overwrite=True))

    run_training(named("whole"))
    seen: list[Any] = []
    stopped = run_training(named("parts"), listener=seen.append, stopped=lambda: count(seen) >= 5)
    resume_training(RunFolder(stopped.folder))
    whole, parts = (load_file(output() / f"{name}.safetensors") for name in ("whole", "parts"))
    difference = max(float((whole[name].float() - parts[name].float()).abs().max()) for name in whole)
    return {"same": all(torch.equal(whole[name], parts[name]) for name in whole), "difference": difference}


def count(seen: list[Any]) -> int:
    """How many steps are among the events."""
    return sum(event["kind"] == "step" for event in seen)


def child_speed(device: str, base: str, side: str) -> dict[str, Any]:
    """One base in memory, and a short training with each set of techniques."""
    import torch

    from lora_train.config import DataOptions, NetworkOptions, RunConfig, TrainOptions
    from lora_train.config.choices import SPEEDUPS
    from lora_train.data.buckets import Placement
    from lora_train.data.items import Item
    from lora_train.data.scan import Picture
    from lora_train.data.training_set import Dataset
    from lora_train.models.opening import open_model
    from lora_train.train.loop import Callbacks, Trainer

    model, pixels, n = open_model(Path(base), keep_dtype=True), int(side), 4 if device == "cpu" else 16
    picture = Picture(Path("x.png"), pixels, pixels, "a thing", "", 1)
    item = Item(picture, Placement((pixels, pixels), (pixels, pixels), 0, 0), ("x",))
    dataset = Dataset(
        [item], {"x": (torch.randn(4, pixels // 8, pixels // 8), torch.zeros(4, pixels // 8, pixels // 8))}
    )
    found = {}
    variants = {"all": (), **{f"without {name}": (name,) for name in SPEEDUPS}, "none": tuple(SPEEDUPS)}
    for name, off in variants.items():
        train = TrainOptions(
            max_train_steps=n, lr_warmup_steps=0, unet_lr=1e-4, text_encoder_lr=1e-4, device=device,
            mixed_precision="fp32" if device == "cpu" else "bf16", speedups_off=off, gradient_checkpointing=False,
        )  # fmt: skip
        network = NetworkOptions(network_dim=16, network_alpha=16.0)
        model.roots()["lora_unet"].to(memory_format=torch.contiguous_format)
        trainer = Trainer(RunConfig(data=DataOptions(train_batch_size=1), network=network, train=train), model, dataset)
        ends: list[float] = []

        def report(_: Any, ends: list[float] = ends) -> None:
            ends.append(time.perf_counter())

        trainer.callbacks = Callbacks(report)
        trainer.run()
        trainer.network.detach()
        first = min(3, len(ends) - 2)  # cuDNN has tried its convolutions by then; from there the mean, as reading lags
        found[name] = (ends[-1] - ends[first]) / (len(ends) - 1 - first)
        del trainer
    return found


def child_peft(device: str, *arguments: str) -> dict[str, Any]:
    """Diffusers and peft."""
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    ends: list[float] = []

    def hook(*_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        ends.append(time.perf_counter())

    register_optimizer_step_post_hook(hook)
    import peft_side

    sys.argv = ["peft_side.py", *arguments]
    peft_side.main()
    return {"seconds": median_gap(ends[2:]), **memory()}


CHILDREN: dict[str, Callable[..., dict[str, Any]]] = {
    "train": child_train,
    "demo": child_demo,
    "recovery": child_recovery,
    "resume": child_resume,
    "speed": child_speed,
    "peft": child_peft,
}


def run_child(cap: str, device: str, name: str, *arguments: str) -> int:
    """In the child: print the result."""
    if float(cap):
        hold_to(float(cap))
    print("RESULT " + json.dumps(CHILDREN[name](device, *arguments)), flush=True)
    return 0


def main() -> int:
    """Run the parts and print the table."""
    if sys.argv[1:2] == ["--child"]:
        return run_child(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--seconds", type=float, default=460, help="after which no further part is begun")
    options = parser.parse_args()
    odd = [part for part in options.parts if part not in PARTS]
    if odd:
        parser.error(f"there is no part {', '.join(odd)}; there are {', '.join(PARTS)}")
    import torch

    if not options.cpu and not torch.cuda.is_available():
        print("There is no CUDA GPU here. Try the script with --cpu.", file=sys.stderr)
        return 2
    work = Path(tempfile.mkdtemp(prefix="bench-gpu-"))
    table = Table(work, options.cpu, options.seconds)
    name = "CPU" if options.cpu else torch.cuda.get_device_name(0)
    table.row("machine", f"{name}, torch {torch.__version__}")
    try:
        for part in options.parts or PARTS:
            if part in CAPS:
                part_base(table, part)
            else:
                globals()[f"part_{part}"](table)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print("\n| what | verdict | |\n|---|---|---|")
    for title, verdict, said in table.rows:
        print(f"| {title} | {verdict} | {said} |")
    return int(table.failed)


if __name__ == "__main__":
    sys.exit(main())
