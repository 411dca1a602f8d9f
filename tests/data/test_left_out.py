# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Training sets without some classes: every image and class is where it belongs, and folds cover all classes once."""

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value
from helpers import CLASSES, TEMPLATES, image_dataset

from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.data.left_out import LEFT_OUT, leave_out_classes, left_out_positions


def numbered(n, name="train", role="train", seed=0, **options):
    rows = image_dataset(n, seed=seed).add_column("row", list(range(n)))
    return Benchmark.from_dataset(rows, **{"name": name, "role": role, "templates": TEMPLATES, **options})


def pixels(benchmark):
    """Pixels and the name of the class of every image."""
    return [(np.asarray(row["image"]).tobytes(), benchmark.class_names[row["label"]]) for row in benchmark.load()]


@pytest.mark.parametrize(("n_classes", "share"), [(200, 0.2), (7, 0.33), (10, 0.1), (4, 0.5)])
def test_folds_hold_each_class_once(n_classes, share):
    folds = [left_out_positions(n_classes, share, fold) for fold in range(round(1 / share))]
    assert sorted(sum(folds, [])) == list(range(n_classes))
    assert max(map(len, folds)) - min(map(len, folds)) <= 1


def test_every_fifth_class_is_left_out():
    assert left_out_positions(200, 0.2) == list(range(0, 200, 5))
    assert left_out_positions(7, 0.2, 1) == [1, 6]


@pytest.mark.parametrize("share", [0, 1, 0.6, 0.3, -0.2, float("nan")])
def test_shares_without_whole_folds_are_refused(share):
    with pytest.raises(ValueError, match="leave_out_classes"):
        left_out_positions(10, share)


def test_folds_that_are_not_there_are_refused():
    for fold in (5, -1, 0.0, True):
        with pytest.raises(ValueError, match="leave_out_fold.*0 to 4"):
            left_out_positions(10, 0.2, fold)
    with pytest.raises(ValueError, match="--leave_out_fold"):
        left_out_positions(3, 0.2, 4)
    with pytest.raises(ValueError, match="two at least"):
        left_out_positions(2, 0.5)


@pytest.mark.parametrize("fold", [0, 1])
def test_images_of_a_class_are_trained_on_or_measured(fold):
    train, validation = numbered(20), numbered(12, "validation", "validation", seed=1)
    kept, held = leave_out_classes(train, validation, 0.5, fold)
    names = [CLASSES[position] for position in (fold, fold + 2)]
    assert kept.class_names == tuple(name for name in CLASSES if name not in names)
    assert (held.name, held.role, held.class_names, held.templates) == (LEFT_OUT, "id", CLASSES, TEMPLATES)
    assert pixels(kept) == [pair for pair in pixels(train) if pair[1] not in names]
    assert pixels(held) == [pair for pair in [*pixels(train), *pixels(validation)] if pair[1] in names]
    assert kept.load()["row"][:] == [row for row in range(20) if CLASSES[train.load()[row]["label"]] not in names]
    assert {name for _, name in pixels(held)} == set(names)
    assert "left out" in kept.note and f"fold {fold} of 2" in kept.note and f"fold {fold} of 2" in held.note
    # Training reads the rows as they are stored.
    assert kept.stored_rows()[0][0]["label"] == kept.load()["label"][0]
    alone = leave_out_classes(train, share=0.5, fold=fold)[1]
    assert pixels(alone) == [pair for pair in pixels(train) if pair[1] in names]


def test_columns_and_names_of_ones_own_data():
    rows = image_dataset(8)
    texts = {"picture": rows["image"][:], "kind": [f"n{label}" for label in rows["label"][:]], "more": list(range(8))}
    features = Features({"picture": Image(), "kind": Value("string"), "more": Value("int64")})
    named = {f"n{position}": name for position, name in enumerate(CLASSES)}
    own = Benchmark.from_dataset(
        Dataset.from_dict(texts, features), name="own", role="train", class_names=named, image_column="picture", label_column="kind"
    )
    kept, held = leave_out_classes(own, numbered(4, "validation", "validation"), 0.5)
    assert kept.label_names == ("n1", "n3") and kept.class_names == (CLASSES[1], CLASSES[3])
    assert set(kept.load()["kind"][:]) == {0, 1} and held.load().column_names == ["image", "label"]
    assert {name for _, name in pixels(held)} == {CLASSES[0], CLASSES[2]}


def test_the_images_of_left_out_classes_keep_their_groups():
    """Ten views of a drawing are one unit: taken for ten images they would be told apart from chance too easily."""
    rows = image_dataset(24).add_column("drawing", [f"d{row % 12}" for row in range(24)])
    train = Benchmark.from_dataset(rows, name="train", role="train", templates=TEMPLATES, group_column="drawing")
    more = image_dataset(12, seed=1).add_column("number", list(range(12)))
    validation = Benchmark.from_dataset(more, name="validation", role="validation", templates=TEMPLATES, group_column="number")
    kept, held = leave_out_classes(train, validation, 0.5)
    assert held.group_column == held.stored_rows().group_column == "group"
    labels = [rows["label"][:], more["label"][:]]
    want = [f"d{row % 12}" for row in range(24) if labels[0][row] in (0, 2)] + [str(row) for row in range(12) if labels[1][row] in (0, 2)]
    assert held.load()["group"][:] == want and kept.group_column == "drawing"
    # Of one set alone they are not known, and one group alone says nothing.
    assert leave_out_classes(train, numbered(12, "validation", "validation"), 0.5)[1].group_column is None
    one = image_dataset(8).add_column("drawing", [f"d{row % 4}" for row in range(8)])
    one = Benchmark.from_dataset(one, name="train", role="train", templates=TEMPLATES, group_column="drawing")
    assert leave_out_classes(one, share=0.25)[1].group_column is None


def test_data_that_cannot_be_divided_are_refused():
    with pytest.raises(ValueError, match="no class labels"):
        leave_out_classes(numbered(8, role="open_set", label_column=None))
    other = numbered(8, "other", "validation", class_names=dict(zip(CLASSES, "abcd", strict=True)))
    with pytest.raises(ValueError, match="'other'.*class_names"):
        leave_out_classes(numbered(8), other, 0.5)
    few = image_dataset(8).filter(lambda row: row["label"] not in (0, 2))
    with pytest.raises(ValueError, match="no image"):
        leave_out_classes(Benchmark.from_dataset(few, name="few", role="train"), share=0.5)
