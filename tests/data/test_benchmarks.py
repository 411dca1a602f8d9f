# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
import dataclasses
import io
import json
import os
import re
import subprocess
import sys

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from helpers import sent_to_a_worker
from PIL import Image

from hf_robustft.data import benchmark as benchmark_module
from hf_robustft.data import own_data
from hf_robustft.data.benchmarks import EMOJI_CLIP_DIR, EMOJI_SHIFT_DIR, Benchmark, asset_path, load_benchmark

CLASSES = ("cat", "dog", "red panda")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Arrow files of small data go to the test's own folder, not to the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def encoded(value=0, image_format="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (12, 10), (value, 40, 200 - value)).save(buffer, image_format)
    return buffer.getvalue()


def rows(labels=(0, 1, 2, 1), label_type=None, **columns):
    data = {"image": [{"bytes": encoded(40 * i), "path": None} for i in range(len(labels))], "label": list(labels)}
    features = {"image": datasets.Image(), "label": label_type or ClassLabel(names=list(CLASSES))}
    for name, (values, feature) in columns.items():
        data[name], features[name] = values, feature
    return Dataset.from_dict(data, features=Features(features))


def class_folders(root, classes=CLASSES, per_class=2):
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            (root / name / f"{i}.png").write_bytes(encoded(20 * c + i))
    return root


def benchmark_of(dataset, **options):
    return Benchmark.from_dataset(dataset, **{"name": "own", "role": "id", **options})


def one_line(error):
    return "\n" not in str(error.value)


# Emoji Shift, as shipped


def test_emoji_shift_has_every_set_with_its_part():
    sets = load_benchmark("emoji_shift")
    assert {name: benchmark.role for name, benchmark in sets.items()} == {
        "train": "train",
        "validation": "validation",
        "noto": "id",
        "twemoji": "shift",
        "openmoji": "shift",
        "fluent-emoji": "shift",
        "fluent-emoji-high-contrast": "shift",
        "open_set": "open_set",
    }
    assert all(name == benchmark.name and benchmark.suite == "emoji_shift" for name, benchmark in sets.items())
    assert all(benchmark.licence and benchmark.source for benchmark in sets.values())
    known, unknown = sets["noto"].class_names, sets["open_set"].class_names
    assert all(sets[name].class_names == known for name in sets if name != "open_set")
    assert not set(known) & set(unknown)
    for benchmark in sets.values():
        dataset = benchmark.load()
        assert tuple(dataset.features["label"].names) == benchmark.class_names
        labels = np.asarray(dataset["label"])
        assert set(labels.tolist()) == set(range(len(benchmark.class_names)))  # every class has images


def test_emoji_shift_by_name():
    shift = load_benchmark("emoji_shift", "twemoji", templates=["{}"])
    assert (shift.name, shift.role, shift.templates) == ("twemoji", "shift", ("{}",))
    assert shift.load()[0]["image"].mode == "RGB"
    with pytest.raises(
        ValueError, match=r"emoji_shift has no set 'noto2'; its sets are 'train', 'validation', 'noto'"
    ):
        load_benchmark("emoji_shift", "noto2")


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(
        ValueError, match="unknown data set 'emoji_shft': it is neither one of 'caltech101', .*'emoji_shift', .* nor"
    ):
        load_benchmark("emoji_shft")


def test_assets():
    assert asset_path("emoji_clip") == EMOJI_CLIP_DIR and (EMOJI_CLIP_DIR / "config.json").is_file()
    assert asset_path("emoji_shift") == EMOJI_SHIFT_DIR
    with pytest.raises(ValueError, match="ships no 'other'; it ships 'emoji_clip', 'emoji_clip_carot', 'emoji_shift'"):
        asset_path("other")


def test_package_data_load_offline_from_a_read_only_folder(tmp_path, repository):
    """Nothing is written beside the data: only the cache folder gains files, and the network is not asked."""
    before = {file.name: file.stat().st_mtime_ns for file in EMOJI_SHIFT_DIR.iterdir()}
    code = "from hf_robustft.data.benchmarks import load_benchmark as b; print(len(b('emoji_shift', 'noto').load()))"
    cache = tmp_path / "other_cache"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(cache), "HF_DATASETS_CACHE": str(cache)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, env=environment, capture_output=True, text=True, check=True
    )
    assert int(result.stdout) >= 1000
    assert any(cache.rglob("*.arrow"))
    assert {file.name: file.stat().st_mtime_ns for file in EMOJI_SHIFT_DIR.iterdir()} == before


# Own data


def test_class_folders(tmp_path):
    benchmark = load_benchmark(class_folders(tmp_path / "pets"), role="shift")
    assert (benchmark.name, benchmark.role, benchmark.class_names) == ("pets", "shift", CLASSES)
    dataset = benchmark.load()
    assert dataset["label"] == [0, 0, 1, 1, 2, 2]
    assert dataset[2]["image"].getpixel((0, 0))[0] == 20
    assert benchmark.load() is dataset


def test_class_folders_take_the_order_of_the_given_names(tmp_path):
    root = class_folders(tmp_path / "pets")
    benchmark = load_benchmark(str(root), class_names=["wolf", "Red_Panda", "dog", "cat"])
    assert benchmark.class_names == ("wolf", "Red Panda", "dog", "cat")
    assert benchmark.load()["label"] == [3, 3, 2, 2, 1, 1]


def test_class_folders_with_names_from_a_file(tmp_path):
    root = class_folders(tmp_path / "images", ("n01", "n02"))
    names = tmp_path / "classes.txt"
    names.write_text("n02\ttench\nn01\tgoldfish\n")
    benchmark = load_benchmark(root, class_names=names)
    assert benchmark.class_names == ("tench", "goldfish") and benchmark.label_names == ("n02", "n01")
    assert benchmark.load()["label"] == [1, 1, 0, 0]
    names.write_text("tench\ngoldfish\n")
    with pytest.raises(ValueError, match=r"folders 'n01', 'n02' .* 2 class names 'tench', 'goldfish'"):
        load_benchmark(root, class_names=names)


def test_a_class_called_train_is_a_class(tmp_path):
    """Readers that guess splits from names keep the images of the folder "train" alone."""
    benchmark = load_benchmark(class_folders(tmp_path / "vehicles", ("bus", "car", "train")))
    assert benchmark.class_names == ("bus", "car", "train") and len(benchmark.load()) == 6
    for names in (("bus", "test", "train"), ("test", "train"), ("bus", "test")):
        root = class_folders(tmp_path / "-".join(names), names)
        with pytest.raises(ValueError, match="'test'.* are called like splits.*give class_names"):
            load_benchmark(root)
        only = load_benchmark(root, class_names=names)
        assert only.class_names == names and len(only.load()) == 2 * len(names)


def test_split_folders(tmp_path):
    class_folders(tmp_path / "pets" / "train", per_class=3)
    class_folders(tmp_path / "pets" / "test", per_class=1)
    with pytest.raises(ValueError, match="has the splits 'test', 'train'; choose one with split"):
        load_benchmark(tmp_path / "pets")
    test = load_benchmark(tmp_path / "pets", "test")
    assert (test.name, test.split, len(test.load())) == ("pets-test", "test", 3)
    assert len(load_benchmark(tmp_path / "pets", split="train").load()) == 9
    with pytest.raises(ValueError, match="has no split 'dev'; its splits are 'test', 'train'"):
        load_benchmark(tmp_path / "pets", "dev")


def test_folders_that_are_no_data_set(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no data set: expected one folder of images per class"):
        load_benchmark(tmp_path / "empty")
    (tmp_path / "empty" / "0.png").write_bytes(encoded())
    with pytest.raises(ValueError, match="1 image outside of any folder; .*open_set"):
        load_benchmark(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="did you mean .*empty/0.png"):
        load_benchmark(tmp_path / "empty" / "0.jpg")
    root = class_folders(tmp_path / "pets")
    (root / "stray.png").write_bytes(encoded())
    with pytest.raises(ValueError, match="such as 'stray.png', lie outside the class folders"):
        load_benchmark(root)


def test_parquet_file_and_folder(tmp_path):
    rows().to_parquet(tmp_path / "pets.parquet")
    benchmark = load_benchmark(tmp_path / "pets.parquet")
    assert (benchmark.name, benchmark.class_names, benchmark.load()["label"]) == ("pets", CLASSES, [0, 1, 2, 1])
    assert benchmark.load()[1]["image"].getpixel((0, 0)) == (40, 40, 160)
    folder = tmp_path / "folder"
    folder.mkdir()
    rows().to_parquet(folder / "train-00000-of-00002.parquet")
    rows((2, 2)).to_parquet(folder / "train-00001-of-00002.parquet")
    rows((0,)).to_parquet(folder / "test-00000-of-00001.parquet")
    assert len(load_benchmark(folder, "train").load()) == 6
    assert len(load_benchmark(folder, "test").load()) == 1


def test_parquet_files_that_belong_to_no_split(tmp_path):
    rows().to_parquet(tmp_path / "train.parquet")
    rows().to_parquet(tmp_path / "sketches.parquet")
    with pytest.raises(ValueError, match="'sketches.parquet' .* belong to none of its splits 'train'"):
        load_benchmark(tmp_path, "train")


def test_folders_with_special_letters(tmp_path):
    folder = tmp_path / "my [new] data?"
    folder.mkdir()
    (folder / "a.png").write_bytes(encoded())
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": "a blue box"}) + "\n")
    benchmark = load_benchmark(folder, caption_column="text")
    assert benchmark.name == "my-[new]-data?" and benchmark.load()["text"] == ["a blue box"]
    assert len(load_benchmark(class_folders(tmp_path / "c [1]")).load()) == 6
    other = tmp_path / "other [2]"
    other.mkdir()
    rows().to_parquet(other / "x [3].parquet")
    assert load_benchmark(other / "x [3].parquet").name == "x-[3]"
    with pytest.raises(ValueError, match="for a pattern and finds no file there; rename"):
        load_benchmark(other)


def test_saved_folders(tmp_path):
    rows().save_to_disk(tmp_path / "saved")
    assert load_benchmark(tmp_path / "saved").load()["label"] == [0, 1, 2, 1]
    DatasetDict({"train": rows(), "test": rows((2,))}).save_to_disk(tmp_path / "splits")
    assert load_benchmark(tmp_path / "splits", "test").load()["label"] == [2]
    with pytest.raises(ValueError, match="has the splits 'train', 'test'"):
        load_benchmark(tmp_path / "splits")


def test_image_caption_pairs(tmp_path):
    lines = []
    for i in range(3):
        name = f"photo_test_{i}.png"  # a name that readers take for a split
        (tmp_path / name).write_bytes(encoded(i))
        lines.append(json.dumps({"file_name": name, "text": [f"caption {i}", "another"]}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    benchmark = load_benchmark(tmp_path, caption_column="text", name="pairs", role="train")
    assert benchmark.class_names == () and len(benchmark.load()) == 3
    assert benchmark.load()[2]["text"] == ["caption 2", "another"]
    with pytest.raises(ValueError, match="no column 'caption'; its columns are 'image', 'text': .*--caption_column"):
        load_benchmark(tmp_path, caption_column="caption", name="pairs", role="train")


def test_bytes_and_paths_become_images(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(7))
    paths = Dataset.from_dict({"image": [str(tmp_path / "a.png")], "label": [0]})
    raw = Dataset.from_dict({"image": [encoded(7)], "label": [0]})
    for dataset in (paths, raw, rows((0,)).cast_column("image", datasets.Image(decode=False))):
        loaded = benchmark_of(dataset, class_names=CLASSES).load()
        assert loaded[0]["image"].size == (12, 10)


def test_string_labels_become_positions_in_the_class_names():
    dataset = rows(("Red_Panda", "cat", "cat", "dog"), Value("string"))
    assert benchmark_of(dataset, class_names=CLASSES).load()["label"] == [2, 0, 0, 1]
    own = benchmark_of(dataset)
    assert own.class_names == ("Red Panda", "cat", "dog") and own.load()["label"] == [0, 1, 1, 2]
    assert own.load().column_names == ["image", "label"]
    reordered = benchmark_of(dataset.select_columns(["label", "image"]), class_names=CLASSES)
    assert reordered.load().column_names == ["label", "image"]
    filtered = dataset.select([3, 1])
    assert benchmark_of(filtered, class_names=CLASSES).load()["label"] == [1, 0]
    assert benchmark_of(filtered, class_names=CLASSES).load()[1]["image"].getpixel((0, 0))[0] == 40


def test_benchmarks_can_be_sent_to_workers(tmp_path):
    benchmark = load_benchmark(class_folders(tmp_path / "pets"))
    copy = sent_to_a_worker(benchmark)
    assert copy == benchmark and copy.load()["label"] == benchmark.load()["label"]


def test_a_format_of_the_callers_does_not_leak_in():
    dataset = rows().with_transform(lambda batch: {"label": [99] * len(batch["label"])})
    assert benchmark_of(dataset, class_names=CLASSES).load()["label"] == [0, 1, 2, 1]


def test_loading_decodes_no_image():
    broken = rows().map(lambda row: {"image": {"bytes": b"no image", "path": None}}, features=rows().features)
    assert len(benchmark_of(broken.cast_column("image", datasets.Image(decode=False))).load()) == 4


# Data that do not fit their description


def test_label_outside_the_classes():
    dataset = rows((0, 1, 7, 2, 9), Value("int64"))
    with pytest.raises(
        ValueError, match=r"label 7 in row 2 .* outside the 3 classes, 0 to 2.*\(2 such rows of 5\)"
    ) as e:
        benchmark_of(dataset, class_names=CLASSES)
    assert one_line(e)
    with pytest.raises(ValueError, match="label 3 in row 1 .* outside the 3 classes, 0 to 2"):
        benchmark_of(rows((2, 3), Value("int64")), class_names=CLASSES)
    with pytest.raises(ValueError, match=r"label -1 in row 1 .*\(1 such row of 2\)"):
        benchmark_of(rows((0, -1), Value("int32")), class_names=CLASSES)
    with pytest.raises(ValueError, match=r"label in row 1 .* is missing"):
        benchmark_of(rows((0, None), Value("int64")), class_names=CLASSES)


def test_string_labels_that_are_no_class_names():
    dataset = rows(("cat", "wolf", "fox", "wolf"), Value("string"))
    with pytest.raises(
        ValueError,
        match=r"label 'wolf' in row 1 .* not one of the 3 class names 'cat', 'dog', 'red panda'"
        r".*\(3 such rows of 4\)",
    ) as e:
        benchmark_of(dataset, class_names=CLASSES)
    assert one_line(e)


def test_class_label_names_that_disagree():
    with pytest.raises(
        ValueError,
        match=r"calls class 0 'cat', the given class names call it 'dog' \(2 of 3 differ; "
        r"data: 'cat', 'dog', 'red panda'; given: 'dog', 'cat', 'red panda'\)",
    ) as e:
        benchmark_of(rows(), class_names=("dog", "cat", "red panda"))
    assert one_line(e)
    with pytest.raises(ValueError, match=r"has 3 classes, .*'red panda', but 2 class names are given, 'cat', 'dog'"):
        benchmark_of(rows(), class_names=("cat", "dog"))
    renamed = benchmark_of(rows(), class_names=("kitten", "puppy", "panda"), label_names=CLASSES)
    assert renamed.class_names == ("kitten", "puppy", "panda") and renamed.load()["label"] == [0, 1, 2, 1]


@pytest.mark.parametrize("column", ["image_column", "label_column", "caption_column"])
def test_missing_columns_are_named_with_the_option(column):
    with pytest.raises(ValueError, match=rf"no column 'nope'; its columns are 'image', 'label': .*--{column}") as e:
        benchmark_of(rows(), **{"class_names": CLASSES, column: "nope"})
    assert one_line(e)


def test_missing_label_column_before_the_class_names_are_known(tmp_path):
    rows().rename_column("label", "fine_label").to_parquet(tmp_path / "pets.parquet")
    with pytest.raises(ValueError, match="no column 'label'; its columns are 'image', 'fine_label'.*--label_column"):
        load_benchmark(tmp_path / "pets.parquet")
    assert load_benchmark(tmp_path / "pets.parquet", label_column="fine_label").class_names == CLASSES


def test_columns_of_another_kind():
    with pytest.raises(ValueError, match=r"column 'label' .* not images; name the image column"):
        benchmark_of(rows(other=([0] * len(rows()), Value("int64"))), image_column="label", label_column="other",
                     class_names=CLASSES)  # fmt: skip
    pictures = [{"bytes": encoded(7), "path": None}] * len(rows())
    with pytest.raises(ValueError, match=r"column 'other' .* not labels"):
        benchmark_of(rows(other=(pictures, datasets.Image())), label_column="other", class_names=CLASSES)
    with pytest.raises(ValueError, match=r"image_column and label_column are both 'label'"):
        benchmark_of(rows(), image_column="label", class_names=CLASSES)
    with pytest.raises(ValueError, match=r"image_column and label_column are both 'image'"):
        benchmark_of(rows(), label_column="image", class_names=CLASSES)
    with pytest.raises(ValueError, match=r"column 'label' .* not captions"):
        benchmark_of(rows(), caption_column="label")
    with pytest.raises(ValueError, match=r"column 'label' .* names no classes; give class_names"):
        benchmark_of(rows(label_type=Value("int64")))


@pytest.mark.parametrize(
    "values, feature, row",
    [
        (["a", " ", "b"], Value("string"), 1),
        (["a", "b", None], Value("string"), 2),
        ([["a", "b"], ["c"], []], List(Value("string")), 2),
        ([["a"], ["b", ""], ["c"]], List(Value("string")), 1),
        ([["a"], None, ["c"]], List(Value("string")), 1),
        ([["a", "b"], ["c", "d"], None], List(Value("string"), length=2), 2),
        ([["a", "b"], ["c", " "], ["e", "f"]], List(Value("string"), length=2), 1),
    ],
)
def test_captions_without_text(values, feature, row):
    dataset = rows((0, 1, 2), text=(values, feature))
    with pytest.raises(
        ValueError, match=rf"the caption in row {row} of column 'text' .* has no text.*\(1 such row of 3"
    ):
        benchmark_of(dataset, caption_column="text")
    # The rows keep their numbers in a selection.
    with pytest.raises(ValueError, match=r"the caption in row 0 .*\(1 such row of 1\)"):
        benchmark_of(dataset.select([row]), caption_column="text")
    good = [i for i in range(3) if i != row]
    assert len(benchmark_of(dataset.select(good), caption_column="text").load()) == 2


@pytest.mark.parametrize("streaming", [False, True])
def test_one_column_is_not_both_labels_and_captions(tmp_path, streaming):
    """Stored labels become numbers, which were no captions in the first batch."""
    rows(("cat", "dog"), Value("string")).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match="column 'label' of .* cannot be both .*caption_column out"):
        load_benchmark(tmp_path / "rows.parquet", streaming=streaming, class_names=CLASSES, caption_column="label")
    alone = load_benchmark(tmp_path / "rows.parquet", streaming=streaming, caption_column="label")
    assert alone.class_names == ()


def test_empty_and_unsuitable_data():
    with pytest.raises(ValueError, match="is empty: it has no rows"):
        benchmark_of(rows().select([]), class_names=CLASSES)
    with pytest.raises(ValueError, match="is a DatasetDict, not a datasets.Dataset"):
        benchmark_of(DatasetDict({"train": rows()}))
    with pytest.raises(ValueError, match="is a IterableDataset, not a datasets.Dataset"):
        benchmark_of(rows().to_iterable_dataset(), class_names=CLASSES)


@pytest.mark.parametrize("path", ["/no/such/folder", "./nothing", "none.parquet", "a/b/c", "pets/"])
def test_paths_that_do_not_exist(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist; give a folder, a .parquet file or a Hub id") as e:
        load_benchmark(path)
    assert one_line(e)


def test_hub_ids_that_cannot_be_reached(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match="folder 'owner/pets' here, and it cannot be loaded from the Hub") as e:
        load_benchmark("owner/pets", revision="main")
    assert one_line(e)


def test_configurations_to_choose_from_are_named_in_one_line():
    def builder(path):
        raise ValueError("Config name is missing.\nPlease pick one among the available configs: ['a', 'b']\nExample of usage:\n\t`load_dataset('x')`")

    with pytest.raises(ValueError, match="'owner/pets' has the configurations 'a', 'b'; choose one in Python, .*config=") as e:
        own_data.from_hub(builder, "owner/pets")
    assert one_line(e)


def test_other_files(tmp_path):
    for name, way in {"pets.csv": "metadata.csv", "pets.ZIP": "unpack", "a.tar": "folder", "1.jpeg": "class folders", "x.bin": ".parquet"}.items():
        (tmp_path / name).write_text("image,label\n")
        with pytest.raises(ValueError, match=f"is not a parquet file; .*{way}"):
            load_benchmark(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="data file 'gone.parquet' does not exist"):
        Benchmark("own", "id", CLASSES, path="parquet", data_files="gone.parquet").load()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"name": "a/b"}, "must not be empty or hold blanks"),
        ({"role": "ood"}, "role 'ood' .* choose one of 'train', 'validation', 'id', 'shift', 'open_set'"),
        ({"class_names": ("cat", "dog", "cat")}, "'cat' appears twice, at positions 0 and 2"),
        ({"templates": ("a photo",)}, "holds 0 times"),
        ({"class_names": ()}, "neither class names nor captions"),
        ({"path": None}, "needs either path or dataset"),
        ({"label_names": ("n01",)}, "1 label_names and 3 class_names"),
    ],
)
def test_descriptions_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        Benchmark(**{"name": "own", "role": "id", "class_names": CLASSES, "path": "folder", **changes})


def test_templates_as_text_or_file(tmp_path):
    (tmp_path / "templates.txt").write_text("a {}\nthe {}\n")
    assert benchmark_of(rows(), templates="a photo of a {}!").templates == ("a photo of a {}!",)
    assert benchmark_of(rows(), templates=str(tmp_path / "templates.txt")).templates == ("a {}", "the {}")
    with pytest.raises(ValueError, match="knows no option 'colour'"):
        load_benchmark("emoji_shift", colour="red")


def test_a_description_does_not_change_and_is_opened_once(tmp_path, monkeypatch):
    rows([0, 1, 2, 1] * 2).to_parquet(tmp_path / "pets.parquet")
    opened = []
    monkeypatch.setattr(
        benchmark_module, "open_rows", lambda *given: opened.append(given) or own_data.open_rows(*given)
    )
    described = Benchmark("pets", "id", CLASSES, path="parquet", data_files=str(tmp_path / "pets.parquet"))
    before = {item.name: getattr(described, item.name) for item in dataclasses.fields(described)}
    assert described.n_images is None and described.open() is described.open() and described.load() is described.load()
    assert len(opened) == 1 and described.n_images == 8
    assert before == {item.name: getattr(described, item.name) for item in dataclasses.fields(described)}
    with pytest.raises(dataclasses.FrozenInstanceError):
        described.role = "shift"
    renamed = dataclasses.replace(described, name="photos")
    assert renamed.load() is not described.load(), "another description is checked against the data again"
    given = dataclasses.replace(described, name="photos", opened=described.open())
    assert given.load() is described.load() and len(opened) == 2


def test_nothing_writes_into_a_description_from_outside(repository):
    write = re.compile(r"object\.__setattr__\((?!self\b)\w")
    files = [file for folder in ("hf_robustft", "examples", "tests") for file in (repository / folder).rglob("*.py")]
    assert write.search("object.__setattr__(benchmark, 'role', 'id')")
    assert [str(file) for file in files if write.search(file.read_text(encoding="utf-8"))] == [__file__]
