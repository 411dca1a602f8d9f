# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A registered data set read from one's own folder, or from another copy on the Hub."""

import pytest
from datasets import ClassLabel, Value
from datasets.exceptions import DatasetNotFoundError
from helpers.stub_hub import class_folders, quietly, table

from hf_robustft.data.benchmarks import load_benchmark
from hf_robustft.data.catalog.schema import facts

# Its fixtures: hub, clip_names, own_cache.
pytest_plugins = ("helpers.stub_hub",)
pytestmark = pytest.mark.usefixtures("own_cache")
GATED = "Dataset 'x/y' is a gated dataset on the Hub. You must be authenticated to access it."


def test_a_folder_of_wordnet_ids(tmp_path, hub):
    wnids = [row[0] for row in facts("imagenet")["classes"]]
    class_folders(tmp_path / "imagenet" / "val", [wnids[7], wnids[2]], 1)
    class_folders(tmp_path / "imagenet" / "train", [wnids[9]], 3)
    sets = load_benchmark("imagenet-1k", path=str(tmp_path / "imagenet"))
    assert sets["train"].load()["label"] == [9, 9, 9] and sets["test"].load()["label"] == [2, 7]
    indices = facts("imagenet")["imagenet_r"]
    own = load_benchmark("imagenet-r", path=class_folders(tmp_path / "r", [wnids[indices[150]], wnids[indices[3]]], 1))
    assert own.load()["label"] == [3, 150] and own.path == str(tmp_path / "r")
    class_folders(tmp_path / "other", ["spaceship"])
    with pytest.raises(ValueError, match="'imagenet-r': the folders 'spaceship' .* are not among the 200 class names"):
        load_benchmark("imagenet-r", path=tmp_path / "other").load()
    assert not hub.asked


def test_one_path_is_not_silently_several_sets(tmp_path):
    names = load_benchmark("eurosat", "test").class_names
    root = class_folders(tmp_path / "eurosat", names[:2])
    with pytest.raises(ValueError, match="cannot be all of the sets 'train', 'test' of eurosat: name the one"):
        load_benchmark("eurosat", path=root)
    assert len(load_benchmark("eurosat", "test", path=root).load()) == 4
    class_folders(tmp_path / "half" / "train", names[:2])
    with pytest.raises(ValueError, match="has the splits 'train', of which 0 can be its test split"):
        load_benchmark("eurosat", "test", path=tmp_path / "half").load()
    assert len(load_benchmark("eurosat", "train", path=tmp_path / "half").load()) == 4
    with pytest.raises(
        ValueError, match="'my/imagenet' cannot be all of the sets 'train', 'imagenet-1k', .* of imagenet"
    ):
        load_benchmark("imagenet-shifts", path="my/imagenet")
    assert set(load_benchmark("eurosat", path="my/eurosat")) == {"train", "test"}


def test_numbered_folders_are_numbers(tmp_path):
    own = load_benchmark("imagenet-v2", path=class_folders(tmp_path / "v2", ["10", "2", "999", "0"], 1))
    assert sorted(own.load()["label"]) == [0, 2, 10, 999]


def test_a_saved_or_parquet_copy(tmp_path):
    names = list(load_benchmark("dtd", "test").class_names)
    table([4, 0], ClassLabel(names=names)).save_to_disk(tmp_path / "saved")
    assert load_benchmark("dtd", "test", path=tmp_path / "saved").load()["label"] == [4, 0]
    table([4, 0], ClassLabel(names=names[::-1])).save_to_disk(tmp_path / "reversed")
    with pytest.raises(ValueError, match="calls class 0 'zigzagged', the registry calls it 'banded'"):
        load_benchmark("dtd", "test", path=tmp_path / "reversed").load()
    (tmp_path / "files").mkdir()
    table(["scaly", "grid"], Value("string")).to_parquet(tmp_path / "files" / "test.parquet")
    assert load_benchmark("dtd", "test", path=tmp_path / "files").load()["label"] == [
        names.index("scaly"),
        names.index("grid"),
    ]


def test_another_copy_on_the_hub(hub, clip_names):
    hub.errors["ILSVRC/imagenet-1k"] = DatasetNotFoundError(GATED)
    hub.wds("imagenet1k", [1], clip_names)
    known = load_benchmark("imagenet-1k", "test", path="clip-benchmark/wds_imagenet1k", revision="abc")
    assert quietly(known)["label"] == [1] and known.place["revision"] == "abc"
    assert hub.asked == [("clip-benchmark/wds_imagenet1k", "test", {"test": "test/*.tar"}, "abc")]
    hub.tables["me/dtd"] = table([1, 2], ClassLabel(names=list(load_benchmark("dtd", "test").class_names)), "picture")
    own = load_benchmark("dtd", "test", path="me/dtd", image_column="picture")
    assert quietly(own)["label"] == [1, 2] and own.place["path"] == "me/dtd"


def test_options_that_do_not_go_with_a_name(tmp_path):
    with pytest.raises(ValueError, match="has revision of its registered copies; give path"):
        load_benchmark("imagenet-1k", "test", revision="abc")
    with pytest.raises(ValueError, match="label_column does not go with the folder"):
        load_benchmark("dtd", "test", path=tmp_path, label_column="x")
    with pytest.raises(FileNotFoundError, match="path 'no/such/folder' does not exist"):
        load_benchmark("dtd", "test", path="no/such/folder")
    with pytest.raises(ValueError, match="has no set 'val'; its sets are 'train', 'test'"):
        load_benchmark("dtd", "val")
    with pytest.raises(ValueError, match="evaluation_only of the registered benchmark 'objectnet' is fixed"):
        load_benchmark("objectnet", evaluation_only=False)
    with pytest.raises(ValueError, match="2 class names are given, the registered benchmark 'dtd' has 47"):
        load_benchmark("dtd", "test", class_names=["a", "b"])


def test_an_open_set_partner(hub):
    hub.tables["ethz/food101"] = table([0, 100], ClassLabel(names=list(load_benchmark("food101", "test").class_names)))
    benchmark = load_benchmark("food101", "test", role="open_set", label_column=None)
    assert len(quietly(benchmark)) == 2 and hub.asked[0][1] == "validation"
