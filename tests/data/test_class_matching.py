# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Labels of one's own data mean the model's classes by name, whatever their own order or number."""

import pytest
from datasets import ClassLabel, Dataset, Value
from helpers import CLASSES, TEMPLATES, image_dataset
from helpers.streams import write_tars

from hf_robustft.data.benchmarks import load_benchmark
from hf_robustft.data.class_matching import load_matched, shared_classes


def save(rows: Dataset, path):
    rows.to_parquet(path)
    return str(path)


def folders(root, classes, per_class=2):
    for number, row in enumerate(image_dataset(per_class * len(classes), classes=classes)):
        (root / classes[row["label"]]).mkdir(parents=True, exist_ok=True)
        row["image"].save(root / classes[row["label"]] / f"{number}.png")
    return str(root)


def names_of(benchmark):
    """Names by the model's classes, in the order of the rows."""
    rows = benchmark.stream() if benchmark.streaming else benchmark.load()
    return [CLASSES[row["label"]] for row in rows]


def matched(source, **given):
    return load_matched(source, class_names=CLASSES, templates=TEMPLATES, **{"name": "set", "role": "shift", **given})


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["folder", "class label", "tar"])
def test_another_order_and_a_part_of_the_classes(tmp_path, kind, streaming):
    other = ("owl", "Dog", "bee")
    options = {"streaming": True} if streaming else {}
    if kind == "folder":
        source, wanted = folders(tmp_path / "own", other), ["dog", "dog", "bee", "bee", "owl", "owl"]
    elif kind == "class label":
        source = save(image_dataset(6, classes=other), tmp_path / "own.parquet")
        wanted = ["owl", "dog", "bee"] * 2
    else:
        write_tars(tmp_path / "own", [3, 2])
        (tmp_path / "own" / "classnames.txt").write_text("owl\nDog\nbee\ncat\n")
        source, wanted = str(tmp_path / "own"), ["owl", "dog", "bee", "cat", "owl"]
        options |= {"image_column": "png", "label_column": "cls"}
    benchmark, notes = matched(source, **options)
    assert benchmark.class_names == CLASSES and benchmark.templates == TEMPLATES and benchmark.role == "shift"
    found = names_of(benchmark) if kind != "tar" or streaming else [CLASSES[i] for i in benchmark.load()["cls"]]
    assert sorted(found) == sorted(wanted) if kind == "folder" else found == wanted
    if kind == "tar":
        assert notes == []
    else:
        assert notes == ["set: images of 3 of the 4 classes, none of 'cat'"]
        assert benchmark.note == "3 of the 4 classes"


def test_names_as_text(tmp_path):
    rows = image_dataset(4).remove_columns("label").add_column("label", ["bee", "CAT", "bee", "owl"])
    benchmark, notes = matched(save(rows, tmp_path / "own.parquet"))
    assert names_of(benchmark) == ["bee", "cat", "bee", "owl"] and "none of 'dog'" in notes[0]


def test_what_data_call_the_classes_counts_too(tmp_path):
    source = folders(tmp_path / "own", ("n04", "n01"), 1)
    benchmark, _ = matched(source, label_names=("n01", "n02", "n03", "n04"))
    assert sorted(names_of(benchmark)) == ["bee", "cat"]


def test_numbers_without_names_are_taken_in_order(tmp_path):
    rows = image_dataset(5).cast_column("label", Value("int64"))
    benchmark, notes = matched(save(rows, tmp_path / "own.parquet"))
    assert names_of(benchmark) == ["cat", "dog", "owl", "bee", "cat"]
    assert (
        len(notes) == 1
        and "labels are numbers without names, taken for the model's classes in their order" in notes[0]
    )


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("feature", [Value("int32"), ClassLabel(num_classes=12)])
def test_numbers_are_names_to_a_model_whose_classes_are_numbers(tmp_path, feature, streaming):
    """Of folders called 0 to 11 the third is 10."""
    names = sorted(map(str, range(12)))
    rows = image_dataset(6).remove_columns("label").add_column("label", [2, 10, 0, 1, 11, 2], feature=feature)
    given = {"class_names": names, "templates": TEMPLATES, "name": "set", "role": "shift", "streaming": streaming}
    found, notes = load_matched(save(rows, tmp_path / "own.parquet"), **given)
    read = found.stream() if streaming else found.load()
    assert [names[row["label"]] for row in read] == ["2", "10", "0", "1", "11", "2"]
    assert not any("numbers without names" in note for note in notes)
    if feature == Value("int32"):
        rows = rows.remove_columns("label").add_column("label", [2, 10, 0, 1, 12, 2])
        with pytest.raises(ValueError, match="label 12 .*row 4"):
            found, _ = load_matched(save(rows, tmp_path / "other.parquet"), **given)
            list(found.stream())


def test_classes_that_the_model_does_not_know(tmp_path):
    source = save(image_dataset(6, classes=("dog", "ant", "fox")), tmp_path / "own.parquet")
    with pytest.raises(ValueError, match="images of 2 classes that the model does not know, 'ant', 'fox';.*:open_set"):
        matched(source)
    # A name without images is none of them.
    rows = image_dataset(6, classes=("dog", "ant", "fox")).filter(lambda row: row["label"] == 0)
    benchmark, _ = matched(save(rows, tmp_path / "dogs.parquet"))
    assert names_of(benchmark) == ["dog", "dog"]


def test_numbers_that_are_no_class_may_be_renamed(tmp_path):
    with pytest.raises(ValueError, match="'1', '2';.*class_names with lines `label<TAB>name`.*:open_set"):
        matched(folders(tmp_path / "own", ("1", "2")))


def test_one_column_is_not_both(tmp_path):
    with pytest.raises(ValueError, match="image_column and label_column are both 'label'"):
        matched(save(image_dataset(3), tmp_path / "own.parquet"), image_column="label")
    with pytest.raises(ValueError, match="image_column and label_column are both 'image'"):
        load_benchmark(tmp_path / "own.parquet", class_names=CLASSES, label_column="image")


def test_bad_labels(tmp_path):
    rows = image_dataset(3).remove_columns("label").add_column("label", ["bee", None, "cat"])
    with pytest.raises(ValueError, match="is missing"):
        matched(save(rows, tmp_path / "own.parquet"))
    with pytest.raises(ValueError, match="has no column 'kind'.*--label_column"):
        matched(str(tmp_path / "own.parquet"), label_column="kind")
    rows = image_dataset(3).remove_columns("label").add_column("label", [0, 1, 7])
    with pytest.raises(ValueError, match="label 7 in row 2"):
        matched(save(rows, tmp_path / "seven.parquet"))


def test_known_classes_in_an_open_set(tmp_path):
    source = folders(tmp_path / "own", ("ant", "Owl", "fox"))
    assert shared_classes(load_benchmark(source, role="open_set", label_column=None), CLASSES) == ["Owl"]
    rows = image_dataset(4, classes=("ant", "owl")).filter(lambda row: row["label"] == 0)
    assert rows.features["label"] == ClassLabel(names=["ant", "owl"])
    save(rows, tmp_path / "ants.parquet")
    benchmark = load_benchmark(tmp_path / "ants.parquet", role="open_set", label_column=None)
    assert shared_classes(benchmark, CLASSES) == []


def test_known_classes_in_an_open_set_by_what_the_training_data_call_them(tmp_path):
    own = load_benchmark(folders(tmp_path / "own", ("n01", "n02", "n09")), role="open_set", label_column=None)
    assert shared_classes(own, ("cat", "dog")) == []
    assert shared_classes(own, ("cat", "dog"), label_names=("n02", "n03")) == ["n02"]
    counted = load_benchmark(folders(tmp_path / "counted", ("0", "1")), role="open_set", label_column=None)
    assert shared_classes(counted, ("cat", "dog"), label_names=("0", "1")) == []


def test_numbers_that_may_be_positions_or_names_of_a_model_are_said(tmp_path):
    given = {"class_names": ("1", "2", "3"), "templates": TEMPLATES, "name": "set", "role": "shift"}
    for labels, doubtful in (([1, 2], True), ([1, 3], False)):
        rows = image_dataset(2).remove_columns("label").add_column("label", labels)
        _, notes = load_matched(save(rows, tmp_path / f"{labels[1]}.parquet"), **given)
        assert any("taken for the names of the model's classes" in note for note in notes) == doubtful
