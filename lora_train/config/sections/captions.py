"""Changes to all captions of a folder: the command `captions`, the *Dataset* page and the API."""

from __future__ import annotations

from dataclasses import dataclass

from lora_train.config.option import EDITING, FIRST, option
from lora_train.config.registered import Section


@dataclass(frozen=True)
class CaptionsOptions(Section, section="captions"):
    """The arguments of the edits; each edit of `EDITS` says which are its own."""

    tags: str = option(
        "", "Tags", "separated by commas", EDITING, FIRST, flags=("tags",), metavar="TAGS", example="sara, red hair"
    )
    where: str = option(
        "front",
        "Where",
        "where the tags go",
        EDITING,
        choices=("front", "back"),
        choice_labels={"front": "in front", "back": "at the back"},
        flags=("--at",),
    )
    pattern: str = option(
        "",
        "Find",
        "regular expression, searched in each tag",
        EDITING,
        FIRST,
        flags=("pattern",),
        metavar="PATTERN",
        example="(red|brown) hair",
    )
    by: str = option(
        "",
        "Replace with",
        "what replaces it; \\1 is the first group",
        EDITING,
        FIRST,
        flags=("by",),
        metavar="TEXT",
        example="hair",
    )
    order: str = option(
        "first",
        "Order",
        "first: only move the leading ones",
        EDITING,
        FIRST,
        choices=("first", "alphabetical", "frequency"),
        choice_labels={
            "first": "as they are",
            "alphabetical": "alphabetical",
            "frequency": "most frequent first",
        },
        flags=("order",),
    )
    first: str = option("", "These first", "these lead, in this order", EDITING, metavar="TAGS", example="sara, woman")
    dry_run: bool = option(False, "Preview", "show the changes and write nothing", EDITING)


@dataclass(frozen=True)
class EditAbout:
    """One change to captions, as people see it."""

    operation: str
    """Its name in the API; `captions.edit.OPERATIONS` has its function."""
    command: str
    """Its name at the command line."""
    label: str
    """Its name on the page."""
    help: str
    options: tuple[str, ...] = ()
    """Its arguments: options of `CaptionsOptions`."""


EDITS = (
    EditAbout("add", "add", "Add tags", "add tags, or move existing ones", ("tags", "where")),
    EditAbout("remove", "remove", "Remove tags", "remove exactly these tags, whatever their case", ("tags",)),
    EditAbout(
        "replace",
        "replace",
        "Replace by a regular expression",
        "replace what a regular expression finds in each tag",
        ("pattern", "by"),
    ),
    EditAbout(
        "deduplicate",
        "dedupe",
        "Remove duplicates",
        "keep the first of tags that differ only in case and underscores",
    ),
    EditAbout(
        "blacklist",
        "blacklist",
        "Remove by pattern (* stands for anything)",
        "remove tags; * stands for any characters",
        ("tags",),
    ),
    EditAbout(
        "plain",
        "plain",
        "Remove prompt syntax: (x:1.3), BREAK, <lora:...>, {a|b}, \\(x\\)",
        "remove prompt syntax: weights, brackets, BREAK, networks, wildcards, escapes",
    ),
    EditAbout("reorder", "order", "Sort", "sort tags", ("order", "first")),
)
"""The changes to captions, in the order in which they are listed."""
