# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Prediction sets as part of a checkpoint: their file, rounding, a folded temperature, and what they must refuse."""

import json
import math

import pytest
import torch
from helpers import CLASSES, TEMPLATES

from hf_robustft.evaluation.conformal import aps_scores, conformal_quantile, image_draws, lac_scores, raps_scores
from hf_robustft.evaluation.prediction_sets import METHODS, ConformalClassifier
from hf_robustft.evaluation.temperature import TemperatureScaling
from hf_robustft.modeling.metadata import METADATA_FILE, load_robustft_json
from hf_robustft.publishing.metadata import write_robustft_json

pytestmark = pytest.mark.numbers

SCALE = 40.0


def images(n=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    cosines = 0.05 * torch.randn(n, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (n,), generator=generator)
    cosines[torch.arange(n), labels] += 0.05
    return SCALE * cosines, labels


def fitted(data=None, **options):
    logits, labels = images() if data is None else data
    return ConformalClassifier.fit(logits, labels, **{"class_names": CLASSES, "logit_scale": SCALE, "coverage": 0.9, **options})


@pytest.fixture
def folder(tmp_path):
    write_robustft_json(tmp_path, method="croft", class_names=CLASSES, templates=TEMPLATES, settings={})
    return tmp_path


def scores_of(method, logits, temperature=1.0, seed=0, randomized=True, allow_empty=False):
    logarithms = (logits / temperature).log_softmax(dim=1)
    draws = image_draws(logarithms, seed) if randomized else None
    probabilities = logarithms.exp()
    if method == "lac":
        scores = lac_scores(probabilities)
    else:
        scores = aps_scores(probabilities, draws) if method == "aps" else raps_scores(probabilities, draws)
    best = torch.nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1]).bool()
    return scores if allow_empty else scores.masked_fill(best, 0.0)


@pytest.mark.parametrize("temperature", [None, 1.7, TemperatureScaling(0.6)])
@pytest.mark.parametrize("randomized", [True, False])
@pytest.mark.parametrize("allow_empty", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_sets_are_the_classes_up_to_the_quantile_in_order_of_probability(method, allow_empty, randomized, temperature):
    sets = fitted(method=method, temperature=temperature, randomized=randomized, allow_empty=allow_empty, seed=3)
    divisor = getattr(temperature, "temperature", temperature) or 1.0
    logits, labels = images()
    scores = scores_of(method, logits, divisor, 3, randomized, allow_empty)
    quantile = conformal_quantile(scores.gather(1, labels[:, None])[:, 0], 0.9)
    assert 0 < sets.quantile - quantile < 1.1e-5 * SCALE / divisor
    new, _ = images(seed=1)
    scores = scores_of(method, new, divisor, 3, randomized, allow_empty)
    assert torch.equal(sets.holds(new), scores <= sets.quantile)
    for row, own, names in zip(new, scores, sets.predict_sets(new), strict=True):
        order = row.argsort(descending=True).tolist()
        assert names == tuple(CLASSES[index] for index in order if own[index] <= sets.quantile)


def test_a_set_does_not_depend_on_the_batch_or_the_order():
    new, _ = images(seed=1)
    for method in METHODS:
        sets = fitted(method=method)
        whole = sets.predict_sets(new)
        assert [sets.predict_sets(row[None])[0] for row in new] == whole
        assert sets.predict_sets(new.flip(0)) == whole[::-1]


@pytest.mark.parametrize("method", METHODS)
def test_the_share_of_the_fit_holds_after_another_rounding(method):
    """As many labels of the fit's own images are held where each cosine is off by 1e-5."""
    generator = torch.Generator().manual_seed(0)
    for seed in range(20):
        logits, labels = images(99, seed)
        sets = fitted((logits, labels), method=method, randomized=False)
        noise = 2 * torch.rand(logits.shape, generator=generator, dtype=torch.float64) - 1
        for moved in (logits + 0.9e-5 * SCALE * noise.sign(), logits + 0.9e-5 * SCALE * noise):
            assert sets.holds(moved).gather(1, labels[:, None]).sum() >= 90


def test_folding_a_temperature_changes_no_set():
    logits, labels = images()
    temperature = TemperatureScaling().fit(logits, labels)
    before = fitted(temperature=temperature, class_conditional=True)
    divisor = temperature.temperature
    after = ConformalClassifier.fit(
        logits / divisor, labels, class_names=CLASSES, logit_scale=SCALE / divisor, temperature=TemperatureScaling(), coverage=0.9, class_conditional=True
    )
    new, _ = images(seed=1)
    assert before.predict_sets(new) == after.predict_sets(new / divisor)
    assert after.quantile == pytest.approx(before.quantile, rel=1e-9) and after.scale == before.scale
    # The facts of before serve the folded model too.
    facts = before.to_dict()
    moved = ConformalClassifier.from_dict(facts, TemperatureScaling())
    moved.check(CLASSES, SCALE / divisor)
    assert moved.predict_sets(new / divisor) == before.predict_sets(new)


@pytest.mark.parametrize("options", [{"method": "lac"}, {"method": "aps", "randomized": False}, {"class_conditional": True, "min_per_class": 50}, {"coverage": 0.95, "seed": 4, "k_reg": 2, "lam": 0.2}])
def test_saved_and_loaded_the_sets_are_the_same(folder, options):
    sets = fitted(temperature=TemperatureScaling(1.3), fitted_on="val", **options)
    assert sets.save(folder) == folder / METADATA_FILE
    loaded = ConformalClassifier.from_pretrained(folder)
    assert loaded.to_dict() == sets.to_dict() == load_robustft_json(folder)["prediction_sets"]
    new, _ = images(seed=1)
    assert loaded.predict_sets(new) == sets.predict_sets(new)
    assert loaded.common == sets.common
    json.dumps(sets.to_dict(), allow_nan=False)


def test_too_few_images_give_sets_of_all_classes(folder):
    sets = fitted(images(8))
    assert sets.quantile is None and sets.holds(images(5)[0]).all()
    sets.save(folder)
    assert ConformalClassifier.from_pretrained(folder).quantile is None
    assert fitted(images(9)).quantile is not None


def test_a_class_with_few_images_has_the_common_quantile():
    logits, labels = images()
    few = labels != 2
    few[(labels == 2).nonzero()[:8]] = True
    logits, labels = logits[few], labels[few]
    sets = fitted((logits, labels), class_conditional=True)
    assert sets.common == (CLASSES[2],) and sets.min_per_class == 9
    scores = scores_of("raps", logits).gather(1, labels[:, None])[:, 0]
    assert sets.quantile == pytest.approx(conformal_quantile(scores, 0.9), abs=1e-3)
    for index in (0, 1, 3):
        assert sets.class_quantiles[CLASSES[index]] == pytest.approx(conformal_quantile(scores[labels == index], 0.9), abs=1e-3)
    # Each class is compared with its own quantile.
    new, _ = images(seed=1)
    limits = torch.tensor([sets.class_quantiles.get(name, sets.quantile) for name in CLASSES])
    assert torch.equal(sets.holds(new), scores_of("raps", new) <= limits)


def test_another_model_is_refused():
    sets = fitted(temperature=2.0)
    sets.check(CLASSES, SCALE)
    sets.check(CLASSES, 2 * SCALE, temperature=4.0)
    with pytest.raises(ValueError, match="other classes"):
        sets.check(CLASSES[::-1], SCALE)
    for scale, temperature in ((SCALE / 2, None), (SCALE, 1.0)):
        with pytest.raises(ValueError, match="logit scale"):
            sets.check(CLASSES, scale, temperature)
    with pytest.raises(ValueError, match="columns"):
        sets.holds(torch.zeros(2, 3))


def test_a_file_with_another_temperature_or_other_classes_is_refused(folder, tmp_path):
    fitted(temperature=2.0).save(folder)
    with pytest.raises(ValueError, match="temperature"):
        fitted(temperature=3.0).save(folder)
    with pytest.raises(ValueError, match="temperature"):
        fitted().save(folder)
    with pytest.raises(ValueError, match="other classes"):
        fitted(class_names=CLASSES[::-1], temperature=2.0).save(folder)
    (tmp_path / "other").mkdir()
    write_robustft_json(tmp_path / "other", method="croft", class_names=CLASSES, templates=TEMPLATES, settings={})
    with pytest.raises(ValueError, match="no prediction sets"):
        ConformalClassifier.from_pretrained(tmp_path / "other")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"method": "topk"}, "method"),
        ({"coverage": 1.0}, "coverage"),
        ({"logit_scale": 0.0}, "logit_scale"),
        ({"min_per_class": 20}, "min_per_class"),
        ({"class_conditional": True, "min_per_class": 8}, "min_per_class"),
        ({"lam": -1.0}, "lam"),
        ({"k_reg": -1}, "k_reg"),
        ({"seed": -1}, "seed"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        fitted(**options)


WRONG = {
    "method": ["knn", None, 1, []],
    "coverage": [0, 1, "0.9", None, True, -1],
    "quantile": ["a", True, [], 10**400],
    "class_names": [["a", "a"], [1], "abcd", None, []],
    "scale": [0, -1.0, None, "1", True],
    "n": [0, -1, 1.5, None, True],
    "randomized": [0, None, "yes"],
    "allow_empty": [1, None],
    "seed": [-1, 0.5, 2**63, None],
    "lam": [-0.1, None, "a"],
    "k_reg": [-1, 1.5, None],
    "class_quantiles": [{"wolf": 1.0}, {"cat": "a"}, [], 1, {"cat": True}],
    "min_per_class": [0, 1.5, "a"],
    "fitted_on": [1, [], {}],
    "extra": [1],
}


@pytest.mark.parametrize("name", WRONG)
def test_each_field_of_the_file_is_checked(folder, name):
    fitted(class_conditional=True, fitted_on="val").save(folder)
    whole = json.loads((folder / METADATA_FILE).read_text())
    assert name == "extra" or name in whole["prediction_sets"]
    for value in WRONG[name]:
        facts = {**whole["prediction_sets"], name: value}
        (folder / METADATA_FILE).write_text(json.dumps({**whole, "prediction_sets": facts}))
        with pytest.raises(ValueError) as caught:
            ConformalClassifier.from_pretrained(folder)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    if name in ("method", "coverage", "quantile", "class_names", "scale", "n"):
        del whole["prediction_sets"][name]
        (folder / METADATA_FILE).write_text(json.dumps(whole))
        with pytest.raises(ValueError, match=name):
            ConformalClassifier.from_pretrained(folder)


def test_a_quantile_of_lac_near_its_ends_stays_finite():
    logits = torch.zeros(40, 4, dtype=torch.float64)
    logits[:, 0] = 60
    sets = fitted((logits, torch.zeros(40, dtype=torch.long)), method="lac")
    assert 0 <= sets.quantile < 1e-6 and math.isfinite(sets.quantile)
    assert fitted((logits, torch.ones(40, dtype=torch.long)), method="lac").holds(logits).all()
