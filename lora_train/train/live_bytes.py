"""The bytes that tensors hold while a piece of code runs, counted as storages are made and freed.

On the meta device nothing is allocated or computed, so a step of a model of any size is counted in seconds.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class LiveBytes(TorchDispatchMode):
    """Counts the storages that are made within the block: `live` now, and the highest so far, `peak`.

    What a kernel allocates and frees itself is not seen, nor is what was there before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        short = None if kwargs else _SHORT.get(func)
        made = short(*args) if short is not None and args[0].is_meta else NotImplemented
        if made is NotImplemented:
            made = func(*args, **(kwargs or {}))
        # in place or a view: the storage is an input's, which is known, or was there before
        given = {_key(one) for one in _tensors(args)}
        for one in _tensors(made if isinstance(made, (tuple, list)) else (made,)):
            if _key(one) not in given:
                self._count(one)
        return made

    def _count(self, tensor: torch.Tensor) -> None:
        storage, key = tensor.untyped_storage(), _key(tensor)
        if key in self._known:
            return
        size = storage.nbytes()

        def freed(_: Any) -> None:
            self.live -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, freed)
        self.live += size
        self.peak = max(self.peak, self.live)


def _key(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    """The tensors among an operation's arguments or results, also in lists."""
    for one in values:
        if isinstance(one, torch.Tensor):
            yield one
        elif isinstance(one, (tuple, list)):
            yield from _tensors(one)


class AsOnGpu(TorchFunctionMode):
    """Within the block, tensors of the meta device take the memory that the same code takes on a CUDA GPU.

    Where autocast of the CPU is on, the same is cast as by autocast there: products to half precision, norms to fp32.
    Attention is one kernel that never holds the scores of all pairs (flash or memory-efficient): it keeps its inputs,
    its output and one fp32 number per row.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.backward:
            with self:  # otherwise the mode would be off where checkpointing runs the forward again
                loss = args[0]
                engine = torch.autograd.Variable._execution_engine  # type: ignore[attr-defined]
                return engine.run_backward((loss,), (torch.ones_like(loss),), False, False, (), True, True)
        dtype = torch.float32 if func in _NORMS else torch.bfloat16 if func in _PRODUCTS else None
        if dtype is not None and _autocasts():
            args, kwargs = _in(dtype, args), _in(dtype, kwargs)
        if func is F.scaled_dot_product_attention:
            query, key, value = (*args, *(kwargs[name] for name in ("query", "key", "value")[len(args) :]))[:3]
            return _Attention.apply(query, key, value)  # type: ignore[no-untyped-call]
        return func(*args, **kwargs)


_NORMS = frozenset((torch.layer_norm, torch.group_norm, F.layer_norm, F.group_norm))
_PRODUCTS = frozenset(
    (
        *(F.linear, F.conv2d, torch.conv2d, F.scaled_dot_product_attention),
        *(torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.mm, torch.bmm, torch.addmm, torch.baddbmm),
    )
)


def _autocasts() -> bool:
    try:
        return torch.is_autocast_enabled("cpu")
    except TypeError:  # torch 2.1
        return bool(torch.is_autocast_cpu_enabled())


def _in(dtype: torch.dtype, values: Any) -> Any:
    """The same arguments with every tensor of floats in `dtype`."""
    if isinstance(values, dict):
        return {name: _in(dtype, value) for name, value in values.items()}
    if isinstance(values, (list, tuple)):
        return type(values)(_in(dtype, value) for value in values)
    floats = isinstance(values, torch.Tensor) and values.is_floating_point()
    return values.to(dtype) if floats else values


class _Attention(torch.autograd.Function):
    """What attention on a GPU allocates: nothing is computed."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        batch, heads, rows, _ = query.shape
        out = query.new_empty(batch, rows, heads, value.shape[-1]).transpose(1, 2)
        ctx.save_for_backward(query, key, value, out, query.new_empty(batch, heads, rows, dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        query, key, value, _, _ = ctx.saved_tensors
        sums = torch.empty_like(query, dtype=torch.float32)  # the kernel adds up the query's gradient in fp32
        made = tuple(torch.empty_like(one) for one in (query, key, value))
        del sums
        return made


def _group_norm(x: torch.Tensor, _w: Any, _b: Any, batch: int, _c: int, _area: int, groups: int, _e: float) -> Any:
    return torch.empty_like(x), x.new_empty(batch, groups), x.new_empty(batch, groups)


def _layer_norm(x: torch.Tensor, shape: Any, _w: Any, _b: Any, _e: float) -> Any:
    rows = (*x.shape[: x.ndim - len(shape)], *[1] * len(shape))
    return torch.empty_like(x), x.new_empty(rows), x.new_empty(rows)


def _group_norm_backward(_g: Any, x: torch.Tensor, _mean: Any, _rstd: Any, weight: Any, *rest: Any) -> Any:
    return _gradients(rest[-1], x, weight, weight)


def _layer_norm_backward(_g: Any, x: torch.Tensor, _s: Any, _mean: Any, _rstd: Any, w: Any, b: Any, wanted: Any) -> Any:
    return _gradients(wanted, x, w, b)


def _gradients(wanted: Any, *of: Any) -> tuple[Any, ...]:
    return tuple(torch.empty_like(one) if want else None for want, one in zip(wanted, of))


def _elementwise(one: torch.Tensor, other: Any, *rest: Any) -> Any:
    if isinstance(other, torch.Tensor) and (one.shape, one.dtype) != (other.shape, other.dtype):
        return NotImplemented
    return torch.empty_like(one) if one.is_floating_point() and one.ndim else NotImplemented


_aten = torch.ops.aten
_SHORT: dict[Any, Any] = {
    _aten.native_group_norm.default: _group_norm,
    _aten.native_layer_norm.default: _layer_norm,
    _aten.native_group_norm_backward.default: _group_norm_backward,
    _aten.native_layer_norm_backward.default: _layer_norm_backward,
    _aten.add.Tensor: _elementwise,
    _aten.mul.Tensor: _elementwise,
    _aten.mm.default: lambda one, other: one.new_empty(one.shape[0], other.shape[1]),
}
"""What takes long on the meta device otherwise; NotImplemented where torch has to find out the result."""
