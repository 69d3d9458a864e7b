"""The files beside a LoRA for the WebUI's Lora page: a `.json` (its card) with tag and weight, and a preview picture.

People and other tools write both as well. The card records our values under `RECORD`, so that they can be distinguished
from later changes: our values are updated, theirs are kept.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_train.atomic import keep_aside, write_bytes, write_json
from lora_train.errors import LoraTrainError
from lora_train.links import OUT, MayRead, anywhere, leads_out
from lora_train.lorafile.card_reading import Card, read_card
from lora_train.records.families import of_version

RECORD = "lora train"
"""The card's key for the values that we wrote last; the WebUI keeps unknown keys."""

ACTIVATION, WEIGHT, VERSION, NOTES = "activation text", "preferred weight", "sd version", "notes"
"""The WebUI's keys for the values that we fill in."""

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
"""The pictures that the WebUI shows on a card, as `NAME.png` or `NAME.preview.png`."""

_NOTHING = ("", 0, None)
_UNKNOWN = "Unknown"
_PREVIEW = "preview"

Tell = Callable[[str], None]


def _nobody(text: str) -> None:
    """Report to nobody."""


def notes_of(pictures: int, steps: int) -> str:
    """The card's notes on a training."""
    counts = (f"{count} {what}{'' if count == 1 else 's'}" for count, what in ((pictures, "picture"), (steps, "step")))
    return f"Trained by LoRA Train on {', '.join(counts)}."


_OUR_NOTES = re.compile(r"Trained by LoRA Train on \d+ pictures?, \d+ steps?\.")
"""The text of `notes_of`, also recognised inside a person's own notes."""


def write_sidecar(
    lora: Path, tag: str, base_version: str, notes: str, tell: Tell = _nobody, may_read: MayRead = anywhere
) -> Path:
    """Write or complete `NAME.json` beside the LoRA, and return its path.

    Values of a person or another tool are kept; missing ones are added, and our own are updated. A card that cannot be
    read completely is kept as `NAME.json.bak` (`.bak2` ...). `tell` is called for that, and for values that are kept
    although this training has others. Raises LoraTrainError when it cannot be read or written, or is a link
    that `may_read` refuses.
    """
    path = lora.with_suffix(".json")
    family = of_version(base_version)
    version = _UNKNOWN if family is None else family.card
    ours = {ACTIVATION: tag, WEIGHT: 1.0, VERSION: version, NOTES: notes}
    card = _card(path, may_read)
    record = _record(card)
    values = dict(card.values)
    for key, value in ours.items():
        values[key] = _renewed(key, card.values.get(key), record, value)
    values[RECORD] = record | ours
    _keep(path, card, tell)
    write_json(_through_link(path), values)
    if tag and values[ACTIVATION] != tag:
        tell(f"{path.name} keeps its activation text {values[ACTIVATION]!r}; this training's is {tag!r}.")
    return path


def write_preview(lora: Path, picture: bytes, tell: Tell = _nobody, may_read: MayRead = anywhere) -> Path:
    """Write the PNG `picture` as `NAME.preview.png`, unless the card has a picture that is not ours; return the path
    of what the card shows. Raises LoraTrainError when it cannot be written."""
    path = lora.with_name(f"{lora.stem}.preview.png")
    card_path = lora.with_suffix(".json")
    card = _card(card_path, may_read)
    record = _record(card)
    for ending in PICTURES:
        for other in (lora.with_name(lora.stem + ending), lora.with_name(f"{lora.stem}.preview{ending}")):
            if other.is_file() and (other != path or _digest(other.read_bytes()) != record.get(_PREVIEW)):
                tell(f"The card keeps its picture {other.name}; delete it to have one of the training.")
                return other
    write_bytes(path, picture)
    if RECORD in card.values:
        write_json(_through_link(card_path), card.values | {RECORD: record | {_PREVIEW: _digest(picture)}})
    return path


def activation_text(lora: Path, may_read: MayRead = anywhere) -> str:
    """The activation text of the LoRA's card; empty if there is no card, or it cannot be read."""
    try:
        text = _card(lora.with_suffix(".json"), may_read).values.get(ACTIVATION)
    except LoraTrainError:
        return ""
    return text if isinstance(text, str) else ""


def _card(path: Path, may_read: MayRead) -> Card:
    if leads_out(path, may_read):
        raise LoraTrainError(f"the card is {OUT}.", str(path), "Move it away, or put the card itself there.")
    return read_card(path)


def _record(card: Card) -> dict[str, Any]:
    record = card.values.get(RECORD)
    return record if isinstance(record, dict) else {}


def _renewed(key: str, present: Any, record: dict[str, Any], value: Any) -> Any:
    """The card's new value for one of our keys: our value, or the one that others have set."""
    if present is None or (key in record and present == record[key]):
        return value
    if key not in record and (present in _NOTHING or (key == VERSION and present == _UNKNOWN)):
        return value
    if key == NOTES and isinstance(present, str) and isinstance(value, str):
        return _OUR_NOTES.sub(lambda _: value, present, count=1)
    return present


def _keep(path: Path, card: Card, tell: Tell) -> None:
    """Before a card is overwritten, keep the original if anything of it could be lost."""
    if not card.whole:
        kept = keep_aside(path)
        guessed = "" if card.is_utf8 else f" (read as {card.encoding})"
        tell(f"{path.name} could not be read for certain{guessed}; it is kept as {kept.name}.")
    elif not card.is_utf8:
        named = card.encoding.upper().replace("-SIG", " with a byte order mark")
        tell(f"{path.name} was saved as {named}; it is plain UTF-8 now, which the WebUI reads.")


def _through_link(path: Path) -> Path:
    """The target of a link, which is written to, so that the link remains."""
    return path.resolve() if path.is_symlink() else path


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
