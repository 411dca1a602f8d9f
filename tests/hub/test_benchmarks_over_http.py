# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The field's benchmarks by name, trained and measured through HTTP with unmodified clients."""

import json

import pytest
import torch
from helpers import tiny_config
from transformers import CLIPModel, CLIPProcessor

from hf_robustft.data.benchmarks import asset_path
from hf_robustft.data.catalog.imagenet import imagenet_classes
from hf_robustft.data.catalog.schema import facts
from hf_robustft.evaluation.report import ZERO_SHOT_HEAD, load_reports
from hub.benchmark_stand_ins import picture, seed_imagenet, webdataset

SHIFTS = ["imagenet-v2", "imagenet-r", "imagenet-a", "imagenet-sketch", "objectnet"]
QUIET = ["--use_cpu", "--disable_tqdm", "true", "--report_to", "none", "--save_strategy", "no", "--logging_steps", "1"]


@pytest.fixture
def base(tmp_path):
    """A tiny model with a tokenizer that tells ImageNet's classes apart, and reads the longest of their names whole."""
    processor = CLIPProcessor.from_pretrained(asset_path("emoji_clip"))
    tokenizer = processor.tokenizer
    config = tiny_config()
    config.text_config.vocab_size = len(tokenizer)
    config.text_config.bos_token_id, config.text_config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    config.text_config.pad_token_id = tokenizer.pad_token_id
    config.text_config.max_position_embeddings = tokenizer.model_max_length = 48
    config.vision_config.image_size = 48
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    # 80 prompts for each of 1000 classes would take this model longer than all the rest.
    (tmp_path / "prompts.txt").write_text("a photo of a {}.\n")
    return "base"


def command(repository, *more):
    flags = ["--method", "flyp", "--model", "base", "--output_dir", "out", "--templates", "prompts.txt"]
    flags += ["--per_device_train_batch_size", "4", "--max_steps", "3", "--skip_baseline", "true", *QUIET]
    return [str(repository / "examples" / "run_robust_ft.py"), *flags, *more]


#: Streams of the Hub have tests of their own: `python -m pytest -m slow tests/hub/test_benchmarks_over_http.py`, ten seconds.
@pytest.mark.parametrize("streaming", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_imagenet_and_its_shifts(hub, run_with_hub, repository, tmp_path, base, streaming):
    """Train on ImageNet-1k by its name, and measure on it and its five shifts, and on a folder of one's own on the Hub."""
    sizes = seed_imagenet(hub)
    own = {f"{name}/{number}.jpg": picture(label, seed=7 + number) for label, name in ((388, "giant panda"), (1, "goldfish"))
           for number in range(2)}  # fmt: skip
    hub.seed("dataset", "alice/animals", own)
    sets = ["imagenet-1k", *SHIFTS, "alice/animals:shift"]
    flags = ["--train_dataset", "imagenet-1k", "--eval_datasets", *sets, *(["--streaming"] if streaming else [])]
    done = run_with_hub(command(repository, *flags), hub)
    report = load_reports(tmp_path / "out" / "evaluation.json")[-1]
    assert {name: result.n for name, result in report.results.items()} == {**sizes, "animals": 4}
    assert [result.name for result in report.shifts] == [*SHIFTS, "animals"]
    classes = {name: (result.n_classes, result.head_classes) for name, result in report.results.items()}
    assert classes["imagenet-r"] == classes["imagenet-a"] == (200, 1000) and classes["objectnet"] == (113, 1000)
    assert classes["imagenet-v2"] == classes["imagenet-sketch"] == classes["animals"] == (1000, 1000)
    sources = {name: result.source for name, result in report.results.items()}
    assert {"path": "ILSVRC/imagenet-1k", "split": "validation"}.items() <= sources["imagenet-1k"].items()
    wanted = {"path": "clip-benchmark/wds_imagenet-r", "split": "test", "data_files": "test/*.tar"}
    assert wanted.items() <= sources["imagenet-r"].items()
    assert sources["objectnet"]["path"] == "timm/objectnet-720p-in1k"
    assert sources["animals"]["path"] == "alice/animals"
    if not streaming:
        assert sources["animals"]["commit"] == hub.repositories["dataset", "alice/animals"].history()[0].sha
        assert len(sources["imagenet-a"]["commit"]) == 40
    # The first copy of ObjectNet is missing, and that is said.
    assert "no data set 'clip-benchmark/wds_objectnet'" in done.stderr
    assert "trying 'timm/objectnet-720p-in1k' instead" in done.stderr
    assert "animals: images of 2 of the 1000 classes" in done.stdout
    assert "objectnet from timm/objectnet-720p-in1k" in " ".join(done.stdout.split())
    assert json.loads((tmp_path / "out" / "robustft.json").read_text())["class_names"] == list(imagenet_classes())
    assert report.results["imagenet-r"].head == ZERO_SHOT_HEAD
    # Streamed rows are not kept: nothing was written into the cache of data sets.
    assert bool(list((tmp_path / "hf" / "datasets").rglob("*.arrow"))) != streaming


OPENING = """
import warnings
from hf_robustft.data.benchmarks import load_benchmark

def opened(name, part=None):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            benchmark = load_benchmark(name, part)
            words = f"{len(benchmark.load())} rows of {benchmark.place['path']}"
        except (OSError, ValueError) as error:
            words = f"{type(error).__name__}: {error}"
    print(words, "|", *(warning.message for warning in caught if "trying" in str(warning.message)))

opened("imagenet-1k", "test")
opened("dtd", "test")
opened("imagenet-r")
opened("eurosat", "test")
"""


def test_only_a_missing_copy_moves_on_to_the_next(hub, run_with_hub):
    """One that is gated, cannot be reached, or calls its classes otherwise, stops: another copy might be another set."""
    clip_names = [row[1] for row in facts("imagenet")["classes"]]
    hub.seed("dataset", "ILSVRC/imagenet-1k", {"data/validation-00000-of-00001.parquet": b""}, gated=True)
    hub.seed("dataset", "clip-benchmark/wds_imagenet1k", webdataset("test", [[1]], "webp", clip_names))
    names = [names[0] for names in facts("datasets")["sets"]["dtd"]["classes"]]
    hub.seed("dataset", "clip-benchmark/wds_vtab-dtd", webdataset("test", [[3, 46], [0]], "png", names))
    indices = facts("imagenet")["imagenet_r"]
    swapped = [clip_names[index] for index in indices[::-1]]
    hub.seed("dataset", "clip-benchmark/wds_imagenet-r", webdataset("test", [[1]], "jpg", swapped))
    hub.seed("dataset", "clip-benchmark/wds_vtab-eurosat", webdataset("test", [[1]], "png", ["x"]))
    hub.fail(r"timm/eurosat-rgb", status=400, times=50)
    done = run_with_hub(OPENING, hub, token="hf_bob")
    gated, missing, renamed, unreachable = done.stdout.splitlines()
    assert gated.startswith("OSError: ") and "'ILSVRC/imagenet-1k' is there but cannot be opened" in gated
    assert "accept its terms at https://huggingface.co/datasets/ILSVRC/imagenet-1k" in gated and gated.endswith("|")
    assert missing.startswith("3 rows of clip-benchmark/wds_vtab-dtd | ") and "no data set 'tanganke/dtd'" in missing
    assert renamed.startswith("ValueError: ") and "classnames.txt) calls class 0" in renamed
    assert unreachable.startswith("OSError: ") and unreachable.endswith("|") and "timm/eurosat-rgb" in unreachable
    asked = " ".join(request[1] for request in hub.log)
    assert "wds_imagenet1k" not in asked and "wds_vtab-eurosat" not in asked
