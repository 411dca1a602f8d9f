# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The streamed covariance is the covariance, in whatever pieces the embeddings come."""

import numpy as np
import pytest
import torch

from hf_robustft.evaluation.spectrum import EmbeddingCovariance, smallest_singular_value

pytestmark = pytest.mark.numbers


def cone(n=200, dim=12, seed=0):
    """Unit vectors in a narrow cone, as CLIP's embeddings are."""
    generator = torch.Generator().manual_seed(seed)
    vectors = 5 + torch.randn(n, dim, generator=generator, dtype=torch.float64)
    return vectors / vectors.norm(dim=1, keepdim=True)


def test_by_hand():
    # The four corners (+-2, +-1) around (7, 3): variances 4 and 1, no covariance.
    points = torch.tensor([[9.0, 4.0], [9.0, 2.0], [5.0, 4.0], [5.0, 2.0]])
    accumulator = EmbeddingCovariance(2)
    accumulator.update(points)
    torch.testing.assert_close(accumulator.covariance(), torch.diag(torch.tensor([4.0, 1.0], dtype=torch.float64)))
    torch.testing.assert_close(accumulator.singular_values(), torch.tensor([4.0, 1.0], dtype=torch.float64))
    assert smallest_singular_value(points) == pytest.approx(1.0)


@pytest.mark.parametrize("batch_size", [1, 17, 199, 200])
def test_streamed_equals_whole(batch_size):
    embeds = cone()
    accumulator = EmbeddingCovariance(12)
    for batch in embeds.split(batch_size):
        accumulator.update(batch)
    want = np.cov(embeds.numpy().T, bias=True)
    np.testing.assert_allclose(accumulator.covariance().numpy(), want, rtol=0, atol=1e-15)
    singular = np.linalg.svd(want, compute_uv=False)
    np.testing.assert_allclose(accumulator.singular_values().numpy(), singular, rtol=1e-12)
    assert accumulator.summary()["smallest_singular_value"] == pytest.approx(singular[-1], rel=1e-12)


def test_merged_shards_equal_whole():
    embeds = cone()
    merged = EmbeddingCovariance(12)
    for shard in (embeds[:0], embeds[0::3], embeds[1::3], embeds[2::3]):
        part = EmbeddingCovariance(12)
        part.update(shard)
        merged.merge(part)
    assert merged.n == 200
    assert merged.singular_values()[-1].item() == pytest.approx(smallest_singular_value(embeds), rel=1e-12)


def test_float32_embeddings_far_from_the_origin_lose_no_digits():
    # The naive mean of squares minus square of the mean would be left with rounding alone here.
    embeds = (1 + 1e-6 * torch.randn(100, 3, generator=torch.Generator().manual_seed(0))).float()
    want = np.linalg.svd(np.cov(embeds.double().numpy().T, bias=True), compute_uv=False)[-1]
    accumulator = EmbeddingCovariance(3)
    for batch in embeds.split(7):
        accumulator.update(batch)
    assert accumulator.singular_values()[-1].item() == pytest.approx(want, rel=1e-6)


def test_too_few_images_are_noted():
    accumulator = EmbeddingCovariance(12)
    accumulator.update(cone(12))
    summary = accumulator.summary()
    assert summary["n"] == summary["dimension"] == 12 and "at most 11 of 12" in summary["note"]
    assert summary["smallest_singular_value"] == 0 == accumulator.singular_values()[11] < accumulator.singular_values()[10]
    accumulator.update(cone(1, seed=1))
    assert accumulator.summary()["note"] is None and accumulator.summary()["smallest_singular_value"] > 0


def test_bad_input_is_refused():
    accumulator = EmbeddingCovariance(3)
    with pytest.raises(ValueError, match="No embeddings"):
        accumulator.covariance()
    with pytest.raises(ValueError, match=r"\(batch, 3\)"):
        accumulator.update(torch.ones(2, 4))
    with pytest.raises(ValueError, match="finite"):
        accumulator.update(torch.tensor([[1.0, float("nan"), 0.0]]))
    with pytest.raises(ValueError, match="3 and 4"):
        accumulator.merge(EmbeddingCovariance(4))
    with pytest.raises(ValueError, match="matrix"):
        smallest_singular_value(torch.ones(3))
    with pytest.raises(ValueError, match="dim is 0"):
        EmbeddingCovariance(0)
