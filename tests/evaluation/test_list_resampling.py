# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Bootstrap samples of mAP, F1, ECE and NLL of lists of labels: each is scikit-learn's number of the images that were drawn."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.metrics import average_precision_score, f1_score

from hf_robustft.evaluation.collect import save_logits
from hf_robustft.evaluation.list_predictions import load_list_predictions
from hf_robustft.evaluation.list_resampling import list_draws
from hf_robustft.evaluation.multi_label import calibration_error_per_class, multi_label_results, pair_nll
from hf_robustft.evaluation.resampling import draw_counts, group_codes

pytestmark = pytest.mark.numbers
N, CLASSES = 23, 4
NAMES = tuple(f"class {index}" for index in range(CLASSES))


def images(seed=0, dtype=torch.float64):
    """Logits with ties, and labels of which the last class has two images and many have none."""
    generator = torch.Generator().manual_seed(seed)
    logits = (2 * torch.randn(N, CLASSES, generator=generator, dtype=dtype)).round(decimals=0)
    labels = (torch.rand(N, CLASSES, generator=generator) < 0.3).long()
    labels[:, 3] = 0
    labels[[2, 11], 3] = 1
    return logits, labels


@pytest.mark.parametrize("grouped", [False, True])
def test_each_sample_is_the_number_of_the_images_that_were_drawn(grouped):
    logits, labels = images()
    probabilities, thresholds = logits.sigmoid(), torch.tensor([0.2, 0.5, 0.6, 0.1], dtype=torch.float64)
    nll, groups = pair_nll(logits, labels), np.array([f"g{row % 7}" for row in range(N)]) if grouped else None
    found = list_draws(logits, probabilities, labels, thresholds, nll, groups=groups, draws=40, seed=[0, 2], n_bins=5)
    codes, units = group_codes(groups) if grouped else (np.arange(N), N)
    times = np.concatenate(list(draw_counts(units, 40, [0, 2]))).astype(int)[:, codes]
    lost = 0
    for sample, counts in enumerate(times):
        drawn = np.repeat(np.arange(N), counts)
        y, p, z = labels.numpy()[drawn], probabilities.numpy()[drawn], logits.numpy()[drawn]
        there = [c for c in range(CLASSES) if y[:, c].any()]
        lost += len(there) < CLASSES
        assert found["map"][sample] == pytest.approx(np.mean([average_precision_score(y[:, c], z[:, c]) for c in there]), abs=1e-12)
        given = p > thresholds.numpy()
        assert found["f1"][sample] == pytest.approx(np.mean([f1_score(y[:, c], given[:, c], zero_division=0.0) for c in there]), abs=1e-12)
        error = calibration_error_per_class(torch.from_numpy(p), torch.from_numpy(y), 5).mean().item()
        assert found["ece"][sample] == pytest.approx(error, abs=1e-12)
        assert found["nll"][sample] == pytest.approx(nll.numpy()[drawn].mean(), abs=1e-12)
    assert lost, "a sample without any image of a class"


def test_images_that_are_drawn_once_each_give_the_numbers_of_the_data(monkeypatch):
    logits, labels = images(1)
    monkeypatch.setattr("hf_robustft.evaluation.list_resampling.draw_counts", lambda n, draws, seed: iter([np.ones((1, n))]))
    thresholds = torch.full((CLASSES,), 0.4, dtype=torch.float64)
    found = list_draws(logits, logits.sigmoid(), labels, thresholds, pair_nll(logits, labels))
    want = multi_label_results(logits, logits.sigmoid(), labels, NAMES, thresholds)
    for key in ("map", "f1", "ece"):
        assert found[key] == pytest.approx(want[key], abs=1e-12)


def test_the_likelihood_of_labels_is_a_double_loop_over_images_and_classes():
    logits, labels = images(2)
    for function, probabilities in (("sigmoid", logits.sigmoid()), ("softmax", logits.softmax(dim=1))):
        want = [
            -sum(math.log(p if has else 1 - p) for p, has in zip(row, of, strict=True)) / CLASSES
            for row, of in zip(probabilities.tolist(), labels.tolist(), strict=True)
        ]
        assert pair_nll(logits, labels, function).tolist() == pytest.approx(want, rel=1e-12)
    # Of a share that rounds to 1, what is left of it is not rounded away; of one class alone nothing is left.
    sure = pair_nll(torch.tensor([[60.0, 0.0]]), torch.tensor([[0, 0]]), "softmax")
    assert sure.item() == pytest.approx(30, rel=1e-12)
    assert pair_nll(torch.tensor([[5.0]]), torch.tensor([[0]]), "softmax").item() == 745


def test_saved_logits_are_read_as_what_the_report_measured_and_others_are_refused(tmp_path):
    logits, labels = images(3, torch.float32)
    thresholds = torch.full((CLASSES,), 0.3, dtype=torch.float64)
    results = multi_label_results(logits.double(), (logits.double() - 1.5).sigmoid(), labels, NAMES, thresholds)
    row = {"role": "id", "probabilities": "sigmoid", **results}
    facts = {"class_names": list(NAMES), "probabilities": "sigmoid", "pair_bias": -1.5}
    tensors = {"logits": logits, "labels": labels, "rows": torch.arange(N)}
    path = save_logits(tmp_path, "photos", tensors, facts)
    (found,) = load_list_predictions(tmp_path, {"photos": row}).values()
    assert len(found) == N and found.metrics()["map"] == results["map"]
    assert (found.metrics()["f1"], found.metrics()["ece"]) == pytest.approx((results["f1"], results["ece"]), abs=1e-12)
    samples = found.sampled(draws=200, seed=0)
    assert samples["map"].std() > 0 and abs(samples["map"].mean() - results["map"]) < 0.2
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    for changed, of in (
        ({"pair_bias": None}, tensors),
        ({"class_names": json.dumps(["a"])}, tensors),
        ({"probabilities": "softmax"}, tensors),
        ({}, {**tensors, "labels": labels + 1}),
        ({}, {**tensors, "rows": torch.arange(3)}),
        ({}, {"logits": logits, "labels": labels}),
        ({}, {**tensors, "logits": logits / 0}),
    ):
        facts = {key: value for key, value in {**metadata, **changed}.items() if value is not None}
        save_file(of, path, facts)
        with pytest.raises(ValueError, match="--save_logits") as caught:
            load_list_predictions(tmp_path, {"photos": row})
        assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="--save_logits"):
        load_list_predictions(tmp_path, {"photos": row})
