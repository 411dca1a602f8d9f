# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Which files and folders are data: images by ending, never those of helpers; what is not read is counted."""

import os
import re

import datasets
import pytest
from helpers.streams import picture, write_tars

from hf_robustft.data.benchmarks import load_benchmark
from hf_robustft.data.class_folders import image_files, split_role
from hf_robustft.data.class_matching import load_matched
from hf_robustft.data.prompts import clean_class_name


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def put(root, *names):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(number, number % 4))
    return root


def listed(root):
    return [str(file.relative_to(root)) for file in image_files(root).images]


HELPERS = (".ipynb_checkpoints", "__MACOSX", ".thumbnails", "@eaDir", "thumbs", "Thumbs", ".git", "thumbnails")


@pytest.mark.parametrize("helper", HELPERS)
def test_helpers_are_never_read_at_any_depth(tmp_path, helper):
    put(tmp_path, "a.png", f"{helper}/b.png", f"x/{helper}/c.png", f"x/y/{helper}/z/d.png", "x/e.JPG")
    assert listed(tmp_path) == ["a.png", "x/e.JPG"]
    assert listed(tmp_path / helper) == ["b.png"], "a folder that the user names is read whatever its name"


def test_files_that_are_not_images_are_counted_by_ending(tmp_path):
    put(
        tmp_path,
        "a.png",
        "__b.png",
        "b.heic",
        "x/c.HEIC",
        "d.svg",
        "e",
        "x/Thumbs.db",
        ".DS_Store",
        "._a.png",
        "desktop.ini",
    )
    files = image_files(tmp_path)
    assert [file.name for file in files.images] == ["__b.png", "a.png"]
    assert {ending: len(found) for ending, found in files.others.items()} == {".heic": 2, ".svg": 1, "": 1}
    assert files.left_out() == "2 files ending in .heic, 1 file without an ending, 1 file ending in .svg"
    put(tmp_path, "x/@eaDir/a.png")
    assert "1 helper folder ('@eaDir')" in image_files(tmp_path).left_out()


def test_links_loops_and_pipes(tmp_path):
    put(tmp_path, "data/cat/a.png", "data/dog/b.png", "elsewhere/c.png")
    (tmp_path / "data/cat/loop").symlink_to(tmp_path / "data", target_is_directory=True)
    (tmp_path / "data/cat/more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "data/cat/gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "data/cat/itself.png").symlink_to("itself.png")
    os.mkfifo(tmp_path / "data/cat/pipe.png")
    # The loop would make cats of the dogs.
    assert listed(tmp_path / "data/cat") == ["a.png", "gone.png", "itself.png", "more/c.png"]
    assert image_files(tmp_path / "data/cat").left_out() == "1 pipe or device"


def refused(root, **given):
    with pytest.raises(ValueError) as error:
        load_benchmark(root, **given)
    assert "\n" not in str(error.value)
    return str(error.value)


# name of the layout, its files, what the refusal names, and the class names that settle it (None: they do not).
DOUBTFUL = {
    "splits without classes": (("train/0.png", "test/1.png"), ("'test', 'train'", "class_names"), ("train", "test")),
    "names like splits": (
        ("training_set/0.png", "TestSet/1.png"),
        ("training_set", "class_names"),
        ("training_set", "TestSet"),
    ),
    "splits and more": (
        ("train/cat/0.png", "train/dog/1.png", "test/cat/2.png", "annotations/a.xml"),
        ("'test', 'train'", "give one of them"),
        ("train", "test"),
    ),
    "splits and masks": (
        ("train/cat/0.png", "val/cat/2.png", "masks/a.png"),
        ("'train', 'val'",),
        ("train", "val", "masks"),
    ),
    "splits in classes": (
        ("cat/train/0.png", "cat/test/1.png", "dog/train/2.png", "dog/test/3.png"),
        ("'cat', 'dog'", "'test', 'train'", "such as test/cat", "class_names"),
        ("cat", "dog"),
    ),
    "half are splits": (("cat/0.png", "test/1.png"), ("'test'",), ("cat", "test")),
    "a wrapper": (("photos/cat/0.png", "photos/dog/1.png"), ("photos", "'cat', 'dog'", "give "), ("photos",)),
    "a single class": (("cat/0.png", "cat/1.png"), ("single class", "metadata.csv"), ("cat", "dog")),
    "pictures beside a table": (
        ("images/0.png", "labels.csv"),
        ("'labels.csv'", "metadata.csv", "file_name"),
        ("images",),
    ),
    "pictures, masks, table": (
        ("images/0.png", "masks/1.png", "a.json"),
        ("'a.json'", "'images'"),
        ("images", "masks"),
    ),
    "an empty folder": (
        ("cat/0.png", "dog/1.png", "owl/a.heic"),
        ("'owl'", "1 file ending in .heic"),
        ("cat", "dog", "owl"),
    ),
    "case": (("cat/0.png", "Cat/1.png", "dog/2.png"), ("/Cat'", "/cat'"), None),
    "Unicode forms": (("caf\u00e9/0.png", "cafe\u0301/1.png", "dog/2.png"), (r"'cafe\u0301'", r"'caf\xe9'"), None),
    "images beside folders": (("cat/0.png", "dog/1.png", "2.png"), ("'2.png'",), None),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("layout", DOUBTFUL)
def test_layouts_that_only_look_like_classes_are_refused_with_the_way_out(tmp_path, layout, streaming):
    files, words, settle = DOUBTFUL[layout]
    root = put(tmp_path / "own", *files)
    message = refused(root, streaming=streaming)
    assert all(word in message for word in words), message
    if settle is None:
        assert refused(root, streaming=streaming, class_names=("cat", "dog", "caf\u00e9"))
    else:
        benchmark = load_benchmark(root, streaming=streaming, class_names=settle)
        rows = benchmark.stream() if streaming else benchmark.load()
        assert {benchmark.class_names[row["label"]] for row in rows} <= set(map(clean_class_name, settle))


def test_splits_by_names_like_splits(tmp_path):
    root = put(
        tmp_path / "own",
        "training_set/cat/0.png",
        "training_set/dog/1.png",
        "test_set/cat/2.png",
        "test_set/dog/3.png",
    )
    assert "'test_set', 'training_set'; choose one with split" in refused(root)
    assert load_benchmark(root, "training_set").class_names == ("cat", "dog")
    assert [
        split_role(name) for name in ("val2017", "Train Images", "testset", "test tube", "training shoes", "cat")
    ] == [
        "test",
        "train",
        "test",
        None,
        None,
        None,
    ]


def test_one_class_may_be_called_test_and_names_may_have_dots(tmp_path):
    root = put(tmp_path / "own", "cat/0.png", "test/1.png", "v1.0/2.png", "v1.1/3.png")
    assert load_benchmark(root).class_names == ("cat", "test", "v1.0", "v1.1")


def test_what_is_not_read_is_said_once(tmp_path, caplog):
    root = put(
        tmp_path / "own", "cat/0.png", "dog/1.png", "dog/old/2.png", "dog/@eaDir/3.png", "cat/a.heic", "README.md"
    )
    load_benchmark(root), load_benchmark(root, streaming=True)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and "not read: 1 file ending in .heic, 1 helper folder ('@eaDir')" in said[0]
    assert "1 image lies deeper" in said[1] and "dog/old/2.png" in said[1]


def test_an_evaluation_set_may_hold_one_class_and_empty_folders(tmp_path, caplog):
    root = put(tmp_path / "own", "cat/0.png", "dog/a.heic")
    known = {"class_names": ("dog", "cat", "owl"), "templates": ("{}",), "name": "a", "role": "shift"}
    for streaming in (False, True):
        benchmark, notes = load_matched(str(root), **known, streaming=streaming)
        assert benchmark.class_names == known["class_names"] and "none of 'dog', 'owl'" in notes[0]
    assert "no image in the folders 'dog'" in caplog.text


def test_composed_and_decomposed_names_are_one_class(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    root = put(tmp_path / "own", f"{decomposed}/0.png", "dog/1.png")
    assert load_benchmark(root).class_names == (composed, "dog")
    assert load_benchmark(root, class_names=("dog", composed)).load()["label"] == [1, 0]
    put(tmp_path / "table", "0.png", "1.png", "2.png")
    (tmp_path / "table/metadata.csv").write_text(f"file_name,label\n0.png,{composed}\n1.png,{decomposed}\n2.png,dog\n")
    with pytest.raises(ValueError, match="appears twice"):
        load_benchmark(tmp_path / "table")
    assert load_benchmark(tmp_path / "table", class_names=("dog", decomposed)).load()["label"] == [1, 1, 0]


# Metadata


def table(root, text, name="metadata.csv"):
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def test_images_that_metadata_lists_more_than_once_are_counted(tmp_path, caplog):
    root = table(put(tmp_path / "own", "0.png", "1.png"), "file_name,label\n0.png,cat\n1.png,dog\n0.png,dog\n")
    assert len(load_benchmark(root, class_names=("cat", "dog")).load()) == 3
    assert "lists 1 image more than once, such as '0.png'" in caplog.text
    assert "'label' is not the same in all rows of '0.png' ('cat', 'dog')" in caplog.text
    root = table(put(tmp_path / "more", "0.png", "1.png"), "file_name,label,by\n0.png,cat,ann\n1.png,dog,ann\n0.png,cat,bob\n1.png,dog,ann\n")
    caplog.clear()
    assert len(load_benchmark(root, label_column="label").load()) == 4
    assert "lists 2 images more than once" in caplog.text
    assert "'by' is not the same in all rows of '0.png' ('ann', 'bob')" in caplog.text and "'label' is not" not in caplog.text


@pytest.mark.parametrize("word", ["NA", "None", "null", ""])
def test_a_label_that_a_table_reads_as_missing_says_which_words_are_read_so(tmp_path, word):
    root = table(put(tmp_path / "own", "0.png", "1.png", "2.png"), f"file_name,label\n0.png,{word}\n1.png,dog\n2.png,cat\n")
    with pytest.raises(ValueError, match="row 0.*is missing.*NA, None, null"):
        load_benchmark(root, label_column="label").load()


def test_images_that_metadata_does_not_list_are_counted_and_missing_ones_named(tmp_path, caplog):
    root = put(tmp_path / "own", "x/0.png", "1.png", "2.png", "thumbs/3.png", "a.heic")
    table(root, "file_name,label\nx/0.png,cat\n1.png,dog\n")
    put(root, "@eaDir/4.png"), table(root / "@eaDir", "file_name,label\n4.png,owl\n")
    for streaming in (False, True):
        assert load_benchmark(root, class_names=("cat", "dog"), streaming=streaming).class_names == ("cat", "dog")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and "1 image that 'metadata.csv' does not list is not read: '2.png'" in said[0]
    assert "1 file ending in .heic, 2 helper folders" in said[1]
    table(root, "file_name,label\nx/0.png,cat\n1.png,dog\ngone.png,dog\n")
    assert "lists 'gone.png', but there is no such file (1 such row of 3)" in refused(root)


@pytest.mark.parametrize(
    "name, content, words",
    [
        (
            "metadata.csv",
            "file_name,label\n0.png,K\u00e4se\n".encode("latin-1"),
            "line 2 .*metadata.csv' is not UTF-8.*iconv",
        ),
        (
            "metadata.csv",
            "file_name,label\n0.png,K\u00e4se\n".encode("utf-16"),
            "metadata.csv' is not UTF-8 but UTF-16.*iconv",
        ),
        ("metadata.csv", "label\ncat\n", "metadata.csv' has no column 'file_name'.*its columns: 'label'"),
        ("metadata.csv", "file_name;label\n0.png;cat\n", "metadata.csv' has no column 'file_name'.*'file_name;label'.*commas"),
        ("metadata.csv", "filename,class\n0.png,cat\n", "metadata.csv' has no column 'file_name'.*'filename', 'class'"),
        ("metadata.jsonl", '{"path": "0.png", "label": "cat"}', "metadata.jsonl' has no column 'file_name'.*'path', 'label'"),
        ("metadata.csv", "file_name,label\n/0.png,cat\n", "^'[^']*metadata.csv': Invalid metadata file_name '/0.png'"),
        ("metadata.csv", f"file_name,label\n0.png,{10**20}\n", "metadata.csv'.* too large"),
        ("metadata.csv", "", "metadata.csv'.*No columns"),
        ("metadata.jsonl", "no json\n", "metadata.jsonl'.*JSON parse error"),
        (
            "metadata.jsonl",
            '{"file_name": "0.png", "a": ' + "[" * 50000 + "]" * 50000 + "}",
            "metadata.jsonl' is nested 50001 deep",
        ),
        ("metadata.jsonl", '{"file_name": "../0.png", "label": "cat"}', "'../0.png'"),
    ],
)
def test_metadata_that_cannot_be_read_is_named_in_one_line(tmp_path, name, content, words):
    root = table(put(tmp_path / "own", "0.png"), content, name)
    assert re.search(words, refused(root)), refused(root)


@pytest.mark.parametrize("streaming", [False, True])
def test_damaged_parquet_is_named_in_one_line(tmp_path, streaming):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing more")
    assert "a.parquet' cannot be read: " in refused(
        tmp_path / "a.parquet", streaming=streaming, class_names=("a", "b")
    )


def test_a_folder_without_a_data_set_says_what_it_holds(tmp_path):
    assert "2 images outside of any folder, 1 file ending in .heic" in refused(
        put(tmp_path / "a", "0.png", "1.png", "b.heic")
    )
    assert "2 files ending in .heic" in refused(put(tmp_path / "b", "cat/a.heic", "dog/b.heic"))


def test_folders_that_no_rule_of_systems_hides_are_said(tmp_path, caplog):
    root = put(tmp_path / "own", "cat/0.png", "dog/1.png", "__background__/2.png", "dog/__MACOSX/3.png", "dog/.git/4.png")
    assert load_benchmark(root).class_names == ("cat", "dog")
    assert [record.getMessage() for record in caplog.records] == [f"{root}: not read: 1 helper folder ('__background__')."]


def test_a_column_of_splits_is_said_not_to_be_read(tmp_path, caplog):
    root = put(tmp_path / "own", *(f"{number}.png" for number in range(5)))
    for words in (("train", "test", "train", "Train", "val"), ("a", "b", "a", "b", "train")):
        lines = [f"{number}.png,{'cat' if number % 2 else 'dog'},{word}" for number, word in enumerate(words)]
        (root / "metadata.csv").write_text("\n".join(["file_name,label,split", *lines]))
        for streaming in (False, True):
            given = {"class_names": ("cat", "dog")} if streaming else {}
            load_benchmark(root, name=f"set-{words[0]}", streaming=streaming, **given)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1 and "column 'split' is not read" in said[0] and "'train' 2, 'test' 1, 'Train' 1, 'val' 1" in said[0]


def test_one_split_by_a_table_and_another_by_class_folders(tmp_path):
    root = put(tmp_path / "own", "train-set/0.png", "train-set/1.png", "test/cat/2.png", "test/dog/3.png")
    (root / "train-set" / "metadata.csv").write_text("file_name,label\n0.png,dog\n1.png,cat\n")
    for split, labels in (("train-set", [1, 0]), ("test", [0, 1])):
        own = load_benchmark(root, split)
        assert (own.class_names, own.load()["label"][:]) == (("cat", "dog"), labels)


def test_tars_in_folders_that_are_no_splits_are_said(tmp_path, caplog):
    root = write_tars(tmp_path / "own", [2, 1], "train")
    (root / "train" / "00001.tar").rename(root / "more.tar")
    write_tars(root, [3], "extra")
    own = load_benchmark(root, image_column="png", label_column="cls")
    assert len(own.load()) == 3
    assert [record.getMessage() for record in caplog.records if "'extra/00000.tar'" in record.getMessage()]
