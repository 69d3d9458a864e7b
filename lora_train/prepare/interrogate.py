"""Captions and tags for the kept pictures: asked for once per picture and captioner, then joined as the options say.

A captioner's answer is stored unchanged, so another template, limit or tag does not run the captioner again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

from PIL import Image

from lora_train.atomic import write_text
from lora_train.config import PrepareOptions
from lora_train.errors import LoraTrainError, Stopped
from lora_train.pictures.caption_reading import CaptionReader
from lora_train.pictures.captions import caption_line, read_caption
from lora_train.pictures.opening import load_picture
from lora_train.pictures.tags import clean_caption, clean_tags
from lora_train.pictures.template import merge
from lora_train.prepare.base import Plan, Services
from lora_train.prepare.publish import Outputs
from lora_train.prepare.records import Store
from lora_train.prepare.report import Entry

Ask = Callable[[Iterable[Image.Image]], Iterator[str]]

WHO = {
    "caption": ("captioner", "captioner_model", "captioner_command"),
    "tags": ("tagger", "tagger_model", "tagger_command"),
}
"""For each part of a caption, the options that decide the captioner's answer."""
MORE = {"tags": ("tag_threshold", "character_threshold")}
INSTEAD = (
    "Use a WebUI (--server), or your own model (prepare.captioner transformers, prepare.tagger wd14 or command), "
    "or write .txt files beside the pictures."
)
LACKING = {
    "caption": f"No captions are made: there is no captioner here. {INSTEAD}",
    "tags": f"No tags are listed: there is no tagger here. {INSTEAD}",
}


def services_for(services: Services, options: PrepareOptions) -> tuple[dict[str, Ask], list[str]]:
    """The captioner of each part, and a note for each part that is wanted but has none here."""
    there = {"caption": services.caption, "tags": services.tags}
    wanted = [part for part in there if getattr(options, WHO[part][0]) != "none"]
    asked = {part: ask for part in wanted if (ask := there[part]) is not None}
    return asked, [LACKING[part] for part in wanted if part not in asked]


def recaptions(plan: Plan, services: Services) -> bool:
    """Whether new captions replace existing ones, which takes a captioner here."""
    return plan.has("interrogate") and plan.options.recaption and bool(services_for(services, plan.options)[0])


def take_captions(
    entries: list[Entry], plan: Plan, services: Services, known: Mapping[Path, str], outputs: Outputs
) -> tuple[list[Entry], list[str]]:
    """Use the captions in files beside the pictures, else those in `known`.

    Returns the entries that need a new one, and notes on files that could not be read.
    """
    bare, replace, reader = [], recaptions(plan, services), CaptionReader(services.may_read)
    for entry in entries:
        if not entry.output:
            continue
        if replace:
            if plan.options.backup:
                outputs.add_captions(entry.output, entry.path, ending=".bak")
            bare.append(entry)
        elif (text := reader.read(entry.path)) is not None:
            outputs.add_captions(entry.output, entry.path)
            entry.text = text
        elif entry.path in known:
            entry.text = caption_line(known[entry.path])
            outputs.add_caption(entry.output, known[entry.path])
        else:
            bare.append(entry)
    return bare, reader.unread_notes()


def take_edits(entries: list[Entry], work: Path) -> None:
    """Read the captions that are really beside the published pictures: a person may have edited them."""
    for entry in entries:
        there = read_caption(work / entry.output) if entry.output else None
        if there is not None and there != entry.text:
            entry.text, entry.caption, entry.tags = there, "", []


def caption(
    entries: list[Entry],
    plan: Plan,
    services: Services,
    tag: str,
    outputs: Outputs,
    stage: Callable[[str], None],
    progress: Callable[[int, int], None],
    stopped: Callable[[], bool],
) -> None:
    """Have `entries` captioned; answers from before a stop are not asked for again. Raises what a captioner raises."""
    asked, _ = services_for(services, plan.options) if plan.has("interrogate") else ({}, [])
    store = Store(plan)
    files = {e.key: store.folder(e.record.content) / e.view.file for e in entries if e.view}
    for part, ask in asked.items():
        todo = [file for file in dict.fromkeys(files.values()) if not said_file(file, part, plan.options).is_file()]
        if todo:
            stage({"caption": "captions", "tags": "tags"}[part])
            _ask(ask, todo, part, plan.options, progress, stopped)
    for entry in entries if asked else ():
        said = {part: said_file(files[entry.key], part, plan.options).read_text(encoding="utf-8") for part in asked}
        entry.caption, entry.tags = said_parts(said, plan.options)
        entry.text = merge(tag, entry.caption, entry.tags, plan.options.caption_template)
        outputs.add_caption(entry.output, entry.text)


def said_parts(said: dict[str, str], options: PrepareOptions) -> tuple[str, list[str]]:
    """The caption and the tags from the captioners' answers, cleaned and limited as the options say."""
    tags = clean_tags(said.get("tags", ""), options.tag_limit, options.tag_blacklist)
    return clean_caption(said.get("caption", "")), tags


def said_file(picture: Path, part: str, options: PrepareOptions) -> Path:
    """The file of this captioner's answer for a finished picture of the store."""
    who = [getattr(options, name) for name in (*WHO[part], *MORE.get(part, ()))]
    name = hashlib.sha256(json.dumps(who).encode()).hexdigest()[:12]
    return picture.with_suffix(f".{part}-{name}.txt")


def _ask(
    ask: Ask,
    todo: list[Path],
    part: str,
    options: PrepareOptions,
    progress: Callable[[int, int], None],
    stopped: Callable[[], bool],
) -> None:
    progress(0, len(todo))
    answers = ask(load_picture(file) for file in todo)
    done = 0
    # closed at a stop, too, so that the model is unloaded at once rather than some time later
    with closing(_each(answers)) as texts:
        for file, text in zip(todo, texts):
            write_text(said_file(file, part, options), text)
            done += 1
            progress(done, len(todo))
            if stopped():
                raise Stopped
    if done < len(todo):
        what = f"there was no answer for {len(todo) - done} pictures."
        raise LoraTrainError(what, part, "Choose another captioner.")


def _each(answers: Iterable[str]) -> Generator[str, None, None]:
    """`answers` as a generator, which can be closed."""
    yield from answers
