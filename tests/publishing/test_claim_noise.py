# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""How far a number may be off: no rounding that there can be is refused, and chance is refused as seldom as is stated."""

import copy
import itertools

import numpy as np
import pytest
import torch
from helpers.reports import result
from scipy import stats

from hf_robustft.evaluation.calibration import ece_from_confidence, image_scores
from hf_robustft.evaluation.detection import detection_metrics
from hf_robustft.evaluation.detector import COSINE_ROUNDING
from hf_robustft.evaluation.predictions import Predictions, SetPredictions
from hf_robustft.evaluation.report import EvaluationReport
from hf_robustft.evaluation.resampling import bootstrap_draws, ece_noise_floor
from hf_robustft.publishing.claim_noise import (
    LEVEL,
    logit_rounding,
    p_value,
    refused_by_holm,
    resampled_errors,
    rounding_tolerance,
    share_error,
    share_of_ties,
    too_few,
)
from hf_robustft.publishing.claims import (
    FAILS,
    NOT_MEASURED,
    Comparison,
    compare_reports,
    unreported_errors,
)
from hf_robustft.publishing.detail_claims import derived_claims, detail_claims

CLASSES, SCALE = 8, 50.0


def measured(cosines, labels, unseen):
    scores, probabilities = image_scores(SCALE * cosines, labels)
    confidence, right = scores["confidence"], probabilities.argmax(dim=1) == labels
    found = detection_metrics((SCALE * cosines).logsumexp(dim=1), (SCALE * unseen).logsumexp(dim=1))
    return {
        "nll": scores["nll"].mean().item(),
        "brier": scores["brier"].mean().item(),
        "share": right.double().mean().item(),
        "ece": ece_from_confidence(confidence, right.double(), 15),
        "pairs": found["auroc"],
        "threshold": found["fpr95"],
    }


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("n", (25, 1500))
def test_no_rounding_of_cosines_is_refused(n, seed):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (n,), generator=draw)
    cosines = 0.05 * torch.randn(n, CLASSES, generator=draw, dtype=torch.float64)
    cosines[torch.arange(n), labels] += 0.06
    unseen = 0.05 * torch.randn(n, CLASSES, generator=draw, dtype=torch.float64)
    claimed = measured(cosines, labels, unseen)
    chance = torch.rand(n, CLASSES, generator=draw, dtype=torch.float64) * 2 - 1
    # Against all labels, and known images against unseen ones: the worst there is.
    against = torch.ones(n, CLASSES, dtype=torch.float64)
    against[torch.arange(n), labels] = -1
    d = logit_rounding(SCALE)
    for moved, other in ((chance, chance), (against, against), (-against, -against), (torch.ones_like(chance), -torch.ones_like(chance))):
        now = measured(cosines + COSINE_ROUNDING * moved, labels, unseen + COSINE_ROUNDING * other)
        for kind, value in now.items():
            allowed = rounding_tolerance(kind, n, n, d, CLASSES, claimed[kind])
            assert abs(value - claimed[kind]) <= allowed, (kind, value - claimed[kind], allowed)
    # No more is allowed than rounding may do: at the worst, NLL comes to half of it for this model.
    now = measured(cosines + COSINE_ROUNDING * against, labels, unseen)
    assert now["nll"] - claimed["nll"] > 0.2 * rounding_tolerance("nll", n, n, d, CLASSES, 0.0)


def test_a_thousandth_of_the_images_may_be_decided_otherwise():
    assert [round(share_of_ties(n) * n) for n in (1, 20, 1999, 2000, 50_000)] == [1, 1, 1, 2, 50]
    assert rounding_tolerance("count", 1000, 1, 0.1, 10, 1000) < 1e-8
    assert logit_rounding(100.0) == pytest.approx(1e-3) and logit_rounding(100.0, "bfloat16") == pytest.approx(100 / 256)


def test_welch_is_that_of_scipy():
    one, two = np.random.default_rng(0).normal(size=(2, 40))
    error = np.sqrt(one.var(ddof=1) / 40 + two.var(ddof=1) / 40)
    want = 2 * stats.t.sf(abs(one.mean() - two.mean()) / error, 39)
    assert p_value(one.mean() - two.mean(), error, 40) == pytest.approx(want, rel=1e-12)
    # Fewer degrees of freedom than Welch's own: never smaller.
    assert want >= stats.ttest_ind(one, two, equal_var=False).pvalue
    assert p_value(0.0, 0.0, 40) == 1.0 and p_value(0.1, 0.0, 40) == 0.0 and p_value(0.1, 0.0, 40, unresolved=0.1) == 1.0
    assert too_few(29) and not too_few(30)


def test_a_share_of_all_images_has_an_error():
    assert share_error(1.0, 1.0, 40, 40) > 0.02
    assert share_error(0.5, 0.5, 100, 400) == pytest.approx(np.sqrt(0.25 / 100 + 0.25 / 400))


@pytest.mark.parametrize("seed", range(30))
def test_holm_refuses_what_every_set_of_hypotheses_refuses(seed):
    p = list(np.random.default_rng(seed).uniform(0, 0.05, 4) ** np.random.default_rng(seed + 99).integers(1, 3))

    def refused(index):
        sets = (some for size in range(1, 5) for some in itertools.combinations(range(4), size) if index in some)
        return all(min(p[i] for i in some) <= 0.02 / len(some) for some in sets)

    assert refused_by_holm(p, 0.02) == [refused(index) for index in range(4)]


def test_resampling_whole_groups_has_the_error_of_a_mean_of_groups():
    values = np.random.default_rng(1).normal(size=60).repeat(5)
    groups = np.arange(60).repeat(5)[::-1].astype(str)
    found = resampled_errors(lambda rows: {("mean",): values[rows["a"]].mean()}, {"a": 300}, {"a": groups}, draws=2000)
    of_groups = np.array([values[groups == name].mean() for name in np.unique(groups)])
    assert found["mean",] == pytest.approx(of_groups.std() / np.sqrt(60), rel=0.06)
    alone = resampled_errors(lambda rows: {("mean",): values[rows["a"]].mean()}, {"a": 300}, {}, draws=500)
    assert alone["mean",] < 0.6 * found["mean",]


# ---- Other images ----------------------------------------------------------------------------------------------------


def drawn(rng, groups, each=4, accuracy=0.8, sure=1.0):
    """A report on images in groups that are alike, of a model whose confidence is off by `sure`."""
    ease = rng.normal(size=groups).repeat(each) + 0.5 * rng.normal(size=groups * each)
    chance = stats.norm.cdf(ease / 1.2 + stats.norm.ppf(accuracy))
    correct = torch.from_numpy(rng.uniform(size=len(chance)) < chance).double()
    confidence = torch.from_numpy((0.3 + 0.69 * chance) ** sure)
    nll = torch.where(correct.bool(), -confidence.log(), -(1 - confidence).log())
    brier = (1 - confidence) ** 2 + (1 - correct)
    samples = bootstrap_draws(confidence, correct, nll, brier, groups=np.arange(groups).repeat(each), draws=60)
    numbers = {"nll": nll, "brier": brier}
    facts = {key: value.mean().item() for key, value in numbers.items()}
    facts |= {f"{key}_se": float(values.std(ddof=1)) for key, values in samples.items()}
    facts |= {"ece": ece_from_confidence(confidence, correct), "ece_noise_floor": ece_noise_floor(confidence, draws=20), "n_groups": groups}
    return EvaluationReport("m", {"photo": result("photo", "id", correct.mean().item(), len(correct), **facts)})


def verdicts(one, two):
    return {claim.name: claim for claim in compare_reports(one, two, Comparison({"photo": False}, {}, [], 1e-3))}


def test_chance_is_refused_as_seldom_as_is_stated_and_a_difference_is_found():
    rng, repeats = np.random.default_rng(0), 400
    alarms = [
        any(claim.verdict == FAILS for claim in verdicts(drawn(rng, 100), drawn(rng, sizes)).values())
        for sizes in rng.integers(40, 200, repeats).tolist()
    ]
    # As the guide states; more than that have a probability below one in a thousand where it is kept.
    assert LEVEL == 0.01
    assert sum(alarms) <= stats.binom.ppf(0.999, repeats, LEVEL)
    found = [verdicts(drawn(rng, 200), drawn(rng, 200, accuracy=0.5))["accuracy"].verdict == FAILS for _ in range(40)]
    assert np.mean(found) > 0.9
    found = [verdicts(drawn(rng, 200), drawn(rng, 200, sure=0.3))["ECE"].verdict == FAILS for _ in range(40)]
    assert np.mean(found) > 0.9


def test_images_with_lists_of_labels_have_claims_too():
    row = {"role": "id", "n": 200, "n_classes": 4, "map": 0.7, "f1": None, "f1_micro": 0.6, "ece": 0.1}
    one, same, other = (EvaluationReport("m", {}, multi_label={"tags": row | {"map": value}}) for value in (0.7, 0.705, 0.72))
    by = Comparison({"tags": True}, {}, [], 1e-3)
    assert [claim.name for claim in compare_reports(one, same, by)] == ["images", "mAP", "micro F1", "ECE"]
    assert {claim.verdict for claim in compare_reports(one, same, by)} == {"holds"}
    assert [claim.name for claim in compare_reports(one, other, by) if claim.verdict == FAILS] == ["mAP"]


@pytest.mark.parametrize(
    ("path", "value"),
    [(("classes", "cat", "average_precision"), 0.5), (("classes", "cat", "threshold"), 0.6), (("classes", "dog", "n"), 41), (("n_labels",), 91), (("classes", "dog", "f1"), None)],
)
def test_the_numbers_of_each_class_of_lists_of_labels_are_compared(path, value):
    of = {"n": 40, "average_precision": 0.7, "f1": 0.6, "ece": 0.1, "threshold": 0.4}
    row = {"role": "id", "n": 200, "n_classes": 2, "n_labels": 90, "without_label": 3, "map": 0.7, "f1": 0.6, "f1_micro": 0.6, "ece": 0.1}
    row["classes"] = {"cat": of, "dog": of | {"n": 50}}
    moved = copy.deepcopy(row)
    at = moved
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    by = Comparison({"tags": True}, {}, [], 1e-3)
    one, other = (EvaluationReport("m", {}, multi_label={"tags": item}) for item in (row, moved))
    assert [claim.verdict for claim in detail_claims(one, one, by)] == ["holds"]
    assert [claim.verdict for claim in detail_claims(other, one, by)] == [FAILS]


def test_thresholds_of_labels_are_those_that_answers_are_given_by():
    row = {"role": "id", "n": 200, "thresholds_of": "val", "classes": {"cat": {"threshold": 0.4}, "dog": {"threshold": 0.2}}}
    report = EvaluationReport("m", {}, multi_label={"tags": row})
    for classes, verdict in (({"cat": 0.4, "dog": 0.2}, "holds"), ({"Dog": 0.2, "cat": 0.4}, "holds"), ({"cat": 0.4, "dog": 0.9}, FAILS), ({"cat": 0.4}, FAILS)):
        (found,) = derived_claims(report, {}, {"fitted_on": "val", "classes": classes})
        assert found.verdict == verdict and (verdict == "holds" or "'dog'" in found.reason)
    # Another fit, one after the report, and none.
    assert derived_claims(report, {}, {"fitted_on": "others", "classes": {"cat": 0.9, "dog": 0.9}}) == []
    report.settings["temperature_folded_since"] = 1.5
    assert derived_claims(report, {}, {"fitted_on": "val", "classes": {"cat": 0.9, "dog": 0.9}}) == derived_claims(report, {}) == []


def test_what_no_standard_error_is_known_of_is_not_measured_on_other_images():
    rng = np.random.default_rng(3)
    found = verdicts(drawn(rng, 100), drawn(rng, 80))
    assert {name for name, claim in found.items() if claim.verdict == NOT_MEASURED} == {"images", "adaptive ECE", "class-wise ECE"}
    assert all(claim.p is not None for claim in found.values() if claim.verdict != NOT_MEASURED)
    few = verdicts(drawn(rng, 100), drawn(rng, 29))
    assert all(claim.verdict == NOT_MEASURED for claim in few.values()) and "too few" in few["accuracy"].reason


def test_other_versions_may_not_move_what_has_no_error():
    """A tenth of the number, which was allowed where its standard error is 0 or not known, is ten points of an accuracy of 100 %."""
    by = Comparison({"photo": True, "tags": True}, {}, ["torch 2.12 then, 2.13 now"], 1e-3)

    def judged(one, two):
        return {claim.name: claim for claim in compare_reports(one, two, by)}

    sure, less = (EvaluationReport("m", {"photo": result("photo", "id", accuracy, 200, accuracy_se=0.0)}) for accuracy in (1.0, 0.96))
    assert judged(sure, less)["accuracy"].verdict == FAILS
    # As many as rounding may decide otherwise.
    near = EvaluationReport("m", {"photo": result("photo", "id", 0.995, 200, accuracy_se=0.005)})
    assert judged(sure, near)["accuracy"].verdict == "holds"
    row = {"role": "id", "n": 200, "n_classes": 4, "map": 0.7, "f1": None, "f1_micro": 0.6, "ece": 0.1}
    one, same, other = (EvaluationReport("m", {}, multi_label={"tags": row | {"map": value}}) for value in (0.7, 0.705, 0.72))
    assert judged(one, same)["mAP"].verdict == "holds"
    found = judged(one, other)["mAP"]
    assert found.verdict == NOT_MEASURED and "no standard error" in found.reason
    # Those of the spread are convention.
    moved = EvaluationReport("m", {"photo": result("photo", "id", 1.0, 200, accuracy_se=0.0, adaptive_ece=0.086, nll_se=0.0215)})
    assert {judged(sure, moved)[name].verdict for name in ("adaptive ECE", "standard error of the NLL")} == {"holds"}


def test_every_number_of_an_open_set_has_an_error_of_its_own():
    rng = np.random.default_rng(0)
    sets = {name: rng.normal(size=300) + (name == "photo") for name in ("photo", "unseen")}
    predictions = Predictions({name: SetPredictions(name, "id", np.arange(300), *[None] * 5, {"msp": values}) for name, values in sets.items()})
    facts = {"n": 300, "id": "photo", "scores": {"msp": {"shifts": {}}}}
    claimed = EvaluationReport("m", {"photo": result("photo", "id", 0.5, 300)}, open_set={"unseen": facts})
    found = unreported_errors(claimed, predictions, {"photo": rng.random(300) < 0.5}, ["unseen"])
    want = resampled_errors(
        lambda rows: {(name,): value for name, value in detection_metrics(sets["photo"][rows["photo"]], sets["unseen"][rows["unseen"]]).items()},
        dict.fromkeys(sets, 300), {},
    )  # fmt: skip
    words = {"auroc": "AUROC", "aupr_in": "AUPR, known", "aupr_out": "AUPR, unknown", "fpr95": "FPR95", "fpr95_nearest_recall": "FPR95, nearest recall"}
    for name, word in words.items():
        assert found["unseen", f"{word} of msp"] == pytest.approx(want[name,], rel=0.5), name


@pytest.mark.parametrize(("n_claimed", "n_measured", "groups"), [(100, 10_000, None), (10_000, 100, None), (1000, 1000, None), (100, 9000, 900)])
def test_coverage_of_more_images_than_were_claimed_of_is_refused_where_it_is_another(n_claimed, n_measured, groups):
    """Its error is that of both samples, whichever is the larger."""
    ends = {"interval": [0.8, 1.0], "mean_size": 2.0, "empty": 0.02, "single": 0.4}

    def report(n, coverage, n_groups=None):
        sets = {"photo": {"n": n, "coverage": coverage, **ends}}
        return EvaluationReport("m", {"photo": result("photo", "id", 0.8, n, n_groups=n_groups)}, prediction_sets={"sets": sets})

    group = None if groups is None else np.arange(n_measured) % groups
    seen = SetPredictions("photo", "id", np.arange(n_measured), *[None] * 5, group=group)
    claimed, units = report(n_claimed, 0.95), groups or n_measured
    errors = unreported_errors(claimed, Predictions({"photo": seen}), {}, ["photo"])
    error = np.sqrt(0.95 * 0.05 * (1 / n_claimed + 1 / units))
    for moved, verdict in ((2 * error, "holds"), (12 * error, FAILS)):
        by = Comparison({"photo": False}, {}, [], 1e-3, errors)
        found = {claim.name: claim for claim in compare_reports(claimed, report(n_measured, 0.95 - moved, groups), by)}
        assert found["coverage"].verdict == verdict, (moved, found["coverage"].p)
