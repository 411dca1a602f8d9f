# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Images as patches of a grid of their own, one tensor per image, for models that take any aspect ratio (SigLIP 2, NaFlex).

Such a model is called with patches, a mask and the height and width of each grid. Everything between an image and its model
hands on one tensor per image, so all three are packed into one of shape `(max_patches + 1, values of a patch)`: the patches
row by row, zeros, and a last row that begins with the grid. Its height and width are written as two digits of base 256 each,
which 256 levels and the numbers of half precision hold exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Height and width of a grid, in patches, are below the square of it.
BASE = 256
#: Numbers that say height and width.
DIGITS = 4
CHANNELS = 3


def pack_patches(image: Tensor, size: int, max_patches: int) -> Tensor:
    """
    An image cut into patches.

    Args:
        image (`torch.Tensor` of shape `(3, height, width)`): Whole patches, at most `max_patches`, in any dtype.
        size (`int`): Side of a patch in pixels, at least 2.
        max_patches (`int`): Patches that there is room for.

    Returns:
        `torch.Tensor` of shape `(max_patches + 1, 3 * size ** 2)`: Patches in Transformers' order of values (row, column,
        channel), and the grid.
    """
    height, width = image.shape[1] // size, image.shape[2] // size
    patches = image.reshape(CHANNELS, height, size, width, size).permute(1, 3, 2, 4, 0).reshape(height * width, -1)
    packed = patches.new_zeros(max_patches + 1, patches.shape[1])
    packed[: len(patches)] = patches
    packed[-1, :DIGITS] = torch.tensor([*divmod(height, BASE), *divmod(width, BASE)])
    return packed


def unpack_patches(packed: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """
    What a model is called with for packed images.

    Args:
        packed (`torch.Tensor` of shape `(n, max_patches + 1, 3 * size ** 2)`): As [`pack_patches`] makes them.
        size (`int`): Side in pixels of the patches that the model takes.

    Returns:
        Three `torch.Tensor`: patches `(n, max_patches, 3 * size ** 2)`, which of them are not padding `(n, max_patches)`
        int32, and height and width of the grids `(n, 2)` int64, on the CPU: the model needs them there.

    Raises:
        ValueError: If it is something else, such as images of one size, or what a processor gives.
    """
    if packed.ndim == 3 and packed.shape[2] == CHANNELS * size**2:
        last = packed[:, -1].detach().cpu().double()
        digits, rest = last[:, :DIGITS], last[:, DIGITS:]
        if ((digits >= 0) & (digits < BASE) & (digits == digits.floor())).all() and not rest.any():
            shapes = (digits[:, ::2] * BASE + digits[:, 1::2]).long()
            counts, room = shapes.prod(dim=1), packed.shape[1] - 1
            if ((counts >= 1) & (counts <= room)).all():
                mask = torch.arange(room) < counts[:, None]
                return packed[:, :-1], mask.int().to(packed.device), shapes
    raise ValueError(
        f"pixel_values of shape {tuple(packed.shape)} are not packed patches of {size} x {size} pixels with their grid; make "
        "them with `ImageTransform.from_processor(processor, ...)`, from the processor of the model."
    )
