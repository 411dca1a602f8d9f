# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Every family from a folder of pictures to the Hub, and README's table of what each can do."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from helpers import CLASSES, image_dataset
from helpers.families import FAMILY_NAMES, save_family
from PIL import Image
from safetensors.torch import load_file
from transformers import pipeline as transformers_pipeline

from hf_robustft import ZeroShotHead, cli, load_dual_encoder, pipeline
from hf_robustft.modeling.families import FAMILIES

NO_CHECKPOINT = ("--save_strategy", "no")
QUIET = ["--use_cpu", "--disable_tqdm", "true"]
#: Runs in the default suite; the others: `python -m pytest -m slow tests/job/test_every_family.py`, 5 minutes.
QUICK = ("siglip", "altclip")


def some(names=FAMILY_NAMES):
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Class folders: train, validation and test; and pictures of another kind, `strange`."""
    root = tmp_path_factory.mktemp("images")
    for split, n, seed in (("train", 16, 0), ("validation", 12, 3), ("test", 12, 1)):
        for i, row in enumerate(image_dataset(n, seed=seed)):
            folder = root / split / CLASSES[row["label"]]
            folder.mkdir(parents=True, exist_ok=True)
            row["image"].save(folder / f"{i}.png")
    (root / "strange" / "things").mkdir(parents=True)
    for i, row in enumerate(image_dataset(8, seed=2)):
        Image.eval(row["image"], lambda level: 255 - level).save(root / "strange" / "things" / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """`bases(family)` -> a checkpoint of it."""
    root = tmp_path_factory.mktemp("bases")

    def base(name: str) -> Path:
        if not (root / name).is_dir():
            save_family(name, root / name)
        return root / name

    return base


def train(base, images, output, *more, steps: int = 3, sets: Sequence = ()) -> int:
    flags = {"--model": base, "--train_dataset": images / "train", "--output_dir": output}
    flags |= {"--per_device_train_batch_size": 4, "--max_steps": steps, "--learning_rate": 1e-3, "--report_to": "none"}
    words = [item for pair in flags.items() for item in pair]
    words += ["--eval_datasets", images / "test", *sets, *(more if "--save_strategy" in more else (*NO_CHECKPOINT, *more))]
    return cli.main(["train", *map(str, words), *QUIET])


def results(folder) -> dict:
    return json.loads((Path(folder) / "evaluation.json").read_text())["reports"][-1]["results"]["test"]


def pictures(images) -> list[str]:
    return sorted(str(path) for path in (images / "test").rglob("*.png"))


@pytest.mark.parametrize("name", some())
def test_a_family_from_a_folder_of_pictures_to_the_hub(name, bases, images, tmp_path, capsys):
    output, again = tmp_path / "out", tmp_path / "again"
    assert train(bases(name), images, output, "--method", "flyp", steps=16) == 0, capsys.readouterr().err
    before, after = load_file(bases(name) / "model.safetensors"), load_file(output / "model.safetensors")
    assert before.keys() == after.keys(), "the folder is a plain one of the same class, under Transformers' names"
    moved = [key for key in before if not torch.equal(before[key], after[key])]
    assert any(key.startswith("vision_model") for key in moved) and any(key.startswith("text_model") for key in moved)
    config = json.loads((output / "config.json").read_text())
    assert config["architectures"] == [FAMILIES[name].class_name]

    # What was measured is what the folder gives: by our command, our pipeline and Transformers' own.
    command = ["evaluate", output, "--eval_datasets", images / "test", "--output_dir", again, *QUIET]
    assert cli.main([str(word) for word in command]) == 0, capsys.readouterr().err
    for key in ("accuracy", "nll", "ece"):
        assert results(again)[key] == pytest.approx(results(output)[key], rel=1e-4, abs=1e-6)
    model, processor = load_dual_encoder(output)
    head = ZeroShotHead.from_model(model, processor, sorted(CLASSES), ["a photo of a {}."])
    opened = [Image.open(path).convert("RGB") for path in pictures(images)]
    with torch.no_grad():
        embeds = model.get_image_features(**processor.image_processor(opened, return_tensors="pt")).pooler_output
        probabilities = head(embeds / embeds.norm(dim=-1, keepdim=True)).softmax(-1)
    found = pipeline(output, require_detector=False)(pictures(images))
    assert [item["nearest_class"] for item in found] == [sorted(CLASSES)[i] for i in probabilities.argmax(1)]
    assert [item["probability"] for item in found] == pytest.approx(probabilities.amax(1).tolist(), rel=1e-4)
    theirs = transformers_pipeline("zero-shot-image-classification", model=str(output))
    options = {"candidate_labels": sorted(CLASSES), "hypothesis_template": "a photo of a {}."}
    guesses = theirs(opened, **options)
    # AIMv2's tower reads prompts of one length otherwise in that pipeline (see `test_aimv2_is_causal...`).
    if name != "aimv2":
        assert [guess[0]["label"] for guess in guesses] == [item["nearest_class"] for item in found]
    if FAMILIES[name].similarity == "softmax" and name != "aimv2":
        assert [guess[0]["score"] for guess in guesses] == pytest.approx(probabilities.amax(1).tolist(), rel=1e-4)

    # A temperature goes into the weights.
    command = ["calibrate", output, "--dataset", images / "test", "--allow_test_set", "--disable_tqdm"]
    assert cli.main([str(word) for word in command]) == 0, capsys.readouterr().err
    temperature = json.loads((output / "robustft.json").read_text())["temperature"]["folded"]
    cooled, _ = load_dual_encoder(output)
    folded = ZeroShotHead.from_model(cooled, processor, sorted(CLASSES), ["a photo of a {}."])
    torch.testing.assert_close(folded.weight, head.weight / temperature, rtol=1e-4, atol=1e-5)

    capsys.readouterr()
    assert cli.main(["publish", str(output), "--repo_id", "user/some", "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert "nothing was uploaded" in printed and "model.safetensors" in printed
    card = (output / "README.md").read_text()
    assert f"The {FAMILIES[name].label} `{name}`" in card and f"\n- {name}\n" in card.split("model-index")[0]


@pytest.mark.parametrize("name", some())
def test_a_resumed_run_ends_as_the_whole_one(name, bases, images, tmp_path, capsys):
    """Those whose weights have other names in a file than in the model, too."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    method = "covariance_anchor" if "siglip" in name else "carot"
    more = ["--method", method, "--ema_update_every", 1, "--save_strategy", "steps", "--save_steps", 2]
    assert train(bases(name), images, whole, *more) == 0, capsys.readouterr().err
    more += ["--resume_from_checkpoint", whole / "checkpoint-2"]
    assert train(bases(name), images, resumed, *more) == 0, capsys.readouterr().err
    one, two = (load_file(folder / "model.safetensors") for folder in (whole, resumed))
    assert one.keys() == two.keys() and all(torch.equal(value, two[key]) for key, value in one.items())


# ---- The table of README -------------------------------------------------------------------------------------------

METHODS = ("ft", "flyp", "carot", "tracer", "croft", "wise_ft")
#: What is done with what FLYP trained.
COMMANDS = ("evaluate", "calibrate", "detector", "pipeline", "publish")
HEAD = "| |" + "|".join((*METHODS, *COMMANDS)) + "|"


def can(command, capsys) -> str:
    """`yes`, or the methods that the one line of the refusal names instead."""
    capsys.readouterr()
    if command() == 0:
        return "yes"
    error = capsys.readouterr().err.strip().splitlines()[-1]
    return " or ".join(f"`{name}`" for name in re.findall(r"`--method (\w+)`", error)) or error


def row(name, base, images, folder, capsys) -> str:
    more = {"steps": 12, "sets": (f"{images / 'validation'}:validation", f"{images / 'strange'}:open_set")}
    runs = {m: lambda m=m: train(base, images, folder / m, "--method", m, **more) for m in METHODS}
    known = str(folder / "flyp")
    commands = {
        "evaluate": ["evaluate", known, "--eval_datasets", str(images / "test"), "--output_dir", str(folder / "e"), *QUIET],
        "calibrate": ["calibrate", known, "--dataset", str(images / "validation"), "--disable_tqdm"],
        "publish": ["publish", known, "--repo_id", "user/some", "--dry_run"],
    }

    def answers(key, expected) -> int:
        found = pipeline(known)(pictures(images))
        return 0 if len(found) == 12 and all(answer[key] in expected for answer in found) else 1

    runs |= {command: lambda words=words: cli.main(words) for command, words in commands.items()}
    runs["detector"] = lambda: answers("is_known", (True, False))
    runs["pipeline"] = lambda: answers("nearest_class", CLASSES)
    cells = [can(runs[column], capsys) for column in (*METHODS, *COMMANDS)]
    return f"|`{FAMILIES[name].class_name}`|" + "|".join(cells) + "|"


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_the_table_in_readme_is_what_happens(name, bases, images, tmp_path, capsys, repository):
    """Each cell is a run: `python -m pytest -m slow tests/job/test_every_family.py -k table`."""
    line = row(name, bases(name), images, tmp_path, capsys)
    readme = (repository / "README.md").read_text()
    assert HEAD in readme and line in readme, line
