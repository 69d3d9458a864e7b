"""A verdict for each case of a folder of cases: `python -m tools.cases FOLDER [CASE ...] [--out DIR]`.

A case is a script NAME.py that makes strangers' folders, LoRA files, checkpoints or prompts below the folder given to
it; its docstring says what is right. `CASES` holds, for each, what the commands must answer. The commands run in
this process, one after another, on the demo's base. Exit code 1 where one verdict is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_train.cli import main as command
from lora_train.demo.files import base_folder

NEAR = 10
"""Colours of a prepared copy may be this far from what a viewer shows, of 255."""


class Case:
    """One case: its folder, the commands run on it and what was wrong with their answers."""

    def __init__(self, out: Path, project: Path) -> None:
        self.out, self.project = out, project
        self.base = str(base_folder())
        self.wrong: list[str] = []
        self.said = self.report = ""
        self.code = 0

    def run(self, *arguments: Any) -> str:
        """A command's output, of both streams; `code` is its exit code."""
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            try:
                self.code = command([str(argument) for argument in arguments])
            except SystemExit as error:
                self.code = int(error.code or 0)
        self.said = output.getvalue()
        self.right("Traceback" not in self.said, "a traceback")
        return self.said

    def train(self, folder: str, name: str, *more: Any, tag: str = "sks", model: Any = "") -> str:
        """A training of one step or as many as `more` says; its file is `self.lora(name)`."""
        return self.run(
            *("train", "--model", model or self.base, "--input", self.out / folder, "--tag", tag, "--output", name),
            *("--dir", self.out / "loras-made", "--device", "cpu", "--overwrite"),
            *(() if "--resolution" in more else ("--resolution", 64)),
            *("--steps", 1, *more) if "--steps" not in more else more,
        )

    def prepare(self, folder: str, *more: Any) -> list[Path]:
        """The prepared copies of a folder's pictures; `report` is what the report says of all."""
        data = self.out / "data"
        os.environ["LORA_TRAIN_DATA"] = str(data)
        self.run("prepare", "--input", self.out / folder, *more)
        self.right(self.code == 0, f"prepare ends with {self.code}: {self.said[-300:]}")
        self.report = "".join(path.read_text(encoding="utf-8") for path in data.glob("prepared/*/report.json"))
        return [picture for folder in data.glob("prepared/*/pictures") for picture in _pictures(folder)]

    def lora(self, name: str) -> Path:
        return self.out / "loras-made" / f"{name}.safetensors"

    def metadata(self, name: str) -> dict[str, str]:
        """The metadata of a trained file."""
        data = self.lora(name).open("rb")
        with data:
            size = int.from_bytes(data.read(8), "little")
            self.right(size < 100_000_000, "the header is larger than readers allow")
            return dict(json.loads(data.read(size)).get("__metadata__", {}))

    def picture(self, prompt: str, folder: Path, *more: Any) -> bytes:
        """The picture made from a prompt, as bytes of its pixels; empty where none was drawn."""
        from PIL import Image

        target = self.out / "picture.png"
        target.unlink(missing_ok=True)
        self.run(
            *("generate", prompt, "--model", self.base, "--dir", folder, "--steps", 2, "--seed", 3),
            *("--output", target, *more),
        )
        drawn = sorted(self.out.glob("picture*.png"))
        if not drawn:
            return b""
        with Image.open(drawn[0]) as picture:
            return picture.convert("RGB").tobytes()

    def right(self, holds: bool, what: str) -> None:
        """Notes `what` where it does not hold."""
        if not holds:
            self.wrong.append(what)

    def says(self, *texts: str) -> None:
        """The last command's answer has all these in it, whatever the case and the breaks of lines."""
        flat = " ".join(self.said.split()).lower()
        for text in texts:
            self.right(text.lower() in flat, f"does not say {text!r}")

    def silent(self, *texts: str) -> None:
        """The last command's answer has none of these in it."""
        for text in texts:
            self.right(text.lower() not in self.said.lower(), f"says {text!r}")


def near(one: bytes, other: bytes, least: float = 0.0) -> bool:
    """Whether two pictures are equal to `least` in the mean of their differences, of 255."""
    if not one or len(one) != len(other):
        return False
    return sum(abs(a - b) for a, b in zip(one, other)) / len(one) <= least


def kohya_project(case: Case) -> None:
    case.train("project/img", "img", tag="sara")
    case.says("4 pictures")
    case.train("project/img/10_sara woman", "folder", tag="sara")
    case.says("4 pictures")
    case.right("10_sara woman" in case.metadata("folder")["ss_dataset_dirs"], "repeats by the folder's name")
    case.train("project", "whole", tag="sara")
    case.says("4 pictures", "8 regularisation pictures")
    case.right("r0" not in case.metadata("whole")["ss_dataset_dirs"], "regularisation pictures among the others")


def masks(case: Case) -> None:
    for more in ((), ("--masked-loss",)):
        case.train("set", "masks", *more, tag="sara")
        case.says("3 pictures", "mask")


def litter(case: Case) -> None:
    case.train("set", "litter")
    case.says("3 pictures", "thumbnail")
    copies = case.prepare("set", "--process", "original", "--min-size", 0)
    case.right(len(copies) == 3, f"{len(copies)} copies")


def caption_names(case: Case) -> None:
    case.train("set", "names")
    found = case.metadata("names")["ss_tag_frequency"]
    for letter in "ABCGH":
        case.right(f"CAPTION{letter}" in found, f"the caption of {letter} is not read")
    case.says("d.json", "e.tags", "f.cap", "h.txt")


def caption_encodings(case: Case) -> None:
    case.train("set", "encodings")
    tags = json.dumps(json.loads(case.metadata("encodings")["ss_tag_frequency"]), ensure_ascii=False)
    case.right("café" in tags and "sks’s" in tags, "UTF-8, UTF-16 and 1252 are not read")
    case.right("\\u0000" not in tags and "second line" not in tags, "NULs, or lines joined")
    for name in ("broken", "euckr", "gbk", "sjis", "png"):
        case.says(f"{name}.txt")


def caption_contents(case: Case) -> None:
    case.train("set", "contents")
    case.says("several lines", "prompt syntax", "lora-train captions")
    tags = case.metadata("contents")["ss_tag_frequency"]
    case.right("a woman with red hair stands in a park" not in tags.split("outdoors")[0], "lines are joined")


def long_captions(case: Case) -> None:
    case.train("long", "long")
    case.says("75 tokens", "moved to the front")
    case.train("short", "short")
    case.silent("75 tokens")


def picture_kinds(case: Case) -> None:
    from PIL import Image

    copies = case.prepare("set", "--process", "original,resize", "--target", 64, "--min-size", 0)
    wanted = json.loads((case.out / "expected.json").read_text())
    made = {path.name: path for path in copies}
    for name, colour in wanted.items():
        if not isinstance(colour, list):
            continue
        path = next((path for one, path in made.items() if one.startswith(f"{Path(name).stem}.")), None)
        if path is None:
            case.right(name in case.report, f"{name} is neither prepared nor named")
            continue
        with Image.open(path) as picture:
            mean = picture.convert("RGB").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
        assert isinstance(mean, tuple)
        off = max(abs(a - b) for a, b in zip(mean, colour))
        case.right(off <= NEAR, f"{name}: {mean} is not {colour}")
    for name in ("truncated.jpg", "heic_named.jpg", "svg_named.png"):
        case.right(name in case.report, f"{name} is not named")
    case.train("set", "kinds", "--steps", 2)
    case.says("HEIC", "truncated.jpg")


def folder_names(case: Case) -> None:
    case.train("set", "folders")
    case.says("broken link", "0_x")
    tags = json.dumps(json.loads(case.metadata("folders")["ss_dataset_dirs"]), ensure_ascii=False)
    for name in ("[sks] (v1.2)", "🦊 fox", "ünï", "a%20b"):
        case.right(name in tags, f"{name} is not in the metadata")
    case.says("26 pictures")  # 23 folders but 0_x, the linked picture, and three behind the linked folder


def buckets(case: Case) -> None:
    case.train("shapes", "shapes", "--steps", 10, "--batch", 4, "--repeats", 1, "--resolution", 128)
    case.says("fewer than 4")
    metadata = case.metadata("shapes")
    counts = [bucket["count"] for bucket in json.loads(metadata["ss_bucket_info"])["buckets"].values()]
    batches = sum(-(-count // 4) for count in counts)
    case.right(sum(counts) == int(metadata["ss_num_train_images"]) == 5, "pictures in the metadata")
    case.right(int(metadata["ss_num_batches_per_epoch"]) == batches, "batches in the metadata")
    case.right(int(metadata["ss_num_epochs"]) * batches == int(metadata["ss_steps"]) == 10, "steps in the metadata")
    case.train("one", "one", "--steps", 2, "--batch", 4, "--repeats", 1)
    case.right(case.code == 0, "one picture does not train in batches of 4")


def large_metadata(case: Case) -> None:
    case.train("set", "large")
    case.says("most frequent")
    case.metadata("large")
    case.run("file", "inspect", case.lora("large"))
    case.right(case.code == 0, "its file is not read again")


def kohya_oft(case: Case) -> None:
    case.run("file", "inspect", case.out / "oft_kohya.safetensors")
    case.says("oft")
    case.run(*_convert(case, "oft_kohya", "kohya"))
    case.right(case.code == 0, "it is not converted")
    kohya, ours = (case.picture(f"mascot <lora:{n}:1>", case.out) for n in ("oft_kohya", "oft_reference"))
    case.right(near(kohya, ours), "another picture than its reference")
    case.right(not near(kohya, case.picture("mascot", case.out), 0.5), "it changes nothing")
    turned = case.picture("mascot <lora:oft_alpha0:1>", case.out)
    case.right(near(turned, case.picture("mascot", case.out)), "alpha 0 rotates")


def whole_lokr(case: Case) -> None:
    plain = case.picture("mascot <lora:lokr_reference:1>", case.out)
    for name, least in (("lokr_fp16", 2.0), ("lokr_bf16", 4.0)):
        case.run("file", "inspect", case.out / f"{name}.safetensors")
        case.right(case.code == 0 and "damaged" not in case.said, f"{name} is refused")
        case.right(near(case.picture(f"mascot <lora:{name}:1>", case.out), plain, least), f"{name}: another picture")
        case.run(*_convert(case, name, "kohya"))
        case.right(case.code == 0, f"{name} is not converted")


def stray_keys(case: Case) -> None:
    plain = case.picture("mascot <lora:plain:1>", case.out)
    for name in ("one_foreign_key", "modules_to_save", "lora_bias", "sparse"):
        case.run("file", "inspect", case.out / f"{name}.safetensors")
        case.right(case.code == 0, f"{name} is refused")
        drawn = case.picture(f"mascot <lora:{name}:1>", case.out)
        like = (
            plain
            if name in ("one_foreign_key", "sparse")
            else case.picture("mascot <lora:diffusers_plain:1>", case.out)
        )
        case.right(near(drawn, like, 12.0 if name == "sparse" else 0.0), f"{name}: another picture")
    case.run("file", "inspect", case.out / "one_foreign_key.safetensors")
    case.says("trigger_words_embedding", "my_gate")


def comfy_names(case: Case) -> None:
    case.run("file", "inspect", case.out / "comfy_sd15.safetensors")
    case.says("SD 1.x", "4")
    case.run(*_convert(case, "comfy_sd15", "kohya"))
    case.right(
        {n.split("_")[1] for n in _names(case.out / "converted.safetensors")} == {"unet", "te"}, "names in SD 1.x"
    )
    case.run("file", "inspect", case.out / "comfy_sdxl.safetensors")
    case.says("SDXL")
    case.run(*_convert(case, "comfy_sdxl", "kohya"))
    roots = {n.split("_")[1] for n in _names(case.out / "converted.safetensors")}
    case.right(roots == {"unet", "te1", "te2"}, "names in SDXL")


def ldm_names(case: Case) -> None:
    for name in ("with_context", "reference", "attn1_only", "attn1_only_reference"):
        case.run("file", "inspect", case.out / f"{name}.safetensors")
        case.says("SD 1.x")
    for name in ("with_context", "attn1_only"):
        other = {"with_context": "reference"}.get(name, "attn1_only_reference")
        case.run(*_convert(case, name, "kohya"))
        case.right(_names(case.out / "converted.safetensors") == _names(case.out / f"{other}.safetensors"), "names")
        case.run("file", "compare", case.out / f"{name}.safetensors", case.out / f"{other}.safetensors")
        case.says("1.0")


def odd_metadata(case: Case) -> None:
    nothing = "e3b0c44298fc"
    for name in ("aitk_a", "tagfreq_text", "dynamic", "huge", "numbers", "html", "control"):
        path = case.out / f"{name}.safetensors"
        case.run("file", "inspect", path)
        case.right(len(case.said) < 20_000, f"{name}: the answer is too long")
        case.right(case.code == 0, f"{name} is not read")
        case.right("\x00" not in case.said and "\u202e" not in case.said, f"{name}: raw control characters")
        case.run(*_convert(case, name, "kohya"))
        case.right(case.code == 0, f"{name} is not converted")
        case.right(
            nothing not in json.dumps(_header(case.out / "converted.safetensors")), f"{name}: the hash of nothing"
        )
    merged = case.out / "merged.safetensors"
    pair = [case.out / f"aitk_{n}.safetensors" for n in "ab"]
    case.run("file", "merge", *pair, "--output", merged, "--overwrite")
    case.right(case.code == 0 and nothing not in json.dumps(_header(merged)), "merged: the hash of nothing")
    case.run("file", "resize", case.out / "dynamic.safetensors", "--rank", 2, "--output", merged, "--overwrite")
    case.right(case.code == 0, "dynamic is not resized")
    case.picture("mascot <lora:aitk_a:1>", case.out)
    case.silent(nothing)


def no_loras(case: Case) -> None:
    what = {
        "login_page": "web page",
        "half": "download",
        "header_cut": "download",
        "empty": "empty",
        "lfs": "Git LFS",
        "zipped": "zip",
        "checkpoint": "checkpoint",
        "json_error": "JSON",
    }
    for name, words in what.items():
        case.run("file", "inspect", case.out / f"{name}.safetensors")
        case.right(case.code == 2, f"{name}: exit code {case.code}")
        case.says(words)
    bad = "mascot <lora:login_page:1> <lora:half:1> <lora:good:1>"
    drawn = case.picture(bad, case.out, "--allow-missing")
    case.says("login_page", "half")
    case.right(near(drawn, case.picture("mascot <lora:good:1>", case.out), 20.0), "the good one is not applied")


def small_numbers(case: Case) -> None:
    names = ["fp8", "mixed", "alpha_shape1", "alpha_missing", "alpha_some", "alpha_zero", "alpha_tiny", "tiny_values"]
    merged = case.out / "merged.safetensors"
    for name in names:
        path = case.out / f"{name}.safetensors"
        for arguments in (
            ("inspect", path),
            ("compare", path, case.out / "reference.safetensors"),
            ("resize", path, "--rank", 2, "--output", merged, "--overwrite"),
            ("merge", path, path, "--weights", 1, 1, "--output", merged, "--overwrite"),
            ("convert", path, "--to", "diffusers", "--output", merged, "--overwrite"),
        ):
            case.run("file", *arguments)
            case.right(case.code == 0, f"{name}: {arguments[0]} ends with {case.code}: {case.said[-200:]}")
        case.right(bool(case.picture(f"mascot <lora:{name}:1>", case.out)), f"{name} is not drawn with")
    tiny = ("convert", case.out / "tiny_values.safetensors", "--to", "kohya", "--precision", "fp16")
    case.run("file", *tiny, "--output", merged, "--overwrite")
    case.says("keep their own precision")  # fp16 would make zeros of them


FOUND = (
    "found",
    "the file called",
    "UPPER",
    "mixed",
    "char's",
    "pose's",
    "A.safetensors",
    "as lora",
    "negative",
    "0.8",
    "1",
)


def prompts(case: Case) -> None:
    """Each is drawn, or refused with a reason; what must be found is found (exit 0 without --allow-missing)."""
    loras = case.out / "loras"
    with (case.out / "prompts.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    for prompt, wanted in rows:
        case.picture(prompt, loras)
        said = case.said
        if case.code == 2:
            case.right("error:" in said, f"{prompt}: exit 2 without a reason")
            must = any(wanted.startswith(word) for word in FOUND) and "not found" not in wanted
            case.right(not must, f"{prompt}: refused, but right is: {wanted}: {said[:200]}")
        elif any(word in wanted for word in ("told", "said")) and not any(
            word in wanted for word in ("or told", "or plain")
        ):
            case.right("note:" in said or "error:" in said, f"{prompt}: nothing is said; right is: {wanted}")
        if "missing is told" in wanted:
            case.right("missing" in said, f"{prompt}: missing is not named")
            case.right(
                bool(case.picture(prompt, loras, "--allow-missing")), f"{prompt}: not drawn with --allow-missing"
            )
    case.picture("mascot", loras, "--negative", "bad <lora:plain:1>")
    case.says("negative")


def checkpoint_kinds(case: Case) -> None:
    pictures = case.out / "pictures"
    shutil.copytree(case.project / "lora_train/demo/pictures", pictures, dirs_exist_ok=True)
    kinds = sorted(case.out.glob("*.ckpt")) + sorted(case.out.glob("*.safetensors"))
    case.right(len(kinds) >= 10, "the checkpoints are not there")
    losses = {}
    for path in kinds:
        case.train("pictures", path.stem, "--steps", 2, "--seed", 7, model=path, tag="mascot")
        case.right(case.code == 0, f"{path.name} does not train: {case.said[-300:]}")
        if path.stem == "vpred_keys":
            case.says("v_pred")
        if case.code == 0:
            losses[path.stem] = _names(case.lora(path.stem))
    case.right(len({frozenset(names) for names in losses.values()}) == 1, "not the same modules")
    case.train("pictures", "dora", "--algo", "dora", "--steps", 2, model=case.out / "fp8.safetensors", tag="mascot")
    case.right(case.code == 0, "DoRA on fp8 does not train")


def leftovers(case: Case) -> None:
    site = str((case.out / "site").resolve())
    code = "import install; i = install.installed(); print(i['numpy'], i['transformers'], i['torch'])"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=case.project,
        env={"PYTHONPATH": site, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    case.right(done.stdout.split() == ["1.26.4", "4.30.2", "2.1.2+cu121"], f"{done.stdout} {done.stderr[-300:]}")


def _convert(case: Case, name: str, to: str) -> tuple[Any, ...]:
    target = case.out / "converted.safetensors"
    return ("file", "convert", case.out / f"{name}.safetensors", "--to", to, "--output", target, "--overwrite")


def _header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return dict(json.loads(file.read(int.from_bytes(file.read(8), "little"))))


def _names(path: Path) -> set[str]:
    return {name.split(".")[0] for name in _header(path) if name != "__metadata__"}


def _pictures(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")]


CASES: dict[str, Callable[[Case], None]] = {
    "d01": kohya_project,
    "d02": masks,
    "d03": litter,
    "d04": caption_names,
    "d05": caption_encodings,
    "d06": caption_contents,
    "d07": long_captions,
    "d09": picture_kinds,
    "d10": folder_names,
    "f01": kohya_oft,
    "f02": whole_lokr,
    "f03": stray_keys,
    "f04": comfy_names,
    "f05": ldm_names,
    "f07": odd_metadata,
    "f08": no_loras,
    "f10": small_numbers,
    "p01": prompts,
    "t01": buckets,
    "t05": large_metadata,
    "t06": checkpoint_kinds,
    "w01": leftovers,
}
"""By the first letters of the script's name."""


def make(script: Path, out: Path, project: Path) -> None:
    """Run the script that fills `out`."""
    more: list[str] = []
    if "--checkpoint" in script.read_text(encoding="utf-8"):
        with contextlib.redirect_stdout(io.StringIO()):
            command(["demo", "export-checkpoint", str(out.parent / "checkpoint")])
        more = ["--checkpoint", str(next((out.parent / "checkpoint").glob("*.safetensors")))]
    subprocess.run([sys.executable, str(script), str(out), *more], cwd=project, check=True, stdout=subprocess.DEVNULL)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("cases", nargs="*", help="the first letters of their names; all, if none are given")
    parser.add_argument("--out", type=Path, help="where the cases are made (a temporary folder if left out)")
    options = parser.parse_args()
    project = Path(__file__).resolve().parents[1]
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["LORA_TRAIN_DATA"] = temporary
        for script in sorted(options.folder.resolve().glob("[a-z][0-9][0-9]_*.py")):
            if options.cases and not script.stem.startswith(tuple(options.cases)):
                continue
            verdict = CASES.get(script.stem[:3])
            if verdict is None:
                print(f"{script.stem}: no verdict is written for it", flush=True)
                failed += 1
                continue
            case = Case((options.out or Path(temporary)) / script.stem, project)
            begun = time.perf_counter()
            make(script, case.out, project)
            try:
                verdict(case)
            except Exception as error:  # a case that could not be checked is wrong, and the others are still checked
                case.right(False, f"{type(error).__name__}: {error}")
            failed += bool(case.wrong)
            print(
                f"{script.stem}: {'WRONG' if case.wrong else 'right'} ({time.perf_counter() - begun:.0f} s)", flush=True
            )
            for wrong in case.wrong:
                print(f"    {wrong}", flush=True)
            if not options.out:
                shutil.rmtree(case.out, ignore_errors=True)
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
