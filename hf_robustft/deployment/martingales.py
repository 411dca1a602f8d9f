# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Conformal test martingales: is what comes in still exchangeable with a reference? Exact however often one looks.

An image that comes in joins the reference before the next one is judged. Then the smoothed conformal p-values are independent and
uniform for as long as reference and stream are exchangeable, whatever the statistic is (Vovk, Nouretdinov and Gammerman, "Testing
exchangeability on-line", ICML 2003). Against a reference that stays fixed they would not be: all would share its error, and a martingale
of them would rise without bound in the end. A gambler who bets on small p-values at fair odds multiplies the money by `1 / level` with
probability at most `level`, ever (Ville 1939).

Each statistic has a gambler of its own. What one sees the others do not know, so the mean of their money need not be a martingale (Choe and
Ramdas, "Combining evidence across filtrations", 2024), and has no such bound. Each raises the alarm at `level / statistics`
instead, and the union bound holds; the mean would be at most so much quicker as the gambler who leads is not alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

#: Bets `e * p ** (e - 1)` on small p-values, from bold to timid, with the same money each.
EXPONENTS = (0.2, 0.4, 0.6, 0.8)
#: Values that are compared with each other at once.
_BLOCK = 1024


def uniform_numbers(names: Sequence[str], salt: str) -> Tensor:
    """
    Numbers between 0 and 1, both excluded, that belong to `names`, in whatever order and company they come.

    Args:
        names (`Sequence[str]`): Each gets the number that SHA-256 makes of it.
        salt (`str`): Another one gives other numbers.

    Returns:
        `torch.Tensor` of shape `(names,)`, float64.
    """
    digests = (hashlib.sha256(f"{salt}\0{name}".encode("utf-8", "surrogateescape")).digest() for name in names)
    return torch.tensor([(int.from_bytes(digest[:6], "big") + 0.5) / 2**48 for digest in digests], dtype=torch.float64)


def conformal_p_values(reference: Tensor, stream: Tensor, ties: Tensor) -> Tensor:
    """
    Smoothed online conformal p-values: value `n` of the stream among the reference and the stream up to `n`, small if it is small.

    `p_n = (less + u_n * equal) / (r + n)`, where `less` values of the `r + n` are less and `equal` equal to it, itself among them. For
    large values to count as foreign, give both negated.

    Args:
        reference (`torch.Tensor` of shape `(r,)`): The statistic on the reference.
        stream (`torch.Tensor` of shape `(n,)`): On the stream, in its order.
        ties (`torch.Tensor` of shape `(n,)`): Independent numbers u between 0 and 1.

    Returns:
        `torch.Tensor` of shape `(n,)`, float64: Independent and uniform if reference and stream are exchangeable.

    Raises:
        ValueError: If a value is not finite, or shapes differ.
    """
    reference, stream, ties = (item.detach().cpu().double() for item in (reference, stream, ties))
    if reference.ndim != 1 or stream.ndim != 1 or stream.shape != ties.shape:
        raise ValueError(f"Shapes {tuple(reference.shape)}, {tuple(stream.shape)}, {tuple(ties.shape)}: they must be (r,), (n,) and (n,).")
    if not (reference.isfinite().all() and stream.isfinite().all()):
        raise ValueError("The statistics of reference and stream must be finite.")
    bag, found = reference.sort().values, []
    for start in range(0, len(stream), _BLOCK):
        block = stream[start : start + _BLOCK].contiguous()
        below, above = torch.searchsorted(bag, block), torch.searchsorted(bag, block, right=True)
        earlier = torch.ones(len(block), len(block), dtype=torch.bool).tril(-1)
        less = below + (earlier & (block[None] < block[:, None])).sum(1)
        equal = above - below + 1 + (earlier & (block[None] == block[:, None])).sum(1)
        size = len(reference) + start + 1 + torch.arange(len(block))
        found.append((less + ties[start : start + _BLOCK] * equal) / size)
        bag = torch.cat([bag, block]).sort().values
    return torch.cat(found) if found else stream


def log_martingale(p_values: Tensor) -> Tensor:
    """
    The logarithm of a gambler's money after each p-value; 1 at the beginning.

    The gambler spreads the money over the moments at which small p-values may begin and over `EXPONENTS`. Of 1, `1 / (1 + ln(1 + n))` is
    kept for later moments, so that a change after a long quiet time is found too, at a cost that grows with the logarithm of that time:
    `M_n = kept_n + sum over k <= n of (kept_(k-1) - kept_k) * mean over e of the product over i = k..n of e * p_i ** (e - 1)`.

    Args:
        p_values (`torch.Tensor` of shape `(n,)`): In (0, 1].

    Returns:
        `torch.Tensor` of shape `(n,)`, float64.

    Raises:
        ValueError: If one is out of range.
    """
    p_values = p_values.detach().cpu().double()
    if p_values.ndim != 1 or not ((p_values > 0) & (p_values <= 1)).all():
        raise ValueError("p-values must be one row of numbers above 0, and at most 1.")
    if not len(p_values):
        return p_values
    kept = 1 / (1 + torch.arange(len(p_values) + 1, dtype=torch.float64).log1p())
    spent = (kept[:-1] - kept[1:]).log()
    money = [kept[1:].log()]
    for exponent in EXPONENTS:
        won = (math.log(exponent) + (exponent - 1) * p_values.log()).cumsum(0)
        before = torch.cat([won.new_zeros(1), won[:-1]])
        money.append(won + (spent - before).logcumsumexp(0) - math.log(len(EXPONENTS)))
    return torch.stack(money).logsumexp(0)


def first_alarm(log_money: Tensor, level: float, statistics: int) -> int | None:
    """
    How many p-values it took to raise the alarm, `None` if there is none.

    Args:
        log_money (`torch.Tensor` of shape `(n,)`): Of [`log_martingale`].
        level (`float`): The probability of a false alarm, ever, of all statistics together.
        statistics (`int`): How many there are.
    """
    above = (log_money >= math.log(statistics / level)).nonzero()
    return int(above[0]) + 1 if len(above) else None


def likely_start(p_values: Tensor) -> int:
    """
    After how many p-values small ones have most likely begun: where most of the gambler's money was put that is there now.

    Args:
        p_values (`torch.Tensor` of shape `(n,)`): In (0, 1], at least one.
    """
    p_values = p_values.detach().cpu().double()
    kept = 1 / (1 + torch.arange(len(p_values) + 1, dtype=torch.float64).log1p())
    put = (kept[:-1] - kept[1:]).log()
    bets = [math.log(exponent) + (exponent - 1) * p_values.log() for exponent in EXPONENTS]
    # What is won from each moment to the end.
    return int(torch.stack([put + bet.flip(0).cumsum(0).flip(0) for bet in bets]).logsumexp(0).argmax())


def block_gaps(embeds: Tensor, size: int) -> Tensor:
    """
    How alike the two most alike images of each block are, which a camera that repeats itself makes very alike.

    Blocks of an exchangeable sequence are exchangeable, so their gaps give exact p-values; of images one by one, each compared with
    those before it, this is not so.

    Args:
        embeds (`torch.Tensor` of shape `(n, embed_dim)`): Unit embeddings in the order of the images.
        size (`int`): Images of a block; what is left over at the end is left out.

    Returns:
        `torch.Tensor` of shape `(n // size,)`, float64: The least Euclidean distance between two images of the block.
    """
    blocks = embeds.detach().cpu().double()[: len(embeds) // size * size].reshape(-1, size, embeds.shape[-1])
    first, second = torch.triu_indices(size, size, 1)
    return (blocks[:, first] - blocks[:, second]).norm(dim=-1).amin(1) if len(blocks) else blocks.new_zeros(0)


def distance_to_bank(embeds: Tensor, bank: Tensor, neighbours: int) -> Tensor:
    """
    One minus the mean cosine between each image and the most alike of a bank.

    The bank may not be part of the reference of [`conformal_p_values`]: its own images would be nearer than any others.

    Args:
        embeds (`torch.Tensor` of shape `(n, embed_dim)`): Unit embeddings.
        bank (`torch.Tensor` of shape `(m, embed_dim)`): The same of other images.
        neighbours (`int`): How many of the bank are taken; all if it has fewer.

    Returns:
        `torch.Tensor` of shape `(n,)`, float64.
    """
    bank = bank.detach().cpu().double()
    nearest = [(part.detach().cpu().double() @ bank.T).topk(min(neighbours, len(bank)), dim=1).values.mean(1) for part in embeds.split(_BLOCK)]
    return 1 - torch.cat(nearest) if nearest else bank.new_zeros(0)
