# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Made-up predictions, without a model."""

import numpy as np

from hf_robustft.evaluation.predictions import Predictions, SetPredictions

NAMES = np.array(["bee", "cat", "dog", "owl"])


def set_of(name="id", n=24, seed=0, right=0.6, role="shift", images=0, groups=6):
    """Predictions of a model (`seed`, `right`) for the images of a set (`images`), of `groups` groups or, if 0, of none."""
    of_images, of_model = np.random.default_rng([1, images]), np.random.default_rng([2, seed, images])
    label, group = NAMES[of_images.integers(0, 4, n)], np.array([f"g{k}" for k in of_images.integers(0, max(groups, 1), n)])
    predicted = np.where(of_model.random(n) < right, label, NAMES[of_model.integers(0, 4, n)])
    numbers = {key: of_model.random(n) for key in ("confidence", "nll", "brier")}
    return SetPredictions(name, role, np.arange(n), predicted, label=label, group=group if groups else None, **numbers)


def predictions(*sets):
    return Predictions({item.name: item for item in sets})
