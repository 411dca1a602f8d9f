# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Verdicts on claims, where the truth is known; the numbers below them are those of the comparison's other tables."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.finished import finished_with_predictions, hashes, predictions, report

from hf_robustft.comparison.claims import (
    CANNOT_TELL,
    DEPENDS,
    FAILS,
    HOLDS,
    NOT_TESTED,
    Claim,
    Measurements,
    auroc_draws,
    judge,
    verdict_of,
)
from hf_robustft.comparison.differences import Differences
from hf_robustft.comparison.runs import ZERO_SHOT, Candidate, Comparison, FinishedRun
from hf_robustft.comparison.statistics import Difference, paired_difference, shared_draws
from hf_robustft.evaluation.detection import detection_metrics
from hf_robustft.evaluation.predictions import Predictions, SetPredictions
from hf_robustft.evaluation.resampling import draw_counts

SETS = {"photo": "id", "sketch": "shift", "cartoon": "shift"}
RATES = (1e-4, 1e-3)
#: Accuracies on the three sets by method and rate: A is better than B under shift at both rates, and as good in distribution; C is
#: better than B at the lower rate, worse at the higher.
TRUTH = {
    ("a", 1e-4): (0.80, 0.70, 0.60), ("a", 1e-3): (0.90, 0.68, 0.58),
    ("b", 1e-4): (0.80, 0.50, 0.40), ("b", 1e-3): (0.90, 0.30, 0.20),
    ("c", 1e-4): (0.82, 0.70, 0.60), ("c", 1e-3): (0.98, 0.10, 0.05),
}  # fmt: skip


def run(method, rate, seed, accuracies, singular=None):
    made = predictions(accuracies, SETS, 0 if seed is None else seed + 1, n=400)
    found = report("carot", accuracies, SETS)
    found.spectrum = None if singular is None else {"smallest_singular_value": singular}
    return FinishedRun(Path(f"{method}-{rate}-{seed}"), Candidate(method, rate), seed, found, made)


@pytest.fixture(scope="module")
def comparison():
    runs = [run(*of, seed, accuracies) for of, accuracies in TRUTH.items() for seed in (0, 1, 2)]
    return Comparison(runs, run(*(ZERO_SHOT.method, None), None, (0.6, 0.55, 0.45)))


@pytest.fixture(scope="module")
def measurements(comparison):
    return Measurements(comparison, {"a": 1e-3, "b": 1e-4}, draws=200)


@pytest.mark.parametrize(
    ("interval", "sign", "margin", "expected"),
    [
        ((0.1, 0.3), 1, 0, HOLDS), ((0.1, 0.3), -1, 0, FAILS), ((-0.3, -0.1), -1, 0, HOLDS), ((-0.1, 0.3), 1, 0, CANNOT_TELL),
        ((0.0, 0.3), 1, 0, CANNOT_TELL), ((-0.005, 0.3), 1, 0.01, HOLDS), ((-0.3, -0.02), 1, 0.01, FAILS),
        ((-0.3, -0.005), 1, 0.01, CANNOT_TELL), ((-0.3, 0.005), -1, 0.01, HOLDS), ((None, None), 1, 0, CANNOT_TELL),
    ],
)  # fmt: skip
def test_the_whole_interval_decides(interval, sign, margin, expected):
    assert verdict_of(Difference(0.0, None, *interval, None), sign, margin) == expected


@pytest.mark.parametrize(
    ("better", "than", "metrics", "expected"),
    [
        ("a", "b", {"shift accuracy": 0.0}, HOLDS),
        ("b", "a", {"shift accuracy": 0.0}, FAILS),
        ("a", "b", {"ID accuracy": 0.0}, CANNOT_TELL),
        ("a", "b", {"ID accuracy": 0.05}, HOLDS),
        ("c", "b", {"shift accuracy": 0.0}, DEPENDS),
        ("b", "zero_shot", {"shift accuracy": 0.0}, FAILS),
        ("a", "zero_shot", {"shift accuracy": 0.0, "ID accuracy": 0.0, "shift NLL": 0.0}, HOLDS),
        ("b", "zero_shot", {"ID accuracy": 0.0, "shift accuracy": 0.0}, FAILS),
        ("a", "d", {"shift accuracy": 0.0}, NOT_TESTED),
        ("a", "b", {"smallest singular value": 0.0}, NOT_TESTED),
        ("a", "b", {"shift AUROC": 0.0}, NOT_TESTED),
    ],
)
def test_verdicts_where_the_truth_is_known(measurements, better, than, metrics, expected):
    judged = judge(Claim("so it is", better, than, metrics), measurements)
    assert judged.verdict == expected and bool(judged.why) == (expected == NOT_TESTED)
    if expected != NOT_TESTED:
        assert set(judged.places) == {"1e-4", "1e-3"} and (expected == DEPENDS or expected in judged.places.values())
        assert [(item.place, item.metric) for item in judged.outcomes] == [(place, name) for place in ("1e-4", "1e-3") for name in metrics]


def test_differences_are_those_of_the_comparison(comparison, measurements):
    judged = judge(Claim("so it is", "a", "b", {"shift accuracy": 0, "shift ECE": 0, "ID NLL": 0}), Measurements(comparison))
    expected = Differences(comparison, comparison.sets).against(*(comparison.candidates[Candidate(name, 1e-4)] for name in "ab"))
    for outcome, (group, metric) in zip(judged.outcomes, (("shift_mean", "accuracy"), ("shift_mean", "ece"), ("id_mean", "nll")), strict=False):
        assert vars(outcome.difference) == pytest.approx(expected[group][metric], rel=1e-9)


def test_at_the_rates_that_were_chosen(measurements):
    judged = judge(Claim("so it is", "a", "b", {"shift accuracy": 0.0, "ID accuracy": 0.0}, "chosen"), measurements)
    assert judged.verdict == HOLDS and {item.place for item in judged.outcomes} == {"1e-3 and 1e-4"}
    assert [item.difference.mean for item in judged.outcomes] == pytest.approx([0.63 - 0.45, 0.1])
    assert judge(Claim("so it is", "a", "c", {"shift accuracy": 0.0}, "chosen"), measurements).verdict == NOT_TESTED


def test_at_equal_accuracy_in_distribution(measurements):
    """C leads A nowhere, and is ahead of B where both have 86 %: on its line between 82 and 98 %."""
    judged = judge(Claim("so it is", "c", "b", {"shift accuracy": 0.0}, "equal_id"), measurements)
    place = (0.82 + 0.90) / 2
    lines = [np.interp(place, at, values) for at, values in (((0.82, 0.98), (0.65, 0.075)), ((0.8, 0.9), (0.45, 0.25)))]
    (outcome,) = judged.outcomes
    assert outcome.place == "at 86.0 %" and outcome.difference.mean == pytest.approx(lines[0] - lines[1])
    assert judged.verdict == HOLDS and outcome.difference.low < outcome.difference.mean < outcome.difference.high
    assert judge(Claim("so it is", "a", "zero_shot", {"shift accuracy": 0.0}, "equal_id"), measurements).verdict == NOT_TESTED


def test_the_spread_over_rates_is_smaller(measurements):
    judged = judge(Claim("so it is", "a", "b", {"shift accuracy": 0.0}, "spread"), measurements)
    assert judged.verdict == HOLDS and judged.outcomes[0].difference.mean == pytest.approx(0.02 - 0.2)
    assert judge(Claim("so it is", "b", "a", {"shift accuracy": 0.0}, "spread"), measurements).verdict == FAILS


def test_a_part_is_compared_and_a_singular_value_over_seeds_alone():
    def measured(ones, others, at="rates"):
        runs = [run("a", 1e-3, seed, TRUTH["a", 1e-3], 10.0**value) for seed, value in enumerate(ones)]
        without = [run("a", 1e-3, seed, TRUTH["a", 1e-3], 10.0**value) for seed, value in enumerate(others)]
        claim = Claim("so it is", "a", "a without", {"smallest singular value": 0.0}, at)
        return judge(claim, Measurements(Comparison(runs), {"a": 1e-3}, {"a without": without}, draws=20))

    judged = measured((-4.0, -4.1, -3.9), (-5.0, -5.1, -5.2))
    assert judged.verdict == HOLDS and judged.outcomes[0].difference.mean == pytest.approx(1.1)
    gap = paired_difference([[-4.0], [-4.1], [-3.9]], [[-5.0], [-5.1], [-5.2]])
    assert gap.mean == pytest.approx(1.1) and gap.se is None, "of one image nothing is known; seeds remain"
    assert judged.outcomes[0].difference.se == pytest.approx(np.sqrt(2 * 0.01 / 3))
    assert measured((-4.0, -4.1), (-5.0, -5.1), "chosen").verdict == HOLDS, "a part is tested at the rate of its method"
    assert measured((-4.0,), (-5.0,)).verdict == CANNOT_TELL


def unlabelled(rng, name, groups, shift=0.0):
    # Rounded, so that some are alike.
    scores = np.round(rng.normal(shift, 1, len(groups)), 1)
    return SetPredictions(name, "open_set", np.arange(len(groups)), groups, scores, scores={"energy": scores}, group=np.array(groups))


@pytest.mark.parametrize("grouped", [True, False])
def test_auroc_is_resampled_in_whole_groups_of_known_and_unseen(grouped):
    rng = np.random.default_rng(0)
    known = unlabelled(rng, "known", [f"k{rng.integers(6)}" for _ in range(40)], 0.5)
    unseen = unlabelled(rng, "unseen", [f"u{rng.integers(5)}" for _ in range(30)])
    if not grouped:
        known, unseen = (SetPredictions(**{**vars(item), "group": None}) for item in (known, unseen))
    value, sampled = auroc_draws(known, unseen, draws=10)
    scores = [item.scores["energy"] for item in (known, unseen)]
    assert value == pytest.approx(detection_metrics(*scores)["auroc"], abs=1e-12)
    units = [np.arange(len(item)) if item.group is None else np.unique(item.group, return_inverse=True)[1] for item in (known, unseen)]
    times = [next(draw_counts(of.max() + 1, 10, [0, place])).astype(int)[:, of] for place, of in enumerate(units)]
    for draw in range(10):
        drawn = [np.repeat(values, of[draw]) for values, of in zip(scores, times, strict=True)]
        assert sampled[draw] == pytest.approx(detection_metrics(*drawn)["auroc"], abs=1e-12)


def test_unseen_classes_are_told_apart():
    rng, groups = np.random.default_rng(1), [f"g{i // 2}" for i in range(400)]

    def seen(method, shift, seed):
        made = run(method, 1e-3, seed, TRUTH["a", 1e-3])
        sets = {name: SetPredictions(**{**vars(item), "scores": {"energy": rng.normal(shift, 1, 400)}}) for name, item in made.predictions.sets.items()}
        made.predictions = Predictions(sets | {"unseen": unlabelled(rng, "unseen", groups)})
        made.report.open_set = {"unseen": {"n": 400}}
        return made

    of = Measurements(Comparison([seen(name, shift, seed) for name, shift in (("a", 2.0), ("b", 1.0)) for seed in (0, 1)]), draws=50)
    judged = judge(Claim("so it is", "a", "b", {"shift AUROC": 0.0, "ID AUROC": 0.0}), of)
    assert judged.verdict == HOLDS and all(0.1 < item.difference.mean < 0.3 for item in judged.outcomes)


def wavering(method, shifts):
    """Three seeds at two rates, which say the same order of seeds; `shifts` are the accuracies under shift by rate and seed."""
    ids = {1e-4: (0.80, 0.82, 0.84), 1e-3: (0.90, 0.92, 0.94)}
    return [run(method, rate, seed, (ids[rate][seed], shifts[rate][seed], shifts[rate][seed])) for rate in RATES for seed in (0, 1, 2)]


@pytest.mark.parametrize("at", ["equal_id", "spread"])
def test_the_order_in_which_seeds_are_given_changes_no_claim_on_lines(at):
    a = wavering("a", {1e-4: (0.5, 0.6, 0.7), 1e-3: (0.5, 0.6, 0.7)})
    b = wavering("b", {1e-4: (0.3, 0.4, 0.5), 1e-3: (0.25, 0.35, 0.45)})

    def outcome(runs):
        return judge(Claim("so it is", "a", "b", {"shift accuracy": 0.0}, at), Measurements(Comparison(runs), draws=50)).outcomes[0].difference

    # The folders of one rate are given from the last seed on.
    found, expected = outcome([*a[:3], *a[:2:-1], *b[:3], *b[:2:-1]]), outcome([*a, *b])
    assert (found.mean, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high), abs=1e-12)


def test_draws_lie_between_the_rates_of_the_line_where_two_are_as_accurate_in_distribution():
    """Of three rates two have the same accuracy, and the draws put either of them first."""
    line = {1e-4: (0.7, 0.5, 0.5), 5e-4: (0.8, 0.55, 0.55), 1e-3: (0.8, 0.1, 0.1)}
    for seed in range(4):
        runs = [run("a", rate, seed + step, accuracies) for step, (rate, accuracies) in enumerate(line.items())]
        runs = [FinishedRun(one.folder, one.candidate, 0, one.report, one.predictions) for one in runs]
        other = [FinishedRun(one.folder, Candidate("b", one.candidate.learning_rate), 0, one.report, one.predictions) for one in runs[:2]]
        judged = judge(Claim("so it is", "a", "b", {"shift accuracy": 0.0}, "equal_id"), Measurements(Comparison([*runs, *other]), draws=50))
        (outcome,) = judged.outcomes
        assert outcome.difference.mean == 0 and outcome.difference.se == pytest.approx(0, abs=1e-12), "it is the same line up to there"


def test_claims_on_lines_without_a_set_in_distribution_are_told_apart():
    def of_shifts(one):
        sets = {name: item for name, item in one.predictions.sets.items() if name != "photo"}
        results = {name: item for name, item in one.report.results.items() if name != "photo"}
        return FinishedRun(one.folder, one.candidate, one.seed, type(one.report)(one.report.model, results), Predictions(sets))

    runs = [of_shifts(run(method, rate, 0, TRUTH[method, rate])) for method in "ab" for rate in RATES]
    measured = Measurements(Comparison(runs), draws=20)
    judged = {at: judge(Claim("so it is", "a", "b", {"shift accuracy": 0.0}, at), measured) for at in ("equal_id", "spread")}
    assert judged["equal_id"].verdict == NOT_TESTED and judged["spread"].outcomes[0].difference.mean == pytest.approx(0.02 - 0.2)


def test_aurocs_of_sets_that_share_some_groups_are_drawn_together():
    """An image that cannot be read takes a group out of one set: what the others have in common stays drawn together."""
    rng, easy = np.random.default_rng(2), np.random.default_rng(3).normal(1, 3, 40)

    def seen(method, gain):
        made = run(method, 1e-3, 0, TRUTH["a", 1e-3])
        for name, item in made.predictions.sets.items():
            groups = np.array([f"g{i // 10:02}" for i in range(400)])
            kept = slice(0, 390) if name == "cartoon" else slice(0, 400)
            columns = {key: value[kept] if isinstance(value, np.ndarray) else value for key, value in vars(item).items()}
            scores = (gain * easy.repeat(10) + rng.normal(0, 0.1, 400))[kept]
            made.predictions.sets[name] = SetPredictions(**{**columns, "scores": {"energy": scores}, "group": groups[kept]})
        made.predictions.sets["unseen"] = unlabelled(rng, "unseen", [f"u{i // 2}" for i in range(400)])
        made.report.open_set = {"unseen": {"n": 400}}
        return made

    measured = Measurements(Comparison([seen("a", 1.0), seen("b", 0.1)]), draws=400)
    both = [measured.of(measured.line("a")[1e-3])[f"{role} AUROC"].draws for role in ("ID", "shift")]
    # The sets have all but one of their 40 groups in common, and so nearly the same AUROC in each sample.
    assert np.corrcoef(*both)[0, 1] > 0.95 and 0.95 < both[1].std() / both[0].std() < 1.05


def test_known_and_unseen_images_of_one_group_are_drawn_together():
    rng = np.random.default_rng(4)
    known, unseen = (unlabelled(rng, name, [f"patient {i // 5}" for i in range(first, last)], gain) for name, gain, first, last in (("known", 0.5, 0, 40), ("unseen", 0.0, 10, 60)))
    shared = shared_draws({"known": known, "unseen": unseen})
    groups = [f"patient {i}" for i in range(12)]
    assert shared == dict.fromkeys(("known", "unseen"), (0, sorted(groups)))
    _, sampled = auroc_draws(known, unseen, 30, shared=[shared["known"], shared["unseen"]])
    times = next(draw_counts(12, 30, [0, 0])).astype(int)
    for draw in range(30):
        drawn = [item.scores["energy"].repeat(times[draw][np.searchsorted(sorted(groups), item.group)]) for item in (known, unseen)]
        assert sampled[draw] == pytest.approx(detection_metrics(*drawn)["auroc"], abs=1e-12)


def test_runs_without_predictions_are_not_judged(comparison):
    bare = Comparison([FinishedRun(item.folder, item.candidate, item.seed, item.report) for item in comparison.runs])
    assert judge(Claim("so it is", "a", "b", {"shift accuracy": 0.0}), Measurements(bare)).verdict == NOT_TESTED
    with pytest.raises(ValueError, match="'best'"):
        judge(Claim("so it is", "a", "b", {"shift accuracy": 0.0}, "best"), Measurements(bare))
    with pytest.raises(ValueError, match="shift error"):
        judge(Claim("so it is", "a", "b", {"shift error": 0.0}), Measurements(bare))


@pytest.fixture(scope="module")
def evidence(repository, tmp_path_factory):
    """`examples/evidence.py` over finished folders: what it wrote, and a page with tables of its own."""
    folder = tmp_path_factory.mktemp("runs")
    sets = {**SETS, "held out": "validation"}
    for method in ("flyp", "carot"):
        for rate, (known, shift) in {1e-4: (0.8, 0.6), 1e-3: (0.9, 0.5)}.items():
            for seed in (0, 1):
                gain = 0.15 if method == "carot" else 0.0
                finished_with_predictions(folder / "all" / f"{method}-{rate}-{seed}", method, rate, seed, (known, shift + gain, shift + gain, known), sets)
    for seed in (0, 1):
        finished_with_predictions(folder / "without" / f"{seed}", "carot", 1e-3, seed, (0.9, 0.3, 0.3, 0.9), sets, settings={"distillation_weight": 0.0})
    finished_with_predictions(folder / "all" / "zero_shot", "zero_shot", None, None, (0.6, 0.5, 0.5, 0.6), sets)
    page = folder / "page.md"
    page.write_text("# A page\n\n| claim | who says so | difference (95 % interval) | verdict |\n|:--|\n| old |\n| CaRot is more accurate than FLYP under shift | of before |\n\n| other |\n|--|\n| kept |\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repository / "examples"))
        flags = ["--parts", f"carot-distillation={folder / 'without'}", "--rates", "flyp=1e-4", "--output", folder / "out", "--pages", page]
        patch.setattr(sys, "argv", ["evidence.py", *map(str, (folder / "all", *flags))])
        importlib.import_module("evidence").main()
    return json.loads((folder / "out" / "evidence.json").read_text()), (folder / "out" / "evidence.md").read_text(), page.read_text()


def test_the_evidence_judges_each_claim_that_the_runs_can_test(evidence):
    found, text, _ = evidence
    verdicts = {item["claim"]["says"]: item["verdict"] for item in found["claims"]}
    assert verdicts["CaRot is more accurate than FLYP under shift"] == verdicts["Self-distillation gains accuracy under shift"] == HOLDS
    assert verdicts["CaRot keeps FLYP's accuracy in distribution"] in (HOLDS, CANNOT_TELL)
    assert verdicts["CRoFT gains accuracy under shift"] == NOT_TESTED
    for says, verdict in verdicts.items():
        assert (f"| {says} |" in text) == (verdict != NOT_TESTED) and says in text
    assert found["chosen"] == {"flyp": {"learning_rate": 1e-4, "by": "given"}, "carot": {"learning_rate": 1e-3, "by": "id"}}


def test_its_tables_hold_the_numbers_and_go_into_pages(evidence):
    found, text, page = evidence
    row = next(line for line in text.splitlines() if line.startswith("| CaRot | 1e-3 | 2 |"))
    assert row.split(" | ")[3] == "90.0 ± 0.0" and row.split(" | ")[5] == "65.0 ± 0.0"
    carot = next(item for item in found["candidates"] if item["label"] == "CaRot, 1e-3")
    assert carot["against_flyp"]["shift_mean"]["accuracy"]["mean"] == pytest.approx(0.15)
    assert f"```bash\n{found['command']}\n```" in text and "<your folder>/page.md" in found["command"], "places on this machine stay here"
    assert "| old |\n" in page and "of before" not in page and page.count("| CaRot is more accurate than FLYP under shift |") == 1
    assert page.endswith("\n\n| other |\n|--|\n| kept |\n") and "| CaRot is more accurate than FLYP under shift |" in page


def test_more_seeds_at_the_rates_that_earlier_evidence_chose(repository, tmp_path, monkeypatch, capsys):
    sets = {**SETS, "held out": "validation"}
    for method, rate, gain in (("flyp", 1e-4, 0.0), ("carot", 1e-3, 0.15)):
        for seed in range(3):
            finished_with_predictions(tmp_path / "all" / f"{method}-{seed}", method, rate, seed, (0.9, 0.5 + gain, 0.5 + gain, 0.9), sets)
    finished_with_predictions(tmp_path / "all" / "zero_shot", "zero_shot", None, None, (0.6, 0.5, 0.5, 0.6), sets)
    chosen = {"flyp": {"learning_rate": 1e-4, "by": "concepts"}, "carot": {"learning_rate": 1e-3, "by": "id"}, "ft": {"learning_rate": 1e-4, "by": "id"}}
    (tmp_path / "before.json").write_text(json.dumps({"chosen": chosen}))
    monkeypatch.syspath_prepend(str(repository / "examples"))
    main = importlib.import_module("evidence").main
    monkeypatch.setattr(sys, "argv", ["evidence.py", *map(str, (tmp_path / "all", "--rates_of", tmp_path / "before.json", "--output", tmp_path / "out"))])
    main()
    text = (tmp_path / "out" / "evidence.md").read_text()
    assert "| CaRot | 1e-3 | new views of the training drawings | 3 |" in text and "| FLYP | 1e-4 | classes left out of training | 3 |" in text
    assert "## At each rate" not in text and "frontier.png" not in text and not (tmp_path / "out" / "frontier.png").exists()
    assert "| difference at one rate (95 % interval) |" in text, "in a page the claims at all rates stay where they are"
    found = json.loads((tmp_path / "out" / "evidence.json").read_text())
    assert found["chosen"]["carot"] == chosen["carot"]
    finished_with_predictions(tmp_path / "all" / "flyp-other", "flyp", 1e-3, 0, (0.9, 0.5, 0.5, 0.9), sets)
    with pytest.raises(SystemExit):
        main()
    assert "flyp at 0.001" in capsys.readouterr().err


TABLE = "| method | rate | accuracy % |\n|:--|:--|--:|\n"


@pytest.mark.parametrize(
    ("page", "source", "expected"),
    [
        ("|FT| 1e-4 | 10 |\n| LP | 1e-2 | 20 |", "| FT | 3e-4 | 11 |", "| FT | 3e-4 | 11 |\n| LP | 1e-2 | 20 |\n"),
        # A last line without an end, and other rates of a method.
        ("| LP | 1e-2 | 20 |\n| FT | 1e-4 | 10 |", "| FT | 1e-4 | 11 |", "| LP | 1e-2 | 20 |\n| FT | 1e-4 | 11 |\n"),
        (
            "| FT | 1e-4 | 10 |\n| FT | 1e-3 | 12 |\n| LP | 1e-2 | 20 |\n",
            "| FT | 1e-3 | 13 |\n| FT | 3e-4 | 11 |",
            "| FT | 1e-4 | 10 |\n| FT | 1e-3 | 13 |\n| FT | 3e-4 | 11 |\n| LP | 1e-2 | 20 |\n",
        ),
    ],
)
def test_rows_of_a_page_are_replaced_or_stay(repository, monkeypatch, page, source, expected):
    monkeypatch.syspath_prepend(str(repository / "examples"))
    with_tables = importlib.import_module("evidence").with_tables
    # A line alone is no table.
    assert with_tables("| a line\n\n" + TABLE + page, TABLE + source + "\n") == ("| a line\n\n" + TABLE + expected, 1)
    places = "| noto accuracy % | FT |\n|--:|--:|\n"
    assert with_tables(places + "| 73 | 1 |\n", places + "| 74 | 2 |\n") == (places + "| 74 | 2 |\n", 1)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--rates", "carot=1e-3", "--rates_of", "before.json"], "--rates and --rates_of"),
        (["--rates", "carot=5e-4"], "carot at 0.0005"),
        (["--rates", "carot"], "METHOD=RATE"),
        (["--pages", "nowhere.md"], "nowhere.md"),
        (["--rates_of", "nowhere.json"], "nowhere.json"),
        (["--rates_of", "other.json"], "other.json"),
        (["nothing"], "no finished run below nothing"),
        (["again"], "one name and other settings"),
        (["elsewhere"], "differ in the training images"),
    ],
)
def test_what_the_evidence_cannot_be_made_of_is_said_in_one_line(repository, tmp_path, monkeypatch, capsys, flags, words):
    sets = {**SETS, "held out": "validation"}
    for folder, settings in (("all", {}), ("again", {"distillation_weight": 0.0})):
        finished_with_predictions(tmp_path / folder / "runs" / "carot-0", "carot", 1e-3, 0, (0.9, 0.5, 0.5, 0.9), sets, settings=settings)
    others = {"train": hashes("train", "train", first=900)}
    finished_with_predictions(tmp_path / "elsewhere" / "runs" / "carot-0", "carot", 1e-3, 0, (0.9, 0.5, 0.5, 0.9), sets, hashed=others)
    (tmp_path / "before.json").write_text('{"chosen": {}}')
    (tmp_path / "other.json").write_text('{"chosen": {"carot": 1}}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(repository / "examples"))
    monkeypatch.setattr(sys, "argv", ["evidence.py", "all", *flags])
    with pytest.raises(SystemExit):
        importlib.import_module("evidence").main()
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in said and not (tmp_path / "outputs").exists()


def test_rates_of_evidence_are_known_by_three_digits_and_a_page_without_its_tables_is_named(repository, tmp_path, monkeypatch, capsys):
    sets = {**SETS, "held out": "validation"}
    rate = 10**-3.5
    finished_with_predictions(tmp_path / "all" / "carot", "carot", rate, 0, (0.9, 0.5, 0.5, 0.9), sets)
    (tmp_path / "before.json").write_text(json.dumps({"chosen": {"carot": {"learning_rate": float(f"{rate:.6g}"), "by": "id"}}}))
    (tmp_path / "page.md").write_text("words\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(repository / "examples"))
    monkeypatch.setattr(sys, "argv", ["evidence.py", "all", "--rates_of", "before.json", "--pages", "page.md"])
    importlib.import_module("evidence").main()
    said = capsys.readouterr()
    assert "| CaRot | 3.16e-4 | new views of the training drawings | 1 |" in said.out and "page.md has no table" in said.err
