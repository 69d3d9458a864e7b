"""Pictures by the paths that a file from another computer, or from this one, has for them."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from lora_train.pictures.kinds import EXTENSIONS

Parts = tuple[str, ...]


def match_ends(names: Iterable[str], pictures: Iterable[Path], folder: Path) -> dict[str, Path]:
    """The picture below `folder` that each name means, by the longest common end of their paths.

    Names are paths of any system ("C:\\\\x\\\\10_sks\\\\0.png"), with or without the extension. The same file
    name alone is enough where the file is in the folder itself, or where only one picture and one name have
    it. No picture is meant by two names: the longer end wins. A name without a picture is not in the result.
    """
    wanted = {name: _parts(name) for name in names}
    known = {path: _parts(path.absolute().as_posix()) for path in pictures}
    depth = len(_parts(folder.absolute().as_posix()))
    by_last: dict[str, list[Path]] = {}
    for path, parts in known.items():
        for last in dict.fromkeys((parts[-1], _stem(parts[-1]))):
            by_last.setdefault(last, []).append(path)
    alone = Counter(parts[-1] for parts in wanted.values() if parts)
    claims: dict[Path, tuple[int, str]] = {}
    for name, parts in wanted.items():
        candidates = by_last.get(parts[-1], []) if parts else []
        found = _best(parts, {path: known[path] for path in candidates})
        if found is None:
            continue
        path, length = found
        sure = length >= min(2, len(known[path]) - depth) or (len(candidates) == 1 and alone[parts[-1]] == 1)
        if sure and length > claims.get(path, (0, ""))[0]:
            claims[path] = length, name
    return {name: path for path, (_, name) in claims.items()}


def _best(name: Parts, candidates: Mapping[Path, Parts]) -> tuple[Path, int] | None:
    """The candidate with the longest common end, and how many parts that has; None on a tie."""
    lengths = {path: _common(name, parts) for path, parts in candidates.items()}
    longest = max(lengths.values(), default=0)
    best = sorted(path for path, length in lengths.items() if length == longest)
    return (best[0], longest) if len({path.parent for path in best}) == 1 else None


def _common(one: Parts, other: Parts) -> int:
    """How many parts are the same, counted from the last, which is known to be."""
    length = 1
    while length < min(len(one), len(other)) and one[-1 - length] == other[-1 - length]:
        length += 1
    return length


def _parts(path: str) -> Parts:
    plain = unicodedata.normalize("NFC", path.replace("\\", "/")).casefold()
    return tuple(part for part in PurePosixPath(plain).parts if part != "/" and not part.endswith(":"))


def _stem(name: str) -> str:
    stem, dot, ending = name.rpartition(".")
    return stem if dot and f".{ending}" in EXTENSIONS else name
