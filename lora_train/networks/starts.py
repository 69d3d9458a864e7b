"""Networks that start from the base's own weight instead of noise and 0.

The papers subtract the start from the base and train the rest plus the network: W = (W - s up0 down0) + s up down.
This equals W + s (up down - up0 down0), which leaves the base unchanged. Files hold that difference, with twice the
rank, so that they apply to the unmodified base.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Pair = tuple[torch.Tensor, torch.Tensor]
"""(down, up): (rank, in[, k, k]) and (out, rank[, 1, 1])."""


def pissa(weight: torch.Tensor, rank: int, scale: float) -> Pair:
    """The `rank` largest singular vectors of `weight` (Meng et al. 2024, arXiv 2404.02948)."""
    _require_rank(weight, rank)
    u, s, vh = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    root = (s[:rank] / scale).sqrt()
    return _pair(weight, root[:, None] * vh[:rank], u[:, :rank] * root)


def olora(weight: torch.Tensor, rank: int, scale: float) -> Pair:
    """The first `rank` columns of Q and rows of R of `weight` (Büyükakyüz 2024, arXiv 2406.01775)."""
    _require_rank(weight, rank)
    q, r = torch.linalg.qr(weight.flatten(1))
    return _pair(weight, r[:rank], q[:, :rank])


STARTS: dict[str, Callable[[torch.Tensor, int, float], Pair]] = {"pissa": pissa, "olora": olora}
"""A name to a function of (weight, rank, scale)."""


def low_rank(pair: Pair, start: Pair) -> Pair:
    """up down - up0 down0 as one pair of twice the rank.

    Its factors are balanced singular vectors of the difference, not the two large pairs side by side: in fp16
    those would lose the small difference to rounding.
    """
    down = torch.cat([pair[0].flatten(1), start[0].flatten(1)]).double()
    up = torch.cat([pair[1].flatten(1), -start[1].flatten(1)], dim=1).double()
    q_up, r_up = torch.linalg.qr(up)
    q_down, r_down = torch.linalg.qr(down.T)
    u, s, vh = torch.linalg.svd(r_up @ r_down.T, full_matrices=False)
    new_down = s.sqrt()[:, None] * (vh @ q_down.T)
    new_up = (q_up @ u) * s.sqrt()
    rank = new_down.shape[0]
    kernel, ones = pair[0].shape[2:], pair[1].shape[2:]
    return (
        new_down.float().reshape(rank, *pair[0].shape[1:2], *kernel),
        new_up.float().reshape(pair[1].shape[0], rank, *ones),
    )


def _pair(weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> Pair:
    """Rows and columns in the shapes of a convolution where the weight is one."""
    return (
        down.reshape(-1, *weight.shape[1:]).contiguous(),
        up.reshape(*up.shape, *[1] * (weight.ndim - 2)).contiguous(),
    )


def _require_rank(weight: torch.Tensor, rank: int) -> None:
    """Raise ValueError when the weight has fewer ranks than asked for."""
    highest = min(weight.shape[0], weight[0].numel())
    if rank > highest:
        raise ValueError(f"rank {rank} is more than the weight's own {highest}")
