# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""After `trainer.train()` one call makes the folder what `pipeline`, `evaluate`, `calibrate` and `publish` take."""

import json

import pytest
import torch
from helpers import CLASSES, TEMPLATES, arguments, image_dataset, tiny_processor
from safetensors.torch import load_file

from hf_robustft import (
    Benchmark,
    ConformalClassifier,
    Evaluator,
    FLYPTrainer,
    OpenSetDetector,
    finish_checkpoint,
    interpolate_weights,
    load_checkpoint,
    pipeline,
)
from hf_robustft.evaluation.collect import collect_logits
from hf_robustft.evaluation.conformal import coverage_report
from hf_robustft.evaluation.report import load_reports
from hf_robustft.publishing.progress_card import is_progress_card


@pytest.fixture
def trainer(tiny_clip, tmp_path):
    """A FLYP trainer with training, validation and test images."""
    sets = [
        Benchmark.from_dataset(image_dataset(16, seed=seed), name=role, role=role, templates=TEMPLATES)
        for seed, role in enumerate(("train", "validation", "id"))
    ]
    args = arguments(tmp_path / "out", max_steps=2, per_device_train_batch_size=4, learning_rate=1e-3)
    return FLYPTrainer(tiny_clip, args, train_dataset=sets[0], eval_dataset=sets[1:], processing_class=tiny_processor())


def test_the_folder_is_complete_after_one_call(trainer, tmp_path):
    trainer.train()
    folder = tmp_path / "out"
    report = finish_checkpoint(folder, trainer=trainer)
    assert trainer.last_report is report and set(report.results) == {"validation", "id"}
    facts = json.loads((folder / "robustft.json").read_text())
    assert facts["class_names"] == list(CLASSES) and facts["detector"]["fitted_on"] == "validation"
    assert facts["temperature"]["n"] == 16 and "Wall time of training" in (folder / "README.md").read_text()
    saved, weights = load_file(folder / "model.safetensors"), dict(trainer.model.named_parameters())
    assert all(torch.equal(value, weights[name]) for name, value in saved.items())
    answer = pipeline(folder)(image_dataset(1)[0]["image"])
    assert answer["nearest_class"] in CLASSES and answer["is_known"] in (True, False)
    # A push saves and writes nothing again.
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    trainer.create_model_card()
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_what_is_fitted_is_of_the_prompts_of_the_folder(trainer, tmp_path, caplog):
    trainer.train()
    rows, other = image_dataset(16, seed=1), ("a zebra of {}.",)
    sets = [Benchmark.from_dataset(rows, name="validation", role="validation", templates=templates) for templates in (TEMPLATES, other)]
    test = Benchmark.from_dataset(image_dataset(12, seed=5), name="test", role="id", templates=other)
    found = []
    for validation in sets:
        evaluator = Evaluator([trainer.eval_dataset[1], test], tiny_processor(), progress=False)
        finish_checkpoint(tmp_path / "out", trainer=trainer, validation=validation, evaluator=evaluator)
        facts = json.loads((tmp_path / "out" / "robustft.json").read_text())
        assert facts["templates"] == list(TEMPLATES)
        found.append({name: facts[name] for name in ("temperature", "detector", "prediction_sets")})
    assert found[0] == found[1]
    told = [record.message for record in caplog.records if "measured by its own templates" in record.message]
    assert len(told) == 2 and all(message.startswith("test is measured by its own templates, 'a zebra of {}.'") for message in told)


def test_another_model_takes_the_place_of_the_trainers(trainer, tiny_clip, tmp_path):
    import copy

    start = copy.deepcopy(tiny_clip)
    trainer.train()
    start.load_state_dict(interpolate_weights(start, trainer.model, 0.5))
    more = {"method": "wise_ft", "alpha": 0.5, "detector": "none", "save_logits": True}
    only_test = Evaluator([trainer.eval_dataset[1]], tiny_processor(), progress=False)
    report = finish_checkpoint(tmp_path / "out", trainer=trainer, model=start, evaluator=only_test, **more)
    assert set(report.results) == {"id"} and report.model == "WiSE-FT"
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(saved["visual_projection.weight"], start.visual_projection.weight)
    facts = json.loads((tmp_path / "out" / "robustft.json").read_text())
    assert (facts["method"], facts["alpha"]) == ("wise_ft", 0.5) and "detector" not in facts
    assert [path.name for path in (tmp_path / "out" / "logits").iterdir()] == ["id.safetensors"]


def test_a_folder_is_measured_without_a_trainer(trainer, tmp_path):
    """From the folder alone: what `robustft.json` says of the model is kept."""
    trainer.train()
    trainer.save_model()
    folder, evaluator = tmp_path / "out", trainer.own_evaluator()
    report = finish_checkpoint(folder, evaluator=evaluator, validation=trainer.eval_dataset[0], fold_temperature=True)
    facts = json.loads((folder / "robustft.json").read_text())
    assert facts["method"] == "flyp" and facts["class_names"] == list(CLASSES) and facts["image_hashes"]
    assert facts["temperature"]["temperature"] == 1 != facts["temperature"]["folded"]
    assert pipeline(folder) and report.results["id"].n == 16


def test_images_that_are_all_right_have_no_temperature_to_fold_and_the_folder_is_whole(trainer, tmp_path, caplog):
    """The likelihood grows as the temperature falls to 0: the training was lost by it."""
    validation = trainer.eval_dataset[0]
    logits, _ = collect_logits(trainer.model, validation, tiny_processor(), progress=False)
    guesses = validation.load().remove_columns("label").add_column("label", logits.argmax(dim=1).tolist())
    right = Benchmark.from_dataset(guesses, name="right", role="validation", class_names=CLASSES, templates=TEMPLATES)
    more = {"model": trainer.model, "processor": tiny_processor(), "method": "flyp", "class_names": CLASSES, "templates": TEMPLATES}
    evaluator = Evaluator([trainer.eval_dataset[1]], tiny_processor(), progress=False)
    facts = {}
    for fold in (False, True):
        folder = tmp_path / str(fold)
        finish_checkpoint(folder, evaluator=evaluator, validation=right, fold_temperature=fold, **more)
        facts[fold] = json.loads((folder / "robustft.json").read_text())
        assert (folder / "evaluation.json").is_file() and (folder / "README.md").is_file()
    notes = [message for message in caplog.messages if message.startswith("No temperature")]
    assert len(notes) == 2 and "`--fold_temperature` folds none" in notes[1] and "as the largest logit" in notes[1]
    assert "\n" not in notes[1]
    assert "temperature" not in facts[True] and facts[True]["detector"] == facts[False]["detector"]


@pytest.mark.parametrize("given", [{}, {"validation": True, "detector": True}])
def test_a_temperature_that_nothing_is_fitted_on_cannot_be_folded(trainer, tmp_path, given):
    """Found by trying all combinations: it was ignored, although a card says what was folded."""
    found = {"validation": trainer.eval_dataset[0], "detector": OpenSetDetector("energy", 0.0, 0.95, 0.95, CLASSES, 1.0, 16)}
    with pytest.raises(ValueError, match="`fold_temperature`"):
        finish_checkpoint(
            tmp_path / "new",
            model=trainer.model,
            processor=trainer.processing_class,
            method="flyp",
            fold_temperature=True,
            **{name: found[name] for name in given},
        )
    assert not (tmp_path / "new").exists()


def test_the_trainers_own_card_comes_with_the_results_that_it_states(trainer, tmp_path):
    folder = tmp_path / "out"
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    assert is_progress_card(folder) and not (folder / "evaluation.json").exists()
    weights = (folder / "model.safetensors").read_bytes()
    trainer.evaluate()
    (folder / "notes.txt").write_text("mine")
    trainer.create_model_card(license="mit", finetuned_from="owner/base")
    (report,) = load_reports(folder / "evaluation.json")
    assert report.results == trainer.last_report.results and (folder / "reliability.png").is_file()
    card = (folder / "README.md").read_text()
    assert not is_progress_card(folder) and "license: mit" in card and "base_model: owner/base" in card
    assert (folder / "model.safetensors").read_bytes() == weights and (folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("fold", [False, True])
def test_prediction_sets_are_fitted_and_their_coverage_is_that_of_the_folder(trainer, tmp_path, fold):
    trainer.train()
    folder = tmp_path / "out"
    report = finish_checkpoint(folder, trainer=trainer, fold_temperature=fold, prediction_sets="aps", coverage=0.8)
    sets = ConformalClassifier.from_pretrained(folder)
    assert (sets.method, sets.coverage, sets.n, sets.fitted_on) == ("aps", 0.8, 16, "validation")
    model, processor = load_checkpoint(folder)
    found = report.prediction_sets
    assert list(found["sets"]) == ["id"] and {name: found[name] for name in sets.summary()} == sets.summary()
    validation, test = (collect_logits(model, item, processor, progress=False) for item in trainer.eval_dataset)
    assert found["sets"]["id"] == coverage_report(sets.holds(test[0]), test[1])
    again = ConformalClassifier.fit(
        *validation, class_names=CLASSES, logit_scale=model.logit_scale.exp(), method="aps", coverage=0.8, temperature=sets.temperature
    )
    assert again.quantile == pytest.approx(sets.quantile, rel=1e-6)
    assert load_reports(folder / "evaluation.json")[-1] == report
    assert "## Prediction sets" in (folder / "README.md").read_text()


@pytest.mark.parametrize("given", [{"prediction_sets": "none"}, {"detector": "none"}])
def test_a_folder_may_have_no_prediction_sets(trainer, tmp_path, given):
    trainer.train()
    report = finish_checkpoint(tmp_path / "out", trainer=trainer, **given)
    assert report.prediction_sets is None and "prediction_sets" not in json.loads((tmp_path / "out" / "robustft.json").read_text())
    assert "Prediction sets" not in (tmp_path / "out" / "README.md").read_text()
