# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What the registry ships: names, classes, templates, and the classes that are kept unseen."""

import doctest
import hashlib
import json

import numpy as np
import pytest
from datasets import Value
from helpers import sent_to_a_worker
from helpers.stub_hub import class_folders, quietly, table

from hf_robustft.cli.data_sets import DataOptions, evaluation_benchmarks, train_benchmark
from hf_robustft.data.benchmarks import load_benchmark
from hf_robustft.data.catalog.imagenet import imagenet_classes, imagenet_seen_unseen
from hf_robustft.data.catalog.schema import check_facts, check_sets, facts
from hf_robustft.data.catalog.sets import (
    DOMAINS,
    FEW_SHOT_SETS,
    OPEN_SET_PARTNERS,
    REGISTRY,
    named_templates,
    register_benchmark,
)

# Its fixtures: hub, clip_names, own_cache.
pytest_plugins = ("helpers.stub_hub",)
pytestmark = pytest.mark.usefixtures("own_cache")


def all_benchmarks():
    for name in REGISTRY:
        found = load_benchmark(name)
        yield from found.values() if isinstance(found, dict) else [found]


def test_every_entry_is_a_benchmark_with_distinct_names():
    for name in REGISTRY:
        found = load_benchmark(name)
        sets = found if isinstance(found, dict) else {"test": found}
        assert len({benchmark.name for benchmark in sets.values()}) == len(sets)
        for key, benchmark in sets.items():
            assert benchmark.suite == name and repr(benchmark.name) in repr(benchmark)
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


# ---- The schema, and benchmarks of your own by name ----------------------------------------------------------------


@pytest.fixture
def own_names():
    """What a test registers is forgotten after it."""
    before = dict(REGISTRY)
    yield
    REGISTRY.clear()
    REGISTRY.update(before)


def test_the_facts_of_the_package_fit_the_schema():
    for name, described in facts("datasets")["sets"].items():
        check_facts(name, described)
    for file in ("imagenet", "objectnet"):
        for key, described in facts(file)["sets"].items():
            check_sets(f"Set {key!r}", described)


def test_the_example_of_register_benchmark_runs_and_the_command_line_knows_the_name(own_names, tmp_path, monkeypatch):
    class_folders(tmp_path / "birds" / "photos", ("heron", "parus_major"))
    class_folders(tmp_path / "birds" / "drawings", ("heron", "great tit"), per_class=1)
    monkeypatch.chdir(tmp_path)
    example = doctest.DocTestParser().get_doctest(
        register_benchmark.__doc__.replace("```", ""), {}, "register_benchmark", None, None
    )
    assert len(example.examples) == 3
    assert doctest.DocTestRunner().run(example).failed == 0
    monkeypatch.chdir("/")
    train = train_benchmark("birds", DataOptions())
    assert (train.name, train.role, train.templates) == ("birds-train", "train", ("a photo of a {}, a bird.",))
    assert train.load()["label"][:] == [0, 0, 1, 1]
    (drawings,), notes = evaluation_benchmarks(["birds"], DataOptions(), None)
    assert (drawings.name, drawings.role, drawings.licence, notes) == ("birds-drawings", "shift", "CC-BY-4.0", [])
    assert drawings.load()["label"][:] == [1, 0] and drawings.suite == "birds"
    streamed = load_benchmark("birds", "drawings", streaming=True)
    assert [row["label"] for row in streamed.stream()] == [1, 0]


def test_a_registered_benchmark_in_several_styles_has_the_rows_of_all_of_them(own_names, tmp_path):
    for style in ("photo", "sketch"):
        class_folders(tmp_path / style, ("heron", "coot"))
    sets = {"test": {"role": "shift", "copies": [{"path": str(tmp_path)}]}}
    register_benchmark("birds", {"classes": ["heron", "coot"], "domains": ["photo", "sketch"], "sets": sets})
    assert load_benchmark("birds").load()["label"][:] == [1, 1, 0, 0] * 2


@pytest.mark.parametrize("streaming", [False, True])
def test_a_registered_name_may_stand_for_a_data_set_of_the_hub(hub, own_names, streaming):
    hub.tables["me/birds"] = table([1, 0, 1], Value("int64"), "picture", "kind")
    copies = [{"path": "me/missing"}, {"path": "me/birds", "image_columns": ["picture"], "label_column": "kind"}]
    register_benchmark("birds", {"classes": ["heron", "coot"], "sets": {"test": {"role": "id", "copies": copies}}})
    assert load_benchmark("birds").name == "birds"
    if not streaming:
        with pytest.warns(UserWarning, match="me/missing"):
            assert load_benchmark("birds").load()["label"][:] == [1, 0, 1]


GOOD = {"classes": ["heron", "coot"], "sets": {"test": {"role": "id", "copies": [{"path": "me/birds"}]}}}


@pytest.mark.parametrize(
    ("name", "described", "message"),
    [
        ("dtd", GOOD, "'dtd' is one of the package"),
        ("my/birds", GOOD, "'my/birds' has other characters"),
        ("birds", ["heron"], "Benchmark 'birds' is described by a list; give a dict of 'classes', 'sets'"),
        ("birds", {"sets": GOOD["sets"]}, "Benchmark 'birds' has no 'classes'"),
        ("birds", {**GOOD, "class": []}, "Benchmark 'birds' has an unknown fact 'class'; did you mean classes"),
        ("birds", {**GOOD, "border": "2"}, "Benchmark 'birds' has border='2'; give a whole number"),
        ("birds", {**GOOD, "classes": ["a", ["A", "b"]]}, "Benchmark 'birds': class name 'A' appears twice"),
        ("birds", {**GOOD, "templates": ["a photo"]}, "Benchmark 'birds': template 0"),
        ("birds", {**GOOD, "sets": {}}, "Benchmark 'birds' has no sets"),
        (7, GOOD, "7 has other characters"),
        ("birds", {**GOOD, "classes": ["heron", None]}, "Benchmark 'birds' has the class None"),
        ("birds", {**GOOD, "classes": ["heron", ["coot", 3]]}, "Benchmark 'birds' has the class ['coot', 3]"),
        ("birds", {**GOOD, "templates": [3]}, "templates=[3]; give a list of texts"),
        ("birds", {**GOOD, "border": True}, "border=True; give a whole number"),
        ("birds", {**GOOD, "sets": {"my/test": {"role": "id", "copies": []}}}, "Set 'my/test' of benchmark 'birds'"),
        ("birds", {**GOOD, "sets": {"test": {"role": "id", "copies": [{"path": 3}]}}}, "path=3; give a text"),
        ("birds", {**GOOD, "sets": {"test": {"role": "id", "copies": [{"path": "a/b", "rows": "9"}]}}}, "rows='9'"),
        (
            "birds",
            {**GOOD, "sets": {"test": {"role": "id", "copies": [{"path": "me/birds"}, {"path": "/"}]}}},
            "Set 'test' of benchmark 'birds' has copies beside the folder '/'",
        ),
        ("birds", {**GOOD, "sets": {"test": {"role": "id"}}}, "Set 'test' of benchmark 'birds' has no 'copies'"),
        ("birds", {**GOOD, "sets": {"test": {"role": "exam", "copies": []}}}, "has the role 'exam'; choose one of 'train'"),
        (
            "birds",
            {**GOOD, "sets": {"test": {"role": "id", "copies": [{"path": "no/such/folder"}]}}},
            "Set 'test' of benchmark 'birds': the path 'no/such/folder' does not exist",
        ),
        (
            "birds",
            {**GOOD, "sets": {"test": {"role": "id", "copies": [{"path": "/", "split": "test"}]}}},
            "Set 'test' of benchmark 'birds': split does not go with a folder",
        ),
        (
            "birds",
            {**GOOD, "sets": {"test": {"role": "id", "copies": [{"path": "x", "splits": "test"}]}}},
            "A copy of set 'test' of benchmark 'birds' has an unknown fact 'splits'; did you mean split",
        ),
        *(
            ("birds", {**GOOD, **facts, "sets": {"mine": {"role": role, "copies": [{"path": path}]}}}, message)
            for facts, role, path, message in (
                ({"evaluation_only": True}, "train", "me/birds", "benchmark 'birds' may never be trained or tuned on, its licence says, but its role is 'train'"),
                ({"evaluation_only": True}, "validation", "me/birds", "but its role is 'validation'; give it 'id', 'shift'"),
                ({}, "train", "timm/ObjectNet", "may never be trained or tuned on"),
            )
        ),
    ],
)
def test_facts_that_do_not_fit_are_refused_in_one_line(own_names, name, described, message):
    before = dict(REGISTRY)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        register_benchmark(name, described)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert REGISTRY == before
