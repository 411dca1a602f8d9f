# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`train --leave_out_classes`: what is measured, and that no method has seen a name or an image of it."""

import json
import shutil

import pytest
import torch
from helpers import CLASSES, image_dataset, tiny_processor

from hf_robustft import Evaluator, interpolate_weights, load_benchmark, load_checkpoint, load_dual_encoder
from hf_robustft.cli.train import load_data, train
from hf_robustft.cli.train_arguments import check_options, parse
from hf_robustft.data.few_shot import few_shot
from hf_robustft.data.left_out import leave_out_classes
from hf_robustft.evaluation.report import load_reports

QUIET = ["--use_cpu", "--disable_tqdm", "true", "--report_to", "none", "--save_strategy", "no", "--logging_steps", "1"]
#: Folders are classes in the order of their names.
NAMES = sorted(CLASSES)


@pytest.fixture
def place(tmp_path, tiny_clip):
    """A model, and class folders for training and validation."""
    tiny_clip.save_pretrained(tmp_path / "base")
    tiny_processor().save_pretrained(tmp_path / "base")
    for split, n, seed in (("train", 16, 0), ("held", 12, 1)):
        for i, row in enumerate(image_dataset(n, seed=seed)):
            folder = tmp_path / split / CLASSES[row["label"]]
            folder.mkdir(parents=True, exist_ok=True)
            row["image"].save(folder / f"{i}.png")
    return tmp_path


def command(place, *more, validation=":validation"):
    flags = {"--model": place / "base", "--train_dataset": place / "train", "--eval_datasets": f"{place / 'held'}{validation}"}
    flags |= {"--output_dir": place / "out", "--per_device_train_batch_size": 4, "--max_steps": 3, "--leave_out_classes": 0.5}
    return [*(str(item) for pair in flags.items() for item in pair), *QUIET, *more]


@pytest.mark.parametrize("method", ["ft", "croft"])
def test_classes_that_were_left_out_are_measured_by_prompts(place, method):
    report = train(command(place, "--method", method, "--learning_rate", "1e-2", "--leave_out_fold", "1"))
    assert list(report.results) == ["left_out_classes"]
    result, facts = report.results["left_out_classes"], json.loads((place / "out" / "robustft.json").read_text())
    assert (result.role, result.n, result.n_classes, result.head) == ("id", 14, 4, "zero-shot prompts")
    assert facts["left_out_classes"] == {"share": 0.5, "fold": 1, "classes": [NAMES[1], NAMES[3]]}
    assert facts["class_names"] == [NAMES[0], NAMES[2]] and "temperature" not in facts
    assert {entry["name"]: entry["images"] for entry in facts["image_hashes"]} == {"train": 8, "left_out_classes": 14}
    assert "classes left out (fold 1 of 2)" in (place / "out" / "README.md").read_text()
    # The numbers are those of the folder's model with the prompts of all classes.
    model, processor = load_checkpoint(place / "out")
    sets = (load_benchmark(place / name, role=role) for name, role in (("train", "train"), ("held", "validation")))
    _, held = leave_out_classes(*sets, 0.5, 1)
    again = Evaluator([held], processor).evaluate(model).results["left_out_classes"]
    assert again.nll == pytest.approx(result.nll, rel=1e-5) and again.accuracy == result.accuracy
    zero_shot = load_reports(place / "out" / "evaluation.json")[0].results["left_out_classes"]
    assert zero_shot.n == 14 and zero_shot.nll != result.nll


def test_a_merge_is_asked_for_the_classes_that_what_it_merges_has_not_seen(place):
    def made(name, *more):
        words = ["--model", str(place / "base"), "--train_dataset", str(place / "train"), "--eval_datasets", f"{place / 'held'}:validation"]
        return train([*words, "--leave_out_classes", "0.5", *QUIET[:3], *more, "--output_dir", str(place / name)])

    steps = ["--per_device_train_batch_size", "4", "--max_steps", "2", "--learning_rate", "1e-2", *QUIET[3:]]
    made("part", "--method", "ft", *steps, "--shots", "3")
    part = json.loads((place / "part" / "robustft.json").read_text())
    shutil.copytree(place / "part", place / "whole")
    (place / "whole" / "robustft.json").write_text(json.dumps({**part, "class_names": NAMES}))
    merge = ["--method", "wise_ft", "--finetuned_model", str(place / "part"), "--alpha", "0.3", "--alpha_sweep", "0", "1"]
    report = made("merged", *merge, "--shots", "3")
    result, facts = report.results["left_out_classes"], json.loads((place / "merged" / "robustft.json").read_text())
    assert result.head == "zero-shot prompts" and result.n == load_reports(place / "part" / "evaluation.json")[-1].results["left_out_classes"].n
    assert all(facts[name] == part[name] for name in ("left_out_classes", "class_names", "image_hashes"))
    assert facts["merge"]["fine_tuned"] == ["part"] and facts["alpha"] == 0.3
    model, processor = load_checkpoint(place / "merged")
    expected = interpolate_weights(load_dual_encoder(place / "base")[0], load_dual_encoder(place / "part")[0], 0.3)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    sets = (load_benchmark(place / "train", role="train"), load_benchmark(place / "held", role="validation"))
    _, held = leave_out_classes(few_shot(sets[0], 3, 42), sets[1], 0.5)
    again = Evaluator([held], processor).evaluate(model).results["left_out_classes"]
    assert (again.n, again.nll) == (result.n, pytest.approx(result.nll, rel=1e-5))
    # Both ends of the way are judged by prompts too.
    sweep = (place / "merged" / "alpha_sweep.csv").read_text().splitlines()
    assert len(sweep) == 3 and "left_out_classes" in sweep[0]
    for source, fold, named in (("whole", "0", "whole.*2 of the 2"), ("part", "1", "part.*2 of the 2.*--leave_out_fold 1"), ("base", "0", "base.*stay")):
        with pytest.raises(ValueError, match=f"--finetuned_model .*{named}"):
            made("refused", "--method", "wise_ft", "--finetuned_model", str(place / source), "--leave_out_fold", fold)
    assert not (place / "refused").exists()


def test_a_test_set_is_not_looked_at(place):
    with pytest.raises(ValueError, match="--leave_out_classes 0.5.*'held'"):
        train(command(place, "--method", "flyp", validation=":shift"))
    assert not (place / "out").exists()


def test_images_that_are_held_out_to_test_on_are_not_looked_at(place):
    """As a run of the same data holds them out: of the classes that are left out, its training and validation images are measured."""
    words = ["--model", place / "base", "--train_dataset", place / "train", "--hold_out", "0.25", "--output_dir", place / "out", *QUIET]
    words = list(map(str, words))
    whole, part = load_data(parse(words)), load_data(parse([*words, "--leave_out_classes", "0.5"]))
    (tested,), (measured,) = whole.evaluation, part.evaluation

    def images(benchmark):
        rows = benchmark.stored_rows()
        return {image.tobytes() for image in rows.dataset[rows.image_column][:]}

    assert (whole.validation.name, measured.name, part.validation) == ("validation", "left_out_classes", None)
    seen = images(part.train) | images(measured)
    assert images(whole.train) <= seen <= images(whole.train) | images(whole.validation)
    assert images(tested) and not images(tested) & seen


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--leave_out_fold 1", "--leave_out_fold 1.*--leave_out_classes"),
        *((f"--leave_out_classes 0.2 --method {name}", f"--leave_out_classes 0.2.*{name}.*head") for name in ("lp", "clip_adapter", "tip_adapter_f", "tip_adapter")),
        ("--leave_out_classes 0.2 --method zero_shot", "--leave_out_classes 0.2.*trains nothing"),
        ("--leave_out_classes 0.2 --caption_column text --method flyp --train_dataset my/images", "--leave_out_classes 0.2.*no classes"),
        ("--leave_out_classes 0.2 --detector msp", "--detector msp.*fits nothing"),
        ("--leave_out_classes 0.2 --fold_temperature", "--fold_temperature.*fits nothing"),
        ("--leave_out_classes 0.2 --method wise_ft --alpha_sweep 0 1 --select_alpha", "--select_alpha.*fits nothing"),
    ],
)  # fmt: skip
def test_what_it_cannot_do_is_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        check_options(*parse(["--use_cpu", *flags.split()]))
