# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Held-out images: parts of each class that do not meet, the same for every run; and what lies beside a folder."""

import numpy as np
import pytest
from helpers import CLASSES, TEMPLATES, image_dataset
from PIL import Image

from hf_robustft.data.benchmarks import Benchmark, load_benchmark
from hf_robustft.data.beside import sets_beside, sets_within, split_purpose
from hf_robustft.data.hold_out import groups_in_common, held_out_rows, hold_out

LABELS = np.array([0, 2, 1, 1, 0, 2, 0, 1, 2, 2, 0, 1, 1, 0, 0, 2, 1, 0, 2, 2])


def numbered(n=40, **options):
    """A benchmark whose rows know their number."""
    rows = image_dataset(n).add_column("row", list(range(n)))
    return Benchmark.from_dataset(rows, **{"name": "own", "role": "train", "templates": TEMPLATES, **options})


def test_each_class_gives_the_same_share_to_each_part_and_no_row_is_in_two():
    train, validation, test = hold_out(numbered(), 0.2)
    rows = [set(part.load()["row"][:]) for part in (train, validation, test)]
    assert [len(part) for part in rows] == [24, 8, 8] and set.union(*rows) == set(range(40))
    for part, size in ((train, 6), (validation, 2), (test, 2)):
        assert np.bincount(part.load()["label"][:]).tolist() == [size] * 4
    assert (train.name, train.role) == ("own", "train") and train.class_names == validation.class_names == CLASSES
    assert (validation.name, validation.role, test.name, test.role) == ("validation", "validation", "held-out", "id")
    assert "20 %" in validation.note and "held out" in test.note
    # A validation set alone is the same one.
    assert set(hold_out(numbered(), 0.2, ["validation"])[1].load()["row"][:]) == rows[1]


def test_the_draw_depends_on_the_data_alone_and_is_stored():
    drawn = held_out_rows(LABELS, 3, 0.2, 2)
    # Stored: other versions of Python and NumPy must draw the same.
    assert [part.tolist() for part in drawn[1:]] == [[1, 7, 14], [2, 6, 15]]
    # A class that grows takes nothing from another one.
    other = held_out_rows(np.append(LABELS, [1] * 20), 3, 0.2, 2)
    for before, after in zip(drawn[1:], other[1:], strict=True):
        assert [row for row in before if LABELS[row] != 1] == [row for row in after if row < 20 and LABELS[row] != 1]


def test_what_images_have_in_common_stays_together():
    # Views of ten drawings, interleaved: 1, 2, 3 or 4 of a drawing.
    rows = image_dataset(40)
    groups = [f"{label} {number % 10}" for number, label in enumerate(rows["label"])]
    own = Benchmark.from_dataset(rows.add_column("drawing", groups), name="own", role="train", templates=TEMPLATES)
    parts = hold_out(own, 0.25, group_column="drawing")
    of = [set(part.load()["drawing"][:]) for part in parts]
    assert not (of[0] & of[1] or of[0] & of[2] or of[1] & of[2]) and set.union(*of) == set(groups)
    assert sum(len(part.load()) for part in parts) == 40
    for part in parts[1:]:
        assert np.bincount(part.load()["label"][:], minlength=4).min() >= 2
        assert part.group_column == "drawing" and part.stored_rows().group_column == "drawing"
    with pytest.raises(ValueError, match=r"'patient'.*group_column"):
        hold_out(own, 0.25, group_column="patient")
    assert parts[0].group_column == "drawing"
    for gap in (None, 3):
        holes = rows.add_column("holes", [gap if row == 7 else None if gap else f"{row}" for row in range(40)])
        with pytest.raises(ValueError, match="row .* of column 'holes'.*missing"):
            hold_out(Benchmark.from_dataset(holes, name="own", role="train", templates=TEMPLATES), 0.25, group_column="holes")
    single = own.dataset.add_column("one", [f"{label}" for label in rows["label"]])
    with pytest.raises(ValueError, match=r"groups \(one\).*'cat: 1'"):
        hold_out(Benchmark.from_dataset(single, name="own", role="train", templates=TEMPLATES), 0.25, group_column="one")


def test_groups_of_unequal_size_leave_some_of_each_class_everywhere():
    """A class of three groups gives one to each part, whatever their size; of many groups a part does not take too large a one."""
    for number in range(60):
        rng = np.random.default_rng(number)
        sizes = rng.choice([1, 2, 5, 40], (2, int(rng.integers(3, 6))))
        labels, groups = np.repeat([0, 1], sizes.sum(axis=1)), np.repeat(np.arange(sizes.size), sizes.ravel())
        order = rng.permutation(len(labels))
        parts = held_out_rows(labels[order], 2, 0.25, 2, groups[order])
        assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
        counts = [np.bincount(labels[order][part], minlength=2) for part in parts]
        assert np.min(counts) > 0, (sizes, counts)
        for label in (0, 1):
            share, least = max(sizes[label].sum() // 4, 1), sizes[label].min()
            # What fits is taken first, so that at most one group more than the share is, and a small one.
            assert all(count[label] <= share or sorted(sizes[label])[0] == least for count in counts[1:])
    groups = np.array([0] * 40 + [1, 2])
    assert [len(part) for part in held_out_rows(np.zeros(42, dtype=int), 1, 0.25, 2, groups)] == [40, 1, 1]


def test_what_cannot_be_held_out_is_refused_by_name():
    with pytest.raises(ValueError, match="hold_out=0.3"):
        hold_out(numbered(), 0.3)
    with pytest.raises(ValueError, match="'cat: 2', 'dog: 2'"):
        hold_out(numbered(8), 0.25)
    with pytest.raises(ValueError, match="class labels"):
        hold_out(Benchmark.from_dataset(image_dataset(8), name="x", role="train", label_column=None, class_names=None, caption_column=None), 0.2)


def pictures(root, *classes, n=1):
    for name in classes:
        (root / name).mkdir(parents=True)
        for index in range(n):
            Image.new("RGB", (4, 4), (index, 0, 0)).save(root / name / f"{index}.png")


def test_folders_of_the_same_classes_beside_one_are_its_sets(tmp_path, monkeypatch):
    pictures(tmp_path / "photo", "cat", "dog", "owl")
    pictures(tmp_path / "sketch", "Cat", "dog")
    pictures(tmp_path / "test", "cat", "dog", "owl")
    pictures(tmp_path / "val", "cat", "dog", "owl")
    pictures(tmp_path / "train", "cat", "dog", "owl")
    pictures(tmp_path / "zoo", "cat", "dog", "lion")
    pictures(tmp_path / "cars", "bmw", "vw")
    pictures(tmp_path, "flat")
    found = sets_beside(tmp_path / "photo", ["cat", "dog", "owl"])
    assert found.sets == {str(tmp_path / "sketch"): "shift", str(tmp_path / "test"): "id", str(tmp_path / "val"): "validation"}
    (note,) = found.notes
    assert "zoo" in note and "lion" in note
    assert not sets_beside(tmp_path / "cars", ["bmw", "vw"]).sets
    for inside, text in (("photo", "."), ("photo/cat", "..")):
        monkeypatch.chdir(tmp_path / inside)
        assert sets_beside(text, ["cat", "dog", "owl"]).sets == found.sets
    assert [split_purpose(name) for name in ("train_images", "Test", "dev", "photo")] == ["train", "id", "validation", None]


def test_folders_of_the_same_classes_within_one_are_told_from_classes(tmp_path):
    pictures(tmp_path / "photo", "cat", "dog")
    pictures(tmp_path / "sketch", "cat", "dog", "owl")
    assert [path.name for path in sets_within(tmp_path)] == ["photo", "sketch"]
    assert sets_within(tmp_path / "photo") == []
    # Two classes by year are classes.
    pictures(tmp_path / "by_year" / "cat", "2023", "2024")
    pictures(tmp_path / "by_year" / "dog", "2024", "2025")
    assert sets_within(tmp_path / "by_year") == []


def test_groups_that_a_set_shares_with_the_training_set_are_said(tmp_path):
    def own(name, groups, role="shift", **options):
        rows = image_dataset(len(groups)).add_column("patient", groups)
        return Benchmark.from_dataset(rows, name=name, role=role, templates=TEMPLATES, **options)

    train = own("own", [7, 8, 9, None], "train")
    others = [own("a", ["1", "8", "9", "8"], group_column="patient"), own("b", [1, 2, 3, 4], group_column="patient"), own("c", [7, 8, 9, 7])]
    (note,) = groups_in_common(train, others)
    assert note.startswith("2 of the 3 groups (patient) of 'a' are in the training set too, such as '8'")
    assert groups_in_common(numbered(), others) == []
    suite = load_benchmark("emoji_shift")
    assert groups_in_common(next(item for item in suite.values() if item.role == "train"), suite.values()) == []
