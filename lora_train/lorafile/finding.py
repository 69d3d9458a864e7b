"""The LoRA file that a name in a prompt means."""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from lora_train.errors import LoraTrainError

EXTENSIONS = (".safetensors", ".pt", ".ckpt")
"""The endings that the WebUI lists as LoRAs, the preferred first."""

_ALIAS = "ss_output_name"
_MAX_NAMED = 8


def lora_files(folder: Path) -> list[Path]:
    """All LoRA files below `folder`, sorted. Hidden ones are left out; links are followed, each folder once."""
    found, seen = [], set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(place, name) for name in files if not name.startswith(".")]
    files_of_kind = (path for path in found if path.suffix.lower() in EXTENSIONS)
    return sorted(files_of_kind, key=lambda path: (path.with_suffix(""), EXTENSIONS.index(path.suffix.lower())))


def prompt_names(folder: Path) -> list[str]:
    """The names in prompts of the LoRAs below `folder`: the file's name, or its path if several have the same name."""
    return sorted(_names(folder).values())


def prompt_name(folder: Path, path: Path) -> str:
    """The name in prompts of the LoRA at `path` below `folder`."""
    below = _below(folder, path)
    return _names(folder).get(below, _text(below))


def _names(folder: Path) -> dict[str, str]:
    """Paths below `folder`, without endings, to their names in prompts."""
    paths = {_below(folder, path) for path in lora_files(folder)}
    stems = Counter(path.rpartition("/")[2] for path in paths)
    return {path: _text(path if stems[path.rpartition("/")[2]] > 1 else path.rpartition("/")[2]) for path in paths}


def _below(folder: Path, path: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def look_up(folder: Path, name: str) -> tuple[Path, str]:
    """The file for a prompt's `name`, and a note if other files match as well.

    A path below `folder` takes precedence over a file's own name, and the exact spelling over one that differs in
    blanks at the ends, in slashes, in composed accents (macOS' file names), or in case. Last comes the name in the
    file's metadata, if only one file has it, as in the WebUI. Raises LoraTrainError that names the nearest.
    """
    if not folder.is_dir():
        raise LoraTrainError(
            f"there is no LoRA called {name!r}: there is no such folder.",
            str(folder),
            "Check its name, or train a LoRA first.",
        )
    files = lora_files(folder)
    relative = {path: path.relative_to(folder).as_posix() for path in files}
    ways: tuple[Callable[[str], str], ...] = (str, _composed, lambda text: _composed(text).casefold())
    for spelled in ways:
        wanted = spelled(name)
        for names in (_path_names, _own_names):
            hits = [path for path in files if wanted in map(spelled, names(relative[path]))]
            if hits:
                return hits[0], _others(name, hits, relative)
    hits = [path for path in files if _alias(path) == name]
    if len(hits) == 1:
        return hits[0], ""
    raise _missing(folder, name, [Path(text).stem for text in relative.values()], [relative[path] for path in hits])


def look_up_anywhere(folder: Path, name: str) -> tuple[Path, str]:
    """Like `look_up`; if the folder has no such LoRA, `name` may also be the path of a file. For the command line,
    whose user may read any file that they name."""
    try:
        return look_up(folder, name)
    except LoraTrainError:
        path = Path(os.path.expanduser(name))
        if not _is_a_path(name):
            raise
        if path.suffix.lower() in EXTENSIONS and os.path.isfile(path):
            return path, ""
        raise LoraTrainError("there is no such LoRA file.", name, "Check its path.") from None


def _is_a_path(name: str) -> bool:
    """Whether `name` is the path of a file, rather than the name of a LoRA."""
    return bool(re.match(r"[/\\~]|\.{1,2}[/\\]|[A-Za-z]:[/\\]", name)) or (
        "/" in name and name.lower().endswith(EXTENSIONS)
    )


def find_lora(folder: Path, name: str) -> Path:
    """Like `look_up`, without the note."""
    return look_up(folder, name)[0]


def _path_names(relative: str) -> tuple[str, str]:
    return relative, os.path.splitext(relative)[0]


def _own_names(relative: str) -> tuple[str, str]:
    return _path_names(relative.rpartition("/")[2])


def _composed(name: str) -> str:
    """The name with forward slashes, without blanks at the ends, and with composed accents."""
    parts = unicodedata.normalize("NFC", name).replace("\\", "/").split("/")
    stems = (os.path.splitext(part) for part in parts)
    return "/".join((stem.strip() + end if end.lower() in EXTENSIONS else stem + end).strip() for stem, end in stems)


def _others(name: str, hits: list[Path], relative: dict[Path, str]) -> str:
    """A note on other files with the same name, except for the same file in another format."""
    chosen, others = hits[0], [path for path in hits[1:] if path.with_suffix("") != hits[0].with_suffix("")]
    if not others:
        return ""
    named = ", ".join(_text(os.path.splitext(relative[path])[0]) for path in others)
    used = _text(os.path.splitext(relative[chosen])[0])
    return (
        f"There are {1 + len(others)} LoRAs called {name!r}: {used} is used, not {named}. Write the one that you mean."
    )


def _alias(path: Path) -> str:
    from lora_train.tensors import read_header

    if path.suffix.lower() != EXTENSIONS[0]:
        return ""
    try:
        metadata = read_header(path).get("__metadata__")
    except LoraTrainError:
        return ""
    return str(metadata.get(_ALIAS, "")) if isinstance(metadata, dict) else ""


def _missing(folder: Path, name: str, stems: list[str], called: list[str]) -> LoraTrainError:
    if called:
        listed = ", ".join(map(_text, called))
        return LoraTrainError(
            f"{len(called)} LoRAs are called {name!r} in their metadata ({listed}).",
            str(folder),
            "Write the file's name.",
        )
    near = nearest(name, stems)
    if near:
        said = f"nearest: {', '.join(map(_text, near))}"
    else:
        more = " ..." if len(stems) > _MAX_NAMED else ""
        said = f"there: {', '.join(map(_text, stems[:_MAX_NAMED]))}{more}" if stems else "the folder has none"
    fix = "Check its name."
    if _is_a_path(name):
        fix = f"Name a LoRA of this folder, without a path: <lora:{_stem(name)}:1>."
    return LoraTrainError(f"there is no LoRA called {name!r} ({said}).", str(folder), fix)


def _stem(name: str) -> str:
    return os.path.splitext(name.replace("\\", "/").rpartition("/")[2])[0]


def nearest(name: str, names: Iterable[str], count: int = 3) -> list[str]:
    """The names most similar to `name`, ignoring case, the most similar first; dissimilar ones are left out."""
    by_key: dict[str, str] = {}
    for one in names:
        by_key.setdefault(_composed(one).casefold(), one)
    wanted = _composed(name).casefold().rpartition("/")[2]
    if wanted.endswith(EXTENSIONS):
        wanted = os.path.splitext(wanted)[0]
    found = difflib.get_close_matches(wanted, by_key, n=count, cutoff=0.6)
    within = [
        key for key in by_key if key not in found and (key.startswith(wanted) or (len(wanted) > 2 and wanted in key))
    ]
    return [by_key[key] for key in [*found, *sorted(within, key=len)][:count]]


def _text(name: str) -> str:
    """A name from the file system as printable text, whatever its bytes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
