"""`lora-train file`: inspect LoRA files and make others from them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_train.errors import LoraTrainError
from lora_train.jsons import to_json
from lora_train.showing import as_shown

if TYPE_CHECKING:
    from lora_train.lorafile.factors import Cut
    from lora_train.lorafile.inspecting import Report
    from lora_train.lorafile.reading import LoraFile
    from lora_train.lorafile.resizing import ModuleCut

_MOST_KEYS = 20
"""At most this many keys are shown one by one."""
_MOST_TEXT = 2000
"""At most this many characters of a metadata field are shown on a terminal."""
_KEEP_HELP = "keep as many ranks as reach --amount: of the Frobenius norm (frobenius), of the singular values' sum "


def add_file(commands: Any) -> None:
    """The command "file" with its own commands."""
    file = commands.add_parser("file", help="inspect, convert, resize, merge, extract and compare LoRA files")
    tools = file.add_subparsers(required=True, metavar="TOOL")
    for add in (_inspect, _convert, _resize, _merge, _merge_into, _extract, _metadata, _compare):
        add(tools)


def _inspect(tools: Any) -> None:
    tool = tools.add_parser("inspect", help="describe a LoRA: kind, base, ranks, strengths by block, metadata")
    tool.add_argument("files", nargs="+", type=Path, metavar="FILE")
    tool.add_argument("--json", action="store_true", help="as JSON")
    _add_adapter(tool)
    tool.set_defaults(run=_run_inspect)


def _convert(tools: Any) -> None:
    tool = tools.add_parser("convert", help="write a LoRA in another layout")
    tool.add_argument("file", type=Path, metavar="FILE")
    tool.add_argument("--to", required=True, metavar="LAYOUT", help="kohya, diffusers or peft (a folder)")
    _add_adapter(tool)
    _add_output(tool, "keep")
    tool.set_defaults(run=_run_convert)


def _resize(tools: Any) -> None:
    tool = tools.add_parser("resize", help="change a LoRA's rank, by SVD")
    tool.add_argument("file", type=Path, metavar="FILE")
    _add_adapter(tool)
    _add_cut(tool)
    tool.add_argument(
        "--module",
        action="append",
        default=[],
        metavar="PATTERN=RANK",
        help="another rank for modules with such names (*, ?)",
    )
    _add_output(tool, "keep")
    tool.set_defaults(run=_run_resize)


def _merge(tools: Any) -> None:
    tool = tools.add_parser("merge", help="merge several LoRAs into one; exact (ranks add up) unless a rank is given")
    tool.add_argument("files", nargs="+", type=Path, metavar="FILE")
    _add_adapter(tool, several=True)
    _add_weights(tool)
    _add_cut(tool, convolutions=False)
    _add_output(tool, "keep")
    tool.set_defaults(run=_run_merge)


def _merge_into(tools: Any) -> None:
    tool = tools.add_parser("merge-into", help="merge LoRAs into a checkpoint")
    tool.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    tool.add_argument("files", nargs="+", type=Path, metavar="FILE")
    _add_adapter(tool, several=True)
    _add_weights(tool)
    _add_output(tool, None)
    tool.set_defaults(run=_run_merge_into)


def _extract(tools: Any) -> None:
    tool = tools.add_parser("extract", help="extract the difference of two checkpoints as a LoRA")
    tool.add_argument("base", type=Path, metavar="BASE")
    tool.add_argument("tuned", type=Path, metavar="TUNED")
    _add_cut(tool)
    tool.add_argument(
        "--clamp", type=float, default=1.0, metavar="QUANTILE", help="clamp singular vectors (kohya: 0.99)"
    )
    tool.add_argument("--min-difference", type=float, default=0.0, help="leave out modules that differ less")
    tool.add_argument("--no-text", action="store_true", help="leave out the text encoders")
    _add_output(tool, "fp16")
    tool.set_defaults(run=_run_extract)


def _metadata(tools: Any) -> None:
    tool = tools.add_parser("metadata", help="show or change metadata; tensors stay as they are")
    tool.add_argument("file", type=Path, metavar="FILE")
    tool.add_argument("--set", action="append", default=[], metavar="FIELD=TEXT", help="add or replace a field")
    tool.add_argument("--remove", action="append", default=[], metavar="FIELD", help="remove a field")
    tool.add_argument("--strip", action="store_true", help="remove all fields first")
    tool.add_argument("--thumbnail", type=Path, metavar="PICTURE", help="embed a picture (modelspec.thumbnail)")
    tool.add_argument("--output", type=Path, metavar="FILE", help="file to write")
    tool.add_argument("--overwrite", action="store_true", help="replace the output; without --output, FILE itself")
    tool.set_defaults(run=_run_metadata)


def _compare(tools: Any) -> None:
    tool = tools.add_parser("compare", help="how similar two LoRAs are, module by module")
    tool.add_argument("files", nargs=2, type=Path, metavar="FILE")
    _add_adapter(tool, several=True)
    tool.add_argument("--json", action="store_true", help="as JSON")
    tool.set_defaults(run=_run_compare)


def _add_adapter(tool: Any, several: bool = False) -> None:
    if several:
        what = "which of several adapters in a file to use; one NAME for all files that have it, or one for each"
        tool.add_argument("--adapter", nargs="+", default=[], metavar="NAME", help=what)
    else:
        tool.add_argument("--adapter", default="", metavar="NAME", help="which of several adapters in the file to use")


def _add_output(tool: Any, precision: str | None) -> None:
    tool.add_argument("--output", type=Path, required=True, metavar="FILE", help="file to write")
    tool.add_argument("--overwrite", action="store_true", help="replace an existing file")
    if precision is not None:
        tool.add_argument(
            "--precision", choices=("keep", "fp16", "bf16", "fp32"), default=precision, help="default %(default)s"
        )


def _add_cut(tool: Any, convolutions: bool = True) -> None:
    tool.add_argument("--rank", type=int, metavar="N", help="rank, or the highest with --keep")
    tool.add_argument("--keep", default="", metavar="HOW", help=f"{_KEEP_HELP}(cumulative), down to 1/AMOUNT (ratio)")
    tool.add_argument("--amount", type=float, default=0.95, metavar="X", help="for --keep (default %(default)s)")
    if convolutions:
        tool.add_argument("--conv-rank", type=int, metavar="N", help="rank of 3x3 convolutions")


def _add_weights(tool: Any) -> None:
    tool.add_argument("--weights", nargs="+", type=float, metavar="W", help="strength of each file (default 1)")


def _run_inspect(options: argparse.Namespace) -> int:
    from lora_train.lorafile.inspecting import inspect

    reports, problems = [], []
    for path in options.files:
        try:
            reports.append(inspect(path, options.adapter))
        except LoraTrainError as error:
            problems += error.problems
    if options.json:
        print(as_shown(to_json([report.to_dict() for report in reports], indent=2)))
    for report in reports if not options.json else ():
        _print_report(report)
    if problems:
        raise LoraTrainError.of(problems)
    return 0


def _print_report(report: Report) -> None:
    def line(text: str) -> None:
        print(as_shown(text, lines=False))

    facts = report.to_dict()
    for field in ("path", "size", "layout", "base", "modules"):
        line(f"{field:9} {facts[field]}")
    for field in ("kinds", "ranks", "alphas", "dtypes"):
        line(f"{field:9} {', '.join(f'{value} ({count})' for value, count in facts[field].items())}")
    for name, block in report.blocks.items():
        norm = "norms of LoRA only" if block.norm is None else f"norm {block.norm:.4g}, largest {block.largest:.4g}"
        line(f"  {name:6} {block.modules:3} modules, {norm}")
    for name, value in report.metadata.items():
        line(f"  {name[:100]} = {value[:100]}{' ...' if len(value) > 100 else ''}")
    for note in report.notes:
        line(f"note      {note}")
    for key in report.skipped[:_MOST_KEYS]:
        line(f"left out  {key}")
    if len(report.skipped) > _MOST_KEYS:
        line(f"left out  and {len(report.skipped) - _MOST_KEYS} more keys (all of them with --json)")
    for problem in report.problems:
        line(f"problem   {problem}")


def _run_convert(options: argparse.Namespace) -> int:
    from lora_train.lorafile.converting import WRITERS

    writer = WRITERS.get(options.to)
    if writer is None:
        raise LoraTrainError(f"there is no layout {options.to!r}.", "--to", f"Give one of {', '.join(WRITERS)}.")
    _print_notes(writer(_read(options.file, options.adapter), options.output, options.precision, options.overwrite))
    print(options.output)
    return 0


def _run_resize(options: argparse.Namespace) -> int:
    from lora_train.lorafile.converting import write_kohya
    from lora_train.lorafile.factors import Cut
    from lora_train.lorafile.resizing import resize

    *rules, cut, convolutions, _, file = _each(
        *(partial(_module_rule, rule) for rule in options.module),
        partial(_cut, options, needed=not options.module),
        partial(_conv_cut, options),
        partial(_check_output, options),
        partial(_read, options.file, options.adapter),
    )
    with _Progress() as progress:
        made, cuts = resize(file, cut or Cut(), convolutions, dict(rules), progress)
    _print_notes(write_kohya(made, options.output, options.precision, options.overwrite))
    _print_cuts(cuts)
    print(options.output)
    return 0


def _run_merge(options: argparse.Namespace) -> int:
    from lora_train.lorafile.converting import write_kohya
    from lora_train.lorafile.merging import merge
    from lora_train.lorafile.writing import DTYPES

    weights, cut, _, *files = _each(
        partial(_weights, options),
        partial(_cut, options),
        partial(_check_output, options),
        *_reads(options),
    )
    for path, weight in zip(options.files, weights):
        if weight == 0:
            print(f"note: {as_shown(path.name)} has the weight 0 and is not merged.", file=sys.stderr)
    with _Progress() as progress:
        made = merge(files, weights, cut, progress, DTYPES.get(options.precision))
    _print_notes(write_kohya(made, options.output, options.precision, options.overwrite))
    print(options.output)
    return 0


def _run_merge_into(options: argparse.Namespace) -> int:
    from lora_train.lorafile.checkpoints import require_checkpoint
    from lora_train.lorafile.merging_into import merge_into

    weights, _, _, *files = _each(
        partial(_weights, options),
        partial(_check_output, options),
        partial(require_checkpoint, options.checkpoint),
        *_reads(options),
    )
    with _Progress() as progress:
        notes: list[str] = []
        absent = merge_into(
            options.checkpoint, files, weights, options.output, options.overwrite, progress, notes.append
        )
    if absent:
        notes.append(f"the checkpoint lacks {len(absent)} of the modules ({absent[0]} ...)")
    _print_notes(notes)
    print(options.output)
    return 0


def _run_extract(options: argparse.Namespace) -> int:
    from lora_train.lorafile.checkpoints import require_checkpoint
    from lora_train.lorafile.converting import write_kohya
    from lora_train.lorafile.extracting import Extraction, extract
    from lora_train.lorafile.factors import Cut

    cut, convolutions, how, *_ = _each(
        partial(_cut, options, needed=True),
        partial(_conv_cut, options),
        partial(Extraction, Cut(), None, options.clamp, options.min_difference, not options.no_text),
        partial(_check_output, options),
        partial(require_checkpoint, options.base),
        partial(require_checkpoint, options.tuned),
    )
    how = replace(how, cut=cut, convolutions=convolutions)
    with _Progress() as progress:
        made, cuts = extract(options.base, options.tuned, how, progress)
    _print_notes(write_kohya(made, options.output, options.precision, options.overwrite))
    _print_cuts(cuts)
    print(options.output)
    return 0


def _run_metadata(options: argparse.Namespace) -> int:
    from lora_train.lorafile.editing import THUMBNAIL, edit_metadata, thumbnail
    from lora_train.lorafile.reading import file_metadata

    put = {}
    for one in options.set:
        field, equals, text = one.partition("=")
        if not field or not equals:
            raise LoraTrainError(f"{one!r} is not FIELD=TEXT.", "--set", 'As in "modelspec.title=Sara".')
        put[field] = text
    if options.thumbnail is not None:
        put[THUMBNAIL] = thumbnail(options.thumbnail)
    if not (put or options.remove or options.strip):
        fields = {name: _shortened(text) for name, text in sorted(file_metadata(options.file).items())}
        print(as_shown(to_json(fields, indent=2)))
        return 0
    output = options.output or options.file
    edit_metadata(options.file, output, put, options.remove, options.strip, options.overwrite)
    print(output)
    return 0


def _run_compare(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from lora_train.lorafile.comparing import compare

    first, second = _each(*_reads(options))
    with _Progress() as progress:
        found = compare(first, second, progress)
    if options.json:
        print(to_json(asdict(found) | {"cosine": found.cosine}, indent=2))
        return 0
    for one in found.modules:
        print(
            f"{one.name}: cosine {one.cosine:.4f}, norms {one.norm_a:.4g} {one.norm_b:.4g}, apart {one.difference:.4g}"
        )
    for side, names in (("first", found.only_in_a), ("second", found.only_in_b)):
        print(f"only in the {side}: {len(names)} modules")
    if found.modules:
        print(f"cosine of all common modules: {found.cosine:.4f}")
    else:
        print("They have no module in common: they cannot be compared.")
    return 0


def _reads(options: argparse.Namespace) -> list[Callable[[], LoraFile]]:
    """A function that reads each of the files. Raises LoraTrainError where the adapters do not fit them."""
    from lora_train.lorafile.adapters import choose_adapters

    adapters = choose_adapters(options.files, options.adapter)
    return [partial(_read, path, adapter) for path, adapter in zip(options.files, adapters)]


def _read(path: Path, adapter: str = "") -> LoraFile:
    """The LoRA file; notes about it go to stderr. Raises LoraTrainError."""
    from lora_train.lorafile.reading import read_lora

    file = read_lora(path, adapter=adapter)
    for note in file.notes:
        print(f"note: {as_shown(f'{path.name}: {note}')}", file=sys.stderr)
    return file


def _shortened(text: str) -> str:
    """A text cut for a terminal: pictures in metadata have megabytes. Whole where the output is piped."""
    if len(text) <= _MOST_TEXT or not sys.stdout.isatty():
        return text
    return f"{text[:_MOST_TEXT]} ... ({len(text)} characters)"


def _each(*asked: Callable[[], Any]) -> list[Any]:
    """The results of all `asked`. Raises LoraTrainError with the problems of all that fail, not only the first."""
    results, problems = [], []
    for one in asked:
        try:
            results.append(one())
        except LoraTrainError as error:
            problems += error.problems
    if problems:
        raise LoraTrainError.of(problems)
    return results


def _check_output(options: argparse.Namespace) -> None:
    """Checked before long work rather than after it."""
    from lora_train.lorafile.writing import check_output

    check_output(options.output, options.overwrite)


def _module_rule(rule: str) -> tuple[str, Cut]:
    from lora_train.lorafile.factors import Cut

    pattern, _, rank = rule.rpartition("=")
    if not pattern or not rank.isdecimal():
        raise LoraTrainError(f"{rule!r} is not PATTERN=RANK.", "--module", 'As in "lora_te_*=4".')
    return pattern, Cut(int(rank))


def _conv_cut(options: argparse.Namespace) -> Cut | None:
    """The cut of 3x3 convolutions, where it differs."""
    from lora_train.lorafile.factors import Cut

    return Cut(options.conv_rank, options.keep, options.amount) if options.conv_rank is not None else None


def _cut(options: argparse.Namespace, needed: bool = False) -> Cut | None:
    """The cut that the options ask for. Raises LoraTrainError when one is needed and none is."""
    from lora_train.lorafile.factors import Cut

    if options.rank is None and not options.keep:
        if needed:
            raise LoraTrainError("no rank is given.", "--rank, --keep", "Give a rank, or how much to keep.")
        return None
    return Cut(options.rank, options.keep, options.amount)


def _weights(options: argparse.Namespace) -> list[float]:
    from lora_train.lorafile.merging import check_weights

    weights: list[float] = options.weights if options.weights is not None else [1.0] * len(options.files)
    check_weights(len(options.files), weights)
    return weights


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def _print_cuts(cuts: Sequence[ModuleCut]) -> None:
    ranks = [one.after for one in cuts]
    worst = min(cuts, key=lambda one: one.kept)
    print(f"{len(cuts)} modules, ranks {min(ranks)} to {max(ranks)}; least kept: {worst.kept:.1%} of {worst.name}")


class _Progress:
    """A counter on a terminal, called with (done, total)."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()

    def __enter__(self) -> Callable[[int, int], None]:
        return self._show

    def __exit__(self, *_: object) -> None:
        if self._live:
            print(file=sys.stderr)

    def _show(self, done: int, total: int) -> None:
        if self._live:
            print(f"\r{done}/{total}", end="", file=sys.stderr, flush=True)
