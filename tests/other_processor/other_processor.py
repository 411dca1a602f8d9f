# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Another processor: a row of a matrix product depends on how many rows there are, as with other matrix libraries.

With this folder on `PYTHONPATH`, `import torch` loads it in every process (its entry point is one of `torch.backends`)
and products on the CPU add up their terms in two parts, cut at a place that the number of rows decides. The results
are right to a few units of the last place and repeat on the same shapes, but a batch cut in two gives other bits.
"""

import warnings

import torch

_library = None


def _cut(rows: int, terms: int) -> int:
    """Where a sum of `terms` is cut, between 1 and `terms - 1`; 37 spreads neighbouring numbers of rows."""
    return 1 + 37 * rows % (terms - 1)


def _in_two_parts(first, second, product):
    """`product(first, second)` of the matrices' last two dimensions, or of two parts of the sum."""
    terms = first.shape[-1]
    if terms < 2 or first.dtype not in (torch.float32, torch.float64):
        return product(first, second)
    cut = _cut(first.shape[-2], terms)
    return product(first[..., :cut], second[..., :cut, :]).add_(product(first[..., cut:], second[..., cut:, :]))


# The variants with `out` are other operators than these and keep their kernels, so that nothing calls itself.
def _mm(first, second):
    return torch.ops.aten.mm.out(first, second, out=first.new_empty(first.shape[0], second.shape[1]))


def _bmm(first, second):
    return torch.ops.aten.bmm.out(first, second, out=first.new_empty(*first.shape[:2], second.shape[2]))


def mm(first, second):
    return _in_two_parts(first, second, _mm)


def bmm(first, second):
    return _in_two_parts(first, second, _bmm)


def addmm(added, first, second, *, beta=1, alpha=1):
    if first.dtype not in (torch.float32, torch.float64):
        out = first.new_empty(first.shape[0], second.shape[1])
        return torch.ops.aten.addmm.out(added, first, second, beta=beta, alpha=alpha, out=out)
    product = mm(first, second)
    product = product if alpha == 1 else product.mul_(alpha)
    return product if beta == 0 else product.add_(added, alpha=beta)


def autoload() -> None:
    """Put the kernels in place; called at the end of `import torch`."""
    global _library
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _library = torch.library.Library("aten", "IMPL")
        for kernel in (mm, bmm, addmm):
            _library.impl(kernel.__name__, kernel, "CPU")
