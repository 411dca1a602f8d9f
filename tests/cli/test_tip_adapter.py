# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`hf-robustft train --method tip_adapter`: nothing is trained, and the folder holds the cache of the training images."""

import json

import pytest
import torch
from helpers import image_dataset, tiny_processor
from safetensors.torch import load_file

from hf_robustft import Benchmark, TipAdapterHead, few_shot, load_dual_encoder, load_head
from hf_robustft.cli import main
from hf_robustft.cli.train import train
from hf_robustft.cli.train_arguments import check_options, parse
from hf_robustft.evaluation.report import load_reports


@pytest.fixture
def place(tiny_clip, tmp_path):
    """A model, and parquet files of training, validation and test images."""
    tiny_clip.save_pretrained(tmp_path / "clip")
    tiny_processor().save_pretrained(tmp_path / "clip")
    for seed, name in enumerate(("train", "validation", "test")):
        image_dataset(16, seed=seed).to_parquet(tmp_path / f"{name}.parquet")
    return tmp_path


def command(place, *more):
    data = ["--train_dataset", f"{place}/train.parquet", "--eval_datasets", f"{place}/validation.parquet:validation"]
    return [
        *("--method", "tip_adapter", "--model", f"{place}/clip", *data, f"{place}/test.parquet:id"),
        *("--output_dir", f"{place}/out", "--use_cpu", "--disable_tqdm", "--per_device_eval_batch_size", "16", *more),
    ]


def test_the_folder_holds_the_cache_that_the_library_builds(place, capsys):
    report = train(command(place, "--shots", "2", "--tip_views", "3", "--train_crop", "tip_adapter", "--seed", "5"))
    head, facts = load_head(place / "out"), json.loads((place / "out" / "robustft.json").read_text())
    assert facts["method"] == "tip_adapter" and facts["head"] == report.results["test"].head == "Tip-Adapter cache"
    chosen = facts["cache"]
    assert head.alpha.item() == pytest.approx(chosen["alpha"]) and chosen["fitted_on"] == "validation"
    model, processor = load_dual_encoder(place / "clip")
    data = Benchmark("train", "train", path="parquet", data_files=f"{place}/train.parquet", split="train",
                     class_names=tuple(facts["class_names"]), templates=tuple(facts["templates"]))  # fmt: skip
    options = {"views": 3, "crop": "tip_adapter", "seed": 5, "batch_size": 16, "progress": False}
    options |= {"alpha": chosen["alpha"], "beta": chosen["beta"]}
    own = TipAdapterHead.from_benchmark(model, few_shot(data, 2, 5), processor, **options)
    assert head.keys.shape == (8, 16)
    for name, value in own.state_dict().items():
        assert torch.equal(head.state_dict()[name], value), name
    weights = load_file(place / "out" / "model.safetensors")
    assert all(
        torch.equal(value, weights[name]) for name, value in load_file(place / "clip" / "model.safetensors").items()
    )
    more = ["--output_dir", f"{place}/again", "--use_cpu", "--disable_tqdm", "--batch_size", "16"]
    assert main(["evaluate", f"{place}/out", "--eval_datasets", f"{place}/test.parquet:id", *more]) == 0
    again = load_reports(place / "again" / "evaluation.json")[0].results["test"]
    assert (again.head, again.accuracy) == ("Tip-Adapter cache", report.results["test"].accuracy)
    assert again.nll == pytest.approx(report.results["test"].nll, rel=1e-5)
    card = (place / "out" / "README.md").read_text()
    assert "Tip-Adapter trains nothing" in card and "Alpha and beta of the cache" in card and "train.parquet" in card


def test_a_stream_is_refused(place):
    with pytest.raises(ValueError, match="streamed.*leave streaming=True") as caught:
        train(command(place, "--streaming", "--skip_baseline"))
    assert "\n" not in str(caught.value) and not (place / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--learning_rate 1e-3", "learning_rate.*tip_adapter trains nothing"),
        ("--orthogonality_weight 1", "orthogonality_weight.*tip_adapter trains nothing"),
        ("--tip_views 0 --train_crop croft", "train_crop.*evaluation transform"),
        ("--feature_views 2", "feature_views.*does not train on them"),
        ("--caption_column text", "caption_column.*learns from class labels"),
        ("--tip_alpha -1", "tip_alpha.*not negative"),
        ("--fold_temperature", None),
        ("--tip_alpha 2 --tip_beta 5 --shots 4 --train_crop croft", None),
    ],
)
def test_what_it_reads_and_what_it_refuses(place, flags, message):
    arguments = command(place, *flags.split())
    if message is None:
        check_options(*parse(arguments))
        return
    with pytest.raises(ValueError, match=message) as caught:
        check_options(*parse(arguments))
    assert "\n" not in str(caught.value)
