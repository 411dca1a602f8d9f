# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Every recipe of a paper to its end, with few steps, on stand-ins that have the classes, columns and formats of the real sets.

Slow, for the ImageNet heads of 1000 classes: `python -m pytest -m slow tests/hub/test_paper_recipes.py`.
"""

import csv
import dataclasses
import json

import pytest
import torch
from helpers import tiny_config
from transformers import CLIPModel, CLIPProcessor

from hf_robustft import RobustTrainingArguments
from hf_robustft.cli.config_file import recipes
from hf_robustft.data.benchmarks import asset_path
from hf_robustft.data.catalog.schema import facts
from hf_robustft.data.catalog.sets import DOMAINS, FEW_SHOT_SETS
from hf_robustft.evaluation.report import load_reports
from hub.benchmark_stand_ins import parquet, picture, seed_every_class, seed_imagenet, webdataset

pytestmark = pytest.mark.slow

BACKBONES = {"openai/clip-vit-base-patch16": 16, "openai/clip-vit-base-patch32": 32, "openai/clip-vit-large-patch14": 14}
QUIET = ["--use_cpu", "--disable_tqdm", "true", "--report_to", "none", "--save_strategy", "no", "--logging_steps", "1"]
SHIFTS = ["imagenet-v2", "imagenet-r", "imagenet-a", "imagenet-sketch", "objectnet"]


@pytest.fixture
def run(hub, run_with_hub, tmp_path):
    """`run(recipe, *flags)` runs a recipe against a Hub that holds tiny models by the names of the papers' backbones."""
    processor = CLIPProcessor.from_pretrained(asset_path("emoji_clip"))
    tokenizer = processor.tokenizer
    for name, patch in BACKBONES.items():
        config = tiny_config()
        config.text_config.vocab_size = len(tokenizer)
        config.text_config.bos_token_id, config.text_config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
        config.text_config.pad_token_id = tokenizer.pad_token_id
        config.text_config.max_position_embeddings = tokenizer.model_max_length = 64
        config.vision_config.patch_size, config.vision_config.image_size = patch, 2 * patch
        processor.image_processor.size = {"shortest_edge": 2 * patch}
        processor.image_processor.crop_size = {"height": 2 * patch, "width": 2 * patch}
        torch.manual_seed(0)
        folder = tmp_path / "models" / name.rpartition("/")[2]
        CLIPModel(config).save_pretrained(folder)
        processor.save_pretrained(folder)
        hub.seed("model", name, {path.name: path.read_bytes() for path in folder.iterdir()})
    # 80 prompts for each of 1000 classes would take these models longer than all the rest.
    (tmp_path / "prompts.txt").write_text("a photo of a {}.\n")

    def one(recipe, *flags):
        flags = ["--recipe", recipe, "--output_dir", "out", "--skip_baseline", "true", *QUIET, *flags]
        return run_with_hub(["-m", "hf_robustft.cli", "train", *flags], hub)

    return one


def report_of(folder):
    return load_reports(folder / "evaluation.json")[-1]


def test_every_recipe_of_a_paper_is_run_here():
    run_here = {"imagenet-seen-unseen/croft", "pacs/croft", "vlcs/croft", "few-shot/croft"}
    run_here |= {f"imagenet/{method}" for method in ("carot", "tracer", "flyp", "ft", "wise_ft")}
    assert {name for name in recipes() if not name.startswith("emoji_shift/")} == run_here


@pytest.mark.parametrize("model", BACKBONES)
@pytest.mark.parametrize("method", ["carot", "tracer", "flyp", "ft", "wise_ft"])
def test_imagenet(hub, run, tmp_path, method, model):
    if method != "carot" and not model.endswith("base-patch16"):
        pytest.skip("the backbone changes nothing else; one method shows it")
    sizes = seed_imagenet(hub)
    done = run(
        f"imagenet/{method}", "--model", model, "--templates", "prompts.txt", "--per_device_train_batch_size", "8", "--max_steps", "2",
        "--num_train_epochs", "1",
    )  # fmt: skip
    report = report_of(tmp_path / "out")
    assert {name: result.n for name, result in report.results.items()} == sizes
    assert [result.name for result in report.shifts] == SHIFTS
    facts_of_run = json.loads((tmp_path / "out" / "robustft.json").read_text())
    assert facts_of_run["method"] == method and len(facts_of_run["class_names"]) == 1000
    assert f"paper of {method}" in done.stdout or "paper of ft" in done.stdout


def test_seen_and_unseen_classes_of_imagenet(hub, run, tmp_path):
    seed_every_class(hub)
    run("imagenet-seen-unseen/croft", "--shots", "1", "--per_device_train_batch_size", "64", "--num_train_epochs", "2")
    report = report_of(tmp_path / "out")
    # 40 % of the names, of which two stand for two classes each.
    assert {result.n_classes for result in report.results.values()} == {402}
    (unseen,) = report.open_set.values()
    assert unseen["n"] == 598
    # A setting at its default is not written down.
    settings = {field.name: field.default for field in dataclasses.fields(RobustTrainingArguments)}
    settings |= json.loads((tmp_path / "out" / "robustft.json").read_text())["settings"]
    weights = settings["energy_gradient_weight"], settings["shift_alignment_weight"]
    assert settings["energy_gradient_reduction"] == "sum" and weights == (5, 1)


def seed_open_sets(hub):
    described = facts("datasets")["sets"]
    for path, name in (("tanganke/dtd", "dtd"), ("ethz/food101", "food101")):
        names = [names[0] for names in described[name]["classes"]]
        split = "validation" if name == "food101" else "test"
        hub.seed("dataset", path, {f"data/{split}-0.parquet": parquet(range(0, len(names), 9), names)})
    names = [names[1] for names in described["caltech101"]["classes"]]
    hub.seed("dataset", "clip-benchmark/wds_vtab-caltech101", webdataset("test", [range(len(names))], "jpg", names))


def check_domains(tmp_path, name):
    """One run for each domain that is left out, with the three open sets, and a table of all."""
    with (tmp_path / "out" / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["suite"] for row in rows] == [*(f"{name}-{domain}" for domain in DOMAINS[name]), "mean"]
    for domain, row in zip(DOMAINS[name], rows, strict=False):
        report = report_of(tmp_path / "out" / f"{name}-{domain}")
        assert [result.name for result in report.shifts] == [f"{name}-{domain}"]
        assert set(report.open_set) == {"dtd", "food101", f"caltech101-open-{name}"}
        assert float(row["shift_accuracy"]) == report.shift_mean["accuracy"]
        assert float(row["auroc_dtd"]) == report.open_set["dtd"]["scores"]["energy"]["auroc"]
    for column in ("id_accuracy", "shift_nll", "auroc_food101"):
        assert float(rows[-1][column]) == pytest.approx(sum(float(row[column]) for row in rows[:-1]) / 4)


def test_pacs_leaves_each_domain_out(hub, run, tmp_path):
    seed_open_sets(hub)
    hub.seed("dataset", "flwrlabs/pacs", {"data/train-0.parquet": pacs_parquet()})
    run("pacs/croft", "--shots", "4", "--per_device_train_batch_size", "8", "--num_train_epochs", "2")
    check_domains(tmp_path, "pacs")


def pacs_parquet():
    import io

    import datasets

    names = [names[0] for names in facts("datasets")["sets"]["pacs"]["classes"]]
    labels = [label for _ in range(12) for label in range(7)]
    columns = {"image": datasets.Image(), "domain": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    table = {"image": [], "domain": [], "label": []}
    for number, domain in enumerate(DOMAINS["pacs"]):
        table["image"] += [
            {"bytes": picture(label, seed=1000 * number + row), "path": None} for row, label in enumerate(labels)
        ]
        table["domain"] += [domain] * len(labels)
        table["label"] += labels
    file = io.BytesIO()
    datasets.Dataset.from_dict(table, features=datasets.Features(columns)).to_parquet(file)
    return file.getvalue()


def test_vlcs_leaves_each_domain_out_of_a_folder(hub, run, tmp_path):
    seed_open_sets(hub)
    for domain in ("CALTECH", "LABELME", "PASCAL", "SUN"):
        for label, names in enumerate(facts("datasets")["sets"]["vlcs"]["classes"]):
            folder = tmp_path / "VLCS" / domain / names[0]
            folder.mkdir(parents=True)
            for number in range(12):
                (folder / f"{number}.jpg").write_bytes(picture(label, seed=hash_of(domain) + number))
    run("vlcs/croft", "--train_dataset", "vlcs=VLCS", "--shots", "4", "--per_device_train_batch_size", "8",
        "--num_train_epochs", "2")  # fmt: skip
    check_domains(tmp_path, "vlcs")


def hash_of(word):
    return sum(map(ord, word)) * 100


def test_the_ten_few_shot_sets(hub, run, tmp_path):
    described = facts("datasets")["sets"]
    for name in FEW_SHOT_SETS:
        classes, files = described[name]["classes"], {}
        for key, part in described[name]["sets"].items():
            copy, split = part["copies"][0], part["copies"][0].get("split", key)
            labels = range(len(classes))
            if "data_files" in copy:
                own = [names[1] if len(names) > 1 else names[0] for names in classes]
                files |= webdataset(split, [labels], "jpg", own, seed=len(key))
            else:
                own = [names[0] for names in classes]
                files[f"data/{split}-0.parquet"] = parquet(labels, own, seed=len(key))
        # Both splits of a repository of tars write one README.
        files.pop("README.md", None)
        hub.seed("dataset", copy["path"], files)
    run("few-shot/croft", "--shots", "1", "--per_device_train_batch_size", "8", "--num_train_epochs", "2")
    with (tmp_path / "out" / "summary.csv").open() as file:
        assert [row["suite"] for row in csv.DictReader(file)] == [*FEW_SHOT_SETS, "mean"]
    dtd = json.loads((tmp_path / "out" / "dtd" / "robustft.json").read_text())
    assert dtd["templates"] == ["{} texture."]
