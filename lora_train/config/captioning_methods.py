"""Captioners and taggers: the tables behind `prepare.captioner` and `prepare.tagger`."""

from __future__ import annotations

from lora_train.config.methods import Choice, Method

_OURS = "lora_train.captions.captioners.registry:"
_HOST = f"{_OURS}of_the_host"
_TRANSFORMERS = Method(
    "transformers", "a transformers model: a folder, or the id of a model in the hub's cache", _OURS + "by_model"
)
_COMMAND = Method(
    "command", "a program that is called for each picture", _OURS + "by_command", lacks=_OURS + "command_lacks"
)
_NONE = Method("none", "no captions or tags", _HOST, outside=True)

CAPTIONERS = Choice(
    "captioners",
    "prepare.captioner",
    Method("blip", "the WebUI's own", _HOST, outside=True),
    _TRANSFORMERS,
    _COMMAND,
    _NONE,
)
TAGGERS = Choice(
    "taggers",
    "prepare.tagger",
    Method("deepbooru", "the WebUI's own", _HOST, outside=True),
    Method("wd14", "a WD14 tagger (ONNX)", f"{_OURS}by_tagger", lacks=f"{_OURS}tagger_lacks"),
    _TRANSFORMERS,
    _COMMAND,
    _NONE,
)
"""(options, pictures) -> one text for each picture, in order; `options` are `registry.CaptionerOptions`."""

TABLES = (CAPTIONERS, TAGGERS)
