# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Few-shot sets are balanced, nested, in the order of the data, and pure functions of (seed, class, row)."""

import numpy as np
import pytest
from datasets import Dataset, Value
from helpers import CLASSES, TEMPLATES, image_dataset, tiny_processor

from hf_robustft.data import benchmark as benchmark_module
from hf_robustft.data.benchmarks import Benchmark, load_benchmark
from hf_robustft.data.examples import TrainingExamples
from hf_robustft.data.few_shot import few_shot, few_shot_rows
from hf_robustft.data.randomness import example_rng

LABELS = np.array([0, 2, 1, 1, 0, 2, 0, 1, 2, 2, 0, 1, 1, 0, 0, 2, 1, 0, 2, 2])
STORED = ([4, 6, 7, 8, 12, 15], [1, 2, 6, 7, 14, 15])


def numbered(n=40, **options):
    """A benchmark whose rows know their number."""
    rows = image_dataset(n).add_column("row", list(range(n)))
    return Benchmark.from_dataset(rows, **{"name": "own", "role": "train", "templates": TEMPLATES, **options})


def rows_of(benchmark):
    return benchmark.load()["row"][:]


@pytest.mark.parametrize("shots", [1, 3, 10])
def test_each_class_has_exactly_the_shots_in_the_order_of_the_data(shots):
    full = numbered()
    small = few_shot(full, shots, seed=5)
    labels, rows = small.load()["label"][:], rows_of(small)
    assert np.bincount(labels).tolist() == [shots] * 4
    assert rows == sorted(set(rows)) and len(rows) == 4 * shots
    assert labels == [full.load()["label"][row] for row in rows]
    assert np.array_equal(small.load()[2]["image"], full.load()[rows[2]]["image"])
    assert rows_of(few_shot(full, shots, seed=5)) == rows


@pytest.mark.parametrize("seed", [0, 7])
def test_fewer_shots_lie_in_more(seed):
    drawn = [set(rows_of(few_shot(numbered(), shots, seed))) for shots in (1, 2, 4, 8, 10)]
    assert all(small < large for small, large in zip(drawn, drawn[1:], strict=False))
    assert drawn[-1] == set(range(40))


def test_the_draw_is_the_smallest_numbers_of_seed_class_and_row():
    for seed in (0, 1):
        expected = []
        for label in range(3):
            number = {
                row: example_rng(seed, label, row, "few-shot").random() for row in np.flatnonzero(LABELS == label)
            }
            expected += sorted(number, key=number.get)[:2]
        assert few_shot_rows(LABELS, 3, 2, seed).tolist() == sorted(expected)
    # Stored: other versions of Python and NumPy must draw the same.
    assert few_shot_rows(LABELS, 3, 2, seed=0).tolist() == STORED[0]
    assert few_shot_rows(LABELS, 3, 2, seed=1).tolist() == STORED[1]


def test_a_class_does_not_depend_on_the_others():
    other = np.where(LABELS == 1, 2, LABELS)
    kept = [row for row in few_shot_rows(LABELS, 1, 3, seed=4) if LABELS[row] == 0]
    assert [row for row in few_shot_rows(other, 1, 3, seed=4) if other[row] == 0] == kept and len(kept) == 3


def test_every_image_is_as_likely_as_another():
    count = np.zeros(len(LABELS))
    for seed in range(600):
        count[few_shot_rows(LABELS, 3, 2, seed)] += 1
    for label in range(3):
        of_class = count[LABELS == label]
        share = 2 / len(of_class)
        # Six standard deviations of a binomial count.
        assert np.abs(of_class - 600 * share).max() < 6 * np.sqrt(600 * share * (1 - share))


def test_the_description_is_kept_and_says_how_it_was_drawn():
    rows = image_dataset(12).rename_columns({"image": "picture", "label": "kind"})
    renamed = {"class_names": ("kitten", "puppy", "owlet", "wasp"), "label_names": CLASSES}
    full = Benchmark.from_dataset(
        rows,
        name="own",
        role="train",
        image_column="picture",
        label_column="kind",
        templates=("the {}",),
        licence="MIT",
        source="our cameras",
        note="Taken at night.",
        **renamed,
    )
    small = few_shot(full, 1, seed=3)
    kept = (
        "name",
        "role",
        "class_names",
        "label_names",
        "templates",
        "image_column",
        "label_column",
        "licence",
        "source",
    )
    assert all(getattr(small, field) == getattr(full, field) for field in kept)
    assert small.note == "Taken at night. 1 image of each class, drawn with seed 3"
    assert few_shot(numbered(), 4).note == "4 images of each class, drawn with seed 0"
    assert full.note == "Taken at night." and len(full.load()) == 12
    assert TrainingExamples.from_benchmark(small, tiny_processor())[(2, 3)]["caption"] in {
        f"the {name}" for name in small.class_names
    }


def test_labels_that_are_class_names():
    names = [CLASSES[i % 4] for i in range(12)]
    rows = image_dataset(12).remove_columns("label").add_column("kind", names, feature=Value("string"))
    small = few_shot(Benchmark.from_dataset(rows, name="own", role="train", label_column="kind"), 2)
    assert np.bincount(small.load()["kind"][:]).tolist() == [2] * 4 and small.class_names == tuple(sorted(CLASSES))


def test_emoji_shift():
    train = load_benchmark("emoji_shift", "train")
    small = few_shot(train, 1)
    assert len(small.load()) == len(train.class_names) and small.licence == train.licence
    assert sorted(small.load()["label"][:]) == list(range(len(train.class_names)))


def test_data_of_the_hub_still_say_where_they_come_from(monkeypatch):
    monkeypatch.setattr(benchmark_module, "open_rows", lambda benchmark: image_dataset(8))
    full = Benchmark("own", "train", CLASSES, path="owner/pets", config="small", revision="abc")
    small = few_shot(full, 2)
    assert small.path is None and small.source == "https://huggingface.co/datasets/owner/pets"


def test_a_path_of_this_machine_is_not_a_source(tmp_path):
    image_dataset(8).to_parquet(tmp_path / "pets.parquet")
    assert few_shot(load_benchmark(tmp_path / "pets.parquet", role="train"), 2).source is None


def test_classes_with_fewer_images_are_named():
    few = numbered(40).load().filter(lambda label: label != 1, input_columns="label")
    with pytest.raises(
        ValueError, match=r"fewer than 3 images of 1 of its 4 classes, 'dog: 0'; .* at most 0"
    ) as error:
        few_shot(Benchmark.from_dataset(few, name="own", role="train"), 3)
    assert "\n" not in str(error.value)
    with pytest.raises(
        ValueError, match=r"fewer than 6 images of 2 of its 4 classes, 'owl: 5', 'bee: 5'; .* at most 5"
    ):
        few_shot(numbered(22), 6)
    with pytest.raises(ValueError, match="class 2 has 0 images"):
        few_shot_rows(np.array([0, 1]), 3, 1)


@pytest.mark.parametrize("shots", [0, -4, 2.5, True, "4"])
def test_shots_that_cannot_be(shots):
    with pytest.raises(ValueError, match="shots is .* a whole number of at least 1"):
        few_shot(numbered(), shots)
    with pytest.raises(ValueError, match="shots is .* a whole number of at least 1"):
        few_shot_rows(LABELS, 3, shots)


def test_data_without_labels():
    captions = Dataset.from_dict({"image": image_dataset(4)["image"][:], "text": ["a"] * 4})
    for settings in ({"caption_column": "text"}, {"label_column": None}):
        with pytest.raises(ValueError, match="'own' has no class labels .* give class_names and label_column"):
            few_shot(Benchmark.from_dataset(captions, name="own", role="train", **settings), 1)
