# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A detector that is fitted on a small data set."""

from __future__ import annotations

from dataclasses import replace

from hf_robustft.evaluation.collect import collect_logits
from hf_robustft.evaluation.detector import OpenSetDetector

from . import CLASSES, tiny_processor


def detector(model, data, head=None, **options) -> OpenSetDetector:
    logits, _ = collect_logits(model, data, tiny_processor(), head=head, progress=False)
    scale = model.logit_scale.exp().item()
    settings = {"true_positive_rate": 0.5, "temperature": 1.7, "fitted_on": data.name}
    fitted = OpenSetDetector.fit(logits, class_names=CLASSES, logit_scale=scale, **{**settings, **options})
    # The threshold is the score of an image; batches of another size may round that very score down.
    return replace(fitted, threshold=fitted.threshold - 1e-5)
