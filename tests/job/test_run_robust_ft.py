# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The example script: what it leaves behind, and what it says of wrong input."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import datasets
import pytest
import torch
from helpers import CLASSES, image_dataset, tiny_processor
from safetensors.torch import load_file
from transformers import CLIPModel, pipeline

from hf_robustft import OpenSetDetector, cli
from hf_robustft import pipeline as unknown_pipeline
from hf_robustft.files import FolderInUse, locked

QUIET = ["--use_cpu", "--disable_tqdm", "true", "--report_to", "none", "--save_strategy", "no", "--logging_steps", "1"]
FILES = {"README.md", "config.json", "evaluation.json", "model.safetensors", "reliability.png", "robustft.json"}


@pytest.fixture
def base(tmp_path, tiny_clip):
    """A checkpoint folder of the tiny model."""
    folder = tmp_path / "base"
    tiny_clip.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def images(tmp_path):
    """Two folders of class folders: train and test."""
    for split, n, seed in (("train", 16, 0), ("test", 12, 1)):
        for i, row in enumerate(image_dataset(n, seed=seed)):
            folder = tmp_path / "images" / split / CLASSES[row["label"]]
            folder.mkdir(parents=True, exist_ok=True)
            row["image"].save(folder / f"{i}.png")
    return tmp_path / "images"


def command(base, images, output, *more) -> list[str]:
    flags = {"--model": base, "--train_dataset": images / "train", "--eval_datasets": images / "test"}
    flags |= {"--output_dir": output, "--per_device_train_batch_size": 4, "--max_steps": 3, "--learning_rate": 1e-3}
    return [*(str(item) for pair in flags.items() for item in pair), *QUIET, *more]


def measuring(base, images, output, *more) -> list[str]:
    """The command of a job that trains nothing."""
    flags = {"--model": base, "--train_dataset": images / "train", "--eval_datasets": images / "test"}
    return [*(str(item) for pair in (flags | {"--output_dir": output}).items() for item in pair), *QUIET[:-2], *more]


@pytest.mark.parametrize("method", ["carot", "croft", "carot+croft", "flyp", "ft", "wise_ft", "zero_shot"])
def test_every_method_leaves_a_checkpoint_its_report_and_its_card(script, base, images, tmp_path, method, capsys):
    output = tmp_path / "out"
    made = measuring if method == "zero_shot" else command
    report = script.main(made(base, images, output, "--method", method))
    names = {path.name for path in output.iterdir()}
    assert FILES <= names
    assert ("head.safetensors" in names) == (method in ("ft", "wise_ft"))
    assert ("adapters.safetensors" in names) == ("croft" in method)
    printed = capsys.readouterr().out
    assert "1 process of" in printed and "test (ID)" in printed and "Total " in printed
    reports = json.loads((output / "evaluation.json").read_text())["reports"]
    assert reports[-1]["results"]["test"]["accuracy"] == report.results["test"].accuracy
    assert len(reports) == (1 if method == "zero_shot" else 2)
    before, after = load_file(base / "model.safetensors"), load_file(output / "model.safetensors")
    moved = not torch.equal(before["visual_projection.weight"], after["visual_projection.weight"])
    assert moved == (method != "zero_shot")
    facts = json.loads((output / "robustft.json").read_text())
    assert facts["method"] == method and facts["class_names"] == sorted(CLASSES)


def test_the_report_is_that_of_the_folder_without_our_code(script, base, images, tmp_path):
    output = tmp_path / "out"
    report = script.main(command(base, images, output))
    model, processor = CLIPModel.from_pretrained(output).eval(), tiny_processor()
    test = datasets.load_dataset("imagefolder", data_dir=str(images / "test"), split="train")
    prompts = [f"a photo of a {name}." for name in sorted(CLASSES)]
    inputs = processor(text=prompts, images=list(test["image"]), padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(pixel_values=inputs["pixel_values"], input_ids=inputs["input_ids"]).logits_per_image
    labels = torch.tensor(test["label"])
    assert (logits.argmax(1) == labels).double().mean().item() == pytest.approx(report.results["test"].accuracy)
    nll = torch.nn.functional.cross_entropy(logits.double(), labels).item()
    assert nll == pytest.approx(report.results["test"].nll, rel=1e-5)
    classify = pipeline("zero-shot-image-classification", model=str(output))
    best = classify(test[0]["image"], candidate_labels=sorted(CLASSES), hypothesis_template="a photo of a {}.")[0]
    assert best["label"] == sorted(CLASSES)[logits[0].argmax()]


def test_wise_ft_interpolates_with_a_model_that_is_given(script, base, images, tmp_path):
    tuned, output = tmp_path / "tuned", tmp_path / "wise"
    script.main(command(base, images, tuned, "--method", "ft"))
    more = ["--method", "wise_ft", "--finetuned_model", str(tuned), "--alpha", "0.25"]
    script.main(measuring(base, images, output, *more))
    start, end, between = (load_file(d / "model.safetensors") for d in (base, tuned, output))
    for name, value in between.items():
        torch.testing.assert_close(value, 0.75 * start[name] + 0.25 * end[name])


def test_image_caption_pairs_need_no_classes(script, base, tmp_path):
    pairs = image_dataset(8).remove_columns("label").add_column("text", [f"a drawing of {i}" for i in range(8)])
    pairs.to_parquet(tmp_path / "pairs.parquet")
    output = tmp_path / "out"
    arguments = command(base, tmp_path, output, "--caption_column", "text")
    at = arguments.index("--eval_datasets")
    del arguments[at : at + 2]
    arguments[arguments.index("--train_dataset") + 1] = str(tmp_path / "pairs.parquet")
    assert script.main(arguments) is None
    assert (output / "model.safetensors").is_file() and not (output / "evaluation.json").exists()


def test_the_teacher_can_be_exported(script, base, images, tmp_path):
    more = ["--ema_update_every", "1", "--ema_end_momentum", "0.99", "--ema_start_momentum", "0.99"]
    script.main(command(base, images, tmp_path / "student", *more))
    script.main(command(base, images, tmp_path / "teacher", *more, "--export_weights", "teacher"))
    start, student, teacher = (
        load_file(folder / "model.safetensors")["visual_projection.weight"]
        for folder in (base, tmp_path / "student", tmp_path / "teacher")
    )
    assert 0 < (teacher - start).norm() < 0.1 * (student - start).norm()


def test_a_config_file_is_overridden_by_flags(script, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("method: flyp\nlearning_rate: 1e-4\nnum_train_epochs: 7\n")
    model_args, _, args = script.parse(["--config", str(config), "--num_train_epochs", "2", "--use_cpu"])
    assert (model_args.method, args.learning_rate, args.num_train_epochs) == ("flyp", 1e-4, 2)
    config.write_text("learning_rte: 1e-4\n")
    with pytest.raises(ValueError, match="'learning_rte' is not an argument; did you mean learning_rate"):
        script.parse(["--config", str(config)])


def test_the_default_run_is_carot_on_emoji_shift(script, capsys):
    command = model_args, data_args, args = script.parse(["--use_cpu"])
    assert (model_args.method, model_args.model, data_args.train_dataset) == ("carot", "emoji_clip", "emoji_shift")
    assert args.num_train_epochs == 10 and args.per_device_train_batch_size == 128
    assert args.origins["num_train_epochs"] == "recipe emoji_shift/carot"
    data = script.load_data(command)
    assert [item.role for item in data.evaluation] == ["id", "shift", "shift", "shift", "shift", "open_set"]
    assert data.train.role == "train" and data.validation.name == "validation"


def test_wrong_input_is_answered_in_one_line_that_names_the_fix(script, base, images, tmp_path):
    def message(*more, expected=ValueError, change=None):
        arguments = command(base, images, tmp_path / "out", *more)
        for flag, value in (change or {}).items():
            arguments[arguments.index(flag) + 1] = str(value)
        with pytest.raises(expected) as error:
            script.main(arguments)
        assert not list(tmp_path.glob("out/*")), "wrong input is refused before anything is trained or written"
        return " ".join(str(error.value).split())

    assert "choose one of carot" in message("--method", "robust")
    text = message(expected=OSError, change={"--model": tmp_path / "nowhere"})
    assert "nowhere" in text and "save_pretrained" in text
    text = message(expected=OSError, change={"--model": "somebody/nothing"})
    assert "`--model somebody/nothing`" in text and "not a folder here, and the Hub" in text
    text = message("--resume_from_checkpoint", str(tmp_path / "checkpoint-9"), expected=OSError)
    assert "checkpoint-9" in text and "robustft_state" in text
    assert "raise" in (text := message(change={"--per_device_train_batch_size": 1})) or "2 or more" in text

    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\ncat\nbee\n")
    assert "'cat' appears twice" in message("--class_names", str(names))
    assert "--image_column" in message("--image_column", "photo")

    table = image_dataset(8).cast_column("label", datasets.Value("int64"))
    table = table.remove_columns("label").add_column("label", [0, 1, 2, 9, 0, 1, 2, 3])
    table.to_parquet(tmp_path / "labels.parquet")
    names.write_text("bee\ncat\ndog\nowl\n")
    text = message("--class_names", str(names), change={"--train_dataset": tmp_path / "labels.parquet"})
    assert "9" in text and "class" in text
    shutil.rmtree(images / "train")
    assert "does not exist" in message(expected=OSError)


def test_wrong_requests_about_unknown_classes_are_refused_early(script, base, images, tmp_path):
    def message(*more):
        with pytest.raises(ValueError) as error:
            script.main(command(base, images, tmp_path / "out", *more))
        assert not list(tmp_path.glob("out/*"))
        return str(error.value)

    assert "alpha=2" in message("--method", "wise_ft", "--alpha", "2")
    assert "--detector knn" in message("--detector", "knn")
    assert "--true_positive_rate 0.0" in message("--true_positive_rate", "0")
    assert "use --method croft" in message("--feature_views", "2")
    assert "--feature_views; give that too" in message("--method", "croft", "--feature_cache", str(tmp_path / "c"))
    assert "validation images" in message("--fold_temperature")
    assert "5 images" in message("--shots", "5")
    assert "shots" in message("--shots", "0")


@pytest.fixture
def unseen(tmp_path):
    """A folder of class folders with classes that the training set does not have, and one of validation images."""
    for name, classes, seed in (("unseen", ("fox", "ant"), 7), ("held_out", CLASSES, 8)):
        for i, row in enumerate(image_dataset(16, seed=seed, classes=classes)):
            folder = tmp_path / name / classes[row["label"]]
            folder.mkdir(parents=True, exist_ok=True)
            row["image"].save(folder / f"{i}.png")
    return tmp_path


def with_sets(arguments: list[str], unseen) -> list[str]:
    at = arguments.index("--eval_datasets") + 2
    return [*arguments[:at], f"{unseen / 'held_out'}:validation", f"{unseen / 'unseen'}:open_set", *arguments[at:]]


def test_an_open_set_is_measured_and_a_detector_fitted(script, base, images, unseen, tmp_path, capsys):
    output = tmp_path / "out"
    arguments = command(base, images, output, "--method", "croft", "--feature_views", "2", "--shots", "3")
    arguments += ["--feature_cache", str(tmp_path / "cache"), "--save_logits", "--true_positive_rate", "0.9"]
    report = script.main(with_sets(arguments, unseen))
    assert (output / "scores.png").is_file() and len(list((tmp_path / "cache").iterdir())) == 1
    assert "known or unknown" in (printed := capsys.readouterr().out) and "FPR95 is the share" in printed
    logits = {name: load_file(output / "logits" / f"{name}.safetensors") for name in ("test", "unseen", "held_out")}
    assert "labels" in logits["test"] and "labels" not in logits["unseen"]
    # Pairs, ties one half, from the saved logits alone.
    known, unknown = (torch.logsumexp(logits[name]["logits"].double(), 1) for name in ("test", "unseen"))
    pairs = (known[:, None] > unknown).double() + 0.5 * (known[:, None] == unknown).double()
    saved = json.loads((output / "evaluation.json").read_text())["reports"][-1]
    assert abs(saved["open_set"]["unseen"]["scores"]["energy"]["auroc"] - pairs.mean().item()) < 1e-9
    assert report.metrics()["open_set/unseen/energy/auroc"] == saved["open_set"]["unseen"]["scores"]["energy"]["auroc"]
    detector = OpenSetDetector.from_pretrained(output)
    energies = torch.logsumexp(logits["held_out"]["logits"].double(), 1)
    # Just below the score of the fifteenth of the sixteen, which is the last that 90 % need.
    last = energies.sort(descending=True).values[14].item()
    assert last - 1e-3 < detector.threshold < last and (energies >= detector.threshold).sum() == 15
    assert detector.fitted_on == "held_out" and detector.n == 16
    answers = unknown_pipeline(output)(str(unseen / "unseen"))
    assert [answer["score"] for answer in answers] == pytest.approx(unknown.tolist(), rel=1e-5)
    assert all((answer["label"] == "unknown") == (answer["score"] < detector.threshold) for answer in answers)


def test_a_folded_temperature_is_in_the_weights_and_in_the_report(script, base, images, unseen, tmp_path):
    reports, scales = {}, {}
    for name, more in (("plain", []), ("folded", ["--fold_temperature"])):
        output = tmp_path / name
        reports[name] = script.main(with_sets(command(base, images, output, "--method", "flyp", *more), unseen))
        scales[name] = CLIPModel.from_pretrained(output).logit_scale.exp().item()
    facts = json.loads((tmp_path / "folded" / "robustft.json").read_text())
    plain = json.loads((tmp_path / "plain" / "robustft.json").read_text())
    assert facts["temperature"]["temperature"] == 1 and plain["temperature"]["folded"] == 1
    assert facts["temperature"]["folded"] == pytest.approx(plain["temperature"]["temperature"], rel=1e-6)
    assert scales["folded"] == pytest.approx(scales["plain"] / facts["temperature"]["folded"], rel=1e-5)
    assert reports["folded"].results["held_out"].nll < reports["plain"].results["held_out"].nll
    assert reports["folded"].results["test"].accuracy == reports["plain"].results["test"].accuracy
    assert facts["detector"]["logit_scale"] == pytest.approx(scales["folded"], rel=1e-6)


def test_a_head_for_other_classes_is_refused_before_training(script, base, images, tmp_path):
    arguments = command(base, images, tmp_path / "out", "--method", "ft")
    arguments[arguments.index("--eval_datasets") + 1] = "emoji_shift/validation"
    with pytest.raises(ValueError, match="same classes, or use --method flyp"):
        script.main(arguments)
    assert not list(tmp_path.glob("out/*"))


def test_errors_are_one_line_on_the_terminal(repository, tmp_path):
    command = [
        sys.executable,
        str(repository / "examples" / "run_robust_ft.py"),
        "--use_cpu",
        "--model",
        str(tmp_path),
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 2
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("error: `--model") and "Traceback" not in run.stderr


def test_no_other_command_changes_the_folder_meanwhile(script, base, images, tmp_path, monkeypatch):
    load, out = script.load_data, tmp_path / "out"

    def meanwhile(command):
        # To a lock, another thread is as another process.
        with ThreadPoolExecutor(1) as pool, pytest.raises(FolderInUse, match="run_robust_ft.py"):
            pool.submit(locked(out).__enter__).result()
        return load(command)

    monkeypatch.setattr(script, "load_data", meanwhile)
    script.main(measuring(base, images, out, "--method", "zero_shot"))
    assert (out / "evaluation.json").is_file()


@pytest.mark.parametrize("method", ["zero_shot", "flyp"])
def test_a_folder_remembers_what_the_data_call_its_classes(script, base, tmp_path, method, capsys):
    """Labels 1 to 4 in another order than the names: training, and a later evaluation without the file, read them alike."""
    numbers = {"cat": 3, "dog": 1, "owl": 4, "bee": 2}
    rows = image_dataset(12)
    rows = rows.remove_columns("label").add_column("label", [numbers[CLASSES[label]] for label in rows["label"]])
    rows.to_parquet(tmp_path / "own.parquet")
    names, output = tmp_path / "names.txt", tmp_path / "out"
    names.write_text("".join(f"{number}\t{name}\n" for name, number in numbers.items()))
    data = str(tmp_path / "own.parquet")
    made = measuring if method == "zero_shot" else command
    arguments = made(base, tmp_path, output, "--method", method, "--class_names", str(names), "--allow_overlap")
    arguments[arguments.index("--train_dataset") + 1] = arguments[arguments.index("--eval_datasets") + 1] = data
    report = script.main(arguments)
    assert json.loads((output / "robustft.json").read_text())["label_names"] == ["3", "1", "4", "2"]
    capsys.readouterr()
    assert (
        cli.main(
            ["evaluate", str(output), "--eval_datasets", data, "--use_cpu", "--output_dir", str(tmp_path / "again")]
        )
        == 0
    )
    assert "without names" not in "".join(capsys.readouterr())
    again = json.loads((tmp_path / "again" / "evaluation.json").read_text())["reports"][-1]["results"]["own"]
    assert again["accuracy"] == report.results["own"].accuracy and again["nll"] == pytest.approx(
        report.results["own"].nll
    )
