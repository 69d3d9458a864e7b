"""Registration from outside the package: options, methods, network kinds and families.

One call adds something together with all the options that it reads::

    register(STRENGTH, (NOISES, Method("grain", "what it does", grain, ("train.grain",))))
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lora_train.config import table
from lora_train.config.methods import Method, Table
from lora_train.config.registered import Option
from lora_train.records.family import Family
from lora_train.records.kind import Kind
from lora_train.records.table import Records

Addition = Option | tuple[Table, Method] | tuple[Records[Kind], Kind] | tuple[Records[Family], Family]


def register(*additions: Addition) -> None:
    """Add all of them, or none: raises ValueError if a name is taken or a description is incomplete."""
    done: list[Addition] = []
    try:
        for one in additions:
            if isinstance(one, Option):
                table.register(one)
            else:
                one[0].register(one[1])  # type: ignore[arg-type]
            done.append(one)
    except ValueError:
        unregister(*done)
        raise


def unregister(*additions: Addition) -> None:
    """Remove them; without effect for what is not registered."""
    for one in additions:
        if isinstance(one, Option):
            table.unregister(one)
        else:
            one[0].unregister(one[1])  # type: ignore[arg-type]


@contextmanager
def registered_for(*additions: Addition) -> Iterator[None]:
    """Additions that are registered within the block, for tests."""
    register(*additions)
    try:
        yield
    finally:
        unregister(*additions)
