# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What is called worse is worse, and what chance does is seldom called so: by simulated logits."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers import CLASSES, TEMPLATES, image_dataset, tiny_processor

from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.evaluation import calibration
from hf_robustft.evaluation.evaluator import KEPT_DRAWS, Evaluator
from hf_robustft.evaluation.findings import at_chance, error_of_difference, is_below_guessing, sentences, worse
from hf_robustft.evaluation.image_numbers import most_frequent
from hf_robustft.evaluation.report import DatasetResult, EvaluationReport, load_reports, save_reports
from hf_robustft.evaluation.resampling import bootstrap_draws


def measured(logits, labels, name="photo", role="id", groups=None) -> DatasetResult:
    """As `Evaluator` measures, from logits."""
    scores, probabilities = calibration.image_scores(logits, labels)
    samples = bootstrap_draws(**scores, draws=KEPT_DRAWS, groups=groups)
    predicted = probabilities.max(dim=1).indices
    names = tuple(map(str, range(logits.shape[1])))
    rest = dict.fromkeys(("adaptive_ece", "classwise_ece", "ece_noise_floor"), 0.0)
    return DatasetResult(
        name=name,
        role=role,
        n=len(labels),
        n_classes=logits.shape[1],
        accuracy=scores["correct"].mean().item(),
        ece=calibration.ece_from_confidence(scores["confidence"], scores["correct"]),
        nll=scores["nll"].mean().item(),
        brier=scores["brier"].mean().item(),
        reliability=calibration.reliability_bins(scores["confidence"], scores["correct"]),
        predictions=most_frequent({"predicted": predicted, "label": labels}, names),
        n_groups=None if groups is None else len(np.unique(groups)),
        draws={key: samples[key].round(6).tolist() for key in ("accuracy", "ece", "nll")},
        **{f"{key}_se": float(values.std(ddof=1)) for key, values in samples.items()},
        **rest,
    )


def models(n, seed, classes=5, signal=(1.5, 1.5), noise=0.5):
    """Logits of two models that see the same images and err for the most part together."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=generator)
    seen = torch.randn(n, classes, generator=generator)
    truth = torch.nn.functional.one_hot(labels, classes)
    found = [seen + noise * torch.randn(n, classes, generator=generator) + strength * truth for strength in signal]
    return [logits.double() for logits in found], labels


def reports(n, seed, **options):
    (first, second), labels = models(n, seed, **options)
    return [
        EvaluationReport(name, {"photo": measured(logits, labels)})
        for name, logits in (("before", first), ("after", second))
    ]


def rates(n, draws=150, **options) -> dict[str, float]:
    found = [
        {change.metric for change in worse(after, before)}
        for before, after in (reports(n, seed, **options) for seed in range(draws))
    ]
    return {metric: float(np.mean([metric in metrics for metrics in found])) for metric in ("accuracy", "ece", "nll")}


def test_without_a_change_few_sets_are_called_worse():
    """Two standard errors, one-sided: 2.3 % by chance. Of 150 draws no more than 6.7 %, which 1 test in 500 exceeds."""
    assert all(rate <= 0.067 for rate in rates(200).values())


def test_of_many_sets_few_reports_call_anything_worse():
    """Seven sets and three metrics: two standard errors each would call a third of the reports without a change worse."""
    called = 0
    for seed in range(40):
        pairs = [reports(100, 1000 * seed + part) for part in range(7)]
        before, after = (
            EvaluationReport(
                name, {f"set{i}": named(pair[k].results["photo"], f"set{i}") for i, pair in enumerate(pairs)}
            )
            for k, name in enumerate(("before", "after"))
        )
        called += bool(worse(after, before))
    assert called <= 6, "5 % are 2 of 40; more than 6 in 1 of 300 such tests"


def named(result, name):
    result.name, result.role = name, "shift"
    return result


@pytest.mark.parametrize(("n", "classes"), [(100, 1000), (400, 1000), (30, 10), (40, 2), (3000, 200)])
def test_guessing_seldom_passes_for_knowledge(n, classes):
    """Also where few right answers are expected, and a normal approximation is wrong."""
    rights = np.random.default_rng(n).binomial(n, 1 / classes, 4000)
    numbers = dict.fromkeys(DatasetResult.__dataclass_fields__, 0.0)
    numbers |= {"n": n, "n_classes": classes, "predictions": None}
    passed = {k: not at_chance(DatasetResult(**{**numbers, "accuracy": k / n})) for k in set(rights.tolist())}
    assert np.mean([passed[k] for k in rights.tolist()]) <= 0.03
    assert not at_chance(DatasetResult(**{**numbers, "accuracy": 1.0}))


def test_equal_models_and_models_without_spread():
    (logits, _), labels = models(100, 1)
    same = [EvaluationReport(name, {"photo": measured(logits, labels)}) for name in ("before", "after")]
    assert worse(same[1], same[0]) == []
    right = 20 * torch.nn.functional.one_hot(labels, 5).double()
    wrong = right.roll(1, dims=1)
    fell = [EvaluationReport(name, {"photo": measured(rows, labels)}) for name, rows in (("a", right), ("b", wrong))]
    assert {change.metric for change in worse(fell[1], fell[0])} == {"accuracy", "ece", "nll"}
    assert worse(fell[0], fell[1]) == []


def test_a_real_fall_is_named():
    """12 points of 200 images, where two independent sets could not tell: paired errors are half as large."""
    found = rates(200, draws=60, signal=(1.8, 1.2))
    assert found["accuracy"] >= 0.8 and found["nll"] >= 0.95


def test_the_paired_error_is_that_of_the_differences_of_images():
    (first, second), labels = models(400, 0)
    before, after = measured(first, labels), measured(second, labels)
    right = [(logits.argmax(1) == labels).double() for logits in (first, second)]
    losses = [torch.nn.functional.cross_entropy(logits, labels, reduction="none") for logits in (first, second)]
    for metric, values in (("accuracy", right), ("nll", losses)):
        want = ((values[1] - values[0]).square().mean() / 400).sqrt().item()
        assert error_of_difference(after, before, metric) == pytest.approx(want, rel=0.15)
        independent = np.hypot(getattr(after, f"{metric}_se"), getattr(before, f"{metric}_se"))
        assert error_of_difference(after, before, metric) < 0.8 * independent
        after.draws = None
        assert error_of_difference(after, before, metric) == independent
        after = measured(second, labels)


def test_one_image_of_a_hundred_and_twenty_is_no_fall_and_one_shift_does_not_hide_in_the_mean():
    (logits, _), labels = models(120, 3)
    changed = logits.clone()
    right = int((logits.argmax(1) == labels).nonzero()[0])
    changed[right] = changed[right].roll(1)
    before = EvaluationReport("before", {"photo": measured(logits, labels)})
    after = EvaluationReport("after", {"photo": measured(changed, labels)})
    assert after.results["photo"].accuracy < before.results["photo"].accuracy and worse(after, before) == []
    sets = {f"shift{i}": models(2000, i, noise=0.3) for i in range(6)}
    before, after = EvaluationReport("before", {}), EvaluationReport("after", {})
    for i, (name, ((logits, better), labels)) in enumerate(sets.items()):
        truth = torch.nn.functional.one_hot(labels, 5)
        before.results[name] = measured(logits, labels, name, "shift")
        after.results[name] = measured(better + (0.3 if i != 2 else -0.25) * truth, labels, name, "shift")
    assert after.shift_mean["accuracy"] > before.shift_mean["accuracy"]
    fell = [change for change in worse(after, before) if change.metric == "accuracy"]
    assert [change.set for change in fell] == ["shift2"] and fell[0].before - fell[0].now < 0.1
    (said,) = sentences(after, before)
    assert said.startswith(
        "Worse than before, each by more than two standard errors, with Holm's correction for 18 comp"
    )
    assert "accuracy on shift2 (" in said
    assert "NLL on shift2 (" in said


def test_labels_of_another_order_are_worse_than_chance():
    """With few images too, where a model that knows nothing cannot be told from chance."""
    (logits, _), labels = models(60, 0)
    (turned,) = sentences(EvaluationReport("a", {"photo": measured(logits, (labels + 1) % 5)}))[:1]
    assert "Worse than chance on photo" in turned and "labels" in turned and "cannot be told" not in turned
    guessed = " ".join(sentences(EvaluationReport("a", {"photo": measured(torch.randn(60, 5, generator=torch.Generator().manual_seed(1)).double(), labels)})))
    assert "No better than chance on photo" in guessed and "cannot be told" in guessed and "labels" not in guessed
    assert is_below_guessing(0.0, 60, 1 / 6) and not is_below_guessing(0.1, 60, 1 / 6)


def test_a_collapsed_model_is_called_so():
    (logits, _), labels = models(300, 0)
    constant = torch.zeros_like(logits) + 0.01 * torch.randn(5, generator=torch.Generator().manual_seed(0))
    result = measured(constant, labels)
    said = " ".join(sentences(EvaluationReport("collapsed", {"photo": result})))
    assert "No better than chance on photo" in said and "100.0 % of the answers are" in said
    assert at_chance(measured(torch.randn(300, 5, generator=torch.Generator().manual_seed(1)).double(), labels))
    assert sentences(EvaluationReport("fine", {"photo": measured(logits, labels)})) == []
    generator = torch.Generator().manual_seed(4)
    called = 0
    for _ in range(200):
        guesses = torch.randn(100, 10, generator=generator).double()
        called += at_chance(measured_quickly(guesses, torch.randint(0, 10, (100,), generator=generator)))
    assert called >= 190


def measured_quickly(logits, labels):
    right = (logits.argmax(1) == labels).double().mean().item()
    numbers = dict.fromkeys(DatasetResult.__dataclass_fields__, 0.0)
    return DatasetResult(
        **{**numbers, "n": len(labels), "n_classes": logits.shape[1], "accuracy": right, "predictions": None}
    )


def test_few_images_are_called_few():
    few = reports(24, 0, signal=(9, 0.0))
    assert worse(few[1], few[0]) == []
    said = sentences(few[1], few[0])
    assert said[-1].startswith("Too few images to tell small differences: photo (24, ±")


def test_ten_views_of_a_drawing_are_one_drawing():
    """What is told of a set in which each image comes ten times, and that says so, is what is told of the images."""
    logits, labels = models(60, 3, signal=(1.5, 0.3))
    once = [measured(item, labels) for item in logits]
    groups = np.repeat(np.arange(60), 10)
    tens = [measured(item.repeat_interleave(10, 0), labels.repeat_interleave(10), groups=groups) for item in logits]
    for metric in ("accuracy", "ece", "nll"):
        assert error_of_difference(*tens, metric) == pytest.approx(error_of_difference(*once, metric), rel=1e-4)
    found = [
        {(change.metric, change.set) for change in worse(*(EvaluationReport("m", {"photo": item}) for item in side[::-1]))}
        for side in (once, tens)
    ]
    assert found[0] == found[1] and found[0]
    said = sentences(EvaluationReport("m", {"photo": tens[0]}))
    assert any("photo (600 in 60 groups, ±" in line for line in said)
    # Thirty of a hundred right of five classes are beyond chance, three groups of ten are not.
    nothing = torch.eye(5).double()[torch.zeros(100, dtype=torch.long)]
    right = torch.tensor([0] * 30 + [1, 2, 3, 4, 1, 2, 3] * 10)
    few = np.arange(100) % 10
    assert not at_chance(dataclasses.replace(measured(nothing, right), predictions=None))
    assert at_chance(dataclasses.replace(measured(nothing, right, groups=few), predictions=None))


def test_the_same_words_stand_in_the_terminal_and_the_file(tmp_path):
    before, after = reports(400, 0, signal=(2.0, 0.0))
    said = sentences(after, before)
    assert len(said) >= 1
    import json

    path = save_reports(tmp_path / "evaluation.json", [before, after])
    assert json.loads(path.read_text())["findings"] == said
    assert load_reports(path) == [before, after]
    table = " ".join(after.table(before).split())
    assert all(" ".join(line.split()) in table for line in said)
    assert said[0].split(":")[0] in after.markdown(before)


def test_the_evaluator_counts_classes_and_keeps_draws(tiny_clip):
    data = image_dataset(30, seed=2)
    rows = Benchmark.from_dataset(data, name="photo", role="id", class_names=CLASSES, templates=TEMPLATES)
    evaluator = Evaluator([rows], tiny_processor(), bootstrap_draws=50, progress=False)
    result = evaluator.evaluate(tiny_clip).results["photo"]
    counts = np.bincount(data["label"], minlength=4) / 30
    assert result.predictions["majority_share"] == counts.max()
    assert result.predictions["majority"] == CLASSES[counts.argmax()]
    assert 0.25 <= result.predictions["share"] <= 1 and result.predictions["class"] in CLASSES
    assert {len(values) for values in result.draws.values()} == {50}
    assert np.std(result.draws["nll"], ddof=1) == pytest.approx(result.nll_se, rel=1e-3)
