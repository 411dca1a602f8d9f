# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`hf-robustft evaluate`: a checkpoint measured without training, with what its folder says about it."""

import json
import re

import pytest
import torch
from helpers import CLASSES, TEMPLATES, image_dataset, tiny_processor
from helpers.evaluations import benchmark, evaluator
from helpers.forked import run_ranks

from hf_robustft.cli import main
from hf_robustft.cli.evaluate import evaluate, parser
from hf_robustft.evaluation.report import TRAINED_HEAD, ZERO_SHOT_HEAD, load_reports
from hf_robustft.modeling.zero_shot import ZeroShotHead
from hf_robustft.publishing.metadata import write_robustft_json

#: Of a page, with its fraction.
NUMBER = re.compile(r"(?<![\w.#])-?\d+\.\d+(?:e-?\d+)?")
QUIET = ["--use_cpu", "--disable_tqdm", "--batch_size", "8"]


@pytest.fixture
def checkpoint(tmp_path, tiny_clip):
    """The tiny model as a finished folder: class names and prompts in robustft.json."""
    tiny_clip.save_pretrained(tmp_path / "clip")
    tiny_processor().save_pretrained(tmp_path / "clip")
    write_robustft_json(tmp_path / "clip", method="flyp", class_names=CLASSES, templates=TEMPLATES, settings={})
    return tmp_path / "clip"


@pytest.fixture
def pictures(tmp_path):
    """Own data: a test set in another order of classes, a shift with two of them, and an open set."""
    for name, n, classes in (("test", 20, ("owl", "bee", "dog", "cat")), ("shift", 8, ("dog", "bee")),
                             ("other", 6, ("ant", "fox"))):  # fmt: skip
        image_dataset(n, seed=n, classes=classes).to_parquet(tmp_path / f"{name}.parquet")
    return tmp_path


def command(checkpoint, pictures, *more):
    sets = [f"{pictures}/test.parquet", f"{pictures}/shift.parquet:shift", f"{pictures}/other.parquet:open_set"]
    return [str(checkpoint), "--eval_datasets", *sets, "--output_dir", str(pictures / "out"), *QUIET, *more]


def run(arguments):
    return evaluate(*parser().parse(arguments))


def test_it_measures_and_writes(checkpoint, pictures, capsys, tiny_clip):
    assert main(["evaluate", *command(checkpoint, pictures)]) == 0
    printed = capsys.readouterr().out
    assert "Note: shift: images of 2 of the 4 classes, none of 'cat', 'owl'." in printed
    assert "known or unknown: test (20 images) against other (6 of unseen classes)" in printed
    names = {path.name for path in (pictures / "out").iterdir()}
    assert names == {"evaluation.json", "reliability.png", "report.html", "scores.png", "shift.png", "thresholds.png"}
    (report,) = load_reports(pictures / "out" / "evaluation.json")
    assert report.model == "clip" and {name: item.n for name, item in report.results.items()} == {
        "test": 20,
        "shift": 8,
    }
    # The same images with labels in the model's order, through the Evaluator.
    rows = image_dataset(20, seed=20, classes=("owl", "bee", "dog", "cat"))
    meaning = [CLASSES.index(name) for name in ("owl", "bee", "dog", "cat")]
    rows = rows.map(lambda row: {"label": meaning[row["label"]]}, features=image_dataset(1).features)
    want = evaluator([benchmark("id").from_dataset(rows, name="test", role="id", templates=TEMPLATES)])
    want = want.evaluate(tiny_clip).results["test"]
    assert report.results["test"].accuracy == want.accuracy
    assert report.results["test"].nll == pytest.approx(want.nll, rel=1e-5)


def test_a_trained_head_is_used_unless_prompts_are_asked_for(checkpoint, pictures):
    head = ZeroShotHead(torch.zeros(4, 16), CLASSES, torch.tensor([0.0, 0, 9, 0]))
    head.save_pretrained(checkpoint)
    report = run(command(checkpoint, pictures))
    assert {item.head for item in report.results.values()} == {TRAINED_HEAD}
    assert report.results["test"].accuracy == 5 / 20 and report.results["shift"].accuracy == 0
    report = run(command(checkpoint, pictures, "--zero_shot"))
    assert {item.head for item in report.results.values()} == {ZERO_SHOT_HEAD}
    prompts = command(checkpoint, pictures, "--templates", "imagenet-croft-7")
    with pytest.raises(ValueError, match="`--templates imagenet-croft-7` would do nothing.*--zero_shot"):
        run(prompts)
    assert {item.head for item in run([*prompts, "--zero_shot"]).results.values()} == {ZERO_SHOT_HEAD}


def test_a_plain_model_takes_its_classes_from_the_data(checkpoint, pictures, tmp_path):
    (checkpoint / "robustft.json").unlink()
    report = run(command(checkpoint, pictures))
    assert {name: item.n_classes for name, item in report.results.items()} == {"test": 4, "shift": 4}
    (tmp_path / "names.txt").write_text("bee\ncat\n")
    with pytest.raises(ValueError, match="does not know, '.*'dog'"):
        run(command(checkpoint, pictures, "--class_names", str(tmp_path / "names.txt")))


def test_options(checkpoint, pictures):
    more = ["--save_logits", "--knn_bank", f"{pictures}/test.parquet", "--name", "mine"]
    with pytest.raises(ValueError, match="is also evaluated, as 'test'"):
        run(command(checkpoint, pictures, *more))
    image_dataset(30, seed=3).to_parquet(pictures / "train.parquet")
    more[2] = f"{pictures}/train.parquet"
    report = run(command(checkpoint, pictures, *more, "--templates", "imagenet-croft-7", "--streaming"))
    assert report.model == "mine" and "knn" in report.open_set["other"]["scores"]
    assert {path.stem for path in (pictures / "out" / "logits").iterdir()} == {"test", "shift", "other"}
    stored = run(command(checkpoint, pictures, *more, "--templates", "imagenet-croft-7"))
    assert stored.results["test"].nll == pytest.approx(report.results["test"].nll, rel=1e-6)
    assert stored.results["test"].source == report.results["test"].source == {"path": "test.parquet"}


def test_results_never_take_the_place_of_a_models_own(checkpoint, pictures, capsys):
    (checkpoint / "evaluation.json").write_text("its own")
    for output in (checkpoint, checkpoint / "inside"):
        assert main(["evaluate", *command(checkpoint, pictures, "--output_dir", str(output))]) == 2
        assert "--output_dir" in capsys.readouterr().err
    assert main(["evaluate", *command("emoji_clip", pictures, "--output_dir", str(checkpoint))]) == 2
    assert "holds a model" in capsys.readouterr().err
    (pictures / "file").write_text("")
    assert main(["evaluate", *command(checkpoint, pictures, "--output_dir", str(pictures / "file" / "out"))]) == 2
    assert "is a file" in capsys.readouterr().err
    assert (checkpoint / "evaluation.json").read_text() == "its own" and not (checkpoint / "inside").exists()


def test_a_head_that_robustft_json_does_not_claim_is_not_used(checkpoint, pictures, capsys):
    ZeroShotHead(torch.zeros(4, 16), CLASSES, torch.tensor([0.0, 0, 9, 0])).save_pretrained(checkpoint)
    facts = {"class_names": CLASSES, "templates": TEMPLATES, "settings": {}}
    write_robustft_json(checkpoint, method="flyp", head=ZERO_SHOT_HEAD, **facts)
    report = run(command(checkpoint, pictures, "--save_logits"))
    assert {item.head for item in report.results.values()} == {ZERO_SHOT_HEAD}
    assert "the 4 classes are those of the model" in capsys.readouterr().out
    write_robustft_json(checkpoint, method="ft", head=TRAINED_HEAD, **facts)
    (checkpoint / "head.safetensors").unlink()
    with pytest.raises(OSError, match="No head.safetensors"):
        run(command(checkpoint, pictures))
    # What an earlier evaluation left: logits and the picture of an open set.
    assert (pictures / "out" / "logits").is_dir() and (pictures / "out" / "scores.png").is_file()
    (checkpoint / "robustft.json").unlink()
    run([*command(checkpoint, pictures)[:2], f"{pictures}/test.parquet", "--output_dir", str(pictures / "out"), *QUIET])
    assert {path.name for path in (pictures / "out").iterdir()} == {"evaluation.json", "reliability.png", "report.html"}


def test_errors_are_one_line(checkpoint, pictures, capsys):
    assert main(["evaluate", str(pictures / "nowhere"), "--eval_datasets", "imagenet-r", *QUIET]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: `MODEL ")
    assert main(["evaluate", *command(checkpoint, pictures, "--bad_images", "maybe")]) == 2
    assert "`--bad_images maybe` is unknown; choose one of skip, error" in capsys.readouterr().err
    assert main(["evaluate", *command(checkpoint, pictures, "--knn_k", "5")]) == 2
    assert "`--knn_bank`" in capsys.readouterr().err
    known = f"{pictures}/test.parquet"
    assert main(["evaluate", str(checkpoint), "--eval_datasets", known, "--knn_bank", known, *QUIET]) == 2
    assert "NAME:open_set" in capsys.readouterr().err
    assert main(["evaluate", str(checkpoint), "--eval_datasets", f"{pictures}/other.parquet:shift", *QUIET]) == 2
    assert f"{pictures}/other.parquet:open_set" in capsys.readouterr().err


def test_unreadable_images(checkpoint, pictures, tmp_path):
    for number, row in enumerate(image_dataset(8)):
        folder = tmp_path / "photos" / CLASSES[row["label"]]
        folder.mkdir(parents=True, exist_ok=True)
        row["image"].save(folder / f"{number}.png")
    (tmp_path / "photos" / "owl" / "2.png").write_bytes(b"")
    arguments = [
        str(checkpoint),
        "--eval_datasets",
        str(tmp_path / "photos"),
        "--output_dir",
        str(tmp_path / "o"),
        *QUIET,
    ]
    report = run(arguments)
    assert report.results["photos"].n == 7 and "owl/2.png" in report.results["photos"].unreadable["first"][0]
    with pytest.raises(OSError, match="2.png"):
        run([*arguments, "--bad_images", "error"])
    assert json.loads((tmp_path / "o" / "evaluation.json").read_text())["reports"][0]["results"]["photos"][
        "unreadable"
    ]


@pytest.mark.slow  # Three processes.
def test_two_processes_write_the_page_that_one_writes(checkpoint, pictures):
    """To the letter, but for the last digits of numbers: two processes make the prompts of the head by halves."""
    pages = {}
    for processes in (1, 2):
        out = pictures / "out"
        done = run_ranks(processes, "-m", "hf_robustft.cli", "evaluate", *command(checkpoint, pictures), ACCELERATE_USE_CPU="true")
        assert done.returncode == 0, done.stderr[-3000:]
        pages[processes] = (out / "report.html").read_text(encoding="utf-8")
        out.rename(pictures / f"of {processes}")
    words, numbers = zip(*((NUMBER.split(page), NUMBER.findall(page)) for page in pages.values()), strict=True)
    assert words[0] == words[1] and len(numbers[0]) > 300 and "data-path" in pages[1]
    for one, two in zip(*numbers, strict=True):
        assert float(two) == pytest.approx(float(one), rel=1e-4, abs=1e-4), (one, two)
