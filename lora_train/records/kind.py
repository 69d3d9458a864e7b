"""What everybody must know of a kind of network without torch; the mathematics is its implementation's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


class Shaped(Protocol):
    """What recognition needs of a tensor."""

    @property
    def ndim(self) -> int:
        """Its number of dimensions."""
        ...


Parts = Mapping[str, Any]
"""One module's tensors by the last part of their keys; only their dimensions and shapes are looked at, and flags."""

Side = Callable[..., int]
"""`side(part, at=1)`: the size of a part's dimension `at`, 0 where there is none."""


@dataclass(frozen=True)
class Unread:
    """Modules that the WebUI's own Lora extension cannot apply."""

    what: str
    """What they are, in a sentence: "GLoRA"."""
    when: Callable[[Parts], bool]
    """Whether a module of this kind is one of them."""
    who: str
    """Who can apply them."""


def always(parts: Parts) -> bool:
    """For what counts of every module."""
    return True


@dataclass(frozen=True)
class Kind:
    """A kind of network. A module of a file is one where it has all of a set of `needs`, and nothing beside `parts`."""

    name: str
    help: str
    """One sentence: what it is good for."""
    implementation: str
    """The class that makes and loads it, "package.module:Class": see `networks.base.NetworkKind`."""
    needs: tuple[tuple[str, ...], ...]
    """The last parts of the keys that a module must have; one of these sets is enough."""
    may: tuple[str, ...] = ()
    """Other parts that it may have."""
    fits: Callable[[Parts], bool] = always
    """What else must be so, where the names of the parts alone do not say it."""
    partners: tuple[tuple[str, ...], ...] = ()
    """Parts that mean nothing without each other: a file that has some of them is damaged."""
    numbers: tuple[str, ...] = ()
    """Parts that are one value."""
    scaled: tuple[str, ...] = ()
    """Where one of these is there, alpha / rank scales the module, and alpha 0 means the rank."""
    rank_of: tuple[tuple[str, int], ...] = ()
    """Parts that show a module's rank, and in which dimension."""
    inputs: Callable[[Side], int] | None = None
    """The number of inputs of the module that is changed, where the parts show it."""
    ranked: bool = True
    """Whether it has a rank."""
    decomposable: bool = False
    """Whether DoRA can be around it."""
    scalable: bool = False
    """Whether its change can be shrunk (max-norm scaling)."""
    options: tuple[str, ...] = ()
    """The options that mean something for it, of those that do not for every kind."""
    spellings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Other names that a person can choose it by, and the options that each sets."""
    module: str = "lora_train"
    """kohya's `ss_network_module` of its files."""
    lycoris: str = ""
    """LyCORIS' name (`algo`), where it has another one."""
    modules: tuple[str, ...] = ()
    """sd-scripts' `--network_module`s that mean this kind."""
    unread: tuple[Unread, ...] | None = None
    """What of it the WebUI's own Lora extension cannot apply; None: nothing of it, and no other program is known to."""

    @property
    def parts(self) -> frozenset[str]:
        """The last parts of the keys that it has, needed or not."""
        return frozenset((*(part for need in self.needs for part in need), *self.may))

    def recognises(self, tensors: Mapping[str, Shaped]) -> bool:
        """Whether one module's tensors, by the last part of their keys, are of this kind."""
        keys = tensors.keys()
        return keys <= self.parts and any(keys >= {*need} for need in self.needs) and self.fits(tensors)

    def its(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the tensors that are parts of this kind."""
        return {part: value for part, value in tensors.items() if part in self.parts}

    @property
    def not_read(self) -> tuple[Unread, ...]:
        """What the WebUI's own Lora extension cannot apply."""
        if self.unread is None:
            return (Unread(self.name, always, "no other program is known to"),)
        return self.unread
