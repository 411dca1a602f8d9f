# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A folder with broken images, trained on and evaluated: all are named, and too many of them stop the run."""

import pytest
import torch
from datasets import Dataset, Image
from helpers import CLASSES, arguments, image_dataset, step_logs, tiny_processor
from helpers.broken_images import class_folder

from hf_robustft import Benchmark, Evaluator, FLYPTrainer, cache_features
from hf_robustft.data.bad_images import BadImages
from hf_robustft.data.benchmarks import load_benchmark
from hf_robustft.data.messages import without_folders
from hf_robustft.evaluation.collect import collect_logits

GOOD, BROKEN = 87, 13


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """100 files, 13 of them broken, and the paths of those."""
    root = tmp_path_factory.mktemp("photos")
    return root, class_folder(root, CLASSES, GOOD)


def benchmark(folder, role):
    return load_benchmark(str(folder[0]), name="photos", role=role)


def trainer(folder, model, path, threshold, **settings):
    return FLYPTrainer(
        model,
        arguments(path, per_device_train_batch_size=20, num_train_epochs=2, **settings),
        train_dataset=benchmark(folder, "train"),
        processing_class=tiny_processor(),
        bad_images=BadImages(threshold=threshold),
    )


def names(folder, lines):
    """Which of the broken files the lines name; each line must name one."""
    found = [[path for path in folder[1] if f"({path})" in line] for line in lines]
    assert all(len(paths) == 1 for paths in found)
    return sorted(path for paths in found for path in paths)


@pytest.mark.parametrize("workers", [0, 2])
def test_trained_on_and_evaluated(folder, tiny_clip, tmp_path, workers):
    run = trainer(folder, tiny_clip, tmp_path, 0.2, dataloader_num_workers=workers)
    run.train()
    counter = run.train_dataset.bad_images
    assert run.state.global_step == 10 and len(step_logs(run)) == 10
    assert names(folder, counter.unreadable) == sorted(folder[1])
    # Two epochs, in which a broken image comes once itself and perhaps as the replacement of another.
    assert counter.read == 200 + sum(counter.unreadable.values()) and min(counter.unreadable.values()) >= 2

    evaluator = Evaluator(
        [benchmark(folder, "id")],
        tiny_processor(),
        batch_size=8,
        num_workers=workers,
        bad_images=BadImages(threshold=0.2),
        progress=False,
    )
    report = evaluator.evaluate(run.model, logits_dir=tmp_path / "logits")
    result = report.to_dict()["results"]["photos"]
    assert result["n"] == GOOD
    assert (result["unreadable"]["count"], result["unreadable"]["of"]) == (BROKEN, 100)
    assert len(result["unreadable"]["first"]) == BROKEN


def test_the_numbers_are_those_of_the_good_images(folder, tiny_clip):
    """Logits and labels of the readable images are those of a data set without the others."""
    known = benchmark(folder, "id")
    settings = {"batch_size": 100, "progress": False}
    logits, labels = collect_logits(
        tiny_clip, known, tiny_processor(), bad_images=BadImages(threshold=0.2), **settings
    )
    rows = known.load().cast_column("image", Image(decode=False))
    kept = [i for i, image in enumerate(rows["image"]) if image["path"] not in folder[1]]
    good = known.from_dataset(known.load().select(kept), name="good", role="id", class_names=known.class_names)
    expected, stored = collect_logits(tiny_clip, good, tiny_processor(), **settings)
    assert logits.shape == (GOOD, len(CLASSES)) and torch.equal(labels, stored)
    assert (logits - expected).abs().max() < 1e-5


def test_too_many_stop_a_run(folder, tiny_clip, tmp_path):
    with pytest.raises(
        OSError, match=r"[23] of the 100 images of the training set 'photos' cannot be read, more than the 1 %"
    ):
        trainer(folder, tiny_clip, tmp_path, 0.01).train()
    evaluator = Evaluator(
        [benchmark(folder, "id")], tiny_processor(), batch_size=8, bad_images=BadImages(threshold=0.1), progress=False
    )
    with pytest.raises(
        OSError, match=r"1[1-3] of the 100 images of data set 'photos' cannot be read, more than the 10 %"
    ):
        evaluator.evaluate(tiny_clip)


@pytest.mark.parametrize("role", ["id", "shift", "open_set"])
def test_a_set_without_a_readable_image_is_named(tiny_clip, role):
    """A single unreadable image never stops a run, but nothing can be said of a set that has no other."""
    broken = Dataset.from_dict({"image": [b"no image"], "label": [0]})
    known = Benchmark.from_dataset(image_dataset(8), name="known", role="id")
    some = Benchmark.from_dataset(broken, name="broken", role=role, class_names=("fox",) if role == "open_set" else CLASSES)
    evaluator = Evaluator([known, some], tiny_processor(), bad_images=BadImages(), progress=False)
    with pytest.raises(OSError, match="No image of data set 'broken' can be read \\(row 0"):
        evaluator.evaluate(tiny_clip)


def test_by_the_policy_error_the_first_one_stops_a_run(folder, tiny_clip):
    for policy in (None, BadImages("error")):
        with pytest.raises(OSError, match=r"image of row \d+ \(.*\) cannot be read: .*; mend or remove it"):
            collect_logits(tiny_clip, benchmark(folder, "id"), tiny_processor(), bad_images=policy, progress=False)


@pytest.mark.same_bits("read from the file, nothing is computed")
@pytest.mark.parametrize("views", [0, 2])
def test_cached_features_leave_them_out(folder, tiny_clip, tmp_path, views):
    whole = benchmark(folder, "train")
    labels = torch.tensor(whole.load()["label"][:])

    def cache(policy, where=None, **options):
        return cache_features(
            tiny_clip,
            whole,
            tiny_processor(),
            views=views,
            cache_dir=where,
            bad_images=policy,
            progress=False,
            **options,
        )

    counter = BadImages(threshold=0.2)
    computed = cache(counter, tmp_path / "cache", batch_size=8)
    assert len(computed) == GOOD and names(folder, counter.unreadable) == sorted(folder[1])
    assert counter.summary()["of"] == GOOD + BROKEN
    # Of the images that are left each has its own features and label.
    encoded = whole.load().cast_column("image", Image(decode=False))
    good = [row for row, example in enumerate(encoded) if example["image"]["path"] not in folder[1]]
    alone = Benchmark.from_dataset(whole.load().select(good), name="good", role="train")
    if not views:
        expected = cache_features(tiny_clip, alone, tiny_processor(), views=0, progress=False)
        torch.testing.assert_close(computed.features, expected.features)
    assert computed.labels.tolist() == labels[good].tolist() and computed.features.isfinite().all()
    again = BadImages(threshold=0.2)
    read = cache(again, tmp_path / "cache", batch_size=8)
    assert torch.equal(read.features, computed.features) and list(again.unreadable) == list(counter.unreadable)
    with pytest.raises(
        OSError, match="13 of the 100 images of the training set 'photos' cannot be read, more than the 1 %"
    ):
        cache(BadImages())
    with pytest.raises(OSError, match="cannot be read"):
        cache(BadImages("error"))
    with pytest.raises(OSError, match="cannot be read"):
        cache(None)


@pytest.mark.parametrize(
    ("line", "public"),
    [
        ("row 7 (/home/me/cat/photo (1).jpg): cut (see /tmp)", "row 7 (cat/photo (1).jpg): cut (see /tmp)"),
        ("row 7 (/home/me/old (2)/a.jpg): cut", "row 7 (old (2)/a.jpg): cut"),
        (r"row 7 (C:\Users\me\cat\a.jpg): cut", "row 7 (cat/a.jpg): cut"),
        ("row 7 (/a.jpg): cut", "row 7 (a.jpg): cut"),
        ("row 7 (cat/a.jpg): cut", "row 7 (cat/a.jpg): cut"),
        ("row 0 of shard 1 (two.tar: cat/a.jpg): cut", "row 0 of shard 1 (two.tar: cat/a.jpg): cut"),
    ],
)
def test_a_line_names_no_folder_of_this_machine(line, public):
    assert without_folders(line) == public


def test_a_run_knows_each_image_once_and_forgets_none(folder, tiny_clip, tmp_path):
    """Data elsewhere, another wording of the reason, and a best checkpoint that knows fewer."""
    run = trainer(folder, tiny_clip, tmp_path, 0.2)
    run.train()
    state = run.extra_state()
    found = state["images.unreadable"]
    assert len(found) == BROKEN and not any(str(folder[0]) in line for line in found)
    other = trainer(folder, tiny_clip, tmp_path, 0.2)
    moved = [line.replace("(", "(/elsewhere/", 1).partition(": ")[0] + ": no picture" for line in found]
    other.load_extra_state({**state, "images.unreadable": moved})
    other.load_extra_state({**state, "images.unreadable": found[:1]})
    assert len(other.gather_unreadable_images()) == BROKEN
    for wrong in (None, 3, "row 1", [["x"]]):
        with pytest.raises(ValueError, match="images.unreadable"):
            other.load_extra_state({**state, "images.unreadable": wrong})
