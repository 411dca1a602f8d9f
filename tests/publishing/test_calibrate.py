# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A temperature is fitted on validation images alone, folded into a folder, and said in all its files, or nothing is."""

import copy
import dataclasses
import hashlib
import json
import math
import os
import shutil

import pytest
import torch
from helpers import CLASSES, TEMPLATES, assert_rounded, image_dataset, tiny_processor
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPModel
from transformers import pipeline as hf_pipeline

from hf_robustft import files
from hf_robustft.cli import main
from hf_robustft.cli.calibrate import validation_set
from hf_robustft.cli.data_sets import DataOptions
from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.evaluation.collect import collect_logits
from hf_robustft.evaluation.detector import OpenSetDetector
from hf_robustft.evaluation.evaluator import Evaluator
from hf_robustft.evaluation.predictions import load_predictions
from hf_robustft.evaluation.report import TRAINED_HEAD, load_reports, save_reports
from hf_robustft.modeling.features import encode_images
from hf_robustft.modeling.metadata import load_robustft_json
from hf_robustft.modeling.zero_shot import ZeroShotHead
from hf_robustft.publishing import finish
from hf_robustft.publishing.card_sections import worse_under_shift
from hf_robustft.publishing.metadata import write_robustft_json
from hf_robustft.publishing.model_card import write_model_card
from hf_robustft.publishing.recalibrate import recalibrate

PROCESSOR = tiny_processor()


def labelled(model, n, seed, wrong=0.3, templates=TEMPLATES):
    """Images whose labels are what the model says, a share of them changed: it beats chance and is not perfect."""
    data = image_dataset(n, seed=seed)
    rows = Benchmark.from_dataset(data, name="rows", role="id", class_names=CLASSES, templates=templates)
    guesses = collect_logits(model, rows, PROCESSOR, progress=False)[0].argmax(dim=1)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.where(torch.rand(n, generator=generator) < wrong, (guesses + 1) % len(CLASSES), guesses)
    return data.remove_columns("label").add_column("label", labels.tolist())


def benchmark(data, name, role, templates=TEMPLATES, **facts):
    return Benchmark.from_dataset(data, name=name, role=role, class_names=CLASSES, templates=templates, **facts)


@pytest.fixture(scope="module")
def made(first_tiny_clip, tmp_path_factory):
    """`(sets, folder)`: data, and a finished checkpoint with a detector, an evaluation and a card, which no test may change."""
    model, folder = copy.deepcopy(first_tiny_clip), tmp_path_factory.mktemp("made") / "my-clip"
    roles = (("validation", "validation", 60), ("photo", "id", 40), ("sketch", "shift", 40))
    sets = {
        name: benchmark(labelled(model, n, seed, 0.2 + 0.1 * seed), name, role)
        for seed, (name, role, n) in enumerate(roles)
    }
    model.save_pretrained(folder)
    PROCESSOR.save_pretrained(folder)
    write_robustft_json(folder, method="carot", class_names=CLASSES, templates=TEMPLATES, settings={})
    logits, _ = collect_logits(model, sets["validation"], PROCESSOR, progress=False)
    scale = model.logit_scale.exp()
    OpenSetDetector.fit(logits, class_names=CLASSES, logit_scale=scale, fitted_on="old").save(folder)
    measured = [sets["photo"], sets["sketch"]]
    report = Evaluator(measured, PROCESSOR, bootstrap_draws=20, progress=False).evaluate(model, name="CaRot")
    before = dataclasses.replace(report, model="zero-shot")
    save_reports(folder / "evaluation.json", [before, report])
    write_model_card(
        folder, report=report, baseline=before, method="carot", data=list(sets.values()), settings={"seed": 3}, seed=3
    )
    return sets, folder


@pytest.fixture
def sets(made):
    return dict(made[0])


@pytest.fixture
def folder(made, tmp_path):
    """The finished checkpoint."""
    return shutil.copytree(made[1], tmp_path / "my-clip")


def digests(folder) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def fold(folder, validation, evaluation=(), **options):
    return recalibrate(folder, validation, evaluation, progress=False, **options)


# ---- What changes --------------------------------------------------------------------------------------------------


@pytest.mark.numbers
def test_the_logit_scale_alone_changes_and_the_predictions_stay(folder, sets, tiny_clip):
    before = load_file(folder / "model.safetensors")
    found = fold(folder, sets["validation"])
    after = load_file(folder / "model.safetensors")
    assert abs(found.fitted - 1) > 0.01
    assert after.keys() == before.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["logit_scale"]
    scale = (after["logit_scale"].double() - before["logit_scale"].double()).exp().item()
    assert scale == pytest.approx(1 / found.fitted, rel=1e-6)
    plain = CLIPModel.from_pretrained(folder).eval()
    for name in ("validation", "photo", "sketch"):
        old, labels = collect_logits(tiny_clip, sets[name], PROCESSOR, progress=False)
        new, _ = collect_logits(plain, sets[name], PROCESSOR, progress=False)
        assert_rounded(new, old / found.fitted)
        assert torch.equal(new.argmax(dim=1), old.argmax(dim=1))
    assert found.temperature.nll_after < found.temperature.nll_before


def test_robustft_json_says_what_was_fitted_and_the_detector_is_refitted_on_the_same_images(folder, sets):
    found = fold(folder, sets["validation"])
    content = load_robustft_json(folder)
    temperature = content["temperature"]
    assert (temperature["temperature"], temperature["folded"]) == (1.0, found.fitted)
    assert (temperature["fitted_on"], temperature["n"]) == ("validation", 60)
    assert temperature["ece_before"] != temperature["ece_after"] and "test_set" not in temperature
    assert [entry["temperature"] for entry in temperature["history"]] == [found.fitted]
    model = CLIPModel.from_pretrained(folder).eval()
    detector = OpenSetDetector.from_pretrained(folder)
    detector.check(CLASSES, model.logit_scale.exp())
    logits, _ = collect_logits(model, sets["validation"], PROCESSOR, progress=False)
    again = OpenSetDetector.fit(logits, class_names=CLASSES, logit_scale=model.logit_scale.exp())
    assert detector.fitted_on == "validation"
    assert detector.threshold == pytest.approx(again.threshold, rel=1e-5)
    assert any("fitted on old, is now fitted on validation" in note for note in found.notes)


def test_a_second_run_finds_a_temperature_of_one_and_keeps_the_history(folder, sets):
    first = fold(folder, sets["validation"], [sets["photo"], sets["sketch"]])
    card = (folder / "README.md").read_text()
    second = fold(folder, sets["validation"])
    assert abs(second.fitted - 1) < 1e-6
    temperature = load_robustft_json(folder)["temperature"]
    assert temperature["folded"] == pytest.approx(first.fitted, rel=1e-6)
    assert len(temperature["history"]) == 2 and set(temperature["sets"]) == {"photo", "sketch"}
    assert "temperature_folded_since" not in (folder / "evaluation.json").read_text()
    assert "were measured before" not in card + (folder / "README.md").read_text()
    card = (folder / "README.md").read_text()
    assert " in it, the product of 2 fits; the numbers above include it. The last fit was on 60 images of validation (NLL " in card
    # Pictures stay, and the card goes on showing them.
    assert "](reliability.png)" in card and "](shift.png)" in card and (folder / "shift.png").is_file()


def test_with_evaluation_sets_everything_is_measured_anew(folder, sets):
    measured = [sets["photo"], sets["sketch"]]
    old = load_reports(folder / "evaluation.json")[-1]
    found = fold(folder, sets["validation"], measured)
    first, last = load_reports(folder / "evaluation.json")
    assert first.model == "zero-shot" and last.model == "CaRot"
    plain = CLIPModel.from_pretrained(folder)
    fresh = Evaluator(measured, PROCESSOR, progress=False).evaluate(plain)
    for name in ("photo", "sketch"):
        assert last.results[name].accuracy == old.results[name].accuracy == fresh.results[name].accuracy
        assert last.results[name].nll == pytest.approx(fresh.results[name].nll, rel=1e-5)
        assert last.results[name].nll != old.results[name].nll
        row = found.temperature.record["sets"][name]
        assert row["nll"] == [pytest.approx(old.results[name].nll), last.results[name].nll]
    text = ModelCard.load(folder / "README.md").text
    assert "| Set | Images | Accuracy % | ECE % before | ECE % after | NLL before | NLL after |" in text
    assert f"has a temperature of {found.fitted:.4g} in it, fitted on 60 images of validation (NLL " in text
    assert "; the numbers above include it." in text and "# my-clip\n" in text
    assert "](shift.png)" in text and "](reliability.png)" in text
    assert (folder / "shift.png").is_file() and "Seed: 3" in text


def test_without_evaluation_sets_the_card_says_that_its_numbers_are_from_before(folder, sets):
    found = fold(folder, sets["validation"])
    text = (folder / "README.md").read_text()
    assert f"were measured before a temperature of {found.fitted:.4g} was folded" in text
    assert "Accuracy is the same;" in text and "; the numbers above do not include all of it." in text
    marked = load_reports(folder / "evaluation.json")[-1]
    assert marked.settings["temperature_folded_since"] == pytest.approx(found.fitted)
    fold(folder, sets["validation"], [sets["photo"], sets["sketch"]])
    assert "were measured before" not in (folder / "README.md").read_text()


def test_predictions_are_those_after_the_temperature_or_said_to_be_from_before(folder, sets, tiny_clip):
    measures = Evaluator([sets["photo"], sets["sketch"]], PROCESSOR, bootstrap_draws=2, progress=False)
    measures.evaluate(tiny_clip, validation=sets["validation"])
    old = measures.predictions.save(folder).read_bytes()
    found = fold(folder, sets["validation"])
    assert (folder / "predictions.parquet").read_bytes() == old
    assert any("predictions.parquet" in note for note in found.notes)
    found = fold(folder, sets["validation"], [sets["photo"], sets["sketch"]])
    kept = load_predictions(folder).sets
    assert list(kept) == ["photo", "sketch", "validation"] and not any("predictions" in note for note in found.notes)
    assert kept["photo"].metrics()["nll"] == found.after.results["photo"].nll
    # A test set that is allowed is measured as one, and once.
    fold(folder, sets["photo"], [sets["photo"], sets["sketch"]], allow_test_set=True)
    assert list(load_predictions(folder).sets) == ["photo", "sketch"]


def test_an_edited_card_is_kept(folder, sets):
    edited = (folder / "README.md").read_text() + "Mine.\n"
    (folder / "README.md").write_text(edited)
    with pytest.warns(UserWarning, match="edited by hand"):
        fold(folder, sets["validation"])
    assert (folder / "README.md").read_text() == edited
    assert "were measured before" in (folder / "README.generated.md").read_text()


def test_a_trained_head_is_folded_too(folder, sets, tiny_clip):
    generator = torch.Generator().manual_seed(5)
    start = ZeroShotHead.from_model(tiny_clip, PROCESSOR, CLASSES, TEMPLATES).weight
    head = ZeroShotHead(start + 0.1 * torch.randn(start.shape, generator=generator), CLASSES)
    head.save_pretrained(folder)
    write_robustft_json(folder, method="ft", class_names=CLASSES, templates=TEMPLATES, settings={}, head=TRAINED_HEAD)
    found = fold(folder, sets["validation"])
    after = ZeroShotHead.from_pretrained(folder)
    torch.testing.assert_close(after.weight, head.weight / found.fitted)


def test_the_folded_checkpoint_gives_our_probabilities_in_the_plain_pipeline(folder, sets, tiny_clip, tmp_path):
    one = ("a photo of {}.",)
    write_robustft_json(folder, method="carot", class_names=CLASSES, templates=one, settings={})
    validation = benchmark(labelled(tiny_clip, 60, 3, templates=one), "validation", "validation", one)
    found = fold(folder, validation)
    image = Image.effect_noise((40, 36), 90).convert("RGB")
    ours = ZeroShotHead.from_model(tiny_clip, PROCESSOR, CLASSES, one)
    with torch.no_grad():
        logits = ours(encode_images(tiny_clip, PROCESSOR(images=image, return_tensors="pt")["pixel_values"]))
    want = (logits.double() / found.fitted).softmax(dim=-1)[0]
    classify = hf_pipeline("zero-shot-image-classification", model=str(folder))
    got = {
        item["label"]: item["score"]
        for item in classify(image, candidate_labels=list(CLASSES), hypothesis_template=one[0])
    }
    assert max(abs(got[name] - want[i].item()) for i, name in enumerate(CLASSES)) < 1e-5


# ---- What is refused -----------------------------------------------------------------------------------------------


def test_sets_to_measure_or_train_on_are_refused_unless_told(folder, sets):
    before = digests(folder)
    rows = sets["photo"].dataset
    place = {"class_names": CLASSES, "templates": TEMPLATES, "path": "parquet", "data_files": "x.parquet"}
    refused = {
        "is a test set,": sets["photo"],
        "is a shift,": sets["sketch"],
        "is the training set,": benchmark(rows, "train", "train"),
        "is a test set of evaluation.json,": benchmark(rows, "photo", "validation"),
        "the split 'test' of its data set": Benchmark(name="v", role="validation", split="test", **place),
    }
    for message, chosen in refused.items():
        with pytest.raises(ValueError, match=message):
            fold(folder, chosen)
    same = benchmark(rows, "other", "validation")
    with pytest.raises(ValueError, match=r"also in --eval_datasets, as a test set \(photo\)"):
        fold(folder, same, [sets["photo"]])
    assert digests(folder) == before
    found = fold(folder, sets["photo"], allow_test_set=True)
    assert found.temperature.record["test_set"] is True
    assert (
        "which the model was trained or measured on too, so that calibration on them looks better than it is"
        in (folder / "README.md").read_text()
    )


def test_a_set_of_the_hub_that_the_card_lists_as_measured_is_refused(folder, sets):
    hub = {"class_names": CLASSES, "path": "owner/pictures", "split": "evaluation"}
    report = load_reports(folder / "evaluation.json")[-1]
    data = [Benchmark(name="photo", role="id", **hub), sets["sketch"]]
    write_model_card(folder, report=report, method="carot", data=data, settings={})
    with pytest.raises(ValueError, match=r"a test set of the model \(photo\)"):
        fold(folder, Benchmark(name="mine", role="validation", **hub))


def test_other_classes_and_labels_without_a_best_temperature_are_refused(folder, sets):
    before = digests(folder)
    with pytest.raises(ValueError, match="in its order; give validation images of its classes"):
        fold(
            folder,
            Benchmark.from_dataset(sets["photo"].dataset, name="v", role="validation", class_names=CLASSES[::-1]),
        )
    chance = sets["validation"].dataset.remove_columns("label").add_column("label", [i % 4 for i in range(60)])
    wrong = benchmark(chance.map(lambda row: {"label": (row["label"] + 2) % 4}), "v", "validation")
    model = CLIPModel.from_pretrained(folder)
    logits, labels = collect_logits(model, wrong, PROCESSOR, progress=False)
    worst = wrong.dataset.remove_columns("label").add_column("label", logits.argmin(dim=1).tolist())
    with pytest.raises(ValueError, match="no more than chance"):
        fold(folder, benchmark(worst, "v", "validation"))
    assert digests(folder) == before


def test_weights_too_coarse_for_the_temperature_are_refused(folder, sets, tiny_clip):
    tiny_clip.to(torch.bfloat16).save_pretrained(folder)
    before = digests(folder)
    with pytest.raises(ValueError, match="cannot hold a temperature; load them with dtype=torch.float32"):
        fold(folder, sets["validation"], keep_detector=False)
    assert digests(folder) == before


def test_a_detector_that_is_not_refitted_is_removed_with_a_warning(folder, sets):
    with pytest.warns(UserWarning, match="it is removed"):
        found = fold(folder, sets["validation"], keep_detector=False)
    assert found.detector is None and "detector" not in load_robustft_json(folder)


@pytest.mark.parametrize("where", ["refresh_model_card", "draw_pictures", "update_robustft_json"])
def test_a_failure_leaves_the_folder_as_it_was(folder, sets, monkeypatch, where):
    before = digests(folder)

    def failing(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(finish, where, failing)
    with pytest.raises(OSError, match="no space left"):
        fold(folder, sets["validation"], [sets["photo"], sets["sketch"]])
    assert digests(folder) == before


@pytest.mark.parametrize("moved", [0, 1, 3])
def test_a_process_that_is_killed_while_files_are_moved_leaves_what_the_next_reader_finishes(
    folder, sets, tmp_path, monkeypatch, moved
):
    whole, replace, calls = tmp_path / "whole" / "my-clip", os.replace, []
    shutil.copytree(folder, whole)
    fold(whole, sets["validation"], [sets["photo"]])

    def dying(source, target):
        if os.path.basename(os.path.dirname(source)) == files.READY:
            calls.append(target)
            if len(calls) > moved:
                raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        fold(folder, sets["validation"], [sets["photo"]])
    monkeypatch.setattr(files.os, "replace", replace)
    assert digests(folder) != digests(whole)
    files.settle(folder)
    assert digests(folder) == digests(whole)


def test_a_folder_without_card_and_evaluation_is_calibrated_too(folder, sets):
    for name in ("README.md", "evaluation.json"):
        (folder / name).unlink()
    content = json.loads((folder / "robustft.json").read_text())
    del content["card"]
    (folder / "robustft.json").write_text(json.dumps(content))
    fold(folder, sets["validation"])
    assert not (folder / "README.md").exists() and not (folder / "evaluation.json").exists()
    (folder / "README.md").write_text("# Mine\n")
    found = fold(folder, sets["validation"], [sets["photo"], sets["sketch"]])
    assert (folder / "README.md").read_text() == "# Mine\n"
    assert any("README.md is as it was" in note for note in found.notes)


# ---- The command ---------------------------------------------------------------------------------------------------


def test_the_command_takes_files_and_prints_before_and_after(folder, sets, tmp_path, capsys):
    for name in ("validation", "photo", "sketch"):
        sets[name].dataset.to_parquet(tmp_path / f"{name}.parquet")
    arguments = ["calibrate", str(folder), "--disable_tqdm", "--dataset", str(tmp_path / "validation.parquet")]
    measured = [str(tmp_path / "photo.parquet"), f"{tmp_path / 'sketch.parquet'}:shift"]
    assert main([*arguments, "--eval_datasets", *measured]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("Temperature ") and "on 60 images of validation, folded into" in printed[0]
    assert [line.split(":")[0] for line in printed[1:4]] == ["validation", "photo (ID)", "sketch (shift)"]
    assert str(tmp_path) not in (folder / "README.md").read_text() + (folder / "robustft.json").read_text()
    arguments[-1] = str(tmp_path / "photo.parquet")
    assert main(arguments) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[-1].startswith("error: 'photo' is a test set of evaluation.json")
    assert math.isclose(load_robustft_json(folder)["temperature"]["temperature"], 1.0)


def test_a_suite_stands_for_its_validation_set_and_sets_of_the_registry_keep_their_roles():
    options = DataOptions()
    assert validation_set("emoji_shift", options, None).role == "validation"
    assert validation_set("emoji_shift/validation", options, None).name == "validation"
    assert validation_set("emoji_shift/noto", options, None).role == "id", "which is refused later"
    with pytest.raises(ValueError, match="have roles of their own"):
        validation_set("emoji_shift/noto:validation", options, None)
    with pytest.raises(ValueError, match="has no validation set"):
        validation_set("imagenet-r", options, None)


def test_a_rise_of_the_error_under_shift_is_said():
    rows = {"a": {"role": "shift", "ece": [0.1, 0.3]}, "b": {"role": "shift", "ece": [0.2, 0.2]}}
    rows["photo"] = {"role": "id", "ece": [0.5, 0.9]}
    said = worse_under_shift({"folded": 0.5, "sets": rows})
    assert said.startswith("Mean ECE under shift rose from 15.0 % to 25.0 %") and "more confident of everything" in said
    assert "more confident" not in worse_under_shift({"folded": 1.5, "sets": rows})
    assert worse_under_shift({"folded": 0.5, "sets": {"photo": rows["photo"]}}) == ""
    assert worse_under_shift({"folded": 0.5, "sets": {"b": rows["b"]}}) == worse_under_shift({}) == ""


def test_data_that_may_only_be_evaluated_on_are_refused(folder, sets):
    forbidden = dataclasses.replace(sets["sketch"], evaluation_only=True)
    with pytest.raises(ValueError, match="never trained or tuned on"):
        recalibrate(folder, forbidden, allow_test_set=True, progress=False)
