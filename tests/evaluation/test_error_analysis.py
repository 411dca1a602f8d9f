# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Where a model errs, counted again image by image."""

import json
import math
from collections import Counter

import numpy as np
import pytest
from helpers import CLASSES, image_dataset
from helpers.evaluations import benchmark, evaluator
from helpers.reports import report
from scipy.stats import binomtest

from hf_robustft import Benchmark
from hf_robustft.evaluation.error_analysis import (
    MOST_CLASSES,
    MOST_MISTAKES,
    MOST_PAIRS,
    analyse_errors,
    by_accuracy,
    class_counts,
    class_rates,
    confusion_pairs,
    ranked,
    worst_classes,
)
from hf_robustft.evaluation.report import load_reports, save_reports

NAMES = tuple(f"class {number}" for number in range(9))


def made(n=300, classes=9, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes - 1, n)
    predicted = np.where(rng.random(n) < 0.6, labels, rng.integers(0, classes, n))
    # Few values, so that there are ties.
    confidence, nll = rng.integers(1, 20, n) / 20, rng.integers(1, 30, n) / 7
    return np.arange(n), labels, predicted, confidence, nll


def test_numbers_of_classes_are_those_of_a_loop():
    _, labels, predicted, confidence, _ = made()
    found = class_counts(labels, predicted, confidence, 9)
    for index in range(9):
        own, taken = labels == index, predicted == index
        assert found["images"][index] == sum(own) and found["predicted"][index] == sum(taken)
        assert found["right"][index] == sum(own & taken)
        assert found["confidence"][index] == pytest.approx(np.mean([value for value, yes in zip(confidence, taken, strict=True) if yes]))
    assert found["images"][8] == 0 < found["predicted"][8]
    alone = class_counts(np.array([0]), np.array([0]), np.array([0.5]), 2)
    assert alone["confidence"][0] == 0.5 and np.isnan(alone["confidence"][1])


def test_pairs_of_classes_are_those_of_a_loop_and_ties_keep_the_order_of_classes():
    _, labels, predicted, _, _ = made()
    wanted = Counter((one, other) for one, other in zip(labels.tolist(), predicted.tolist(), strict=True) if one != other)
    found = confusion_pairs(labels, predicted, 9)
    assert found == [(*pair, count) for pair, count in sorted(wanted.items(), key=lambda item: (-item[1], item[0]))]
    assert len({count for *_, count in found}) < len(found)
    order = np.random.default_rng(1).permutation(len(labels))
    assert confusion_pairs(labels[order], predicted[order], 9) == found
    assert confusion_pairs(labels, labels, 9) == []
    # More classes than a product of two 32-bit numbers holds.
    assert confusion_pairs(np.array([99_999], np.int32), np.array([3], np.int32), 100_000) == [(99_999, 3, 1)]


def test_the_worst_come_first_and_once_of_what_belongs_together():
    blame, rows = np.array([0.5, 0.9, 0.9, 0.0, 0.7]), np.array([4, 9, 2, 0, 1])
    assert ranked(blame, rows, rows, 9) == [2, 1, 4, 0] and ranked(blame, rows, rows, 2) == [2, 1]
    assert ranked(blame, rows, ["a", "b", "b", "c", "a"], 9) == [2, 4]


def test_rates_are_the_shares_with_exact_intervals():
    row = {"images": 12, "right": 9, "predicted": 30, "confidence": 0.7}
    found = class_rates(row)
    for key, n in (("interval", 12), ("precision_interval", 30)):
        wanted = binomtest(9, n).proportion_ci(0.95, "exact")
        assert found[key] == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    assert found["accuracy"] == 0.75 and found["precision"] == 0.3 and found["gap"] == pytest.approx(0.4)
    assert found["beyond"] and not class_rates({**row, "confidence": 0.45})["beyond"]
    none = class_rates({"images": 0, "right": 0, "predicted": 0, "confidence": None})
    assert set(none.values()) == {None}


def test_a_class_is_worse_only_beyond_chance():
    """Two wrong of two say little, and twenty wrong of thirty a lot."""
    classes = {"two": (2, 0), "thirty": (30, 10), "sixty": (60, 12), "good": (50, 49), "none": (0, 0)}
    part = {"classes": {name: {"images": n, "right": right, "predicted": n, "confidence": 0.5} for name, (n, right) in classes.items()}}
    assert worst_classes(part, 0.8) == ["sixty", "thirty"]
    assert by_accuracy(part) == ["two", "sixty", "thirty", "good", "none"]


def test_what_a_report_says_of_a_set():
    rows, labels, predicted, confidence, nll = made()
    asked = []

    def files(wanted):
        asked.append(list(wanted))
        return [f"{row}.png" if row % 2 else None for row in wanted]

    group = np.array([f"g{row // 3}" for row in rows])
    found = analyse_errors(rows, labels, predicted, confidence, nll, NAMES, group, files)
    assert found["n_wrong"] == sum(labels != predicted) and list(found["classes"]) == list(NAMES)
    assert len(found["confusions"]) == MOST_PAIRS < found["n_confusions"] and found["classes_left_out"] == 0
    for key, blame in (("worst", nll), ("most_confident", confidence)):
        seen, wanted = set(), []
        for row in sorted(np.flatnonzero(labels != predicted).tolist(), key=lambda row: (-blame[row], row)):
            if group[row] not in seen:
                seen.add(group[row])
                wanted.append(row)
        assert [item["row"] for item in found[key]] == wanted[:MOST_MISTAKES]
        for item in found[key]:
            row = item["row"]
            assert (item["label"], item["predicted"]) == (NAMES[labels[row]], NAMES[predicted[row]])
            assert (item["confidence"], item["nll"]) == (confidence[row], nll[row])
            assert item["file"] == (f"{row}.png" if row % 2 else None)
    assert len(asked) == 1 and len(asked[0]) <= 2 * MOST_MISTAKES
    right = analyse_errors(rows, labels, labels, confidence, nll, NAMES, files=lambda wanted: pytest.fail("nothing to name"))
    assert right["worst"] == right["most_confident"] == right["confusions"] == [] and right["n_wrong"] == 0


def test_of_very_many_classes_those_with_mistakes_are_kept_and_the_file_stays_small(tmp_path):
    names = tuple(f"class {number}" for number in range(5000))
    labels = np.repeat(np.arange(5000), 2)
    predicted = labels.copy()
    predicted[7000:7010] = 17
    whole = report()
    part = analyse_errors(np.arange(10_000), labels, predicted, np.full(10_000, 0.5), np.ones(10_000), names)
    assert len(part["classes"]) == MOST_CLASSES and part["classes_left_out"] == 4000
    assert {"class 17", *(f"class {number}" for number in range(3500, 3505))} <= set(part["classes"])
    assert part["classes"]["class 17"] == {"images": 2, "right": 2, "predicted": 12, "confidence": 0.5}
    bare = save_reports(tmp_path / "bare.json", [whole]).stat().st_size
    whole.error_analysis = {"photo": part}
    path = save_reports(tmp_path / "evaluation.json", [whole])
    assert path.stat().st_size - bare < 60_000 and load_reports(path) == [whole]


def test_an_evaluation_counts_what_its_predictions_say(tiny_clip, tmp_path):
    sets = [benchmark("id", 40), benchmark("shift", 23), benchmark("open_set", 10, classes=("ant", "fox"))]
    measures = evaluator(sets)
    found = measures.evaluate(tiny_clip)
    assert list(found.error_analysis) == ["id", "shift"]
    for name, part in found.error_analysis.items():
        kept = measures.predictions.sets[name]
        assert part["n_wrong"] == (~kept.correct).sum() == round(found.results[name].n * (1 - found.results[name].accuracy))
        for of, row in part["classes"].items():
            taken = kept.predicted == of
            assert row["images"] == (kept.label == of).sum() and row["predicted"] == taken.sum()
            assert row["right"] == (kept.correct & taken).sum()
            assert row["confidence"] == (round(kept.confidence[taken].mean(), 6) if taken.any() else None)
        for item in part["worst"]:
            place = kept.row.tolist().index(item["row"])
            assert item["nll"] == kept.nll[place] and -math.log(item["confidence"]) <= item["nll"]
    path = found.save_json(tmp_path / "evaluation.json")
    assert load_reports(path) == [found]
    text = json.loads(path.read_text())["reports"][0]["error_analysis"]["id"]["classes"][CLASSES[0]]
    assert len(text.split()) == 4


def test_lists_of_labels_have_no_such_part(tiny_clip):
    rows = image_dataset(12)
    lists = rows.map(lambda row: {"labels": [row["label"]]}, remove_columns="label")
    features = lists.features.copy()
    features["labels"] = [rows.features["label"]] if isinstance(features["labels"], list) else type(features["labels"])(rows.features["label"])
    several = Benchmark.from_dataset(lists.cast(features), name="lists", role="id", label_column="labels")
    found = evaluator([several]).evaluate(tiny_clip)
    assert found.error_analysis is None and "error_analysis" not in found.to_dict()
