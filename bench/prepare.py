"""Preparing pictures: our pipeline against the page's formulas applied one by one in one process.

    python bench/prepare.py --pictures 2000 --work /tmp/bench-prepare

Pictures are JPEGs of 1 to 12 megapixels, random but with the statistics of photographs, the same on every machine;
every twentieth is nearly a copy of another. Both sides do original, blur, range, similar, resize and square to 512
pixels and write PNGs with the same compression. The formulas are defined on the picture at target size, so both score
the resized picture; ours decodes a JPEG at twice the target or more where the other decodes it whole. Memory is that of
all processes of a side together, looked at 20 times a second, shared pages counted once (PSS) where the system tells.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

sys.path.insert(0, str(Path(__file__).parents[1]))

from lora_train.config import PrepareOptions
from lora_train.prepare import prepare

OPTIONS = PrepareOptions(
    operations=("original", "blur", "range", "similar", "resize", "square"), target=512, max_blur=9.0
)


def draw(seed: int, megapixels: float) -> Image.Image:
    """Random blobs of all sizes (amplitude falling with frequency, as in photographs), in whole numbers: quick."""
    rng = np.random.default_rng(seed)
    width = int((megapixels * 1e6 * 4 / 3) ** 0.5)
    height = width * 3 // 4
    total = None
    for side in (4, 16, 64, 256):
        blobs = Image.fromarray(rng.integers(0, 256, (side * 3 // 4, side, 3), dtype=np.uint8))
        if total is not None:
            # each finer layer counts a third: the sum of all stays within 0 to 255
            blobs = Image.blend(total.resize(blobs.size, Image.Resampling.BICUBIC), blobs, 1 / 3)
        total = blobs
    assert total is not None
    return total.resize((width, height), Image.Resampling.BICUBIC)


def generate(folder: Path, count: int, large: bool) -> None:
    """Write what is not there yet; `large`: all of 12 megapixels."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"{number:05}.jpg"
        if path.exists():
            continue
        near = number % 20 == 19
        picture = draw(number - 1 if near else number, 12 if large else 1 + (number * 7919 % 1100) / 100)
        if near:
            picture = picture.crop((9, 9, picture.width - 9, picture.height - 9))
        picture.save(path, quality=92)


def plain(folder: Path, out: Path) -> int:
    """The formulas one by one; gives how many are kept."""
    from scipy import stats
    from skimage.metrics import structural_similarity

    out.mkdir(parents=True)
    kept: list[np.ndarray] = []
    for path in sorted(folder.iterdir()):
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file).convert("RGB")
        ratio = 512 / max(picture.size)
        picture = picture.resize(
            (round(picture.width * ratio), round(picture.height * ratio)), Image.Resampling.LANCZOS
        )
        grey = np.asarray(picture.convert("L"))
        y, x = grey.shape[0] // 2, grey.shape[1] // 2
        shifted = np.fft.fftshift(np.fft.fft2(grey))
        shifted[y - 60 : y + 60, x - 60 : x + 60] = 0
        blur = np.mean(np.log(np.abs(np.fft.ifft2(np.fft.ifftshift(shifted)))))
        pixels = np.asarray(picture, dtype=np.float64)
        brightness = np.sqrt(0.299 * pixels[..., 0] ** 2 + 0.587 * pixels[..., 1] ** 2 + 0.114 * pixels[..., 2] ** 2)
        counts, _ = np.histogram(brightness, bins=256, range=(0, 255))
        wanted = stats.beta(2, 2).pdf(np.linspace(0, 1, 256))
        spread = counts @ wanted / np.linalg.norm(counts) / np.linalg.norm(wanted)
        small = np.asarray(picture.convert("L").resize((64, 64)))
        similar = max((structural_similarity(small, other, data_range=255) for other in kept), default=0.0)
        if blur > 9 or spread < 0.15 or similar > 0.8:
            continue
        kept.append(small)
        square = Image.new("RGB", (512, 512), (192, 192, 192))
        square.paste(picture, ((512 - picture.width) // 2, (512 - picture.height) // 2))
        data = io.BytesIO()
        square.save(data, "PNG", compress_level=1)
        (out / f"{path.stem}.png").write_bytes(data.getvalue())
    return len(kept)


def timed(what: str, folder: Path, work: Path) -> dict[str, float]:
    """One side in processes of its own: seconds, pictures kept, and the peak memory of all of them in MB."""
    command = [sys.executable, __file__, "--work", str(work), "--only", what, "--folder", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        peak, out = 0.0, ""
        while True:
            try:
                out, _ = process.communicate(timeout=0.05)
                break
            except subprocess.TimeoutExpired:
                peak = max(peak, memory_of(process.pid))
    if process.returncode:
        raise SystemExit(f"{what} failed")
    return {**json.loads(out or "{}"), "memory": peak}


def memory_of(root: int) -> float:
    """MB that a process and all below it use now."""
    import psutil

    total = 0
    try:
        family = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
    except psutil.Error:
        return 0.0
    for process in family:
        try:
            total += getattr(process.memory_full_info(), "pss", None) or process.memory_info().rss
        except psutil.Error:  # it has just ended
            continue
    return total / 2**20


def run_one(what: str, folder: Path, work: Path) -> None:
    """What `timed` starts."""
    if what == "generate":
        return generate(folder, int(folder.name.rsplit("-", 1)[1]), folder.name.startswith("large"))
    begin = time.perf_counter()
    kept = plain(folder, work / "plain") if what == "plain" else prepare(folder, OPTIONS, work / "ours").summary["kept"]
    print(json.dumps({"seconds": time.perf_counter() - begin, "kept": kept}))


def main() -> None:
    """Generate, run both, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--work", type=Path, default=Path("bench-prepare"))
    parser.add_argument("--large", action="store_true", help="all pictures of 12 megapixels")
    parser.add_argument("--only", choices=("generate", "plain", "first", "second"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        return run_one(options.only, options.folder, options.work)
    from lora_train.prepare.base import Plan
    from lora_train.prepare.pool import count

    folder = options.work / f"{'large' if options.large else 'pictures'}-{options.pictures}"
    timed("generate", folder, options.work)
    for name in ("plain", "ours"):
        shutil.rmtree(options.work / name, ignore_errors=True)
    workers = count(Plan(OPTIONS, ""))
    print(f"{options.pictures} pictures, {workers} workers")
    print(f"{'':24}{'seconds':>9}{'per picture':>13}{'kept':>7}{'peak memory':>13}")
    times = {}
    for what, title in (("plain", "formulas one by one"), ("first", "ours, first run"), ("second", "ours, second run")):
        got = timed(what, folder, options.work)
        times[what] = got["seconds"]
        each = got["seconds"] / options.pictures * 1000
        print(f"{title:24}{got['seconds']:9.2f}{each:10.1f} ms{got['kept']:7.0f}{got['memory']:10.0f} MB")
    print(
        f"speed {times['plain'] / times['first']:.1f}x; second run {times['second'] / times['first']:.1%} of the first"
    )


if __name__ == "__main__":
    main()
