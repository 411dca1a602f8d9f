# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`predictions.parquet`: every number of the report comes out of it again, and it belongs to the folder that it is in."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers import CLASSES, TEMPLATES, image_dataset, tiny_processor
from helpers.evaluations import benchmark, evaluator, unreadable

from hf_robustft import Benchmark, finish_checkpoint
from hf_robustft.data.bad_images import BadImages
from hf_robustft.evaluation.open_set import SCORES, open_set_results
from hf_robustft.evaluation.predictions import PREDICTIONS_FILE, load_predictions
from hf_robustft.publishing.folder import chosen_files


def sets():
    return [benchmark("id", 19), benchmark("shift", 13), benchmark("open_set", 10, classes=("ant", "fox"))]


def test_the_numbers_of_the_report_come_out_again(tiny_clip, tmp_path):
    bank = benchmark("train", 12)
    measures = evaluator(sets(), knn_bank=bank, knn_k=2)
    report = measures.evaluate(tiny_clip, validation=benchmark("validation", 11))
    measures.predictions.save(tmp_path)
    found = load_predictions(tmp_path).sets
    assert list(found) == ["id", "shift", "open_set", "validation"] and list(report.results) == ["id", "shift"]
    for name, result in report.results.items():
        assert found[name].metrics() == {key: getattr(result, key) for key in ("accuracy", "nll", "ece", "brier")}
        assert found[name].role == result.role and len(found[name]) == result.n
    # As if the validation images had been measured by themselves.
    alone = evaluator([benchmark("validation", 11)]).evaluate(tiny_clip).results["validation"]
    assert found["validation"].metrics()["accuracy"] == alone.accuracy
    assert found["validation"].metrics()["nll"] == pytest.approx(alone.nll, rel=1e-6)
    opened = found["open_set"]
    assert opened.label is opened.nll is opened.brier is None and set(opened.predicted) <= set(CLASSES)
    assert set(opened.scores) == set(SCORES) and not found["validation"].scores
    assert np.allclose(opened.confidence, opened.scores["msp"], rtol=1e-6)
    scores = {
        name: {key: torch.from_numpy(values) for key, values in found[name].scores.items()}
        for name in ("id", "shift", "open_set")
    }
    facts = {"known": "id", "correct": torch.from_numpy(found["id"].correct), "shifts": ["shift"]}
    again = open_set_results(scores, open_sets=["open_set"], **facts)["open_set"]
    assert again["scores"] == report.open_set["open_set"]["scores"]
    with pytest.raises(ValueError, match="'open_set'"):
        opened.metrics()


def test_a_row_is_the_number_of_the_image_in_the_data(tiny_clip):
    """Unreadable images are missing, and the others keep their numbers, classes and labels, in whatever order they come."""
    broken = unreadable(12, row=5)
    measures = evaluator([broken], bad_images=BadImages("skip", 0.5), batch_size=4)
    measures.evaluate(tiny_clip.double())
    found = measures.predictions.sets["broken"]
    assert found.row.tolist() == [row for row in range(12) if row != 5]
    labels = broken.load()["label"][:]
    assert found.label.tolist() == [CLASSES[labels[row]] for row in found.row]
    backwards = broken.load().select(list(range(11, -1, -1)))
    other = Benchmark.from_dataset(backwards, name="broken", role="id")
    reversed_ = evaluator([other], bad_images=BadImages("skip", 0.5), batch_size=4)
    reversed_.evaluate(tiny_clip)
    mirrored = reversed_.predictions.sets["broken"]
    assert (11 - mirrored.row[::-1]).tolist() == found.row.tolist()
    assert mirrored.predicted[::-1].tolist() == found.predicted.tolist()
    assert mirrored.nll[::-1] == pytest.approx(found.nll, rel=1e-9)


def test_the_file_belongs_to_the_folder(tiny_clip, tmp_path):
    """Written with the rest, replaced with the rest, gone after a run that does not write it; not for the Hub."""
    facts = {"method": "flyp", "class_names": CLASSES, "templates": TEMPLATES, "model": tiny_clip}
    facts |= {"processor": tiny_processor(), "detector": "none", "validation": benchmark("validation", 11)}
    with pytest.raises(ValueError, match="`save_predictions`"):
        finish_checkpoint(tmp_path / "clip", save_predictions=True, **facts)
    with pytest.raises(ValueError, match="called 'validation'"):
        twin = evaluator([benchmark("id", 9, name="validation")])
        finish_checkpoint(tmp_path / "clip", evaluator=twin, save_predictions=True, **facts)
    assert not (tmp_path / "clip").exists()
    facts["evaluator"] = evaluator([benchmark("id", 19)])
    report = finish_checkpoint(tmp_path / "clip", save_predictions=True, **facts)
    assert set(report.results) == {"id"}
    (written,) = json.loads((tmp_path / "clip" / "evaluation.json").read_text())["reports"]
    found = load_predictions(tmp_path / "clip").sets
    assert list(found) == ["id", "validation"] and found["id"].metrics()["nll"] == written["results"]["id"]["nll"]
    assert PREDICTIONS_FILE not in chosen_files(tmp_path / "clip")
    finish_checkpoint(tmp_path / "clip", **facts)
    with pytest.raises(FileNotFoundError, match="--save_predictions"):
        load_predictions(tmp_path / "clip")


def test_what_is_no_such_file_is_refused(tmp_path):
    (tmp_path / PREDICTIONS_FILE).write_text("no table")
    with pytest.raises(ValueError, match="--save_predictions"):
        load_predictions(tmp_path)
    image_dataset(2).to_parquet(tmp_path / PREDICTIONS_FILE)
    assert pq.read_schema(tmp_path / PREDICTIONS_FILE).names == ["image", "label"]
    with pytest.raises(ValueError, match="other columns"):
        load_predictions(tmp_path)
