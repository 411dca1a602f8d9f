# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`train --leave_out_classes`: what is measured, and that no method has seen a name or an image of it."""

import json

import pytest
from helpers import CLASSES, image_dataset, tiny_processor

from hf_robustft import Evaluator, load_benchmark, load_checkpoint
from hf_robustft.cli.train import load_data, train
from hf_robustft.cli.train_arguments import check_options, parse
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
