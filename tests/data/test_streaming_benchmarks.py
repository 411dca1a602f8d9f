# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Benchmarks that are streamed are opened, checked and described as those that are stored; what cannot be is refused."""

from __future__ import annotations

import dataclasses

import datasets
import numpy as np
import pytest
from datasets import load_dataset_builder
from helpers import CLASSES, image_dataset
from helpers.streams import benchmark, picture, write_folders, write_parquet, write_tars

from hf_robustft import Benchmark, load_benchmark
from hf_robustft.data import folders
from hf_robustft.data.catalog import hub_copies
from hf_robustft.data.catalog.hub_copies import Repository, declared_rows
from hf_robustft.data.catalog.registered import RegisteredData
from hf_robustft.data.few_shot import few_shot
from hf_robustft.data.randomness import example_rng

LABELS = tuple((name, f"n0{number}") for number, name in enumerate(CLASSES))


def contents(chosen: Benchmark) -> list[tuple[bytes, int]]:
    return [(row["image"]["bytes"], row["label"]) for row in chosen.stream()]


def expected(numbers) -> list[tuple[bytes, int]]:
    return [(picture(number, number % 4), number % 4) for number in numbers]


@pytest.mark.parametrize("source", ["folder", "file"])
def test_local_parquet(tmp_path, source):
    folder = write_parquet(tmp_path / "photos", (3, 4))
    path = folder if source == "folder" else next(folder.glob("*-00001-*"))
    chosen = load_benchmark(path, streaming=True)
    assert chosen.streaming and chosen.class_names == CLASSES and chosen.role == "id"
    assert contents(chosen) == expected(range(7) if source == "folder" else range(3, 7))
    stream = chosen.stream()
    assert isinstance(stream, datasets.IterableDataset) and stream.features["image"] == datasets.Image(decode=False)
    assert chosen.row_stream() is chosen.row_stream()
    assert chosen.row_stream().examples == (7 if source == "folder" else 4)


def test_local_tars_with_their_class_names_streamed_and_stored(tmp_path):
    write_tars(tmp_path / "photos", (3, 4), "train")
    write_tars(tmp_path / "photos", (2,), "test")
    columns = {"image_column": "png", "label_column": "cls"}
    with pytest.raises(ValueError, match=r"has the splits 'test', 'train'; choose one"):
        load_benchmark(tmp_path / "photos", streaming=True, **columns)
    train = load_benchmark(tmp_path / "photos", "train", streaming=True, **columns)
    assert train.class_names == CLASSES and contents(train) == expected(range(7))
    stored = load_benchmark(tmp_path / "photos", "train", **columns).load()
    assert stored["cls"][:] == [label for _, label in contents(train)]
    assert contents(load_benchmark(tmp_path / "photos", "test", streaming=True, **columns)) == expected(range(2))
    with pytest.raises(ValueError, match="has no split 'val'; its splits are 'test', 'train'"):
        load_benchmark(tmp_path / "photos", "val", streaming=True, **columns)


def test_tars_in_one_folder_are_told_apart_by_their_names(tmp_path):
    for name in ("imagenet1k-train-0000.tar", "imagenet1k-train-0001.tar", "imagenet1k-validation-0000.tar"):
        (tmp_path / name).touch()
    found = {split: len(files) for split, files in folders.tar_splits(tmp_path).items()}
    assert found == {"train": 2, "validation": 1}
    (tmp_path / "more.tar").touch()
    with pytest.raises(ValueError, match="'more.tar' .* name no one split, but others do; put each split's tars"):
        folders.tar_splits(tmp_path)
    for file in tmp_path.glob("imagenet*"):
        file.unlink()
    assert list(folders.tar_splits(tmp_path)) == ["train"]


def test_class_folders_and_saved_data_are_listed(tmp_path):
    chosen = load_benchmark(write_folders(tmp_path / "photos", (6,)), streaming=True, class_names=CLASSES)
    stored = load_benchmark(tmp_path / "photos", class_names=CLASSES)
    assert [row["label"] for row in chosen.stream()] == stored.load()["label"][:]
    image_dataset(5).save_to_disk(tmp_path / "saved")
    saved = load_benchmark(tmp_path / "saved", streaming=True)
    assert [row["label"] for row in saved.stream()] == [0, 1, 2, 3, 0] and saved.row_stream().examples == 5


def test_captions_and_text_labels(tmp_path):
    captions = [f"number {n}" for n in range(5)]
    names = [CLASSES[n % 4].upper() for n in range(5)]
    folder = write_parquet(tmp_path / "photos", (2, 3), words=captions, name=names)
    chosen = load_benchmark(folder, streaming=True, caption_column="words")
    rows = list(chosen.stream())
    assert [row["caption"] for row in rows] == captions and "label" not in rows[0]
    labelled = load_benchmark(folder, streaming=True, label_column="name", class_names=CLASSES)
    assert [row["label"] for row in labelled.stream()] == [0, 1, 2, 3, 0]
    with pytest.raises(ValueError, match="a stream is not read to learn its classes; give class_names"):
        load_benchmark(folder, streaming=True, label_column="name")


@pytest.mark.parametrize("length", [-1, 2])
def test_a_list_names_each_class_once_stored_and_streamed(tmp_path, length):
    """Else a class named twice would be drawn twice as often for captions of stored rows, and not of streamed ones."""
    named = [[1, 1], [3, 0], [2, 1]] + ([] if length == 2 else [[2], []])
    features = {"image": datasets.Image(), "label": datasets.List(datasets.ClassLabel(names=list(CLASSES)), length=length)}
    images = [{"bytes": picture(n, 0), "path": None} for n in range(len(named))]
    rows = datasets.Dataset.from_dict({"image": images, "label": named}, features=datasets.Features(features))
    rows.to_parquet(tmp_path / "rows.parquet")
    stored = load_benchmark(tmp_path / "rows.parquet")
    wanted = [sorted(set(labels)) for labels in named]
    assert [stored.stored_rows()[row][0]["label"] for row in range(len(named))] == stored.load()["label"][:] == wanted
    assert [row["label"] for row in load_benchmark(tmp_path / "rows.parquet", streaming=True).stream()] == wanted


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_files_that_number_their_classes_otherwise_are_refused_by_name(tmp_path, streaming, several):
    """`datasets` takes the labels of all files for numbers of the classes of the first, test files those of training files."""

    def write(names, file):
        kind = datasets.ClassLabel(names=names)
        rows = image_dataset(4).cast_column("label", datasets.Value("int64"))
        labels = [[label] for label in rows["label"]] if several else rows["label"][:]
        kind = datasets.List(kind) if several else kind
        rows.remove_columns("label").add_column("label", labels, feature=kind).to_parquet(tmp_path / file)

    write(list(CLASSES), "train-00000.parquet")
    write([*CLASSES[:2], "Owl", "bee", "ant"], "train-00001.parquet")
    write(sorted(CLASSES), "test-00000.parquet")
    assert load_benchmark(tmp_path, "train", streaming=streaming).class_names == CLASSES
    with pytest.raises(ValueError, match="label 0 of column 'label' is 'bee' in 'test-00000.parquet', and 'cat' to"):
        load_benchmark(tmp_path, "test", streaming=streaming)
    alone = load_benchmark(tmp_path / "test-00000.parquet", streaming=streaming)
    assert alone.class_names == tuple(sorted(CLASSES))
    write(["fox", "elk", "ape", "ant"], "test-00000.parquet")
    with pytest.raises(ValueError, match="label 0 of column 'label' is 'fox' in 'test-00000.parquet', and 'cat' to"):
        load_benchmark(tmp_path, "test", streaming=streaming)
    pattern = {"path": "parquet", "data_files": str(tmp_path / "t*.parquet"), "class_names": ("fox", "elk", "ape", "ant")}
    with pytest.raises(ValueError, match="number their classes differently"):
        Benchmark(name="all", role="id", streaming=streaming, **pattern).open()


@pytest.mark.parametrize("streaming", [False, True])
def test_a_readme_may_rename_classes_and_not_move_them(tmp_path, streaming):
    image_dataset(4).to_parquet(tmp_path / "train-00000.parquet")

    def described(names):
        columns = "  - name: image\n    dtype: image\n  - name: label\n    dtype:\n      class_label:\n        names:\n"
        listed = "".join(f"          '{label}': {name}\n" for label, name in enumerate(names))
        (tmp_path / "README.md").write_text(f"---\ndataset_info:\n  features:\n{columns}{listed}---\n")

    described(["house cat", *CLASSES[1:]])
    assert load_benchmark(tmp_path, "train", streaming=streaming).class_names == ("house cat", *CLASSES[1:])
    described(CLASSES[::-1])
    with pytest.raises(ValueError, match="label 0 of column 'label' is 'cat' in 'train-00000.parquet', and 'bee' to"):
        load_benchmark(tmp_path, "train", streaming=streaming)


def test_rows_that_are_wrong_are_named_when_they_come(tmp_path):
    folder = write_parquet(tmp_path / "photos", (2, 3), words=["a", "b", "c", " ", "d"], name=["cat"] * 4 + ["cow"])
    blank = load_benchmark(folder, streaming=True, caption_column="words")
    with pytest.raises(ValueError, match=r"caption of row 1 of shard 1 of data set 'photos'.* has no text"):
        list(blank.stream())
    unknown = load_benchmark(folder, streaming=True, label_column="name", class_names=CLASSES)
    with pytest.raises(ValueError, match=r"label 'cow' of row 2 of shard 1 .* is not one of the 4 class names"):
        list(unknown.stream())
    few = benchmark("tar", tmp_path / "tars", (2, 3), class_names=("cat", "dog"))
    with pytest.raises(ValueError, match=r"label 2 of row 0 of shard 1 .* is outside the 2 classes"):
        list(few.stream())


def test_what_does_not_fit_is_refused_before_it_is_read(tmp_path):
    folder = write_parquet(tmp_path / "photos", (3,))
    with pytest.raises(ValueError, match="calls class 0 'cat', the given class names call it 'dog'"):
        load_benchmark(folder, streaming=True, class_names=("dog", "cat", "owl", "bee"))
    with pytest.raises(ValueError, match="no column 'picture'"):
        load_benchmark(folder, streaming=True, image_column="picture")
    with pytest.raises(ValueError, match="no column 'cls'.*--label_column"):
        load_benchmark(folder, streaming=True, label_column="cls")
    with pytest.raises(ValueError, match="not captions"):
        load_benchmark(folder, streaming=True, caption_column="label")
    with pytest.raises(ValueError, match="has no split 'test'"):
        load_benchmark(folder, "test", streaming=True)
    (tmp_path / "rows.csv").write_text("image,label\na.png,cat\n")
    described = {"name": "a", "role": "id", "class_names": CLASSES, "path": "csv"}
    with pytest.raises(ValueError, match="of the kind 'csv' do not say which columns they hold.*parquet"):
        Benchmark(**described, data_files=str(tmp_path / "rows.csv"), streaming=True).row_stream()


def test_streamed_and_stored_are_not_mistaken(tmp_path):
    folder = write_parquet(tmp_path / "photos", (4,))
    streamed, stored = load_benchmark(folder, streaming=True), load_benchmark(folder)
    with pytest.raises(ValueError, match="is streamed, so its rows cannot be asked for by number.*few shots"):
        few_shot(streamed, 1)
    with pytest.raises(ValueError, match=r"is not streamed; use load\(\)"):
        stored.stream()
    with pytest.raises(ValueError, match="are in memory already"):
        Benchmark("a", "id", CLASSES, dataset=image_dataset(4), streaming=True)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """`hub(kind, sizes)`: every repository is these files, with a README that says `declared` rows."""

    def serve(kind, sizes, declared=None, **columns):
        folder = tmp_path / kind
        write = {"parquet": write_parquet, "webdataset": write_tars}[kind]
        write(folder, sizes, **columns)
        pattern = str(folder / ("*.parquet" if kind == "parquet" else "train/*.tar"))
        header = f"dataset_info:\n  splits:\n  - name: train\n    num_examples: {declared}\n" if declared else "a: b\n"
        (folder / "README.md").write_text(f"---\n{header}---\ntext\n")
        monkeypatch.setattr(
            hub_copies,
            "load_dataset_builder",
            lambda path, config=None, **options: load_dataset_builder(kind, data_files={"train": pattern}),
        )
        monkeypatch.setattr(hub_copies, "hf_hub_download", lambda path, name, **options: str(folder / name))

    return serve


def registered(kind: str, **settings) -> Benchmark:
    columns = {"image_columns": ("png", "jpg"), "label_column": "cls", "class_file": "classnames.txt"}
    known = {"path": "someone/data", "data_files": "train/*.tar"}
    repository = Repository(**(known | columns if kind == "webdataset" else {"path": "someone/data"}))
    of_copy = {key: settings.pop(key) for key in ("rows", "rows_verified", "domain_column") if key in settings}
    names = settings.pop("class_names", CLASSES)
    data = RegisteredData((dataclasses.replace(repository, **of_copy),), LABELS, "train", **settings)
    return Benchmark("known", "id", names, registered=data, streaming=True)


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_a_registered_subset_keeps_its_classes_positions_and_order(hub, kind):
    hub(kind, (5, 4))
    chosen = registered(kind, positions=(1, -1, 0, -1), class_names=("owl", "cat"))
    wanted = [(picture(n, n % 4), {0: 1, 2: 0}[n % 4]) for n in range(9) if n % 4 in (0, 2)]
    assert contents(chosen) == wanted
    rows = chosen.row_stream()
    assert rows.declared == 9 and rows.examples is None, "how many rows are left out is not known"
    assert chosen.place["path"] == "someone/data"


def test_a_share_of_the_rows_is_the_share_that_the_stored_data_have(hub):
    hub("parquet", (5, 4, 40))
    parts = [registered("parquet", share=share) for share in ((0.0, 0.8), (0.8, 1.0))]
    found = [contents(part) for part in parts]
    numbers = np.array([example_rng(0, 0, row, "share").random() for row in range(49)])
    for part, (low, high) in zip(found, ((0.0, 0.8), (0.8, 1.0)), strict=True):
        assert part == expected(np.flatnonzero((numbers >= low) & (numbers < high)))
    assert len(found[0]) + len(found[1]) == 49


def test_domains_are_kept_or_left_out(hub):
    hub("parquet", (4, 4), domain=["art", "photo"] * 4)
    settings = {"domain_column": "domain", "all_domains": ("art", "photo")}
    assert contents(registered("parquet", domains=("photo",), **settings)) == expected(range(1, 8, 2))
    unknown = registered("parquet", domains=("art",), domain_column="domain", all_domains=("art", "sketch"))
    with pytest.raises(ValueError, match="row 1 of shard 0 .* is of the domain 'photo', which the registry does not"):
        list(unknown.stream())


def test_the_number_of_rows_is_the_readmes_the_files_or_the_registrys(hub):
    hub("webdataset", (5, 4), declared=12)
    with pytest.warns(UserWarning, match="holds 12 images, the registry expects 9; a truncated shard"):
        rows = registered("webdataset", rows=9, rows_verified=True).row_stream()
    assert (rows.declared, rows.declared_by, rows.certain) == (12, "the data set itself", True)
    assert declared_rows(Repository("someone/data", "test")) is None
    hub("webdataset", (5, 4))
    rows = registered("webdataset", rows=9).row_stream()
    assert (rows.declared, rows.declared_by) == (9, "the headers of its files")


def test_class_names_in_another_order_are_refused_before_the_tars_are_read(hub, tmp_path):
    hub("webdataset", (5,))
    (tmp_path / "webdataset" / "classnames.txt").write_text("dog\ncat\nowl\nbee\n")
    with pytest.raises(ValueError, match="calls class 0 'dog', the registry calls it 'cat'"):
        registered("webdataset").row_stream()
