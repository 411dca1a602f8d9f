# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Evaluation with unseen classes: the numbers are those of a count over pairs, and the report and its tables say them."""

import copy
import json

import datasets
import pytest
import torch
from helpers import CLASSES, TEMPLATES, image_dataset, tiny_processor
from helpers.evaluations import benchmark, evaluator, whole_arrays
from helpers.reports import report, result
from safetensors import safe_open
from safetensors.torch import load_file

from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.evaluation import open_set, plots
from hf_robustft.evaluation.detection import FPR_CONVENTION, METRICS, detection_metrics
from hf_robustft.evaluation.detector import DETECTOR_SCORES, OpenSetDetector
from hf_robustft.evaluation.evaluator import Evaluator
from hf_robustft.evaluation.fitting import DETECTORS
from hf_robustft.evaluation.metric_names import metric_names
from hf_robustft.evaluation.open_set import SCORES, OpenSetScore, available_scores
from hf_robustft.evaluation.report import TRAINED_HEAD, EvaluationReport, load_reports, save_reports
from hf_robustft.modeling.zero_shot import ZeroShotHead
from hf_robustft.publishing.model_card import write_model_card

UNSEEN = ("ant", "fox", "cow")


def unseen(n=12, name="unseen", **changes):
    return benchmark("open_set", n, classes=UNSEEN, name=name, **changes)


def unlabelled(n=12):
    rows = image_dataset(n, seed=n, classes=UNSEEN).remove_columns("label")
    return Benchmark.from_dataset(rows, name="unseen", role="open_set", class_names=(), label_column=None)


def pair_count(known, other):
    """AUROC by its definition, ties one half."""
    difference = known[:, None] - other
    return ((difference > 0).double() + (difference == 0).double() / 2).mean().item()


def open_set_part(auroc=0.8, shifts=("sketch", "cartoon"), scores=("msp", "energy"), n=2100, **changes):
    row = {**dict.fromkeys(METRICS, 0.5), "auroc": auroc, "fpr95": 0.25}
    row["shifts"] = {name: {"auroc": 0.7, "fpr95": 0.5 + 0.1 * i, "accepted": 0.9} for i, name in enumerate(shifts)}
    row["correct_only"] = {"auroc": 0.9, "fpr95_percentile": 0.1}
    return {"n": n, "id": "photo", "scores": {score: copy.deepcopy(row) for score in scores}, **changes}


def test_every_number_is_that_of_the_whole_arrays(tiny_clip):
    # Wider than chance, so that the scores differ.
    with torch.no_grad():
        tiny_clip.logit_scale.fill_(4.0)
    sets = [unseen(), benchmark("id", 30), benchmark("shift", 21, name="a"), benchmark("validation", 5)]
    bank = benchmark("train", 17)
    judge = evaluator(sets, batch_size=50, knn_bank=bank, knn_k=3)
    found = judge.evaluate(tiny_clip)
    head = ZeroShotHead.from_model(tiny_clip, tiny_processor(), CLASSES, TEMPLATES)
    arrays = {item.name: whole_arrays(tiny_clip, item, head) for item in (*sets, bank)}
    want, scale = {}, tiny_clip.logit_scale.exp().item()
    for name, (embeds, logits, _) in arrays.items():
        z, cosines = logits.double(), logits.double() / scale
        distances = torch.cdist(embeds.double(), arrays["train"][0].double()).square()
        want[name] = {
            "msp": z.softmax(1).amax(1),
            "mcm": cosines.softmax(1).amax(1),
            "max_logit": z.amax(1),
            "energy": z.logsumexp(1),
            "knn": -distances.sort(dim=1).values[:, 2],
        }
    assert set(judge.scores) == {"unseen", "id", "a"}
    for name, scores in judge.scores.items():
        assert tuple(scores) == tuple(SCORES)
        for key, values in scores.items():
            assert values.dtype == torch.float64 and not values.is_inference()
            torch.testing.assert_close(values, want[name][key], rtol=1e-6, atol=1e-7)
    assert list(found.results) == ["id", "a", "validation"] and list(found.open_set) == ["unseen"]
    part = found.open_set["unseen"]
    assert (part["n"], part["id"], tuple(part["scores"])) == (12, "id", tuple(SCORES))
    correct = arrays["id"][1].argmax(1) == arrays["id"][2]
    assert 0 < correct.sum() < 30
    for key, row in part["scores"].items():
        known, shifted, other = (judge.scores[name][key] for name in ("id", "a", "unseen"))
        assert row["auroc"] == pytest.approx(pair_count(known, other), abs=1e-12)
        assert {name: row[name] for name in METRICS} == detection_metrics(known, other)
        threshold = known.sort(descending=True).values[28]  # 29 of 30 is the first share of at least 95 %.
        assert row["fpr95"] == (other >= threshold).double().mean()
        assert set(row["shifts"]) == {"a"}
        assert row["shifts"]["a"]["auroc"] == pytest.approx(pair_count(shifted, other), abs=1e-12)
        assert row["shifts"]["a"]["fpr95"] == detection_metrics(shifted, other)["fpr95"]
        assert row["shifts"]["a"]["accepted"] == (shifted >= threshold).double().mean()
        assert row["correct_only"]["auroc"] == pytest.approx(pair_count(known[correct], other), abs=1e-12)
        assert set(row["correct_only"]) == {"auroc", "fpr95_percentile"}
    assert found.settings["knn_bank"] == "train" and found.settings["knn_k"] == 3


def test_other_numbers_do_not_change(tiny_clip):
    sets = [benchmark("id", 30), benchmark("shift", 21)]
    alone, both = (evaluator(chosen).evaluate(tiny_clip) for chosen in (sets, [unlabelled(), *sets]))
    assert both.results == alone.results and both.spectrum == alone.spectrum
    assert alone.open_set is None and "knn_bank" not in alone.settings
    # Labels and class names of an open set play no part.
    assert evaluator([unseen(), *sets]).evaluate(tiny_clip) == both


def test_a_trained_head_scores_the_open_set_too(tiny_clip):
    head = ZeroShotHead(torch.randn(4, 16, generator=torch.Generator().manual_seed(0)), CLASSES)
    other = benchmark("shift", 9, classes=("red", "green", "blue"), name="other")
    judge = evaluator([benchmark("id", 14), benchmark("shift", 11), other, unseen()])
    found = judge.evaluate(tiny_clip, head=head)
    assert found.results["id"].head == TRAINED_HEAD
    logits = whole_arrays(tiny_clip, unseen(), head)[1].double()
    torch.testing.assert_close(judge.scores["unseen"]["energy"], logits.logsumexp(1), rtol=1e-6, atol=1e-7)
    # No cosines without a zero-shot head; and the shift with other classes has another head.
    part = found.open_set["unseen"]["scores"]
    assert set(part) == {"msp", "max_logit", "energy"} and set(part["energy"]["shifts"]) == {"shift"}
    assert set(judge.scores) == {"id", "shift", "unseen"}
    assert "prompts are others: other." in " ".join(found.table().split())
    with pytest.raises(ValueError, match="names of none of id;"):
        evaluator([benchmark("id", 4), unseen()]).evaluate(tiny_clip, head=ZeroShotHead(torch.zeros(3, 16), UNSEEN))


def test_without_a_correct_image_there_is_no_comparison_over_them(tiny_clip):
    head = ZeroShotHead(torch.zeros(4, 16), CLASSES, torch.tensor([9.0, 0, 0, 0]))
    rows = image_dataset(12).filter(lambda row: row["label"] > 0)
    known = Benchmark.from_dataset(rows, name="id", role="id", templates=TEMPLATES)
    found = evaluator([known, unseen()]).evaluate(tiny_clip, head=head)
    row = found.open_set["unseen"]["scores"]["msp"]
    # All scores are equal: chance, and a threshold that accepts one accepts all.
    assert row["correct_only"] is None and (row["auroc"], row["fpr95"], row["fpr95_percentile"]) == (0.5, 1.0, 0.0)


def test_saved_logits_give_the_reports_numbers(tiny_clip, tmp_path):
    sets = [benchmark("id", 30), unseen()]
    found = evaluator(sets).evaluate(tiny_clip, name="tiny", logits_dir=tmp_path / "new" / "logits")
    saved = {name: load_file(tmp_path / "new" / "logits" / f"{name}.safetensors") for name in ("id", "unseen")}
    assert len(list((tmp_path / "new" / "logits").iterdir())) == 2
    assert set(saved["id"]) == {"logits", "labels"} and set(saved["unseen"]) == {"logits"}
    assert saved["id"]["logits"].dtype == torch.float32 and saved["id"]["logits"].shape == (30, 4)
    assert saved["id"]["labels"].tolist() == sets[0].load()["label"][:]
    known, other = (saved[name]["logits"].double().logsumexp(1) for name in ("id", "unseen"))
    energy = found.open_set["unseen"]["scores"]["energy"]
    assert energy["auroc"] == pytest.approx(pair_count(known, other), abs=1e-9)
    accuracy = (saved["id"]["logits"].argmax(1) == saved["id"]["labels"]).double().mean()
    assert found.results["id"].accuracy == accuracy
    with safe_open(tmp_path / "new" / "logits" / "unseen.safetensors", framework="pt") as file:
        facts = file.metadata()
    assert json.loads(facts["class_names"]) == list(CLASSES) and facts["model"] == "tiny"
    assert float(facts["logit_scale"]) == found.logit_scale


def test_impossible_open_sets_are_refused(tiny_clip):
    known, train = benchmark("id", 8), benchmark("train", 6)
    shared = benchmark("open_set", 4, classes=("ant", "Dog"), name="shared")
    with pytest.raises(ValueError, match="'shared' is an open set, but 1 of its classes .'Dog'. are classes of 'id'"):
        evaluator([known, shared])
    with pytest.raises(ValueError, match="its own nearest neighbour"):
        evaluator([known, unseen()], knn_bank=Benchmark.from_dataset(known.dataset, name="again", role="train"))
    with pytest.raises(ValueError, match="bank 'unseen' is an open set"):
        evaluator([known], knn_bank=unseen())
    with pytest.raises(ValueError, match="bank 'train' holds 6 images, so none has a neighbour 7"):
        evaluator([known, unseen()], knn_bank=train, knn_k=7).evaluate(tiny_clip)
    features = image_dataset(1).features
    empty = datasets.Dataset.from_dict({"image": [], "label": []}, features=features)
    with pytest.raises(ValueError, match="no rows|empty|holds no"):
        Benchmark.from_dataset(empty, name="unseen", role="open_set")
    with torch.no_grad():
        tiny_clip.visual_projection.weight.fill_(float("nan"))
    judge = evaluator([unseen(), known])
    with pytest.raises(ValueError, match="Data set 'unseen', images 0 to 7: .* NaN or infinity"):
        judge.evaluate(tiny_clip)
    assert judge.scores == {}


def test_banks_on_disk_are_compared_by_place():
    known = Benchmark(name="id", role="id", path="some/where", split="test", class_names=CLASSES)
    bank = Benchmark(name="bank", role="train", path="some/where", split="test", class_names=CLASSES)
    with pytest.raises(ValueError, match="its own nearest neighbour"):
        Evaluator([known], tiny_processor(), knn_bank=bank)
    Evaluator([known], tiny_processor(), knn_bank=Benchmark(**{**facts(bank), "split": "train"}))


def facts(chosen):
    return {key: getattr(chosen, key) for key in ("name", "role", "path", "split", "class_names")}


def test_json_and_metric_keys(tmp_path):
    given = report(open_set={"unseen": open_set_part()})
    path = given.save_json(tmp_path / "evaluation.json")
    assert EvaluationReport.load_json(path) == given
    metrics = given.metrics()
    assert metrics["open_set/unseen/energy/auroc"] == 0.8 and metrics["open_set/unseen/energy/fpr95"] == 0.25
    assert metrics["open_set/unseen/msp/cartoon/auroc"] == 0.7
    assert len(metrics) == len(report().metrics()) + 2 * (2 + 2)
    content = json.loads(path.read_text())
    del content["reports"][0]["open_set"]
    path.write_text(json.dumps(content))
    assert load_reports(path)[0] == report()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda part: part.pop("n"), "open_set/unseen is .* mapping of id, n, scores"),
        (lambda part: part["scores"]["msp"].pop("auroc"), "open_set/unseen/msp is .* aupr_in, aupr_out, auroc"),
        (lambda part: part["scores"]["msp"]["shifts"]["sketch"].update(x=1), "open_set/unseen/msp/sketch"),
        (lambda part: part["scores"]["msp"]["correct_only"].pop("auroc"), "open_set/unseen/msp/correct_only"),
        (lambda part: part.update(scores=[]), "open_set/unseen/scores is"),
    ],
)
def test_a_part_that_is_not_ours_is_refused(change, message):
    part = open_set_part()
    change(part)
    with pytest.raises(ValueError, match=message):
        EvaluationReport.from_dict(report(open_set={"unseen": part}).to_dict())
    with pytest.raises(ValueError, match=r"open_set is \[\]"):
        EvaluationReport.from_dict(report(open_set=[]).to_dict())


def row_of(lines, label):
    (row,) = [i for i, line in enumerate(lines) if line.strip().startswith(label)]
    return row


def test_terminal_table():
    lines = report(open_set={"unseen": open_set_part()}).table().splitlines()
    assert max(map(len, lines)) <= 100
    title = row_of(lines, "known or unknown: photo (1,200 images) against unseen (2,100 of unseen classes)")
    assert lines[title - 1] == "" and title > row_of(lines, "mean of 2 shifts")
    # ID AUROC, FPR95; means over two shifts of AUROC, FPR95 and accepted.
    assert lines[row_of(lines, "energy")].split() == ["energy", "80.0", "25.0", "70.0", "55.0", "90.0"]
    text = " ".join(" ".join(lines).split())
    assert FPR_CONVENTION in text and "plain mean over 2 shifted sets" in text
    assert report().table().splitlines() == lines[: title - 1]


def test_terminal_table_with_baseline():
    before = report("zero-shot", open_set={"unseen": open_set_part(1.0), "more": open_set_part(name="photo")})
    after = report(open_set={"unseen": open_set_part(scores=("energy", "max_logit"))})
    lines = after.table(before).splitlines()
    assert max(map(len, lines)) <= 100
    row = row_of(lines, "energy")
    assert "100.0 → 80.0" in lines[row] and "25.0 → 25.0" in lines[row]
    assert lines[row + 1].split() == ["-20.0", "+0.0", "+0.0", "+0.0", "+0.0"]
    assert lines[row_of(lines, "max_logit")].count("n/a →") == 5
    # Means over other shifts, and another in-distribution set, cannot be compared.
    fewer = report("zero-shot", open_set={"unseen": open_set_part(shifts=("sketch",))})
    assert after.table(fewer).count("n/a →") == 3 + 5
    other = report("zero-shot", open_set={"unseen": open_set_part(id="sketch", scores=("energy", "max_logit"))})
    assert after.table(other).count("n/a →") == 10
    for function in (after.table, after.markdown):
        with pytest.raises(ValueError, match="'unseen' has 7 images for 'zero-shot' and 2100"):
            function(report("zero-shot", open_set={"unseen": open_set_part(n=7)}))


def test_markdown_table():
    given = report(open_set={"un_seen": open_set_part(), "far": open_set_part(shifts=(), n=3)})
    blocks = given.markdown(report("zero-shot", open_set={"un_seen": open_set_part(0.7)})).split("\n\n")
    assert blocks[2] == r"**known or unknown: photo (1,200 images) against un\_seen (2,100 of unseen classes)**"
    rows = blocks[3].splitlines()
    assert rows[0] == "| score | ID AUROC % | ID FPR95 % | shifts AUROC % | shifts FPR95 % | shifts accepted % |"
    assert rows[1] == "|:--|--:|--:|--:|--:|--:|"
    assert rows[3].startswith("| energy | 70.0 → 80.0 (+10.0) | 25.0 → 25.0 (+0.0) | 70.0 → 70.0 (+0.0) |")
    # Without shifts there are no columns for them.
    assert blocks[5].splitlines()[0] == "| score | ID AUROC % | ID FPR95 % |"
    assert FPR_CONVENTION in blocks[6]
    with_knn = report(open_set={"unseen": open_set_part(scores=("knn",))}, settings={"knn_bank": "train", "knn_k": 5})
    assert "knn: neighbour 5 among the images of train." in with_knn.markdown()
    no_shift = report(open_set={"far": open_set_part(shifts=())}, results={"photo": result("photo", "id")})
    assert "Accepted" not in no_shift.table() and "others:" not in no_shift.table()


def test_a_score_that_is_added_to_the_table_is_everywhere(tiny_clip, tmp_path, monkeypatch):
    def entropy(logits, temperature):
        probabilities = (logits / temperature).softmax(dim=1)
        return torch.special.entr(probabilities).sum(dim=1)

    entry = OpenSetScore(
        entropy,
        needs="logits",
        label="entropy, negated",
        words="minus the entropy of the probabilities",
        higher_is_known=False,
    )
    monkeypatch.setitem(open_set.SCORES, "entropy", entry)
    sets = [benchmark("id", 14), benchmark("shift", 11), unseen()]
    judge = evaluator(sets)
    found = judge.evaluate(tiny_clip)
    # Higher for known classes, as every score.
    logits = whole_arrays(
        tiny_clip, sets[0], ZeroShotHead.from_model(tiny_clip, tiny_processor(), CLASSES, TEMPLATES)
    )[1]
    torch.testing.assert_close(judge.scores["id"]["entropy"], -entropy(logits.double(), 1.0), rtol=1e-5, atol=1e-6)
    metrics = found.metrics()
    expected = {f"open_set/unseen/entropy/{key}" for key in ("auroc", "fpr95", "shift/auroc")}
    assert {key for key in metrics if "/entropy/" in key} == expected <= set(metric_names(sets))
    save_reports(tmp_path / "evaluation.json", [found])
    assert load_reports(tmp_path / "evaluation.json") == [found]
    assert row_of(found.table().splitlines(), "entropy") and "| entropy |" in found.markdown()
    card = write_model_card(tmp_path, report=found, method="flyp", data=sets, settings={}).read_text()
    assert "| `entropy` | " in card and "`entropy` is minus the entropy of the probabilities" in card
    roles = {item.name: item.role for item in sets}
    drawn = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path, dpi, *_: drawn.append(figure.axes[-1].get_xlabel()))
    plots.plot_scores(judge.scores, roles, tmp_path / "scores.png", score="entropy")
    assert drawn[0].startswith("entropy, negated")
    # Without a bound on what rounding does to it no threshold is fitted.
    assert "entropy" not in DETECTOR_SCORES
    with pytest.raises(ValueError, match="'entropy'"):
        OpenSetDetector.fit(logits, class_names=CLASSES, logit_scale=1.0, score="entropy")


def test_everything_that_lists_scores_reads_the_table():
    assert DETECTOR_SCORES == tuple(name for name, entry in SCORES.items() if entry.lowest is not None)
    assert DETECTORS == (*DETECTOR_SCORES, "none")
    assert available_scores(cosines=True, bank=True) == tuple(SCORES)
    assert set(SCORES) - set(available_scores(cosines=False, bank=False)) == {"mcm", "knn"}
