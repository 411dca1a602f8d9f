# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Which copy on the Hub is opened, and what is checked before it is believed."""

from types import SimpleNamespace

import pytest
from datasets import ClassLabel
from datasets.exceptions import DatasetNotFoundError
from helpers.stub_hub import quietly, table

from hf_robustft.data import hub as hub_ids
from hf_robustft.data.benchmarks import load_benchmark
from hf_robustft.data.catalog import hub_copies
from hf_robustft.data.catalog.schema import facts

# Its fixtures: hub, clip_names, own_cache.
pytest_plugins = ("helpers.stub_hub",)
pytestmark = pytest.mark.usefixtures("own_cache")
GATED = "Dataset 'x/y' is a gated dataset on the Hub. You must be authenticated to access it."


def test_a_missing_repository_moves_on_with_a_warning(hub, clip_names):
    benchmark = load_benchmark("imagenet-1k", "test")
    assert (benchmark.path, benchmark.split) == ("ILSVRC/imagenet-1k", "validation")
    used = hub.wds("imagenet1k", [5, 999, 0], clip_names, image="jpg")
    with pytest.warns(UserWarning, match=f"no data set 'ILSVRC/imagenet-1k' .* trying '{used}' instead"):
        loaded = quietly(benchmark)
    found = benchmark.place
    assert (found["path"], found["split"], found["data_files"]) == (used, "test", "test/*.tar")
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
        (ConnectionError("Couldn't reach\n the Hub"), "cannot be loaded from the Hub: Couldn't reach the Hub"),
        (RuntimeError("Dataset scripts are no longer supported"), "cannot be loaded from the Hub: Dataset scripts"),
    ],
)
def test_gating_and_network_errors_do_not_move_on(hub, clip_names, error, message):
    hub.errors["ILSVRC/imagenet-1k"] = error
    hub.wds("imagenet1k", [5, 0], clip_names)
    with pytest.raises(OSError, match=message) as caught:
        load_benchmark("imagenet-1k", "test").load()
    assert len(hub.asked) == 1 and "\n" not in str(caught.value)


def test_a_hub_out_of_reach_is_asked_once_before_a_registered_name(hub, monkeypatch):
    """Its own client asks six times, 23 seconds, for each file."""
    asked = []

    def fail(url, timeout):
        asked.append(timeout)
        raise ConnectionError("no network")

    monkeypatch.setattr(hub_ids.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_ids, "_reached", set())
    monkeypatch.setattr(hub_ids, "get_session", lambda: SimpleNamespace(head=fail))
    for streaming in (False, True):
        with pytest.raises(OSError, match="cannot be loaded from the Hub: no network"):
            benchmark = load_benchmark("imagenet-1k", "test", streaming=streaming)
            benchmark.row_stream() if streaming else benchmark.load()
        assert len(asked) == 1 and asked.pop() <= 5 and not hub.asked


def test_a_hub_that_cannot_say_whether_it_is_missing_does_not_move_on(hub, monkeypatch):
    def fail(path, repo_type):
        raise ConnectionError("timeout")

    monkeypatch.setattr(hub_copies, "repo_exists", fail)
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
    hub.class_files[path] = hub_copies.LocalEntryNotFoundError("no\nconnection")
    with pytest.raises(
        OSError, match="cannot be loaded from the Hub: classnames.txt cannot be fetched .*: no connection"
    ):
        load_benchmark("imagenet-v2").load()
