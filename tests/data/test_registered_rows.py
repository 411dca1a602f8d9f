# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Which rows and columns of a copy are meant: subsets of classes, domains, what may not be trained on."""

import pytest
from datasets import ClassLabel, Value
from helpers.stub_hub import class_folders, quietly, table

from hf_robustft.data.benchmarks import Benchmark, load_benchmark
from hf_robustft.data.catalog.hub_copies import check_label_order, label_key
from hf_robustft.data.catalog.schema import facts
from hf_robustft.data.catalog.sets import DOMAINS
from hf_robustft.data.few_shot import few_shot

# Its fixtures: hub, clip_names, own_cache.
pytest_plugins = ("helpers.stub_hub",)
pytestmark = pytest.mark.usefixtures("own_cache")


def test_imagenet_in_the_words_of_wordnet(hub):
    lemmas = [row[2] for row in facts("imagenet")["classes"]]
    assert lemmas[0] == "tench, Tinca tinca"
    # A ClassLabel refuses names that come twice; WordNet has two cranes and two maillots.
    check_label_order(lemmas, load_benchmark("imagenet-1k", "test").registered.label_names, "data")
    with pytest.raises(ValueError, match="data calls class 134"):
        swapped = lemmas.copy()
        swapped[134], swapped[135] = swapped[135], swapped[134]
        check_label_order(swapped, load_benchmark("imagenet-1k", "test").registered.label_names, "data")


def test_rows_are_counted(hub):
    hub.tables["tanganke/dtd"] = table([0, 46], ClassLabel(names=list(load_benchmark("dtd", "test").class_names)))
    with pytest.warns(UserWarning, match=r"'tanganke/dtd' holds 2 images, the registry expects 1880;"):
        load_benchmark("dtd", "test").load()


def test_columns_of_another_layout(hub, clip_names):
    path = hub.wds("imagenetv2", [0], clip_names)
    hub.tables[path] = hub.tables[path].add_column("jpg", ["x"])
    with pytest.raises(ValueError, match="has 2 of the image columns 'webp', 'jpg'"):
        quietly(load_benchmark("imagenet-v2"))
    hub.tables[path] = hub.tables[path].remove_columns(["jpg", "webp"])
    with pytest.raises(ValueError, match="has 0 of the image columns"):
        quietly(load_benchmark("imagenet-v2"))
    hub.tables[path] = table([0], Value("int64"))
    with pytest.raises(ValueError, match="has no column 'cls'; its columns are 'image', 'label'"):
        quietly(load_benchmark("imagenet-v2"))
    hub.wds("imagenetv2", [0, 1000, -1], clip_names)
    with pytest.raises(
        ValueError, match=r"label 1000 in row 1 of column 'cls' .* is outside its 1000 classes.*\(2 such rows of 3\)"
    ):
        quietly(load_benchmark("imagenet-v2"))


def test_cifar_columns(hub):
    names = list(load_benchmark("cifar-100", "test").class_names)
    hub.tables["uoft-cs/cifar100"] = table(
        [3, 99], ClassLabel(names=names), "img", "fine_label", coarse_label=["a", "b"]
    )
    benchmark = load_benchmark("cifar-100", "train")
    assert quietly(benchmark)["label"] == [3, 99] and benchmark.load().column_names == ["image", "label"]
    assert hub.asked[-1][1] == "train"


def test_caltech101_leaves_out_background_and_the_second_faces(hub):
    rows = facts("datasets")["sets"]["caltech101"]["classes"]
    folders = [names[1] for names in rows]
    labels = [folders.index(name) for name in ("BACKGROUND_Google", "Faces", "Faces_easy", "Motorbikes", "yin_yang")]
    hub.wds("vtab-caltech101", labels, [names[2] for names in rows])
    benchmark = load_benchmark("caltech101", "test")
    loaded = quietly(benchmark)
    assert [benchmark.class_names[label] for label in loaded["label"]] == ["face", "motorbike", "yin yang"]
    assert [loaded[i]["image"].getpixel((0, 0))[0] for i in range(3)] == [1, 3, 4]
    unseen = load_benchmark("caltech101-open-pacs")
    assert unseen.role == "open_set" and len(unseen.class_names) == 97
    assert [unseen.class_names[label] for label in quietly(unseen)["label"]] == [
        "BACKGROUND Google",
        "Faces easy",
        "motorbike",
        "yin yang",
    ]


def pacs_table(n=400):
    domains = [DOMAINS["pacs"][i % 4] for i in range(n)]
    names = ["dog", "elephant", "giraffe", "guitar", "horse", "house", "person"]
    return table([i % 7 for i in range(n)], ClassLabel(names=names), domain=domains), domains


def rows_of(dataset):
    """The stand-in's pictures say their row, modulo 256."""
    return [dataset[i]["image"].getpixel((0, 0))[0] for i in range(len(dataset))]


def test_leave_one_domain_out(hub):
    hub.tables["flwrlabs/pacs"], domains = pacs_table(240)
    sets = load_benchmark("pacs-sketch")
    assert [(key, item.role) for key, item in sets.items()] == [
        ("train", "train"),
        ("validation", "validation"),
        ("id", "id"),
        ("sketch", "shift"),
    ]
    found = {key: rows_of(quietly(item)) for key, item in sets.items()}
    assert found["sketch"] == [i for i in range(240) if domains[i] == "sketch"]
    assert sorted(sum(found.values(), [])) == list(range(240))  # each image in exactly one set
    assert 0.7 < len(found["train"]) / 180 < 0.9 and min(len(found["validation"]), len(found["id"])) > 5
    assert quietly(sets["id"])["label"] == [row % 7 for row in found["id"]]
    again = load_benchmark("pacs-sketch")
    assert rows_of(quietly(again["train"])) == found["train"]
    # Another target divides the rows of a domain alike: no test image of one run trains another.
    photo = load_benchmark("pacs-photo")
    shared = set(rows_of(quietly(photo["id"]))) & set(found["train"])
    assert not shared
    assert photo["train"] != sets["train"]


def test_domains_that_are_not_there(hub):
    data, _ = pacs_table(8)
    hub.tables["flwrlabs/pacs"] = data.filter(lambda row: row["domain"] != "photo")
    with pytest.raises(ValueError, match="has the domains 'art_painting', 'cartoon', 'sketch', the registry knows"):
        quietly(load_benchmark("pacs-photo", "photo"))
    gap = data.remove_columns("domain").add_column(
        "domain", [None, *range(7)], feature=ClassLabel(names=[*DOMAINS["pacs"], "e", "f", "g"])
    )
    hub.tables["flwrlabs/pacs"] = gap
    with pytest.raises(ValueError, match="has the domains 'None', "):
        quietly(load_benchmark("pacs-photo", "photo"))


def test_vlcs_needs_a_folder_of_ones_own(hub, tmp_path):
    with pytest.raises(OSError, match="no copy on the Hub is known; give path, a folder with one folder per domain"):
        load_benchmark("vlcs-sun", "sun").load()
    names = ("bird", "car", "chair", "dog", "person")
    for folder in ("Caltech101", "LabelMe", "SUN09", "VOC2007"):
        class_folders(tmp_path / "VLCS" / folder, names)
    sets = load_benchmark("vlcs-sun", path=tmp_path / "VLCS")
    assert sets["sun"].load()["label"] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    parts = [set(sets[key].load().with_format(None)["label"]) for key in ("train",)]
    assert parts[0] <= set(range(5)) and len(sets["train"].load()) + 10 < 40
    assert sets["sun"].path == str(tmp_path / "VLCS") and not hub.asked
    (tmp_path / "VLCS" / "SUN09").rename(tmp_path / "VLCS" / "other")
    with pytest.raises(ValueError, match="has no folder for the domain 'sun'"):
        load_benchmark("vlcs-sun", "sun", path=tmp_path / "VLCS").load()


@pytest.mark.parametrize("role", ["train", "validation"])
def test_objectnet_may_not_be_trained_or_tuned_on(role):
    message = f"may never be trained or tuned on, its licence says, but its role is '{role}'"
    with pytest.raises(ValueError, match=message):
        load_benchmark("objectnet", role=role)
    with pytest.raises(ValueError, match=message):
        load_benchmark("objectnet", role=role, path="my/mirror")
    with pytest.raises(ValueError, match=message):
        Benchmark("own", role, ("cat", "dog"), path="timm/objectnet")
    assert load_benchmark("objectnet", role="open_set").role == "open_set"


def test_few_shot_of_a_registered_set(hub):
    names = list(load_benchmark("eurosat", "train").class_names)
    hub.tables["timm/eurosat-rgb"] = table([i % 10 for i in range(30)], ClassLabel(names=names))
    benchmark = load_benchmark("eurosat", "train")
    quietly(benchmark)
    subset = few_shot(benchmark, 2)
    assert sorted(subset.load()["label"]) == sorted(list(range(10)) * 2) and subset.registered is None
    assert subset.source == "https://huggingface.co/datasets/timm/eurosat-rgb"


def test_label_keys():
    assert label_key("AnnualCrop") == label_key("annual_crop") == label_key("Annual Crop")
    assert label_key("polka-dotted") == label_key("polka_dotted") != label_key("dotted")
