"""`<lora:...>` in a WebUI whose bundled Lora extension is off: ours applies them to the loaded checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_train.errors import LoraTrainError
from lora_train.hosts.settings import APPLY_AUTO, APPLY_HOST
from lora_train.showing import as_shown

log = logging.getLogger("lora_train")
NAME, ALIAS = "lora", "lyco"


def install(choice: str, lora_dir: Callable[[], Path]) -> Callable[[], None]:
    """Register ours as `lora` and `lyco` where `choice` (a setting) wants it. Returns a function that undoes it.

    To be called after the WebUI's own extensions have registered theirs.
    """
    from modules import extra_networks, script_callbacks

    registry, aliases = extra_networks.extra_network_registry, getattr(extra_networks, "extra_network_aliases", {})
    if choice == APPLY_HOST or (choice == APPLY_AUTO and NAME in registry):
        return lambda: None
    before, before_alias = registry.get(NAME), aliases.get(ALIAS)
    network = make_network(lora_dir)
    extra_networks.register_extra_network(network)
    if hasattr(extra_networks, "register_extra_network_alias"):
        extra_networks.register_extra_network_alias(network, ALIAS)
    script_callbacks.on_model_loaded(lambda _model: network.forget())

    def undo() -> None:
        network.remove()
        if registry.get(NAME) is network:
            registry.pop(NAME)
            if before is not None:
                registry[NAME] = before
        if aliases.get(ALIAS) is network:
            aliases.pop(ALIAS)
            if before_alias is not None:
                aliases[ALIAS] = before_alias

    return undo


def make_network(lora_dir: Callable[[], Path]) -> Any:
    """Our extra network, an instance of the WebUI's class for them."""
    from modules import extra_networks, shared

    class LoraTrainNetwork(extra_networks.ExtraNetwork):  # type: ignore[misc, name-defined]
        """Our side of `modules.extra_networks.ExtraNetwork`."""

        def __init__(self) -> None:
            super().__init__(NAME)
            self._model: Any = None
            self._applier: Any = None
            self._applied: list[Any] = []

        def activate(self, p: Any, params_list: list[Any]) -> None:
            """Apply the prompt's LoRAs and no others; those that cannot be applied are reported in the result."""
            from lora_train.lorafile.finding import look_up
            from lora_train.prompt.syntax import strength_notes, tag_of_items

            usable, notes = [], []
            if not params_list and self._applier is None:
                return
            for params in params_list:
                shown = f"<lora:{':'.join(map(str, params.items))}>"
                try:
                    tag = tag_of_items([str(item) for item in params.items], self._default())
                    path, note = look_up(lora_dir(), tag.written)
                    usable.append((tag, path))
                    notes += [*([note] if note else []), *strength_notes(tag, shown)]
                except (LoraTrainError, ValueError) as error:
                    notes.append(f"{shown} is left out. {error}")
            self._applied, left_out = self._applier_of_model().apply_usable(usable)
            for note in notes + left_out:
                self._report(p, note)
            self._add_hashes(p)

        def deactivate(self, p: Any) -> None:
            """The weights stay as they are until a prompt wants others."""

        def remove(self) -> None:
            """Put the original weights back."""
            if self._applier is not None:
                self._applier.remove()

        def forget(self) -> None:
            """Another checkpoint was loaded, perhaps into the same modules: the stored original weights are
            obsolete."""
            if self._applier is not None:
                self._applier.forget()
            self._model = self._applier = None

        def _applier_of_model(self) -> Any:
            from lora_train.hosts.ldm_modules import modules_by_file_name
            from lora_train.lorafile.applying import Applier

            if self._applier is None or self._model is not shared.sd_model:
                self._model = shared.sd_model
                self._applier = Applier(modules_by_file_name(shared.sd_model))
            return self._applier

        @staticmethod
        def _default() -> float:
            return float(getattr(shared.opts, "extra_networks_default_multiplier", 1.0))

        @staticmethod
        def _report(p: Any, note: str) -> None:
            note = as_shown(note)
            log.warning("%s", note)
            if hasattr(p, "comment"):
                p.comment(note)

        def _add_hashes(self, p: Any) -> None:
            """Written into the picture's parameters as the bundled extension does."""
            hashes = [f"{a.tag.name.replace(',', '').replace(':', '')}: {a.short_hash}" for a in self._applied]
            if hashes and hasattr(p, "extra_generation_params"):
                p.extra_generation_params["Lora hashes"] = ", ".join(dict.fromkeys(hashes))

    return LoraTrainNetwork()
