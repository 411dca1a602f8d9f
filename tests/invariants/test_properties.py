# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Properties of metrics, projections, merges, orders, names and rules of selection, on inputs that hypothesis makes up.

The default suite tries few; 2,000 of each: `HF_ROBUSTFT_EXAMPLES=2000 python -m pytest tests/invariants/test_properties.py`.
"""

import ast
import math
import os
from html.parser import HTMLParser
from itertools import takewhile

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from hf_robustft.comparison.runs import Candidate
from hf_robustft.comparison.selection import RULES, choose
from hf_robustft.data.class_projection import ClassProjection
from hf_robustft.data.labels import LabelFault, class_positions, label_rule
from hf_robustft.data.prompts import class_key, clean_class_name, fill_template
from hf_robustft.data.streams.order import Position, Reader, permutation
from hf_robustft.evaluation.calibration import (
    adaptive_calibration_error,
    brier_score,
    classwise_calibration_error,
    expected_calibration_error,
    image_scores,
    negative_log_likelihood,
)
from hf_robustft.evaluation.detection import detection_metrics, threshold_at_recall
from hf_robustft.modeling.interpolation import interpolate_weights, model_stock
from hf_robustft.objectives.singular_value import cross_frobenius_penalty, orthogonality_penalty
from hf_robustft.objectives.teacher import beta_kernel
from hf_robustft.publishing.text import markdown_text, one_line, source_string

settings.register_profile(
    "suite", deadline=None, derandomize=True, database=None, max_examples=int(os.environ.get("HF_ROBUSTFT_EXAMPLES", 25))
)
settings.load_profile("suite")

SEEDS = st.integers(0, 2**32 - 1)
NAMES = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)


def distributions(seed, n, classes, coarse):
    """Probabilities of rows, many alike and some exactly 0 or 1 where they are coarse, and labels."""
    generator = torch.Generator().manual_seed(seed)
    if coarse:
        counts = torch.randint(0, 3, (n, classes), generator=generator).double()
        counts[counts.sum(1) == 0, 0] = 1
        rows = counts / counts.sum(1, keepdim=True)
    else:
        rows = torch.randn(n, classes, generator=generator, dtype=torch.float64).mul(4).softmax(1)
    return rows, torch.randint(0, classes, (n,), generator=generator)


METRICS = (expected_calibration_error, adaptive_calibration_error, classwise_calibration_error, brier_score)


@given(SEEDS, st.integers(1, 40), st.integers(2, 6), st.booleans())
def test_calibration_is_bounded_and_knows_no_order(seed, n, classes, coarse):
    rows, labels = distributions(seed, n, classes, coarse)
    order = torch.from_numpy(permutation(n, seed))
    names = torch.from_numpy(permutation(classes, seed, "classes"))
    for metric in METRICS:
        value = metric(rows, labels)
        assert 0 <= value <= (2 if metric is brier_score else 1) + 1e-12
        assert metric(rows[order], labels[order]) == pytest.approx(value, abs=1e-9)
        # Other names for the classes: column names[i] becomes column i. Ties are decided by the first column.
        if not coarse:
            assert metric(rows[:, names], names.argsort()[labels]) == pytest.approx(value, abs=1e-9)
        # Of a set that is there twice nothing changes, but where bins hold equal numbers of images.
        if metric is not adaptive_calibration_error:
            assert metric(rows.repeat(2, 1), labels.repeat(2)) == pytest.approx(value, abs=1e-9)


@given(SEEDS, st.integers(1, 30), st.integers(2, 4), st.integers(1, 20), st.booleans())
def test_calibration_error_by_hand(seed, n, classes, bins, coarse):
    rows, labels = distributions(seed, n, classes, coarse)
    confidence, predicted = rows.max(1)
    found = {}
    for value, right in zip(confidence.tolist(), (predicted == labels).tolist(), strict=True):
        # In float32, as the published implementations bin.
        edges = torch.linspace(0, 1, bins + 1).tolist()
        place = sum(edge <= float(np.float32(value)) for edge in edges) - 1
        found.setdefault(place, []).append((value, right))
    by_hand = sum(abs(math.fsum(v for v, _ in part) - sum(r for _, r in part)) for part in found.values()) / n
    assert expected_calibration_error(rows, labels, bins) == pytest.approx(by_hand, abs=1e-7)


@given(SEEDS, st.integers(1, 20), st.integers(2, 5), st.floats(-50, 50))
def test_scores_of_logits_do_not_see_a_shift(seed, n, classes, shift):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=generator, dtype=torch.float64) * 10
    labels = torch.randint(0, classes, (n,), generator=generator)
    one, two = image_scores(logits, labels)[0], image_scores(logits + shift, labels)[0]
    assert all(torch.allclose(one[name].double(), two[name].double(), atol=1e-6) for name in one)
    loss = negative_log_likelihood(logits, labels, from_logits=True)
    assert 0 <= loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), abs=1e-9)


SCORES = st.lists(st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.25, 1.0, 3.0]), min_size=1, max_size=25)


@given(SCORES, SCORES, st.sampled_from([lambda x: 3 * x - 7, math.exp, lambda x: x**3]))
def test_detection_by_brute_force(known, unseen, increasing):
    found = detection_metrics(known, unseen)
    pairs = [(a > b) + 0.5 * (a == b) for a in known for b in unseen]
    assert found["auroc"] == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    assert all(0 <= value <= 1 for value in found.values())
    threshold = threshold_at_recall(known)
    accepted = sum(a >= threshold for a in known) / len(known)
    assert accepted >= 0.95 and all(sum(a >= other for a in known) / len(known) < 0.95 for other in known if other > threshold)
    assert found["fpr95"] == pytest.approx(sum(b >= threshold for b in unseen) / len(unseen))
    moved = detection_metrics([increasing(a) for a in known], [increasing(b) for b in unseen])
    # A percentile lies between two scores, where a curve is not a line.
    assert all(moved[name] == pytest.approx(found[name]) for name in found if name != "fpr95_percentile")
    assert detection_metrics(unseen, known)["auroc"] == pytest.approx(1 - found["auroc"])


@given(SEEDS, st.integers(2, 8), st.data())
def test_a_projection_takes_the_greatest_of_each_group(seed, columns, data):
    order = permutation(columns, seed).tolist()
    cuts = sorted(data.draw(st.sets(st.integers(1, columns - 1), max_size=columns - 2)))
    groups = [tuple(order[low:high]) for low, high in zip([0, *cuts], [*cuts, columns], strict=True)]
    assume(len(groups) < columns)
    projection = ClassProjection(tuple(f"class {i}" for i in range(columns)), tuple(groups))
    logits = torch.randn(3, columns, generator=torch.Generator().manual_seed(seed))
    expected = torch.stack([torch.stack([row[list(group)].max() for group in groups]) for row in logits])
    assert torch.equal(projection(logits), expected) and torch.equal(projection(expected), expected)
    assert torch.equal(projection(logits.exp()), expected.exp()), "an increasing function of logits changes nothing"


def states(seed, count):
    generator = torch.Generator().manual_seed(seed)
    return [
        {"a": torch.randn(3, 2, generator=generator), "b": torch.randn((), generator=generator), "n": torch.tensor(3)}
        for _ in range(count)
    ]


@given(SEEDS, st.floats(0, 1), st.floats(0, 1))
def test_interpolation_lies_between_and_is_a_line(seed, alpha, beta):
    start, end = states(seed, 2)
    for ends, share in ((start, 0.0), (end, 1.0)):
        assert all(torch.equal(value, ends[name]) for name, value in interpolate_weights(start, end, share).items())
    one, two = interpolate_weights(start, end, alpha), interpolate_weights(end, start, 1 - alpha)
    for name in ("a", "b"):
        low, high = torch.minimum(start[name], end[name]), torch.maximum(start[name], end[name])
        assert (low - 1e-6 <= one[name]).all() and (one[name] <= high + 1e-6).all()
        assert torch.allclose(one[name], two[name], atol=1e-6)
        # On the way to a point of the way one is on the same way.
        nested = interpolate_weights(start, one, beta)[name]
        assert torch.allclose(nested, interpolate_weights(start, end, alpha * beta)[name], atol=1e-5)
    assert one["n"] == 3


@given(SEEDS, st.integers(2, 4))
def test_model_stock_does_not_see_the_order_and_lies_on_the_way_to_the_mean(seed, count):
    start, *ends = states(seed, count + 1)
    merged, turned = model_stock(start, ends), model_stock(start, ends[::-1])
    same = model_stock(start, [ends[0]] * count)
    for name in ("a", "b"):
        assert torch.allclose(merged[name], turned[name], atol=1e-6)
        mean = torch.stack([end[name] for end in ends]).mean(0) - start[name]
        share = ((merged[name] - start[name]) * mean).sum() / (mean * mean).sum()
        assert -1e-5 <= share <= 1 + 1e-5
        assert torch.allclose(merged[name], start[name] + share * mean, atol=1e-5)
        assert torch.allclose(same[name], ends[0][name], atol=1e-6), "runs that agree are taken whole"


@given(SEEDS, st.integers(1, 5), st.integers(1, 6))
def test_penalties_of_projections_do_not_see_a_rotation(seed, rows, width):
    generator = torch.Generator().manual_seed(seed)
    weight, other = (torch.randn(rows, width, generator=generator, dtype=torch.float64) for _ in range(2))
    turn = torch.linalg.qr(torch.randn(rows, rows, generator=generator, dtype=torch.float64)).Q
    penalty = orthogonality_penalty(weight)
    values = torch.linalg.svdvals(weight)
    by_hand = ((values**2 - 1) ** 2).sum() + max(rows - width, 0)
    assert penalty.item() == pytest.approx(by_hand.sqrt().item(), abs=1e-9)
    assert orthogonality_penalty(turn @ weight).item() == pytest.approx(penalty.item(), abs=1e-9)
    crossed = cross_frobenius_penalty(weight, other)
    assert cross_frobenius_penalty(turn @ weight, turn @ other).item() == pytest.approx(crossed.item(), abs=1e-9)
    singular = torch.zeros(rows, width, dtype=torch.float64, requires_grad=True)
    (orthogonality_penalty(singular) + cross_frobenius_penalty(singular, other)).backward()
    assert singular.grad.isfinite().all(), "a singular projection has a gradient"


@given(st.integers(1, 60), st.floats(0.05, 10))
def test_the_kernel_of_a_trajectory_is_finite_and_symmetric(updates, beta):
    values = [beta_kernel(index, updates, beta) for index in range(updates + 1)]
    assert all(math.isfinite(value) and value > 0 for value in values)
    assert values == pytest.approx(values[::-1], rel=1e-9)


class Rows:
    """A stream of shards of given sizes, without a file."""

    counts = None
    where = "made-up data"

    def __init__(self, sizes, in_windows):
        self.sizes, self.source, self.shuffles_in_windows, self.n_shards = sizes, self, in_windows, len(sizes)

    def rows(self, shard, start=0, step=1, part=0):
        return ((row, {}) for row in range(start, self.sizes[shard]) if row % step == part)

    def row_id(self, shard, row):
        return shard << 32 | row


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(1, 4), st.integers(1, 12), st.booleans(), SEEDS, st.data())
def test_a_stream_gives_each_row_once_a_pass_from_any_place_on(sizes, readers, buffer, shuffle, seed, data):
    # Each reader finds a row.
    assume(min(sizes) >= readers)
    stream, seen = Rows(sizes, True), []
    options = {"seed": seed, "shuffle": shuffle, "buffer": buffer}
    for number in range(readers):
        found = list(takewhile(lambda pair: pair[1].epoch < 2, Reader(stream, number, readers, **options)))
        seen += [(item.epoch, item.index) for _, item in found]
        place = data.draw(st.integers(0, len(found) - 1))
        again = Reader(stream, number, readers, **options, position=Position(*found[place][0]))
        after = list(takewhile(lambda pair: pair[1].epoch < 2, again))
        assert [pair[1] for pair in after] == [pair[1] for pair in found[place + 1 :]]
    whole = [(epoch, shard << 32 | row) for epoch in range(2) for shard, size in enumerate(sizes) for row in range(size)]
    assert sorted(seen) == sorted(whole)


def test_ten_million_rows_begin_at_once():
    """Ten thousand shards of a thousand rows: nothing is counted through to begin, or to go on from near the end of a pass."""
    stream = Rows([1000] * 10_000, True)
    first = next(iter(Reader(stream, 3, 8, seed=1, buffer=100)))
    late = next(iter(Reader(stream, 3, 8, seed=1, buffer=100, position=Position(1249, 900, 12_490, 99))))
    assert first[1].epoch == late[1].epoch == 0 and late[1].index != first[1].index
    assert max(row for row, _ in stream.rows(9_999)) == 999 and stream.row_id(9_999, 999) < 2**53


@given(NAMES)
@example("\u2028a\u0085b\ufeff")
@example("I\u0307\u0130\u0131 \u00df")
def test_names_are_cleaned_once_and_for_all(name):
    clean = clean_class_name(name)
    assert clean_class_name(clean) == clean and class_key(clean) == class_key(name)
    assert not any(sign.isspace() and sign != " " for sign in clean) and "_" not in clean
    assert fill_template("a {} of {x}", name) == f"a {clean} of {{x}}"


@given(st.lists(NAMES.filter(lambda name: clean_class_name(name)), min_size=1, max_size=6), st.data())
def test_a_label_means_the_class_of_its_name(names, data):
    import datasets

    names = list({class_key(name): clean_class_name(name) for name in names}.values())
    assume(len({class_key(name) for name in names}) == len(names))
    rule = label_rule(datasets.Value("string"), names, None, "label", "the data")
    for position, name in enumerate(names):
        spelled = data.draw(st.sampled_from([name, name.replace(" ", "_"), f" {name}\n"]))
        assert rule(spelled) == position == class_positions(names)[class_key(spelled)]
    stranger = data.draw(NAMES)
    assume(class_key(stranger) not in {class_key(name) for name in names})
    with pytest.raises(LabelFault):
        rule(stranger)


class Shown(HTMLParser):
    """The text of a page and its tags."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.text = [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text.append(data)


@given(NAMES.filter(one_line))
@example("<script>alert(1)</script> [a](b) ![c](d) `e` *f* | ~~g~~ # h")
def test_text_in_markdown_is_shown_as_it_is(name):
    shown = Shown(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown_text(name)))
    assert shown.tags == ["p"]
    # Blanks that are not ASCII, and the replacement of a sign that no page may hold.
    assert " ".join("".join(shown.text).split()) == " ".join(one_line(name).split())


@given(st.text(max_size=40))
def test_a_string_in_source_is_the_string(text):
    assert ast.literal_eval(source_string(text)) == text


NUMBERS = st.floats(0, 1).map(lambda value: round(value, 2))
ROLES = {"val": "validation", "test": "id", "a": "shift", "b": "shift"}


@given(st.lists(st.tuples(*[NUMBERS] * 8), min_size=2, max_size=9), st.tuples(*[NUMBERS] * 8), SEEDS)
def test_a_rule_chooses_the_same_in_any_order_and_looks_at_its_own_sets_alone(values, start, seed):
    def measured(row):
        return {name: {"accuracy": row[2 * i], "nll": row[2 * i + 1], "n": 100} for i, name in enumerate(ROLES)}

    candidates = {Candidate(f"m{i % 3}", 10.0 ** -(1 + i // 3)): measured(row) for i, row in enumerate(values)}
    order = permutation(len(values), seed).tolist()
    items = list(candidates.items())
    for name, rule in RULES.items():
        if rule.role not in ROLES.values() or name == "shift":
            continue
        found = choose(rule, candidates, ROLES, measured(start))
        assert found.candidate in candidates and found.candidate in found.by_method.values()
        turned = choose(rule, dict(items[i] for i in order), ROLES, measured(start))
        assert turned.by_method == found.by_method, "the order of the candidates is no reason"
        hidden = [set_ for set_ in ROLES if set_ not in found.looked_at]
        changed = {item: {**sets, **{n: {"accuracy": 0.0, "nll": 9.0} for n in hidden}} for item, sets in candidates.items()}
        assert choose(rule, changed, ROLES, measured(start)).candidate == found.candidate
        if name == "id":
            best = max(sets["val"]["accuracy"] if "val" in found.looked_at else sets["test"]["accuracy"] for sets in candidates.values())
            chosen = candidates[found.candidate]
            assert best == (chosen["val"] if "val" in found.looked_at else chosen["test"])["accuracy"]
