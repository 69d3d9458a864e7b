"""The facts about a kind of network that need no torch; its implementation has the mathematics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


class Shaped(Protocol):
    """The part of a tensor that recognition needs."""

    @property
    def ndim(self) -> int:
        """Its number of dimensions."""
        ...


Parts = Mapping[str, Any]
"""One module's tensors by the last part of their keys; only dimensions, shapes and flags are read."""

Side = Callable[..., int]
"""`side(part, at=1)`: the size of a part's dimension `at`, 0 if there is none."""


@dataclass(frozen=True)
class Unread:
    """Modules that the WebUI's own Lora extension cannot apply."""

    what: str
    """Their name in a sentence: "GLoRA"."""
    when: Callable[[Parts], bool]
    """Whether a module of this kind is one of them."""
    who: str
    """Which programs can apply them."""


def always(parts: Parts) -> bool:
    """True for every module."""
    return True


@dataclass(frozen=True)
class Kind:
    """A kind of network. A module of a file is of this kind if it has all of a set of `needs`, and only `parts`."""

    name: str
    help: str
    """One sentence: what it is suited for."""
    implementation: str
    """The class that creates and loads it, "package.module:Class": see `networks.base.NetworkKind`."""
    needs: tuple[tuple[str, ...], ...]
    """The last parts of the keys that a module must have: any one of these sets."""
    may: tuple[str, ...] = ()
    """Optional parts."""
    fits: Callable[[Parts], bool] = always
    """A further condition, if the names of the parts are not enough."""
    partners: tuple[tuple[str, ...], ...] = ()
    """Parts that are useless without each other: a file with only some of them is damaged."""
    numbers: tuple[str, ...] = ()
    """Parts that are a single number."""
    scaled: tuple[str, ...] = ()
    """If one of these is present, alpha / rank scales the module, and alpha 0 means the rank."""
    rank_of: tuple[tuple[str, int], ...] = ()
    """Parts that show a module's rank, with the dimension."""
    inputs: Callable[[Side], int] | None = None
    """The number of inputs of the changed module, if the parts show it."""
    ranked: bool = True
    """Whether it has a rank."""
    decomposable: bool = False
    """Whether DoRA can be applied to it."""
    scalable: bool = False
    """Whether its change can be shrunk (max-norm scaling)."""
    options: tuple[str, ...] = ()
    """The options that apply to it, of those that do not apply to every kind."""
    spellings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Other names by which it can be chosen, with the options that each sets."""
    module: str = "lora_train"
    """kohya's `ss_network_module` of its files."""
    lycoris: str = ""
    """LyCORIS' name (`algo`), if it differs."""
    modules: tuple[str, ...] = ()
    """sd-scripts' `--network_module`s that mean this kind."""
    unread: tuple[Unread, ...] | None = None
    """The modules that the WebUI's own Lora extension cannot apply; None: all, and no other program is known to."""

    @property
    def parts(self) -> frozenset[str]:
        """The last parts of its keys, required or optional."""
        return frozenset((*(part for need in self.needs for part in need), *self.may))

    def recognises(self, tensors: Mapping[str, Shaped]) -> bool:
        """Whether one module's tensors, by the last parts of their keys, are of this kind."""
        keys = tensors.keys()
        return keys <= self.parts and any(keys >= {*need} for need in self.needs) and self.fits(tensors)

    def its(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """The tensors that are parts of this kind."""
        return {part: value for part, value in tensors.items() if part in self.parts}

    @property
    def not_read(self) -> tuple[Unread, ...]:
        """The modules that the WebUI's own Lora extension cannot apply."""
        if self.unread is None:
            return (Unread(self.name, always, "no other program is known to"),)
        return self.unread
