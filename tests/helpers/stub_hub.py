# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Stands in for the Hub without a network: repositories as tables in memory, and fixtures of the tests of the registry."""

import warnings
from types import SimpleNamespace

import datasets
import pytest
from datasets import Dataset, Features, Value
from datasets.exceptions import DatasetNotFoundError
from PIL import Image

from hf_robustft.data.catalog import hub_copies
from hf_robustft.data.catalog.schema import facts


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
            raise hub_copies.EntryNotFoundError(f"no {file}")
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
def own_cache(tmp_path, monkeypatch):
    """A cache of `datasets` that no other test has."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def hub(tmp_path, monkeypatch, own_cache):
    """A `StubHub` in place of the real one, for this process."""
    stub = StubHub(tmp_path)
    for name in ("load_dataset", "load_dataset_builder", "repo_exists", "hf_hub_download"):
        monkeypatch.setattr(hub_copies, name, getattr(stub, name))
    return stub


@pytest.fixture
def clip_names():
    """CLIP's names of the classes of ImageNet."""
    return [row[1] for row in facts("imagenet")["classes"]]


def quietly(benchmark):
    """Load; the stand-ins have fewer rows than the real data, which is warned of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*the registry expects")
        return benchmark.load()


def class_folders(root, classes, per_class=2):
    for position, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            picture(10 * position + i).save(root / name / f"{i}.png")
    return root
