# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
The spectrum of the covariance of the image embeddings.

Its smallest singular value on in-distribution data is one half of the bound that CaRot (Oh et al. 2024, arXiv:2311.01723)
derives for out-of-distribution accuracy and calibration, beside the in-distribution calibration error.
"""

from __future__ import annotations

import torch
from torch import Tensor


class EmbeddingCovariance:
    """
    Streams the covariance (centred, divided by n, float64) of embeddings in a memory of embed_dim squared.

    Batches merge by mean and scatter (Chan, Golub & LeVeque 1983), so no digits cancel where the mean is far from the
    origin, as in CLIP's narrow cone of embeddings. Any split into batches or processes agrees to rounding (1e-12 here).

    Args:
        dim (`int`): Dimension of the embeddings.

    Raises:
        ValueError: If `dim` is below 1.
    """

    def __init__(self, dim: int):
        if dim < 1:
            raise ValueError(f"dim is {dim}, but an embedding has at least one dimension.")
        self.dim = dim
        self.n = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        self.scatter = torch.zeros(dim, dim, dtype=torch.float64)

    def update(self, image_embeds: Tensor) -> None:
        """
        Add a batch.

        Args:
            image_embeds (`torch.Tensor` of shape `(batch, embed_dim)`): Of unit norm for CaRot's quantity; any device.

        Raises:
            ValueError: If the shape is another, or an entry is not finite.
        """
        if image_embeds.ndim != 2 or image_embeds.shape[1] != self.dim:
            raise ValueError(
                f"image_embeds has shape {tuple(image_embeds.shape)}; this covariance needs (batch, {self.dim})."
            )
        batch = image_embeds.detach().cpu().double()
        if not torch.isfinite(batch).all():
            raise ValueError(
                "image_embeds are not all finite, so there is no spectrum; look for a model that diverged."
            )
        if len(batch) == 0:
            return
        mean = batch.mean(dim=0)
        centred = batch - mean
        self.merge_moments(len(batch), mean, centred.t() @ centred)

    def merge(self, other: EmbeddingCovariance) -> None:
        """
        Add what another accumulator has seen.

        Args:
            other ([`EmbeddingCovariance`]): Of the same dimension.

        Raises:
            ValueError: If the dimensions differ.
        """
        if other.dim != self.dim:
            raise ValueError(f"Covariances of dimension {self.dim} and {other.dim} cannot be merged.")
        self.merge_moments(other.n, other.mean, other.scatter)

    def merge_moments(self, n: int, mean: Tensor, scatter: Tensor) -> None:
        """Add `n` embeddings with a `mean` of shape `(embed_dim,)` and a `scatter`, n times the covariance, in float64."""
        total = self.n + n
        if total == 0:
            return
        shift = mean - self.mean
        self.scatter = self.scatter + scatter + torch.outer(shift, shift) * (self.n * n / total)
        self.mean = self.mean + shift * (n / total)
        self.n = total

    def covariance(self) -> Tensor:
        """
        Return the centred covariance of the embeddings so far, divided by n.

        Returns:
            `torch.Tensor` of shape `(embed_dim, embed_dim)`: In float64.

        Raises:
            ValueError: If there were no embeddings.
        """
        if self.n == 0:
            raise ValueError("No embeddings were added, so there is no covariance; call update() first.")
        return self.scatter / self.n

    def singular_values(self) -> Tensor:
        """Return the singular values of the covariance, `(embed_dim,)` float64, descending."""
        # For a symmetric positive semi-definite matrix they are the eigenvalues; a rounding below zero is one of zero.
        values = torch.linalg.eigvalsh(self.covariance()).clamp(min=0).flip(0)
        # n centred embeddings span n - 1 dimensions; what the others would show is rounding, another on each processor.
        values[self.n - 1 :] = 0
        return values

    def summary(self) -> dict:
        """
        Summarise the spectrum.

        Returns:
            `dict`: `smallest_singular_value`, `largest_singular_value`, `n`, `dimension`, and `note`: `None`, or that n
            is too small for a smallest singular value other than zero.
        """
        values = self.singular_values()
        note = None
        if self.n <= self.dim:
            note = f"{self.n} images span at most {self.n - 1} of {self.dim} dimensions: the smallest singular value is 0."
        return {
            "smallest_singular_value": values[-1].item(),
            "largest_singular_value": values[0].item(),
            "n": self.n,
            "dimension": self.dim,
            "note": note,
        }


def smallest_singular_value(image_embeds: Tensor) -> float:
    """
    Compute the smallest singular value of the centred covariance (divided by n, float64) of the embeddings of a set.

    Args:
        image_embeds (`torch.Tensor` of shape `(n, embed_dim)`): Of unit norm for CaRot's quantity. With n no larger
            than embed_dim the result is 0.

    Returns:
        `float`: At least 0.

    Raises:
        ValueError: If the shape is another, or an entry is not finite.
    """
    if image_embeds.ndim != 2:
        raise ValueError(f"image_embeds has shape {tuple(image_embeds.shape)}; a matrix (n, embed_dim) is needed.")
    accumulator = EmbeddingCovariance(image_embeds.shape[1])
    accumulator.update(image_embeds)
    return accumulator.singular_values()[-1].item()
