# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Which open-set score is chosen: by one half of the classes, and what is reported is of the other half alone."""

from dataclasses import replace

import numpy as np
import pytest

from hf_robustft.comparison.unknown import choose_score, unseen_halves
from hf_robustft.evaluation.detection import detection_metrics
from hf_robustft.evaluation.predictions import Predictions, SetPredictions

CLASSES, UNSEEN = "dcba", "zyxwv"


def of(name, role, classes, lift, seed, images=40):
    """Images of some classes, whose scores are `lift` higher than those of unseen classes: the msp by half as much."""
    rng, label = np.random.default_rng([seed, len(name)]), np.repeat(np.array(list(classes)), images)
    n, scores = len(label), {}
    for score, share in (("msp", 0.5), ("energy", 0.9), ("max_logit", 1.0)):
        scores[score] = share * lift + rng.normal(size=n)
    known = {} if role == "open_set" else {"label": label, "nll": np.ones(n), "brier": np.ones(n)}
    return SetPredictions(name, role, np.arange(n), label, np.ones(n), scores=scores, group=label, **known)


def made(seed):
    sets = (("photo", "id", CLASSES, 2.0), ("sketch", "shift", CLASSES, 1.0), ("night", "shift", CLASSES[::-1], 0.5), ("new", "open_set", UNSEEN, 0.0))
    return Predictions({name: of(name, role, classes, lift, seed) for name, role, classes, lift in sets})


def chosen(runs):
    return choose_score(runs, "new", "photo", ["sketch", "night"])


def changed(run, halves, amount):
    """Lower the scores of known images, by set those of the classes in one half."""
    sets = dict(run.sets)
    for name, classes in halves.items():
        item = sets[name]
        sign = -1 if item.label is not None else 1
        where = np.isin(item.group, list(classes))
        sets[name] = replace(item, scores={"msp": item.scores["msp"], **{key: item.scores[key] + sign * amount * where for key in ("energy", "max_logit")}})
    return Predictions(sets)


def test_the_choice_is_reported_on_the_other_half_of_all_classes():
    runs = [made(0), made(1)]
    found = chosen(runs)
    # Of d, c, b, a and z, y, x, w, v the first, third and fifth are for validation, whatever the order in another set.
    assert (found["validation"], found["test"]) == (120, 80) and set(found["scores"]) == {found["chosen"], "energy"}

    def auroc(run, score, name, of_known, of_unseen):
        known, unseen = run.sets[name], run.sets["new"]
        known, unseen = (item.scores[score][np.isin(item.group, list(half))] for item, half in ((known, of_known), (unseen, of_unseen)))
        return detection_metrics(known, unseen)["auroc"]

    on_validation = {score: np.mean([auroc(run, score, "photo", "db", "zxv") for run in runs]) for score in ("msp", "energy", "max_logit")}
    assert found["chosen"] == max(on_validation, key=on_validation.get)
    for score, numbers in found["scores"].items():
        inside = [auroc(run, score, "photo", "ca", "yw") for run in runs]
        outside = [np.mean([auroc(run, score, name, "ca", "yw") for name in ("sketch", "night")]) for run in runs]
        assert numbers["validation"] == pytest.approx(on_validation[score])
        assert numbers["auroc"] == {"mean": pytest.approx(np.mean(inside)), "sd": pytest.approx(np.std(inside, ddof=1))}
        assert numbers["shifts_auroc"]["mean"] == pytest.approx(np.mean(outside))


def test_the_test_half_is_not_looked_at_to_choose_and_the_other_is_not_reported():
    runs = [made(0)]
    before, test, validation = chosen(runs), {"photo": "ca", "sketch": "ca", "night": "ca", "new": "yw"}, {"photo": "db", "sketch": "db", "night": "db", "new": "zxv"}
    after = chosen([changed(runs[0], test, 9.0)])
    assert after["chosen"] == before["chosen"] != "msp" and after["scores"]["energy"]["validation"] == before["scores"]["energy"]["validation"]
    assert after["scores"]["energy"]["auroc"]["mean"] < 0.1
    other = chosen([changed(runs[0], validation, 9.0)])
    assert other["chosen"] == "msp" and other["scores"]["energy"]["auroc"] == before["scores"]["energy"]["auroc"]
    assert other["scores"]["energy"]["shifts_auroc"] == before["scores"]["energy"]["shifts_auroc"]


def test_without_groups_images_are_split_and_without_scores_nothing_is_chosen():
    run = made(0)
    sets = {**run.sets, "new": replace(run.sets["new"], group=None)}
    assert [chosen([Predictions(sets)])[key] for key in ("validation", "test")] == [100, 100]
    assert choose_score([run], "new", "photo", [])["scores"]["energy"]["shifts_auroc"] is None
    assert chosen([Predictions({**run.sets, "photo": replace(run.sets["photo"], scores={})})]) is None
    assert chosen([Predictions({name: item for name, item in run.sets.items() if name != "new"})]) is None
    assert chosen([Predictions({**sets, "new": replace(run.sets["new"], group=np.full(200, "one"))})]) is None


def test_unseen_classes_are_split_by_class():
    classes = ["z", "z", "b", "q", "b", "a"]
    assert unseen_halves(classes).tolist() == [True, True, False, True, False, False]
    labels = [label for label in range(150) for _ in range(14)]
    assert unseen_halves(labels).tolist() == [label % 2 == 0 for label in labels]


def test_a_half_without_images_has_no_auroc():
    """Of a known set of one class the test half is empty, as is that of a shift whose classes are all of the other half."""
    run = made(0)
    of_one = replace(run.sets["photo"], label=np.full(160, "d"), group=np.full(160, "d"))
    assert chosen([Predictions({**run.sets, "photo": of_one})]) is None
    night = of("night", "shift", "bd", 0.5, 0)
    found = chosen([Predictions({**run.sets, "night": night})])
    assert found["scores"] == choose_score([run], "new", "photo", ["sketch"])["scores"]
    alone = choose_score([Predictions({**run.sets, "night": night})], "new", "photo", ["night"])
    assert all(numbers["shifts_auroc"] is None and 0 <= numbers["auroc"]["mean"] <= 1 for numbers in alone["scores"].values())


def test_a_set_that_spells_its_classes_otherwise_is_halved_as_the_known_one():
    runs, (capital, usual) = [made(0), made(1)], (str.upper, str)

    def spelled(how):
        return [Predictions({name: replace(item, label=np.array([how(label) for label in item.label])) if name == "sketch" else item for name, item in run.sets.items()}) for run in runs]

    assert chosen(spelled(capital)) == chosen(spelled(usual)) == chosen(runs)
