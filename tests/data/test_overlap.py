# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Images that a model was trained on are known again by their bytes, whatever the data set is called or looks like."""

import json
import shutil
from dataclasses import replace

import datasets
import numpy as np
import pytest
from helpers import CLASSES, arguments, image_dataset, tiny_processor
from helpers.streams import write_parquet, write_tars

from hf_robustft import FLYPTrainer
from hf_robustft.cli import main
from hf_robustft.data import overlap as module
from hf_robustft.data.benchmarks import Benchmark, load_benchmark
from hf_robustft.data.overlap import ImageHashes, Sketch, compare, hash_images
from hf_robustft.evaluation.report import load_reports
from hf_robustft.modeling.metadata import load_robustft_json
from hf_robustft.training.image_check import check_images

TAR = {"image_column": "png", "label_column": "cls"}


def hashes(values, name="set", role="id", images=None) -> ImageHashes:
    values = np.asarray(values, dtype=np.uint64)
    return ImageHashes(name, role, values, tuple(map(str, range(len(values)))), len(values), images or len(values))


@pytest.fixture
def folder(tmp_path):
    """A folder of class folders, 24 images."""
    for i, row in enumerate(image_dataset(24, seed=3)):
        place = tmp_path / "photos" / CLASSES[row["label"]]
        place.mkdir(parents=True, exist_ok=True)
        row["image"].save(place / f"{i:03d}.png")
    return tmp_path / "photos"


# ---- What is known again -------------------------------------------------------------------------------------------


def test_a_copy_is_known_in_any_form(folder, tmp_path):
    training = hash_images(load_benchmark(folder)).sketch()
    renamed = tmp_path / "elsewhere"
    for i, path in enumerate(sorted(folder.rglob("*.png"), reverse=True)):
        place = renamed / path.parent.name
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place / f"new {97 * i % 24}.png")
    stored = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train")
    stored.shuffle(seed=1).to_parquet(tmp_path / "packed.parquet")
    in_memory = Benchmark.from_dataset(
        datasets.Dataset.from_list(list(stored), features=stored.features), name="rows", role="id"
    )
    forms = {
        "renamed": load_benchmark(renamed),
        "streamed": load_benchmark(renamed, streaming=True),
        "packed": load_benchmark(tmp_path / "packed.parquet"),
        "packed and streamed": load_benchmark(tmp_path / "packed.parquet", streaming=True),
        "in memory": in_memory,
    }
    for form, benchmark in forms.items():
        found = compare(hash_images(benchmark), training)
        assert (found.found, found.compared, found.share, found.exact) == (24, 24, 1.0, True), form
        assert len(found.first) == 3 and not found.tolerable, form
    part = Benchmark.from_dataset(stored.select([3, 9, 11]), name="part", role="id")
    assert compare(hash_images(part), training).share == 1.0
    others = Benchmark.from_dataset(image_dataset(24, seed=4), name="others", role="id")
    assert compare(hash_images(others), training).found == 0


def test_labels_are_known_again_in_any_order_and_form(folder, tmp_path):
    labels = hash_images(load_benchmark(folder)).labels
    stored = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train")
    stored.shuffle(seed=1).to_parquet(tmp_path / "packed.parquet")
    assert hash_images(load_benchmark(tmp_path / "packed.parquet")).labels == labels == Sketch.from_dict(hash_images(load_benchmark(folder)).sketch(5).to_dict()).labels
    assert hash_images(load_benchmark(folder, label_column=None, role="open_set")).labels is None and hash_images(load_benchmark(folder, streaming=True)).labels is None
    # Numbers of classes in another order are not other labels.
    names = stored.features["label"].names
    turned = stored.cast_column("label", datasets.Value("int64")).map(lambda row: {"label": len(names) - 1 - row["label"]})
    turned = turned.cast_column("label", datasets.ClassLabel(names=names[::-1]))
    assert hash_images(Benchmark.from_dataset(turned, name="turned", role="id")).labels == labels
    one, two = (sorted((folder / name).iterdir())[0] for name in names[:2])
    content = one.read_bytes(), two.read_bytes()
    one.write_bytes(content[1])
    two.write_bytes(content[0])
    after = hash_images(load_benchmark(folder))
    assert after.labels != labels and set(after.hashes.tolist()) == set(hash_images(load_benchmark(tmp_path / "packed.parquet")).hashes.tolist())


def test_tars_and_parquet_shards_of_the_same_pictures_are_the_same(tmp_path):
    tars = load_benchmark(write_tars(tmp_path / "tars", (5, 4)), streaming=True, class_names=CLASSES, **TAR)
    shards = load_benchmark(write_parquet(tmp_path / "shards", (5, 4)), streaming=True)
    assert tars.row_stream().local and shards.row_stream().local
    found = compare(hash_images(tars), hash_images(shards).sketch())
    assert (found.found, found.exact) == (9, True)


def test_images_that_cannot_be_read_are_no_copies_of_one_another(folder):
    for name in ("a", "b"):
        (folder / CLASSES[0] / f"{name}.png").write_bytes(b"")
    images = hash_images(load_benchmark(folder))
    assert (images.read, images.images, len(images.hashes)) == (26, 26, 24)
    assert compare(images, images.sketch()).found == 24


@pytest.mark.parametrize("streaming", [False, True])
def test_of_a_large_set_images_of_every_part_are_looked_at(tmp_path, streaming, monkeypatch):
    files = write_parquet(tmp_path / "shards", (50, 40, 60))
    benchmark = load_benchmark(files, streaming=streaming)
    some, every = hash_images(benchmark, most=30), hash_images(benchmark)
    assert 25 <= some.read <= 32 and some.images == 150 and every.read == 150
    places = np.flatnonzero(np.isin(every.hashes, some.hashes))
    assert np.diff(places).max() <= 6 and places[0] <= 5 and places[-1] >= 144
    found = compare(every, some.sketch())
    assert found.share == 1.0 and not found.exact and found.at_least > 0.6


def test_of_a_stream_from_elsewhere_few_images_are_fetched(tmp_path, monkeypatch):
    benchmark = load_benchmark(write_tars(tmp_path / "tars", (30, 30)), streaming=True, class_names=CLASSES, **TAR)
    benchmark = replace(benchmark, opened=replace(benchmark.row_stream(), local=False))
    monkeypatch.setattr(module, "MOST_FETCHED", 8)
    images = hash_images(benchmark)
    assert images.read == 8 and compare(images, images.sketch()).share == 1.0


# ---- What is kept --------------------------------------------------------------------------------------------------


def test_a_sketch_survives_json_and_damage_is_named():
    rng = np.random.default_rng(0)
    sketch = hashes(rng.integers(0, 1 << 48, 300), "train", "train").sketch(100)
    content = json.loads(json.dumps(sketch.to_dict()))
    again = Sketch.from_dict(content)
    assert np.array_equal(again.hashes, sketch.hashes) and len(again.hashes) == 100
    assert (again.name, again.role, again.bound, again.read, again.images) == (
        "train",
        "train",
        sketch.bound,
        300,
        300,
    )
    for key in ("name", "role", "bound", "read", "blake2b_48"):
        for value in (None, [], {}, -1.5, "?"):
            if key in ("name", "role") and isinstance(value, str):
                continue
            with pytest.raises(ValueError, match="hashes of a data set's images"):
                Sketch.from_dict({**content, key: value})
    with pytest.raises(ValueError):
        Sketch.from_dict({**content, "blake2b_48": content["blake2b_48"][8:] + content["blake2b_48"][:8]})


@pytest.mark.parametrize("share", [0.0, 0.03, 0.3, 1.0])
def test_the_share_is_estimated_from_the_sketch(share):
    """Of 20,000 training images 2,000 hashes are kept; the estimate is within 4 standard errors, 40 times of 40."""
    rng = np.random.default_rng(1)
    for _ in range(40):
        training = rng.integers(0, 1 << 48, 20_000)
        copies = rng.choice(training, int(5000 * share), replace=False)
        other = np.concatenate([copies, rng.integers(0, 1 << 48, 5000 - len(copies))])
        found = compare(hashes(other), hashes(training).sketch(2000))
        assert not found.exact and 400 < found.compared < 600
        error = (share * (1 - share) / found.compared) ** 0.5
        assert abs(found.share - share) <= 4 * error + 1e-12
        assert found.at_least <= found.share and (share != 1.0 or found.at_least > 0.95)


def test_a_lower_bound_of_the_share_is_seldom_above_it():
    rng = np.random.default_rng(2)
    above = 0
    for _ in range(400):
        training = rng.integers(0, 1 << 48, 2000)
        other = np.concatenate([training[:50], rng.integers(0, 1 << 48, 950)])
        above += not compare(hashes(rng.permutation(other)), hashes(training).sketch(200)).tolerable
    assert above <= 20, "5 % are tolerated, so of sets with just 5 % about 1 % are refused by chance"


def test_half_of_the_images_looked_at_are_half_of_the_chances():
    """Every second training image was hashed; all images of the other set are copies."""
    rng = np.random.default_rng(3)
    training = rng.integers(0, 1 << 48, 4000)
    known = hashes(training[::2], images=4000).sketch()
    found = compare(hashes(training), known)
    assert (found.found, found.share) == (2000, 1.0) and found.at_least > 0.9


def test_common_images_are_counted_as_sets_are():
    rng = np.random.default_rng(5)
    for _ in range(300):
        mine, other = (rng.integers(0, 30, rng.integers(0, 40)).tolist() for _ in range(2))
        found = compare(hashes(mine), hashes(other).sketch())
        want = [value for value in mine if value in other]
        assert (found.found, found.pictures, found.exact) == (len(want), len(set(want)), True)
        assert found.share == found.at_least == (len(want) / len(mine) if mine else 0)


@pytest.mark.parametrize(("copies", "blanks"), [(1, 0), (5, 0), (1, 40), (1, 200)])
def test_the_bound_holds_where_a_set_has_one_picture_several_times(copies, blanks):
    """At 99 %, also where all copies of a picture fall into the sketch, or none. More than 3 % is a chance of 1 in 1000."""
    rng = np.random.default_rng(copies + blanks)
    above = refused = 0
    for _ in range(400):
        training = rng.integers(0, 1 << 48, 2000)
        pictures = np.concatenate([training[: 40 // copies], rng.integers(0, 1 << 48, 960 // copies)])
        mine = np.repeat(pictures, copies)
        mine[len(mine) - blanks :] = training[-1]
        found = compare(hashes(mine), hashes(training).sketch(200))
        above += found.at_least > np.isin(mine, training).mean() + 1e-12
        refused += not found.tolerable
    assert above <= 12
    assert refused <= (12 if not blanks else 80)


def test_a_single_picture_is_said_and_two_are_refused():
    """A placeholder in both sets, or one of ten images, is not the same data given twice."""
    blank = np.full(20, 7)
    for mine, other, fine in (
        ([*range(100, 180), *blank], [*range(50), *blank], True),
        (range(10), [9, *range(20, 60)], True),
        (range(10), [8, 9, *range(20, 60)], False),
        ([9], [9, *range(20, 60)], False),
        (range(100), [*range(95, 100), *range(200, 260)], True),
        (range(100), [*range(94, 100), *range(200, 260)], False),
    ):
        found = compare(hashes([*mine]), hashes([*other]).sketch())
        assert found.found and found.tolerable == fine


# ---- What a run does about it --------------------------------------------------------------------------------------


def rows_of(data, name, role):
    return Benchmark.from_dataset(data, name=name, role=role, class_names=CLASSES)


def test_a_few_copies_are_said_and_many_refused():
    data, new = image_dataset(40, seed=0), image_dataset(60, seed=1)
    train = rows_of(data, "mine", "train")
    few = rows_of(datasets.concatenate_datasets([new, data.select([7, 8])]), "few", "id")
    check = check_images(train, [few, rows_of(image_dataset(60, seed=2), "new", "shift")])
    (note,) = check.notes
    assert note.startswith("2 of the 62 images of 'few' are training images of 'mine' (first: row 60")
    assert [(entry["name"], entry["role"]) for entry in check.hashes] == [
        ("mine", "train"),
        ("few", "id"),
        ("new", "shift"),
    ]
    for role in ("validation", "id", "shift", "open_set"):
        many = rows_of(datasets.concatenate_datasets([new, data.select(range(7))]), "many", role)
        with pytest.raises(
            ValueError, match="7 of the 67 images of 'many' are training images of 'mine'.*--allow_overlap"
        ):
            check_images(train, [many])
        assert check_images(train, [many], allow_overlap=True).overlaps[0].found == 7


def test_test_images_are_no_validation_images_and_earlier_training_counts():
    data, new = image_dataset(40, seed=0), image_dataset(40, seed=1)
    validation, test = rows_of(data, "validation", "validation"), rows_of(data, "test", "id")
    with pytest.raises(ValueError, match="images of 'test' are validation images of 'validation'"):
        check_images(None, [validation, test])
    first = check_images(rows_of(data, "first", "train"), []).hashes
    with pytest.raises(ValueError, match="images of 'test' are training images of 'first'"):
        check_images(rows_of(new, "second", "train"), [test], earlier=first)
    second = check_images(rows_of(new, "second", "train"), [], earlier=first)
    assert [entry["name"] for entry in second.hashes] == ["second", "first"]
    again = check_images(rows_of(data, "first", "train"), [], earlier=first)
    assert [entry["name"] for entry in again.hashes] == ["first"]


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        (("id", "shift"), "says nothing about a shift"),
        (("shift", "id"), "says nothing about a shift"),
        (("shift", "shift"), "not independent"),
        (("id", "id"), "not independent"),
        (("id", "open_set"), "known classes"),
        (("open_set", "shift"), "known classes"),
        (("open_set", "open_set"), "not independent"),
    ],
)
def test_sets_to_measure_on_with_the_same_images_are_said_and_not_refused(roles, words):
    data, new = image_dataset(40, seed=0), image_dataset(60, seed=1)
    both = datasets.concatenate_datasets([data.select([7, 8]), new])
    check = check_images(None, [rows_of(data, "first", roles[0]), rows_of(both, "second", roles[1])])
    (note,) = check.notes
    assert check.overlaps == [] and words in note
    assert "2 of the 62 images of 'second' are" in note or "2 of the 40 images of 'first' are" in note
    apart = [rows_of(data, "first", roles[0]), rows_of(new, "second", roles[1])]
    assert check_images(None, apart).notes == []


def test_the_sets_of_emoji_shift_have_no_image_in_common():
    sets = load_benchmark("emoji_shift")
    check = check_images(sets.pop("train"), sets.values())
    assert check.notes == [] and check.overlaps == [] and len(check.hashes) == 8
    assert len(json.dumps(check.hashes)) < 100_000


@pytest.mark.parametrize("given", ["benchmark", "dataset"])
def test_the_trainer_says_it(tiny_clip, tmp_path, given):
    data = image_dataset(16, seed=0)
    train = rows_of(data, "mine", "train") if given == "benchmark" else data
    trainer = FLYPTrainer(
        tiny_clip,
        arguments(tmp_path, max_steps=1),
        train_dataset=train,
        eval_dataset=rows_of(data.select([1, 2, 5]), "test", "id"),
        processing_class=tiny_processor(),
    )
    with pytest.warns(
        UserWarning, match="3 of the 3 images of 'test' are training images of '(mine|the training data|train)'"
    ):
        trainer.train()
    assert [entry["name"] for entry in trainer.image_check.hashes][1:] == ["test"]


@pytest.fixture
def base(tmp_path, tiny_clip):
    tiny_clip.save_pretrained(tmp_path / "base")
    tiny_processor().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_a_run_and_the_calibration_after_it(script, base, folder, tmp_path, capsys):
    renamed, output = tmp_path / "holdout", tmp_path / "out"
    for path in sorted(folder.rglob("*.png"))[::2]:
        (renamed / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, renamed / path.parent.name / f"x{path.name}")
    run = (
        f"--model {base} --train_dataset {folder} --output_dir {output} --per_device_train_batch_size 4 --max_steps 1"
    )
    run += (
        f" --method flyp --use_cpu --disable_tqdm true --report_to none --save_strategy no --eval_datasets {renamed}"
    )
    with pytest.raises(
        ValueError, match="12 of the 12 images of 'holdout' are training images of 'train'.*--allow_overlap"
    ):
        script.main(run.split())
    assert not (output / "model.safetensors").exists()
    script.main([*run.split(), "--allow_overlap"])
    capsys.readouterr()
    said = "12 of the 12 images of 'holdout' are training images of 'train'"
    assert said in (output / "README.md").read_text()
    (shared,) = load_reports(output / "evaluation.json")[-1].shared_images
    assert (shared["set"], shared["with"]) == ("holdout", "training images of 'train'")
    assert shared["found"] == shared["compared"] == 12 and shared["exact"] and shared["share"] == 1 and len(shared["first"]) == 3
    page = (output / "report.html").read_text(encoding="utf-8")
    assert 'data-path="/reports/1/shared_images/0/found" data-form="count">12</data>' in page
    entries = load_robustft_json(output)["image_hashes"]
    assert [(entry["name"], entry["role"], entry["read"]) for entry in entries] == [
        ("train", "train", 24),
        ("holdout", "id", 12),
    ]
    other = tmp_path / "fresh"
    renamed.rename(other)
    before = (output / "model.safetensors").read_bytes()
    command = ["calibrate", str(output), "--disable_tqdm", "--dataset", str(other)]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "12 of the 12 images of 'fresh' are training images of 'train'" in error and "--allow_test_set" in error
    assert (output / "model.safetensors").read_bytes() == before
    evaluate = f"evaluate {output} --eval_datasets {other} --output_dir {tmp_path / 'eval'} --use_cpu --disable_tqdm"
    assert main(evaluate.split()) == 0
    assert "Note: 12 of the 12 images of 'fresh' are training images of 'train'" in capsys.readouterr().out
    (again,) = load_reports(tmp_path / "eval" / "evaluation.json")[-1].shared_images
    assert again == {**shared, "set": "fresh"}


def test_images_that_a_model_was_tuned_on_count_where_nothing_is_trained():
    """An evaluation knows them from the model's robustft.json; a training starts from that model with images of its own."""
    data = image_dataset(30)
    tuned = check_images(None, [rows_of(data, "tuned", "validation")]).hashes
    test = rows_of(data.select(range(10)), "test", "id")
    (found,) = check_images(None, [test], earlier=tuned, allow_overlap=True).overlaps
    assert found.found == 10 and "validation images of 'tuned'" in str(found)
    assert check_images(rows_of(image_dataset(20, seed=5), "new", "train"), [test], earlier=tuned).overlaps == []
