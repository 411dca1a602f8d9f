# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
import hashlib
import json
import warnings
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from datasets.exceptions import DatasetNotFoundError
from helpers import sent_to_a_worker
from PIL import Image

from hf_robustft.data import repositories
from hf_robustft.data.benchmarks import Benchmark, load_benchmark
from hf_robustft.data.few_shot import few_shot
from hf_robustft.data.imagenet_sets import imagenet_classes, imagenet_seen_unseen
from hf_robustft.data.registered_data import facts
from hf_robustft.data.registry import DOMAINS, FEW_SHOT_SETS, OPEN_SET_PARTNERS, REGISTRY, named_templates
from hf_robustft.data.repositories import check_label_order, label_key

GATED = "Dataset 'x/y' is a gated dataset on the Hub. You must be authenticated to access it."


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def picture(value=0):
    return Image.new("RGB", (8, 6), (value % 256, 40, 90))


def table(labels, label_type, image="image", label="label", **columns):
    data = {image: [picture(i) for i in range(len(labels))], label: list(labels)}
    features = {image: datasets.Image(), label: label_type}
    for name, values in columns.items():
        data[name], features[name] = values, Value("string")
    return Dataset.from_dict(data, features=Features(features))


class StubHub:
    """Stands in for the Hub: repositories by id, errors by id, and class files by id; records what is asked for."""

    def __init__(self, folder):
        self.folder, self.tables, self.errors, self.class_files, self.asked = folder, {}, {}, {}, []
        self.described = False

    def load_dataset(self, path, config=None, *, split, revision=None, data_files=None, streaming=False):
        self.asked.append((path, split, data_files, revision))
        if path in self.errors:
            raise self.errors[path]
        if path not in self.tables:
            raise DatasetNotFoundError(f"Dataset '{path}' doesn't exist on the Hub or cannot be accessed.")
        found = self.tables[path]
        return found.to_iterable_dataset() if streaming else found

    def load_dataset_builder(self, path, config=None, **options):
        if path in self.tables and self.described:
            return SimpleNamespace(info=SimpleNamespace(features=self.tables[path].features))
        return SimpleNamespace(info=SimpleNamespace(features=None))

    def repo_exists(self, path, repo_type):
        assert repo_type == "dataset"
        return path in self.tables or path in self.errors

    def hf_hub_download(self, path, file, *, repo_type, revision=None):
        if path in self.class_files and isinstance(self.class_files[path], Exception):
            raise self.class_files[path]
        if path not in self.class_files:
            raise repositories.EntryNotFoundError(f"no {file}")
        target = self.folder / f"{path.replace('/', '-')}-{file}"
        target.write_text("\n".join(self.class_files[path]) + "\n", encoding="utf-8")
        return str(target)

    def wds(self, name, labels, classes, image="webp", **columns):
        path = f"clip-benchmark/wds_{name}"
        self.tables[path] = table(labels, Value("int64"), image, "cls", **columns)
        if classes is not None:
            self.class_files[path] = classes
        return path


@pytest.fixture
def hub(tmp_path, monkeypatch):
    stub = StubHub(tmp_path)
    for name in ("load_dataset", "load_dataset_builder", "repo_exists", "hf_hub_download"):
        monkeypatch.setattr(repositories, name, getattr(stub, name))
    return stub


@pytest.fixture
def clip_names():
    return [row[1] for row in facts("imagenet")["classes"]]


def quietly(benchmark):
    """Load; the stand-ins have fewer rows than the real data, which is warned of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*the registry expects")
        return benchmark.load()


def all_benchmarks():
    for name in REGISTRY:
        found = load_benchmark(name)
        yield from found.values() if isinstance(found, dict) else [found]


# What is shipped


def test_every_entry_is_a_benchmark_with_distinct_names():
    for name in REGISTRY:
        found = load_benchmark(name)
        sets = found if isinstance(found, dict) else {"test": found}
        assert len({benchmark.name for benchmark in sets.values()}) == len(sets)
        for key, benchmark in sets.items():
            assert benchmark.suite == name
            assert load_benchmark(name, key) == benchmark == sent_to_a_worker(benchmark)
    assert {"imagenet-1k", "objectnet", "cifar-10", "cifar-100", *OPEN_SET_PARTNERS} <= set(REGISTRY)
    assert len(FEW_SHOT_SETS) == 10 and set(FEW_SHOT_SETS) <= set(REGISTRY)
    assert {f"{name}-{target}" for name in DOMAINS for target in DOMAINS[name]} <= set(REGISTRY)


def test_the_data_name_their_sources_and_licences():
    for name in ("imagenet", "objectnet", "datasets"):
        for source in facts(name)["sources"].values():
            assert source["repository"] and source["path"] and source["licence"]


@pytest.mark.parametrize(
    "name, classes",
    [
        ("imagenet-1k", 1000),
        ("cifar-10", 10),
        ("cifar-100", 100),
        ("dtd", 47),
        ("food101", 101),
        ("caltech101", 100),
        ("oxford-pets", 37),
        ("eurosat", 10),
        ("fgvc-aircraft", 100),
        ("flowers102", 102),
        ("ucf101", 101),
        ("stanford-cars", 196),
        ("sun397", 397),
    ],
)
def test_numbers_of_classes(name, classes):
    sets = load_benchmark(name)
    assert {key: (item.role, len(item.class_names)) for key, item in sets.items()} == {
        "train": ("train", classes),
        "test": ("id", classes),
    }
    assert sets["train"].class_names == sets["test"].class_names


def test_webdataset_copies_name_their_files():
    """`datasets` takes a tar beside nshards.txt for text unless it is told which files the data are."""
    found = [copy for item in all_benchmarks() if item.registered for copy in item.registered.repositories]
    wds = [copy for copy in found if "wds" in copy.path]
    assert len(wds) > 20 and all(copy.data_files and copy.data_files.endswith(".tar") for copy in wds)
    assert all(copy.class_file for copy in wds if copy.path.startswith("clip-benchmark/"))


def test_imagenet_classes(clip_names):
    names, wnids = imagenet_classes(), [row[0] for row in facts("imagenet")["classes"]]
    assert wnids == sorted(wnids) and len(set(wnids)) == 1000
    differing = [index for index in range(1000) if names[index] != clip_names[index]]
    assert differing == [744, 836] and len(set(clip_names)) == 998
    assert (names[657], names[744], names[836], names[837]) == (
        "missile",
        "projectile missile",
        "sunglass",
        "sunglasses",
    )
    subsets = {name: facts("imagenet")[name] for name in ("imagenet_a", "imagenet_r")}
    assert all(len(subset) == 200 and subset == sorted(set(subset)) for subset in subsets.values())
    assert len(set(subsets["imagenet_a"]) & set(subsets["imagenet_r"])) == 86
    assert wnids[subsets["imagenet_a"][0]] == "n01498041" and wnids[subsets["imagenet_r"][0]] == "n01443537"


def test_objectnet_mapping():
    rows = facts("objectnet")["classes"]
    columns = [column for row in rows for column in row[3]]
    assert len(rows) == 113 and len(columns) == len(set(columns)) == 125
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    chair = next(row for row in rows if row[0] == "chair")
    assert [imagenet_classes()[column] for column in chair[3]] == ["barber chair", "folding chair", "rocking chair"]
    assert load_benchmark("objectnet").border == 2


def test_templates():
    imagenet = load_benchmark("imagenet-1k", "test")
    assert len(imagenet.templates) == len(set(imagenet.templates)) == 80
    seven = named_templates("imagenet-croft-7")
    assert len(seven) == 7 and set(seven) < set(imagenet.templates)
    assert load_benchmark("imagenet-1k", "test", templates="imagenet-croft-7").templates == seven
    assert named_templates("croft-none") is None
    assert named_templates("dtd") is None  # a data set is not a set of templates
    assert load_benchmark("dtd", "test", templates="croft-dtd").templates == ("{} texture.",)
    assert "a photo of a {} texture." in load_benchmark("dtd", "test").templates
    for name in FEW_SHOT_SETS:
        assert len(named_templates(f"croft-{name}")) == 1


# Seen and unseen classes


@pytest.mark.parametrize(
    "seed, n_seen, digest", [(1, 402, "c17d8da47311bef1"), (2, 401, "43320b6ed961fd30"), (3, 401, "899cc4d18426d6aa")]
)
def test_seen_and_unseen_classes_by_seed(seed, n_seen, digest):
    """Digests of an independent recomputation of the reference's rule, with NumPy's global generator."""
    seen, unseen = imagenet_seen_unseen(seed)
    assert len(seen) == n_seen and sorted(seen + unseen) == list(range(1000))
    assert hashlib.sha256(json.dumps(list(seen)).encode()).hexdigest()[:16] == digest
    for twins in ((657, 744), (836, 837)):
        assert len({index in seen for index in twins}) == 1
    state = np.random.get_state()[1].copy()
    assert imagenet_seen_unseen(seed) == (seen, unseen)
    assert np.array_equal(state, np.random.get_state()[1])


def test_seen_and_unseen_sets(hub, clip_names):
    seen, unseen = imagenet_seen_unseen(5)
    sets = load_benchmark("imagenet-seen-unseen-seed5")
    names = imagenet_classes()
    assert [item.role for item in sets.values()] == ["train", "id", "shift", "shift", "shift", "shift", "open_set"]
    assert all(item.class_names == tuple(names[i] for i in seen) for item in sets.values() if item.role != "open_set")
    assert sets["imagenet-unseen"].class_names == tuple(names[i] for i in unseen)
    other = load_benchmark("imagenet-seen-unseen")
    assert all(other[key].class_names != item.class_names for key, item in sets.items())
    rows = [seen[3], unseen[0], seen[0], unseen[7], seen[3]]
    hub.tables["ILSVRC/imagenet-1k"] = table(rows, Value("int64"))
    with pytest.warns(UserWarning, match="does not say what it calls its classes"):
        assert sets["imagenet-seen"].load()["label"] == [3, 0, 3]
    with pytest.warns(UserWarning, match="does not say"):
        assert sets["imagenet-unseen"].load()["label"] == [0, 7]
    # Labels of ImageNet-R are of its 200 classes, the logits of the seen ones.
    indices = facts("imagenet")["imagenet_r"]
    hub.wds("imagenet-r", list(range(200)), [clip_names[index] for index in indices])
    loaded = quietly(sets["imagenet-r-seen"])
    assert [seen[label] for label in loaded["label"]] == [index for index in indices if index in seen]


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, True])
def test_seeds_that_cannot_be(seed):
    with pytest.raises(ValueError, match="seed is"):
        imagenet_seen_unseen(seed)
    with pytest.raises(ValueError, match="share is 1.5"):
        imagenet_seen_unseen(0, share=1.5)


# Opening


def test_a_missing_repository_moves_on_with_a_warning(hub, clip_names):
    benchmark = load_benchmark("imagenet-1k", "test")
    assert (benchmark.path, benchmark.split) == ("ILSVRC/imagenet-1k", "validation")
    used = hub.wds("imagenet1k", [5, 999, 0], clip_names, image="jpg")
    with pytest.warns(UserWarning, match=f"no data set 'ILSVRC/imagenet-1k' .* trying '{used}' instead"):
        loaded = quietly(benchmark)
    assert (benchmark.path, benchmark.split, benchmark.data_files) == (used, "test", "test/*.tar")
    assert hub.asked == [
        ("ILSVRC/imagenet-1k", "validation", None, None),
        (used, "test", {"test": "test/*.tar"}, None),
    ]
    assert loaded.column_names == ["image", "label"] and loaded["label"] == [5, 999, 0]
    assert loaded[1]["image"].size == (8, 6) and benchmark.load() is loaded


def test_none_of_the_copies_exists(hub):
    with (
        pytest.warns(UserWarning, match="trying"),
        pytest.raises(OSError, match="none of its copies 'ILSVRC/.*exists"),
    ):
        load_benchmark("imagenet-1k", "test").load()
    assert len(hub.asked) == 3


@pytest.mark.parametrize(
    "error, message",
    [
        (
            DatasetNotFoundError(GATED),
            "is there but cannot be opened: .* gated, accept its terms at https.*hf auth login",
        ),
        (DatasetNotFoundError("Revision 'x' doesn't exist for dataset"), "is there but cannot be opened: Revision"),
        (ConnectionError("Couldn't reach\n the Hub"), "cannot be had from the Hub: Couldn't reach the Hub"),
        (RuntimeError("Dataset scripts are no longer supported"), "cannot be had from the Hub: Dataset scripts"),
    ],
)
def test_gating_and_network_errors_do_not_move_on(hub, clip_names, error, message):
    hub.errors["ILSVRC/imagenet-1k"] = error
    hub.wds("imagenet1k", [5, 0], clip_names)
    with pytest.raises(OSError, match=message) as caught:
        load_benchmark("imagenet-1k", "test").load()
    assert len(hub.asked) == 1 and "\n" not in str(caught.value)


def test_a_hub_that_cannot_say_whether_it_is_missing_does_not_move_on(hub, monkeypatch):
    def fail(path, repo_type):
        raise ConnectionError("timeout")

    monkeypatch.setattr(repositories, "repo_exists", fail)
    with pytest.raises(OSError, match="is there but cannot be opened|could not be asked"):
        load_benchmark("imagenet-1k", "test").load()
    assert len(hub.asked) == 1


def test_class_names_are_checked_against_the_class_label(hub):
    classes = [names[0] for names in facts("datasets")["sets"]["eurosat"]["classes"]]
    folders = [names[1] for names in facts("datasets")["sets"]["eurosat"]["classes"]]
    for names in (classes, folders):
        hub.tables["timm/eurosat-rgb"] = table([9, 0, 3], ClassLabel(names=names))
        benchmark = load_benchmark("eurosat", "test")
        assert quietly(benchmark)["label"] == [9, 0, 3] and benchmark.class_names[9] == "Sea or Lake"
    swapped = [*folders[:4], folders[5], folders[4], *folders[6:]]
    hub.tables["timm/eurosat-rgb"] = table([9, 0, 3], ClassLabel(names=swapped))
    with pytest.raises(
        ValueError,
        match=r"'timm/eurosat-rgb' calls class 4 'Pasture', the registry calls it 'Industrial Buildings' \(2 of 10 "
        r"differ; data: 'AnnualCrop', .*registry: 'Annual Crop Land'",
    ) as error:
        load_benchmark("eurosat", "test").load()
    assert "\n" not in str(error.value)
    hub.tables["timm/eurosat-rgb"] = table([1, 0], ClassLabel(names=folders[:9]))
    with pytest.raises(ValueError, match="has 9 classes, 'AnnualCrop', .*but the registry knows 10, 'Annual Crop"):
        load_benchmark("eurosat", "test").load()


def test_class_names_are_checked_against_the_class_file(hub, clip_names):
    hub.wds("imagenetv2", [0, 10, 2], clip_names)
    assert quietly(load_benchmark("imagenet-v2"))["label"] == [0, 10, 2]
    hub.wds("imagenetv2", [0, 10, 2], [*clip_names[1:], clip_names[0]])
    with pytest.raises(
        ValueError,
        match=r"classnames.txt\) calls class 0 'goldfish', the registry calls it 'tench' \(\d+ of 1000 differ",
    ):
        load_benchmark("imagenet-v2").load()
    del hub.class_files["clip-benchmark/wds_imagenetv2"]
    with pytest.warns(UserWarning, match="has no classnames.txt, so the order of its classes could not be checked"):
        assert quietly(load_benchmark("imagenet-v2"))["label"] == [0, 10, 2]


def test_class_names_are_checked_before_the_download(hub, clip_names):
    hub.described = True
    hub.tables["tanganke/dtd"] = table([0], ClassLabel(names=[f"class {i}" for i in range(47)]))
    with pytest.raises(ValueError, match="calls class 0 'class 0', the registry calls it 'banded'"):
        load_benchmark("dtd", "test").load()
    hub.wds("imagenetv2", [0], clip_names[::-1])
    with pytest.raises(ValueError, match="calls class 0 'toilet paper'"):
        load_benchmark("imagenet-v2").load()
    assert not hub.asked


def test_a_class_file_that_cannot_be_fetched_is_not_a_missing_one(hub, clip_names):
    path = hub.wds("imagenetv2", [0], clip_names)
    hub.class_files[path] = repositories.LocalEntryNotFoundError("no\nconnection")
    with pytest.raises(
        OSError, match="cannot be had from the Hub: classnames.txt cannot be fetched .*: no connection"
    ):
        load_benchmark("imagenet-v2").load()


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
    with pytest.raises(ValueError, match=r"label 1000 in column 'cls', outside its 1000 classes \(2 such rows of 3\)"):
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


# Domains


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


def class_folders(root, classes, per_class=2):
    for position, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            picture(10 * position + i).save(root / name / f"{i}.png")
    return root


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


# One's own copy


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
    with pytest.raises(ValueError, match="'imagenet-r': the folders 'spaceship' .* are none of the 200 class names"):
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
    assert quietly(known)["label"] == [1] and known.revision == "abc"
    assert hub.asked == [("clip-benchmark/wds_imagenet1k", "test", {"test": "test/*.tar"}, "abc")]
    hub.tables["me/dtd"] = table([1, 2], ClassLabel(names=list(load_benchmark("dtd", "test").class_names)), "picture")
    own = load_benchmark("dtd", "test", path="me/dtd", image_column="picture")
    assert quietly(own)["label"] == [1, 2] and own.path == "me/dtd"


def test_options_that_do_not_go_with_a_name(tmp_path):
    with pytest.raises(ValueError, match="has revision of its registered copies; give path"):
        load_benchmark("imagenet-1k", "test", revision="abc")
    with pytest.raises(ValueError, match="label_column does not go with the folder"):
        load_benchmark("dtd", "test", path=tmp_path, label_column="x")
    with pytest.raises(FileNotFoundError, match="the path 'no/such/folder' does not exist"):
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


# ObjectNet


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
