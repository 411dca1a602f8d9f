# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Random views of whole batches on tensors, for pretraining: wider than the views that Emoji Shift stores."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """`n` draws from [low, high)."""
    return low + (high - low) * torch.rand(n, generator=generator)


def chosen(n: int, probability: float, generator: torch.Generator) -> Tensor:
    """A boolean mask, each entry true with the given probability."""
    return torch.rand(n, generator=generator) < probability


def affine_views(ink: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Rotation, scale, aspect, shear, translation and a seldom mirror; `ink` is 0 where nothing is drawn."""
    n = len(ink)
    angle = uniform(n, -25.0, 25.0, generator) * math.pi / 180.0
    shear = torch.tan(uniform(n, -10.0, 10.0, generator) * math.pi / 180.0)
    scale = torch.exp(uniform(n, math.log(0.6), math.log(1.15), generator))
    aspect = torch.exp(uniform(n, -0.15, 0.15, generator))
    mirror = torch.where(chosen(n, 0.15, generator), -1.0, 1.0)
    shift = uniform(2 * n, -0.25, 0.25, generator).view(n, 2)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    rows = [cos * aspect * mirror, (sin + cos * shear) / aspect, -sin * aspect * mirror, (cos - sin * shear) / aspect]
    matrix = torch.stack(rows, dim=1).view(n, 2, 2)
    theta = torch.cat([matrix, -matrix @ shift.unsqueeze(-1)], dim=2)
    grid = F.affine_grid(theta, [n, 3, size, size], align_corners=False)
    return F.grid_sample(ink, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def recolour(ink: Tensor, generator: torch.Generator) -> Tensor:
    """Hue (small for most, any for some), saturation, contrast and greyscale, all by one 3 x 3 matrix an image."""
    n = len(ink)
    turn = torch.where(chosen(n, 0.2, generator), uniform(n, -0.5, 0.5, generator), uniform(n, -0.06, 0.06, generator))
    angle = 2.0 * math.pi * turn
    cos, sin = torch.cos(angle), torch.sin(angle) / math.sqrt(3.0)
    off = (1.0 - cos) / 3.0
    rows = [cos + off, off - sin, off + sin, off + sin, cos + off, off - sin, off - sin, off + sin, cos + off]
    hue = torch.stack(rows, dim=1).view(n, 3, 3)
    saturation = uniform(n, 0.4, 1.6, generator).masked_fill(chosen(n, 0.2, generator), 0.0).view(n, 1, 1)
    contrast = uniform(n, 0.6, 1.3, generator).view(n, 1, 1)
    mean = torch.full((3, 3), 1.0 / 3.0)
    matrix = contrast * ((saturation * torch.eye(3) + (1.0 - saturation) * mean) @ hue)
    return (matrix @ ink.flatten(2)).view_as(ink).clamp(0.0, 1.0)


def smooth(images: Tensor) -> Tensor:
    """The 3 x 3 binomial filter, edges repeated."""
    rows = F.pad(images, (0, 0, 1, 1), mode="replicate")
    rows = 0.25 * (rows[:, :, :-2] + rows[:, :, 2:]) + 0.5 * images
    columns = F.pad(rows, (1, 1, 0, 0), mode="replicate")
    return 0.25 * (columns[..., :-2] + columns[..., 2:]) + 0.5 * rows


def blur(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blurs half of the images, each by a random mix of one and three passes of `smooth`."""
    n = len(images)
    soft = smooth(images)
    softer = smooth(smooth(soft))
    share = uniform(n, 0.3, 1.0, generator).masked_fill(chosen(n, 0.5, generator), 0.0).view(n, 1, 1, 1)
    target = torch.where(chosen(n, 0.5, generator).view(n, 1, 1, 1), soft, softer)
    return torch.lerp(images, target, share)


def erase(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Covers a random rectangle (a sixth to a third of each side) with one colour."""
    n, _, height, width = images.shape
    half = uniform(2 * n, 1 / 12, 1 / 6, generator).view(2, n, 1)
    centre = uniform(2 * n, 0.1, 0.9, generator).view(2, n, 1)
    inside_y = ((torch.arange(height) + 0.5) / height - centre[0]).abs() < half[0]
    inside_x = ((torch.arange(width) + 0.5) / width - centre[1]).abs() < half[1]
    mask = inside_y.unsqueeze(2) & inside_x.unsqueeze(1) & chosen(n, probability, generator).view(n, 1, 1)
    colour = torch.rand(n, 3, 1, 1, generator=generator)
    return torch.where(mask.unsqueeze(1), colour, images)


def random_views(drawings: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """One random view of every drawing.

    Args:
        drawings: uint8 (batch, 3, height, width), artwork on white.
        size: side of the views in pixels.
        generator: source of all randomness.

    Returns:
        float32 (batch, 3, size, size) in [0, 1].
    """
    n = len(drawings)
    ink = recolour(affine_views(1.0 - drawings.float() / 255.0, size, generator), generator)
    paper = 1.0 - uniform(3 * n, 0.0, 0.35, generator).view(n, 3, 1, 1)
    paper = torch.where(chosen(n, 0.5, generator).view(n, 1, 1, 1), paper, torch.ones(()))
    brightness = uniform(n, 0.75, 1.0, generator).view(n, 1, 1, 1)
    images = erase((1.0 - ink) * paper * brightness, 0.25, generator)
    return blur(images, generator)
