# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Open-set scores and detection metrics against golden data, pair counts, slow loops, and cases worked by hand."""

import math

import numpy as np
import pytest
import torch

from hf_robustft.evaluation.detection import (
    FPR_CONVENTION,
    FPR_DEFINITIONS,
    detection_metrics,
    ranked_detection_metrics,
    threshold_at_recall,
)
from hf_robustft.evaluation.open_set import SCORES, score

pytestmark = pytest.mark.numbers

KEYS = {"auroc", "aupr_in", "aupr_out", "fpr95", "fpr95_nearest_recall", "fpr95_percentile"}
MEASURES = ("normal", "ties", "sep", "inverted", "heavy_ties", "constant", "tiny", "float32")


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pair_count(known, unseen):
    """AUROC from its definition, in whole numbers."""
    won = sum(2 * (a > b) + (a == b) for a in known.tolist() for b in unseen.tolist())
    return won / (2 * len(known) * len(unseen))


def average_precision(positive, negative):
    """Sum over the distinct thresholds, from the highest down, of the gain in recall times the precision."""
    total, before = 0.0, 0.0
    for threshold in sorted({*positive.tolist(), *negative.tolist()}, reverse=True):
        hits, alarms = int((positive >= threshold).sum()), int((negative >= threshold).sum())
        recall = hits / len(positive)
        total += (recall - before) * hits / (hits + alarms)
        before = recall
    return total


def highest_threshold(known, recall):
    return max(t for t in known.tolist() if int((known >= t).sum()) / len(known) >= recall)


# Golden data


@pytest.mark.parametrize("case", MEASURES)
def test_measures_equal_the_reference(golden, case):
    data = golden("g_ood_metrics")
    known, unseen = data[f"measures_{case}/id_scores"], data[f"measures_{case}/ood_scores"]
    auroc, aupr, fpr = data[f"measures_{case}/auroc_aupr_fpr95"].tolist()
    got = detection_metrics(known, unseen)
    assert got["auroc"] == pytest.approx(auroc, abs=1e-9)
    assert got["aupr_in"] == pytest.approx(aupr, abs=1e-9)
    assert got["fpr95_nearest_recall"] == pytest.approx(fpr, abs=1e-12)


@pytest.mark.parametrize("case", ["eval0", "eval1"])
def test_energies_of_the_correct_ones_equal_the_reference(golden, case):
    data = golden("g_ood_metrics")
    logits, labels = data[f"{case}/id_logits"], data[f"{case}/id_labels"]
    correct = logits.argmax(dim=1) == labels
    assert correct.sum().item() == data[f"{case}/n_correct"].item() < len(labels)
    known, unseen = score("energy", logits=logits), score("energy", logits=data[f"{case}/ood_logits"])
    threshold, fpr, auroc = data[f"{case}/threshold_fpr_auroc"].tolist()
    # The reference takes the logsumexp in float32.
    assert np.percentile(known[correct], 5) == pytest.approx(threshold, rel=2e-7)
    got = detection_metrics(known[correct], unseen)
    assert got["fpr95_percentile"] == pytest.approx(fpr, abs=1e-12)
    assert got["auroc"] == pytest.approx(auroc, abs=1e-9)
    assert detection_metrics(known, unseen)["auroc"] != pytest.approx(auroc, abs=1e-6)


@pytest.mark.parametrize("k", [1, 5, 10, 25])
def test_neighbours_equal_the_reference(golden, k):
    data = golden("g_ood_metrics")
    got = {part: score("knn", features=data[f"knn/{part}_test"], bank=data["knn/bank"], k=k) for part in ("id", "ood")}
    for part, scores in got.items():
        torch.testing.assert_close(scores, data[f"knn/K{k}/{part}_scores"].double(), rtol=0, atol=1e-5)
    metrics = detection_metrics(got["id"], got["ood"])
    auroc, aupr, fpr = data[f"knn/K{k}/auroc_aupr_fpr95"].tolist()
    assert metrics["auroc"] == pytest.approx(auroc, abs=1e-9)
    assert metrics["aupr_in"] == pytest.approx(aupr, abs=1e-9)
    assert metrics["fpr95_nearest_recall"] == pytest.approx(fpr, abs=1e-12)


# Metrics


@pytest.mark.parametrize("levels", [2, 5, 40, None])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 30), (37, 1), (60, 45)])
def test_metrics_equal_their_definitions(n, m, levels):
    known, unseen = normal(n, seed=1) + 1, normal(m, seed=2)
    if levels is not None:
        known, unseen = (known * levels / 4).round(), (unseen * levels / 4).round()
    got = detection_metrics(known, unseen)
    assert set(got) == KEYS
    assert got["auroc"] == pytest.approx(pair_count(known, unseen), abs=1e-12)
    assert got["aupr_in"] == pytest.approx(average_precision(known, unseen), abs=1e-12)
    assert got["aupr_out"] == pytest.approx(average_precision(-unseen, -known), abs=1e-12)
    assert got["fpr95"] == (unseen >= highest_threshold(known, 0.95)).double().mean().item()
    assert all(type(value) is float and 0 <= value <= 1 for value in got.values())


def test_metrics_by_hand_where_the_three_rates_differ():
    # 20 known images at 1..20: 19 of them, exactly 95 %, are >= 2; the 5th percentile lies at 1 + 0.05 * 19 = 1.95.
    known = torch.arange(1.0, 21.0, dtype=torch.float64)
    unseen = torch.tensor([0.5, 1.97, 1.99, 2.0, 30.0], dtype=torch.float64)
    got = detection_metrics(known, unseen)
    assert got["fpr95"] == 2 / 5
    assert got["fpr95_percentile"] == 4 / 5
    # The recall is 95 % at every threshold in (1, 2]; the lowest score there is 1.97.
    assert got["fpr95_nearest_recall"] == 4 / 5
    # Of 3 known images, thresholds have recalls 1, 2/3, 1/3: nearest to 0.95 is 1.
    assert detection_metrics(known[:3], unseen)["fpr95_nearest_recall"] == 4 / 5
    # With 10 the recalls 0.9 and 1.0 are equally near but for a rounding, which the reference decides alike.
    assert abs(0.9 - 0.95) < abs(1.0 - 0.95)
    assert detection_metrics(known[:10], torch.tensor([0.0, 1.5, 1.6, 2.5]))["fpr95_nearest_recall"] == 3 / 4


def test_a_constant_score_is_worth_nothing():
    got = detection_metrics(torch.zeros(7), torch.zeros(3))
    assert got == {
        "auroc": 0.5,
        "aupr_in": 0.7,
        "aupr_out": 0.3,
        "fpr95": 1.0,
        "fpr95_nearest_recall": 1.0,
        "fpr95_percentile": 0.0,
    }


def test_differences_that_float32_would_lose_are_kept():
    known, unseen = [1.0 + 2e-9, 1.0 + 3e-9], [1.0, 1.0 + 1e-9]
    assert detection_metrics(known, unseen)["auroc"] == 1.0
    assert detection_metrics(np.float32(known), np.float32(unseen))["auroc"] == 0.5


def test_order_and_container_do_not_matter():
    known, unseen = normal(50, seed=3) + 1, normal(30, seed=4)
    want = detection_metrics(known, unseen)
    assert detection_metrics(known.flip(0), unseen.flip(0)) == want
    assert detection_metrics(known.numpy(), unseen.tolist()) == want


@pytest.mark.parametrize("seed", range(40))
def test_numbers_from_ranks_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    one, two = rng.normal(0.5, 1, rng.integers(1, 60)), rng.normal(0, 1, rng.integers(1, 60))
    # Whole numbers are ties within and between the sets; drawn again, as in a bootstrap, each image comes several times.
    for known, unseen in ((one, two), (one.round(), two.round()), (rng.choice(one, len(one)), rng.choice(two, len(two)))):
        want = detection_metrics(known, unseen)
        assert ranked_detection_metrics(known, unseen) == pytest.approx(want, abs=1e-12) and set(want) == KEYS


@pytest.mark.parametrize("n", [1, 2, 7, 19, 20, 21, 40, 60, 100, 180, 997])
@pytest.mark.parametrize("recall", [0.5, 0.9, 0.95, 0.99, 1.0])
def test_the_threshold_is_the_highest_that_accepts_enough(n, recall):
    for known in (normal(n, seed=n), (3 * normal(n, seed=n)).round()):
        threshold = threshold_at_recall(known, recall)
        assert threshold == highest_threshold(known, recall)
        assert int((known >= threshold).sum()) / n >= recall


@pytest.mark.parametrize("recall", [0.0, -0.1, 1.01, math.nan])
def test_a_recall_that_is_no_share_is_refused(recall):
    with pytest.raises(ValueError, match="true-positive rate"):
        threshold_at_recall(normal(5), recall)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.tensor([]), "empty"),
        ([], "empty"),
        (torch.tensor([1.0, math.nan]), "NaN or infinity, first in row 1"),
        (np.array([math.inf]), "NaN or infinity"),
        (torch.ones(3, 1), "give numbers of shape"),
        (torch.tensor(1.0), "give numbers of shape"),
        (torch.tensor([True, False]), "give numbers of shape"),
    ],
)
def test_bad_scores_are_refused(bad, message, swap):
    good = torch.ones(4)
    with pytest.raises(ValueError, match=("open-set" if swap else "in-distribution") + ".*" + message):
        detection_metrics(*((good, bad) if swap else (bad, good)))


def test_every_printed_rate_has_a_definition():
    assert set(FPR_DEFINITIONS) == {key for key in KEYS if key.startswith("fpr95")}
    assert FPR_DEFINITIONS["fpr95"] == FPR_CONVENTION and "95 %" in FPR_CONVENTION


# Scores


def test_scores_by_hand():
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])
    torch.testing.assert_close(score("msp", logits=logits.double()), torch.tensor([0.75, 0.5], dtype=torch.float64))
    assert score("max_logit", logits=logits).tolist() == logits[:, 0].double().tolist()
    exact = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(
        score("energy", logits=exact), torch.tensor([4.0, 2.0]).double().log(), rtol=0, atol=1e-15
    )
    got = score("knn", features=[[2.0, 0.0]], bank=[[0.0, 5.0], [3.0, 0.0], [-1.0, 0.0]], k=2)
    assert got.tolist() == pytest.approx([-2.0], abs=1e-15)


def test_scores_equal_slow_loops():
    logits, features, bank = 30 * normal(9, 6), normal(9, 5, seed=1), normal(12, 5, seed=2)
    cosines = logits / 200
    for i, row in enumerate(logits.tolist()):
        partition = math.fsum(math.exp(z) for z in row)
        assert score("msp", logits=logits)[i].item() == pytest.approx(math.exp(max(row)) / partition, rel=1e-12)
        assert score("energy", logits=logits)[i].item() == pytest.approx(math.log(partition), rel=1e-12)
        small = [math.exp(c) for c in cosines[i].tolist()]
        assert score("mcm", cosines=cosines)[i].item() == pytest.approx(max(small) / math.fsum(small), rel=1e-12)
        unit = features[i] / features[i].norm()
        distances = sorted(float((unit - b / b.norm()).square().sum()) for b in bank)
        for k in (1, 4, 12):
            got = score("knn", features=features, bank=bank, k=k)[i].item()
            assert got == pytest.approx(-distances[k - 1], abs=1e-12)


@pytest.mark.same_bits("one logit after another, divided by powers of two or alike")
def test_temperature_divides():
    logits = 10 * normal(5, 4)
    torch.testing.assert_close(
        score("energy", logits=logits, temperature=4.0), 4 * score("energy", logits=logits / 4), rtol=1e-15, atol=0
    )
    assert torch.equal(score("msp", logits=logits, temperature=4.0), score("msp", logits=logits / 4))
    assert torch.equal(score("mcm", cosines=logits / 50, temperature=0.5), score("msp", logits=logits / 25))
    # At the scale of CLIP the energy is the largest logit up to the logarithm of the number of classes.
    gap = score("energy", logits=logits) - score("max_logit", logits=logits)
    assert (gap >= 0).all() and (gap <= math.log(4)).all()


@pytest.mark.same_bits("scales that are powers of two")
def test_mcm_does_not_depend_on_the_scale_and_msp_does():
    cosines = 0.3 * normal(6, 4).tanh()
    by_scale = [score("mcm", cosines=(s * cosines) / s) for s in (1.0, 64.0)]
    assert torch.equal(*by_scale)
    assert not torch.equal(score("msp", logits=cosines), score("msp", logits=100 * cosines))


@pytest.mark.same_bits("float64 both times; rows have a tolerance")
@pytest.mark.parametrize("name", SCORES)
def test_all_in_float64_and_row_by_row(name):
    inputs = {"logits": 50 * normal(33, 17, dtype=torch.float32), "features": normal(33, 8, dtype=torch.float32)}
    inputs["cosines"] = inputs["logits"] / 250
    bank = normal(20, 8, seed=9, dtype=torch.float32)
    got = score(name, **inputs, bank=bank, k=3)
    assert got.dtype == torch.float64 and got.shape == (33,) and got.device.type == "cpu"
    doubled = {key: value.double().requires_grad_() for key, value in inputs.items()}
    assert torch.equal(score(name, **doubled, bank=bank.numpy(), k=3), got) and not got.requires_grad
    rows = [score(name, **{key: v[i : i + 1] for key, v in inputs.items()}, bank=bank, k=3) for i in range(33)]
    torch.testing.assert_close(torch.cat(rows), got, rtol=1e-13, atol=1e-13)


def test_no_overflow_at_a_large_scale():
    logits = 1e4 * normal(5, 3)
    torch.testing.assert_close(score("energy", logits=logits), logits.amax(dim=1))
    assert (score("msp", logits=logits) == 1).all()


GOOD = {
    "logits": torch.ones(2, 3),
    "cosines": torch.ones(2, 3) / 2,
    "features": torch.ones(2, 4),
    "bank": torch.ones(5, 4),
}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("delta_energy", {}, "no open-set score 'delta_energy'; choose one of msp, mcm"),
        ("energy", {"logits": None}, "'energy' is one of logits, which were not given"),
        ("mcm", {"cosines": None}, "'mcm' is one of cosines"),
        ("knn", {"features": None}, "'knn' is one of features"),
        ("knn", {"bank": None}, "pass bank"),
        ("energy", {"logits": torch.tensor([[1.0, 2.0], [math.nan, 0.0]])}, "NaN or infinity, first in row 1"),
        ("msp", {"logits": torch.tensor([[-math.inf, 2.0]])}, "NaN or infinity"),
        ("max_logit", {"logits": torch.ones(3)}, r"shape \(images, classes\)"),
        ("max_logit", {"logits": torch.ones(0, 3)}, "empty"),
        ("max_logit", {"logits": torch.ones(3, 0)}, "empty"),
        ("mcm", {"cosines": 100 * torch.ones(2, 3)}, "reach 100.*divide the logits"),
        ("energy", {"temperature": 0.0}, "temperature is 0.0"),
        ("energy", {"temperature": math.nan}, "temperature is nan"),
        ("max_logit", {"temperature": 2.0}, "has none"),
        ("knn", {"temperature": 2.0}, "has none"),
        ("knn", {"k": 6}, "bank of 5 features has neighbours 1 to 5"),
        ("knn", {"k": 0}, "neighbours 1 to 5"),
        ("knn", {"bank": torch.ones(5, 3)}, "4 dimensions and those of the bank 3"),
        ("knn", {"bank": torch.full((5, 4), math.nan)}, "features of the bank hold NaN"),
        ("knn", {"features": torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]])}, "row 1 is zero"),
    ],
)
def test_bad_input_is_refused(name, change, message):
    with pytest.raises(ValueError, match=message):
        score(name, **{**GOOD, "k": 2, **change})
