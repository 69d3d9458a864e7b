from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from lora_train.data.cache import CachedLatents, LatentCache


def entries(names: Iterable[str], value: float = 1.0) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Latents of 4 x 8 x 8 that tell which they are."""
    return {name: (torch.full((4, 8, 8), value), torch.full((4, 8, 8), value / 2)) for name in names}


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def test_one_file_holds_many_entries_with_mean_and_deviation(tmp_path: Path) -> None:
    cache = LatentCache(tmp_path)
    cache.add(entries(["a", "b"], 3.0) | entries(["c"], 5.0))
    assert len(shards(tmp_path)) == 1
    again = LatentCache(tmp_path)
    assert "a" in again and "d" not in again
    for name, value in (("a", 3.0), ("c", 5.0)):
        mean, std = again.get(name)
        assert torch.equal(mean, torch.full((4, 8, 8), value)) and torch.equal(std, mean / 2)
    view = CachedLatents(again, ["b"])
    assert list(view) == ["b"] and len(view) == 1 and "a" not in view and torch.equal(view["b"][0], again.get("b")[0])


def test_two_processes_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, torch; from pathlib import Path; from lora_train.data.cache import LatentCache\n"
        "cache = LatentCache(Path(sys.argv[1]))\n"
        "for n in range(10): cache.add({f'{sys.argv[2]}{n}': tuple(torch.full((4, 8, 8), float(n)) for _ in range(2)), "
        "f'both{n}': tuple(torch.full((4, 8, 8), float(n)) for _ in range(2))})\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    both = [subprocess.Popen([*command, name]) for name in ("x", "y")]
    assert [process.wait() for process in both] == [0, 0]
    cache = LatentCache(tmp_path)
    for name in ("x", "y", "both"):
        for n in range(10):
            assert f"{name}{n}" in cache and torch.equal(cache.get(f"{name}{n}")[0], torch.full((4, 8, 8), float(n)))


def test_a_killed_writer_leaves_no_half_shard(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from lora_train.data import cache; import lora_train.atomic as a\n"
        "import torch; a.os.fsync = lambda handle: os._exit(9)\n"
        "cache.LatentCache(Path(sys.argv[1])).add({'a': (torch.ones(4, 8, 8), torch.zeros(4, 8, 8))})\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 9
    assert "a" not in LatentCache(tmp_path)
    (part,) = tmp_path.glob(".*.part")
    LatentCache(tmp_path).prune(10**9)
    assert part.exists()  # it could be somebody's that is being written
    os.utime(part, (time.time() - 2 * 24 * 3600,) * 2)
    LatentCache(tmp_path).prune(10**9)
    assert not part.exists()


def test_pruning_drops_what_was_not_used_for_longest_and_keeps_what_is_needed(tmp_path: Path) -> None:
    cache = LatentCache(tmp_path)
    for number, names in enumerate((["a", "a2"], ["b", "b2"], ["c", "c2"])):
        cache.add(entries(names, number + 1.0))
        newest = max(shards(tmp_path), key=lambda path: path.stat().st_ctime_ns)
        os.utime(newest, (1000 + number, 1000 + number))
    cache.used(["a"])
    one = shards(tmp_path)[0].stat().st_size
    assert LatentCache(tmp_path).prune(3 * one) == 0
    cache = LatentCache(tmp_path)
    assert cache.prune(2 * one, keep={"b2"}) > 0
    fresh = LatentCache(tmp_path)
    assert [name for name in ("a", "a2", "b", "b2", "c", "c2") if name in fresh] == ["a", "a2", "b2"]
    assert torch.equal(fresh.get("b2")[0], torch.full((4, 8, 8), 2.0))
    assert sum(path.stat().st_size for path in shards(tmp_path)) <= 2 * one


def test_what_is_pruned_by_another_run_stays_readable_here(tmp_path: Path) -> None:
    cache = LatentCache(tmp_path)
    cache.add(entries(["a"], 7.0))
    assert "a" in cache
    LatentCache(tmp_path).prune(0)
    if os.name != "nt":
        assert not shards(tmp_path)
    assert torch.equal(cache.get("a")[0], torch.full((4, 8, 8), 7.0))
    late = LatentCache(tmp_path)
    assert "a" not in late


def test_a_shard_that_vanishes_before_it_is_opened_is_made_again(tmp_path: Path) -> None:
    LatentCache(tmp_path).add(entries(["a"]))
    cache = LatentCache(tmp_path)
    shards(tmp_path)[0].unlink()
    assert "a" not in cache
    cache.add(entries(["a"]))
    assert "a" in cache
