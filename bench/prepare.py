"""Preparing pictures: our pipeline against the page's formulas applied one by one in one process.

    python bench/prepare.py --pictures 200 --work /tmp/bench-prepare

Pictures are JPEGs of 1 to 12 megapixels, random but with the statistics of photographs; every twentieth is nearly a
copy of another. Both sides do original, blur, range, similar, resize and square to 512 pixels and write PNGs with the
same compression. The formulas are defined on the picture at target size, so both score the resized picture; ours
decodes a JPEG at twice the target or more where the other decodes it whole.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

sys.path.insert(0, str(Path(__file__).parents[1]))

from lora_train.config import PrepareOptions
from lora_train.data.prepare import prepare

OPTIONS = PrepareOptions(
    operations=("original", "blur", "range", "similar", "resize", "square"), target=512, max_blur=9.0
)


def draw(seed: int, megapixels: float) -> Image.Image:
    """Random blobs of all sizes (amplitude falling with frequency, as in photographs)."""
    rng = np.random.default_rng(seed)
    width = int((megapixels * 1e6 * 4 / 3) ** 0.5)
    height = width * 3 // 4
    total = np.zeros((height, width, 3), np.float32)
    for side in (4, 16, 64, 256):
        blobs = Image.fromarray(rng.integers(0, 256, (side * 3 // 4, side, 3), dtype=np.uint8))
        total += np.asarray(blobs.resize((width, height), Image.Resampling.BICUBIC), np.float32) / side**0.5
    total -= total.min()
    return Image.fromarray((total * (255 / total.max())).astype(np.uint8))


def generate(folder: Path, count: int) -> None:
    """Write what is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"{number:05}.jpg"
        if path.exists():
            continue
        near = number % 20 == 19
        picture = draw(number - 1 if near else number, 1 + (number * 7919 % 1100) / 100)
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
    """One side in a process of its own: seconds, pictures kept, peak memory (of it and its largest child) in MB."""
    command = [sys.executable, __file__, "--work", str(work), "--only", what, "--folder", str(folder)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout or "{}"))


def run_one(what: str, folder: Path, work: Path) -> None:
    """What `timed` starts; each in its own process, since a process's peak memory counts for its children too."""
    if what == "generate":
        return generate(folder, int(folder.name.rsplit("-", 1)[1]))
    begin = time.perf_counter()
    kept = plain(folder, work / "plain") if what == "plain" else prepare(folder, OPTIONS, work / "ours").summary["kept"]
    seconds = time.perf_counter() - begin
    own, child = (resource.getrusage(w).ru_maxrss / 1024 for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({"seconds": seconds, "kept": kept, "own": own, "child": child}))


def main() -> None:
    """Generate, run both, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--work", type=Path, default=Path("bench-prepare"))
    parser.add_argument("--only", choices=("generate", "plain", "first", "second"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        return run_one(options.only, options.folder, options.work)
    from lora_train.data.prepare.base import Plan
    from lora_train.data.prepare.pool import count

    folder = options.work / f"pictures-{options.pictures}"
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
        memory = got["own"] + (workers * got["child"] if what == "first" else 0)
        each = got["seconds"] / options.pictures * 1000
        print(f"{title:24}{got['seconds']:9.2f}{each:10.1f} ms{got['kept']:7.0f}{memory:10.0f} MB")
    print(
        f"speed {times['plain'] / times['first']:.1f}x; second run {times['second'] / times['first']:.1%} of the first"
    )


if __name__ == "__main__":
    main()
