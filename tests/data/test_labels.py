# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The same tiny data in every container, stored and streamed: each image is of the same class, or the same is refused."""

import io
import itertools
import json
import tarfile

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from PIL import Image

from hf_robustft.data.benchmarks import Benchmark, load_benchmark
from hf_robustft.data.class_matching import load_matched
from hf_robustft.data.images import decode_image
from hf_robustft.data.labels import LabelFault, as_numbers, classes_of, label_rule, matching_rule
from hf_robustft.data.messages import say_once

MODEL = ("cat", "dog", "owl")
CASES = {
    "from 1": {1: "cat", 2: "dog", 3: "owl"},
    "another order": {2: "cat", 0: "dog", 1: "owl"},
    "sparse": {42: "cat", 7: "dog", 1000: "owl"},
    "negative": {-1: "cat", 0: "dog", 5: "owl"},
}
NUMBERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    # Another test may have said the same of another data set of that name.
    say_once.cache_clear()


def encoded(number):
    file = io.BytesIO()
    Image.new("RGB", (12, 10), (number, 0, 0)).save(file, "PNG")
    return file.getvalue()


def table(labels, feature):
    images = [{"bytes": encoded(number), "path": None} for number in range(len(labels))]
    features = Features({"image": datasets.Image(), "label": feature})
    return Dataset.from_dict({"image": images, "label": labels}, features=features)


def write(kind, root, labels):
    """The data as a container of a kind; its source and options, or None where it cannot hold such labels."""
    root.mkdir(parents=True)
    if kind in NUMBERS:
        if (
            kind.startswith("u")
            and min(labels) < 0
            or kind == "int8"
            and max(labels) > 127
            or kind == "uint8"
            and max(labels) > 255
        ):
            return None
        table([float(label) if "f" in kind else label for label in labels], Value(kind)).to_parquet(root / "a.parquet")
        return root / "a.parquet", {}
    if kind == "text":
        table([str(label) for label in labels], Value("string")).to_parquet(root / "a.parquet")
        return root / "a.parquet", {}
    if kind == "ClassLabel":
        names = sorted({str(label) for label in labels}, reverse=True)
        table([names.index(str(label)) for label in labels], ClassLabel(names=names)).to_parquet(root / "a.parquet")
        return root / "a.parquet", {}
    if kind == "saved":
        table(labels, Value("int64")).save_to_disk(root)
        return root, {}
    if kind == "tar":
        with tarfile.open(root / "train-0.tar", "w") as tar:
            for number, label in enumerate(labels):
                for ending, content in (("png", encoded(number)), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"{number:03d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        return root, {"image_column": "png", "label_column": "cls"}
    if kind == "folders":
        for number, label in enumerate(labels):
            (root / str(label)).mkdir(exist_ok=True)
            (root / str(label) / f"{number}.png").write_bytes(encoded(number))
        return root, {}
    for number in range(len(labels)):
        (root / f"{number}.png").write_bytes(encoded(number))
    rows = [{"file_name": f"{number}.png", "label": label} for number, label in enumerate(labels)]
    if kind == "csv":
        lines = ["file_name,label", *(f"{row['file_name']},{row['label']}" for row in rows)]
        (root / "metadata.csv").write_text("\n".join(lines))
    else:
        (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root, {}


KINDS = (*NUMBERS, "text", "ClassLabel", "saved", "tar", "folders", "csv", "jsonl")


def meaning(benchmark):
    """The name of the class of each image, by the number that its colour says."""
    rows = benchmark.stream() if benchmark.streaming else benchmark.load()
    image, label = ("image", "label") if benchmark.streaming else (benchmark.image_column, benchmark.label_column)
    found = {}
    for row in rows:
        picture = decode_image(row[image]) if isinstance(row[image], dict) else row[image]
        found[picture.getpixel((0, 0))[0]] = benchmark.class_names[row[label]]
    return found


#: A signed, an unsigned and a broken number are always tried; these take a second each:
#: `python -m pytest -m slow tests/data/test_labels.py`.
OTHER_WIDTHS = set(NUMBERS) - {"int64", "uint8", "float32"}


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow if kind in OTHER_WIDTHS else ()) for kind in KINDS])
def test_the_left_column_is_what_the_data_call_the_class(tmp_path, kind):
    for case, names in CASES.items():
        labels = [*names, *reversed(names), list(names)[1]]
        written = write(kind, tmp_path / case, labels)
        if written is None:
            continue
        source, options = written
        wanted = {number: names[label] for number, label in enumerate(labels)}
        file = tmp_path / "names.txt"
        lines = [f"{label}\t{name}" for label, name in names.items()]
        for order, streaming in itertools.product((lines, lines[::-1]), (False, True)):
            file.write_text("\n".join(order) + "\n")
            settings = {**options, "streaming": streaming}
            assert meaning(load_benchmark(source, class_names=file, **settings)) == wanted, (case, streaming)
        assert meaning(load_benchmark(source, class_names=names, **options)) == wanted
        # A model with its classes in another order, and an evaluation set of a part of them.
        known = {
            "class_names": MODEL[::-1],
            "label_names": [str(label) for label in names][::-1],
            "templates": ("{}",),
        }
        part = write(kind, tmp_path / f"{case} part", labels[1:3] * 2)
        for streaming in (False, True):
            for place, of in ((written, wanted), (part, {n: names[label] for n, label in enumerate(labels[1:3] * 2)})):
                given = {**place[1], "streaming": streaming, "name": "a", "role": "shift"}
                benchmark, _ = load_matched(str(place[0]), **known, **given)
                assert benchmark.class_names == MODEL[::-1] and meaning(benchmark) == of, (case, streaming)


@pytest.mark.parametrize("kind", KINDS)
def test_a_label_that_is_not_in_the_file_is_refused_by_name(tmp_path, kind):
    source, options = write(kind, tmp_path / "own", [1, 2, 3, 2])
    for streaming in (False, True):
        given = {"class_names": {1: "cat", 2: "dog"}, "streaming": streaming, **options}
        with pytest.raises(ValueError, match=r"'?3(\.0)?'?\b.*\b(is not one of|are not among).* '?1'?"):
            meaning(load_benchmark(source, **given))


@pytest.mark.parametrize("kind", [*NUMBERS, "saved", "tar", "csv", "jsonl"])
def test_numbers_without_a_left_column_are_0_to_n(tmp_path, kind):
    source, options = write(kind, tmp_path / "own", [2, 0, 1, 1])
    shifted, _ = write(kind, tmp_path / "from 1", [2, 3, 1, 1])
    for streaming in (False, True):
        given = {"class_names": MODEL, "streaming": streaming, **options}
        assert meaning(load_benchmark(source, **given)) == {0: "owl", 1: "cat", 2: "dog", 3: "dog"}
        with pytest.raises(
            ValueError,
            match="label 3 .* outside the 3 classes, 0 to 2.*lines `label<TAB>name`.*do the labels start at 1",
        ):
            meaning(load_benchmark(shifted, **given))


def test_bools_gaps_and_what_is_not_a_label():
    yes = {"class_names": {"false": "cat", "true": "dog"}, "name": "a", "role": "id"}
    assert meaning(Benchmark.from_dataset(table([True, False], Value("bool")), **yes)) == {0: "dog", 1: "cat"}
    bare = {"class_names": ("cat", "dog"), "name": "a", "role": "id"}
    assert meaning(Benchmark.from_dataset(table([True, False], Value("bool")), **bare)) == {0: "dog", 1: "cat"}
    for gap in (None, float("nan")):
        with pytest.raises(ValueError, match="label in row 1 .* is missing"):
            Benchmark.from_dataset(table([1.0, gap], Value("float64")), **bare)
    with pytest.raises(ValueError, match=r"label 0\.5 in row 1 .* outside the 2 classes"):
        Benchmark.from_dataset(table([1.0, 0.5], Value("float64")), **bare)
    with pytest.raises(
        ValueError, match="holds numbers, but the labels given for its classes are names, 'n01', 'n02'"
    ):
        Benchmark.from_dataset(table([0, 1], Value("int64")), **{**bare, "class_names": {"n01": "cat", "n02": "dog"}})


@pytest.mark.parametrize("kind", ["int64", "float64", "bool"])
def test_class_names_that_are_numbers_in_another_order(kind):
    names, labels = ("1", "0", "2"), [2, 0, 1]
    if kind == "bool":
        # What the column says is what the names say: True is not the second of them.
        found = Benchmark.from_dataset(table([True, False], Value("bool")), class_names=("True", "False"), name="a", role="id")
        assert meaning(found) == {0: "True", 1: "False"}
        names, labels = ("1", "0"), [True, False]
    with pytest.raises(ValueError, match="holds numbers, and the class names are numbers in another order.*lines `label<TAB>name`"):
        Benchmark.from_dataset(table(labels, Value(kind)), class_names=names, name="a", role="id")
    if kind != "bool":
        for ordered in (("0", "1", "2"), ("1", "2", "3")):
            rows = Benchmark.from_dataset(table(labels, Value(kind)), class_names=ordered, name="a", role="id").load()
            assert rows["label"][:] == labels


def test_a_class_label_without_names_of_its_own_holds_numbers():
    rows = table([2, 0, 1], ClassLabel(num_classes=3))
    by_order = Benchmark.from_dataset(rows, class_names=MODEL, name="a", role="id")
    assert meaning(by_order) == {0: "owl", 1: "cat", 2: "dog"}
    assert by_order.load().features["label"].names == list(MODEL)


def test_swapped_names_stay_swapped_however_often_the_rows_are_read():
    from hf_robustft.data.few_shot import few_shot

    rows = table([0, 1, 0, 1], ClassLabel(names=["cat", "dog"]))
    swapped = Benchmark.from_dataset(rows, class_names={"dog": "cat", "cat": "dog"}, name="a", role="train")
    assert meaning(swapped) == {0: "dog", 1: "cat", 2: "dog", 3: "cat"}
    assert meaning(few_shot(swapped, 1)).items() <= meaning(swapped).items()


def test_labels_that_are_one_number():
    assert as_numbers(("01", "2", "-3")) == {1: 0, 2: 1, -3: 2} and as_numbers(("1", "cat")) is None
    with pytest.raises(ValueError, match="'1' and '01' are one number"):
        as_numbers(("1", "01"))


def test_columns_and_rows_follow_one_rule():
    """Every kind of column against every names file: `classes_of` gives what the rule gives for each value."""
    random = np.random.default_rng(0)
    features = [Value("int8"), Value("float32"), Value("string"), Value("bool"), ClassLabel(names=["b", "2", "a"])]
    for feature, labels in itertools.product(
        features, (None, ("2", "0", "1"), ("a", "b", "2"), ("true", "false", "7"))
    ):
        values = random.integers(0, 2, 20).tolist()
        values = [str(value) for value in values] if feature == Value("string") else values
        column = table(values, feature).with_format("arrow")[:].column("label")
        try:
            rule = label_rule(feature, MODEL, labels, "label", "here")
            wanted = [rule(value) for value in column.to_pylist()]
        except ValueError:
            with pytest.raises(ValueError):
                classes_of(column, label_rule(feature, MODEL, labels, "label", "here"), "label", "here")
        else:
            assert classes_of(column, rule, "label", "here").tolist() == wanted


def test_tars_that_bring_their_names_along_are_matched_by_them(tmp_path):
    """`classnames.txt` beside tars, with labels or in their order, for a model with its classes in another order."""
    source, options = write("tar", tmp_path / "own", [7, 42, 7])
    (source / "classnames.txt").write_text("42\tcat\n7\tOwl\n")
    known = {"class_names": MODEL, "templates": ("{}",), "name": "a", "role": "shift", **options}
    assert meaning(load_benchmark(source, **options)) == {0: "Owl", 1: "cat", 2: "Owl"}
    for streaming in (False, True):
        assert meaning(load_matched(str(source), **known, streaming=streaming)[0]) == {0: "owl", 1: "cat", 2: "owl"}
    (source / "classnames.txt").write_text("42\tcat\n7\tant\n")
    for streaming in (False, True):
        with pytest.raises(ValueError, match="1 class that the model does not know, 'ant'"):
            load_matched(str(source), **known, streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
def test_names_in_cls_files_are_refused_in_words(tmp_path, streaming):
    with tarfile.open(tmp_path / "test-0.tar", "w") as tar:
        for name, content in (("0.png", encoded(0)), ("0.cls", b"owl")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    given = {"image_column": "png", "label_column": "cls", "class_names": MODEL, "streaming": streaming}
    with pytest.raises(ValueError, match="A .cls file in .*test-0.tar.* holds 'owl'.*--label_column txt"):
        load_benchmark(tmp_path, **given)


def test_classes_without_images_are_said(tmp_path, caplog):
    source, _ = write("folders", tmp_path / "own", ["cat", "dog"])
    for streaming in (False, True):
        load_benchmark(source, class_names=("cat", "owl", "dog"), streaming=streaming)
    assert [record.getMessage() for record in caplog.records] == [
        "data set 'own': no image of 1 of its 3 classes: 'owl'."
    ]


@pytest.mark.parametrize("streaming", [False, True])
def test_class_lists_are_judged_by_the_same_checks(tmp_path, streaming):
    for names, message in (
        (["cat", ""], "class name 1 .* is blank"),
        (["cat", "Cat"], "'Cat' appears twice"),
        (["cat"], "single class 'cat'"),
    ):
        folder = tmp_path / "-".join(names)
        folder.mkdir()
        table([0, 0], ClassLabel(names=names)).to_parquet(folder / "a.parquet")
        with pytest.raises(ValueError, match=message):
            load_benchmark(folder / "a.parquet", streaming=streaming)


def test_a_benchmark_takes_a_dict_of_names_too():
    described = Benchmark(name="a", role="id", class_names={7: "cat", 3: "dog"}, dataset=table([3, 7], Value("int64")))
    assert (described.class_names, described.label_names) == (("cat", "dog"), ("7", "3"))
    assert meaning(described) == {0: "dog", 1: "cat"}


@pytest.mark.parametrize("kind", ["int64", "float64"])
def test_numbers_that_are_positions_and_names_alike(kind, tmp_path):
    names = ("1", "2", "3")
    with pytest.raises(ValueError, match="all of them are names of classes too.*label 1 .*lines `label<TAB>name`"):
        Benchmark.from_dataset(table([1, 2, 1], Value(kind)), class_names=names, name="a", role="id")
    with pytest.raises(ValueError, match="all of them are names of classes too"):
        Benchmark.from_dataset(table([[1, 2], [2], []], datasets.List(Value(kind))), class_names=names, name="a", role="id")
    by_label = dict(zip((1, 2, 3), names, strict=True))
    assert meaning(Benchmark.from_dataset(table([1, 2, 1], Value(kind)), class_names=by_label, name="a", role="id")) == {0: "1", 1: "2", 2: "1"}
    # Nothing is in doubt where names and positions agree.
    assert meaning(Benchmark.from_dataset(table([1, 0], Value(kind)), class_names=("0", "1", "5"), name="a", role="id")) == {0: "1", 1: "0"}


def test_what_true_and_false_stand_for_is_said(caplog):
    rows = table([True, False], Value("bool"))
    assert meaning(Benchmark.from_dataset(rows, class_names=("yes", "no"), name="a", role="id")) == {0: "no", 1: "yes"}
    assert "False in column 'label' is 'yes' and True 'no'" in caplog.text
    caplog.clear()
    Benchmark.from_dataset(rows, class_names={"true": "yes", "false": "no"}, name="b", role="id")
    assert not caplog.records


@pytest.mark.parametrize("names", [[str(number) for number in range(12)], ["1", "2", "3"]])
def test_class_folders_may_be_numbered_beyond_ten(names, tmp_path):
    # As texts 10 comes before 2.
    for number, name in enumerate(names):
        (tmp_path / "own" / name).mkdir(parents=True)
        (tmp_path / "own" / name / "a.png").write_bytes(encoded(number))
    benchmark = load_benchmark(tmp_path / "own")
    assert benchmark.class_names == tuple(sorted(names))
    assert meaning(benchmark) == dict(enumerate(names))
    # No image of the class at position 0.
    rows = benchmark.load().filter(lambda row: row["label"] > 0)
    assert len(Benchmark.from_dataset(rows, class_names=benchmark.class_names, name="a", role="id").load()) == len(names) - 1


def test_a_label_that_is_renamed_is_no_class_by_its_old_name():
    rule, _ = matching_rule(Value("string"), ("cat", "dog"), None, ("hot dog", "cat"), ("dog", "n01"), "txt", "a")
    assert rule("n01") == rule("Cat") == 0
    with pytest.raises(LabelFault):
        rule("dog")
