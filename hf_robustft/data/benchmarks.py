# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Benchmarks: where a data set lives, which columns and classes it has, and what part it plays.

>>> shifts = load_benchmark("emoji_shift")               # every set of the suite, by name
>>> sketch = load_benchmark("emoji_shift", "twemoji")    # one of them
>>> own = load_benchmark("photos/", role="shift")        # one folder of images per class
>>> images = own.load()                                  # a checked datasets.Dataset
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from datasets import Dataset, load_dataset, load_dataset_builder

from hf_robustft.data.columns import check_dataset, own_class_names, quoted
from hf_robustft.data.folders import folder_splits, load_folder
from hf_robustft.data.prompts import (
    DEFAULT_TEMPLATES,
    check_class_names,
    check_templates,
    read_names_and_templates,
)

ROLES = ("train", "validation", "id", "shift", "open_set")
ASSETS = Path(__file__).resolve().parent.parent / "assets"
EMOJI_SHIFT_DIR = ASSETS / "emoji_shift"
EMOJI_CLIP_DIR = ASSETS / "emoji_clip"
_BUILDERS = ("parquet", "imagefolder", "json", "csv", "arrow", "webdataset")


def asset_path(name: str) -> Path:
    """The folder of a data set or checkpoint that is shipped with the package ("emoji_shift", "emoji_clip").

    Raises:
        ValueError: the package ships nothing of that name.
    """
    known = sorted(entry.name for entry in ASSETS.iterdir() if entry.is_dir()) if ASSETS.is_dir() else []
    if name not in known:
        raise ValueError(f"the package ships no {name!r}; it ships {quoted(known, 20) or 'nothing: reinstall it'}")
    return ASSETS / name


@dataclass(frozen=True)
class Benchmark:
    """One data set for training or evaluation, as a description; `load` reads it.

    Args:
        name: key of the set in reports and metrics (`<name>/accuracy`), without "/" or blanks.
        role: "train", "validation", "id" (test data like the training data), "shift", or "open_set" (other classes).
        class_names: the classes in label order, as prompts say them; () for image-caption pairs without labels.
        templates: prompt templates with one "{}" each (default: "a photo of a {}.").
        path: a folder, a builder of `datasets` such as "parquet" (with `data_files`), or a Hub id "owner/name".
        data_files: file or pattern for a builder or Hub id.
        split: split to load (default "train").
        config: configuration of a Hub data set.
        revision: commit or tag of a Hub data set.
        image_column: column of images (default "image").
        label_column: column of labels (default "label"): integers, a ClassLabel, or class names as strings. It is
            read only if there are class names.
        caption_column: column of captions, text or lists of text (default: captions are made from class names).
        label_names: what the data set calls the classes, in the order of `class_names`, where that differs
            (folders such as n01440764).
        suite: the suite that the set belongs to.
        licence, source, note: facts for the model card.
        dataset: rows held in memory instead of `path`.

    Raises:
        ValueError: an unknown role, a name that cannot be a key, wrong class names or templates, no data.
    """

    name: str
    role: str
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = DEFAULT_TEMPLATES
    path: str | None = None
    data_files: str | None = None
    split: str = "train"
    config: str | None = None
    revision: str | None = None
    image_column: str = "image"
    label_column: str | None = "label"
    caption_column: str | None = None
    label_names: tuple[str, ...] | None = None
    suite: str | None = None
    licence: str | None = None
    source: str | None = None
    note: str | None = None
    dataset: Dataset | None = field(default=None, repr=False, compare=False)
    _loaded: Dataset | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self):
        if not self.name or re.search(r"[\s/]", self.name):
            raise ValueError(
                f"benchmark name {self.name!r} must not be empty or hold blanks or '/'; give another name"
            )
        if self.role not in ROLES:
            raise ValueError(
                f"role {self.role!r} of benchmark {self.name!r} is unknown; choose one of {quoted(ROLES)}"
            )
        if (self.path is None) == (self.dataset is None):
            raise ValueError(f"benchmark {self.name!r} needs either path or dataset; give exactly one of them")
        object.__setattr__(self, "templates", check_templates(self.templates))
        if self.class_names:
            object.__setattr__(self, "class_names", check_class_names(self.class_names))
        elif self.caption_column is None and self.label_column is not None:
            raise ValueError(
                f"benchmark {self.name!r} has neither class names nor captions; give class_names or caption_column "
                "(label_column=None if images are all there is)"
            )
        if self.label_names is not None:
            object.__setattr__(self, "label_names", tuple(self.label_names))
            if len(self.label_names) != len(self.class_names):
                raise ValueError(
                    f"benchmark {self.name!r} has {len(self.label_names)} label_names and {len(self.class_names)} "
                    "class_names; give one label name per class name"
                )
            check_class_names(self.label_names)

    def load(self) -> Dataset:
        """Read and check the data; the second call returns the same object.

        Returns:
            A `datasets.Dataset`, memory-mapped where it lies in arrow or parquet files. Images decode when read and
            labels are integers that index `class_names`. Nothing but the label and caption columns has been read.

        Raises:
            ValueError: empty data, a missing column, labels outside the classes, names that disagree (see
                `data.columns.check_dataset`).
            OSError: the path does not exist, or the Hub data set cannot be reached.
        """
        if self._loaded is None:
            self._check(self.dataset if self.dataset is not None else _read(self))
        return self._loaded

    def _check(self, dataset: Dataset) -> None:
        checked = check_dataset(
            dataset,
            where=f"benchmark {self.name!r}",
            class_names=self.class_names,
            own_names=self.label_names,
            image_column=self.image_column,
            label_column=self.label_column,
            caption_column=self.caption_column,
        )
        object.__setattr__(self, "_loaded", checked)

    @classmethod
    def from_dataset(
        cls,
        dataset: Dataset,
        *,
        name: str,
        role: str,
        class_names: Iterable[str] | str | Path | None = None,
        templates: Iterable[str] | str | Path = DEFAULT_TEMPLATES,
        label_column: str | None = "label",
        caption_column: str | None = None,
        **options,
    ) -> Benchmark:
        """A benchmark of rows that are already loaded.

        Args:
            dataset: a `datasets.Dataset` (not a DatasetDict, not a stream).
            name, role: as in `Benchmark`.
            class_names: the classes in label order, or the path of a text file of them (default: the ClassLabel's
                names, or the sorted strings of a string column; none with `caption_column`).
            templates: prompt templates, one template, or the path of a text file of them.
            label_column, caption_column, options: further fields of `Benchmark`.

        Raises:
            ValueError: as `Benchmark` and `Benchmark.load`; the data are checked at once.
        """
        settings = read_names_and_templates(class_names, templates, options.get("label_names"))
        if not settings.get("class_names") and caption_column is None and label_column is not None:
            settings["class_names"] = own_class_names(dataset, label_column, f"benchmark {name!r}")
        columns = {"label_column": label_column, "caption_column": caption_column}
        benchmark = cls(name=name, role=role, dataset=dataset, **columns, **{**options, **settings})
        benchmark.load()
        return benchmark


def _read(benchmark: Benchmark) -> Dataset:
    path, files = benchmark.path, benchmark.data_files
    if path in _BUILDERS:
        pattern = _file_pattern(files)
        return load_dataset(path, data_files={benchmark.split: pattern}, split=benchmark.split)
    if Path(path).expanduser().is_dir():
        names = benchmark.label_names or benchmark.class_names or None
        return load_folder(Path(path).expanduser(), benchmark.split, names)
    _require_hub_id(path)
    return _from_hub(
        load_dataset, path, benchmark.config, split=benchmark.split, revision=benchmark.revision, data_files=files
    )


def _file_pattern(files: str | None) -> str:
    """`files` as the pattern that `datasets` wants: a file that exists stands for itself, brackets and all."""
    if files and Path(files).exists():
        return glob.escape(files)
    if not files or not set("*?[") & set(files):
        raise FileNotFoundError(f"the data file {files!r} does not exist; correct the path")
    return files


def _require_hub_id(path: str) -> None:
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", path):
        raise FileNotFoundError(
            f"the path {path!r} does not exist; give a folder, a .parquet file or a Hub id owner/name"
        )


def _from_hub(function: Callable, path: str, config: str | None, **options):
    try:
        return function(path, config, **options)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise OSError(f"no folder {path!r} here, and it cannot be had from the Hub: {reason}") from error


_EMOJI_SETS = {
    "train": ("train", "Noto Emoji", "Apache-2.0"),
    "validation": ("validation", "Noto Emoji", "Apache-2.0"),
    "noto": ("id", "Noto Emoji", "Apache-2.0"),
    "twemoji": ("shift", "Twemoji", "CC-BY-4.0"),
    "openmoji": ("shift", "OpenMoji", "CC-BY-SA-4.0"),
    "fluent-emoji": ("shift", "Fluent Emoji", "MIT"),
    "fluent-emoji-high-contrast": ("shift", "Fluent Emoji High Contrast", "MIT"),
    "open_set": ("open_set", "Noto Emoji", "Apache-2.0"),
}


def _emoji_shift() -> dict[str, Benchmark]:
    """Emoji Shift: one list of concepts, drawn by rival artists; training on one style, shifts are the others."""
    folder = asset_path("emoji_shift")
    facts = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
    return {
        name: Benchmark(
            name=name,
            role=role,
            class_names=tuple(facts["open_set_classes" if role == "open_set" else "classes"]),
            templates=tuple(facts["templates"]),
            path="parquet",
            data_files=str(folder / f"{name}.parquet"),
            suite="emoji_shift",
            licence=licence,
            source=source,
        )
        for name, (role, source, licence) in _EMOJI_SETS.items()
    }


REGISTRY: dict[str, Callable[[], dict[str, Benchmark]]] = {"emoji_shift": _emoji_shift}


def load_benchmark(
    source: str | Path,
    /,
    split: str | None = None,
    *,
    class_names: Iterable[str] | str | Path | None = None,
    templates: Iterable[str] | str | Path | None = None,
    **overrides,
) -> Benchmark | dict[str, Benchmark]:
    """Describe a benchmark: one of ours by name, or your own data.

    Args:
        source: a suite ("emoji_shift"); a folder with one folder of images per class, with images and metadata.jsonl,
            with parquet files, or written by `save_to_disk`; a .parquet file; or a Hub id "owner/name".
        split: for a suite, one of its sets (default: all); otherwise the split (needed where there are several).
        class_names: the classes in label order, or a text file with one a line, or with `label<TAB>name` (default:
            folder names, ClassLabel names, or the sorted strings of the label column).
        templates: prompt templates, one template, or a text file with one a line.
        overrides: fields of `Benchmark`. For own data, `role` is "id" and `name` the name of the folder or file by
            default. With `caption_column` and without `class_names` the label column is not read.

    Returns:
        One `Benchmark`, or all of a suite by name. Own data have been read and checked.

    Raises:
        ValueError: an unknown name or split, or data that do not fit their description (see `Benchmark.load`).
        OSError: a path that does not exist, or a Hub data set that cannot be reached.
    """
    unknown = sorted(set(overrides) - {item.name for item in fields(Benchmark) if item.init})
    if unknown:
        raise ValueError(f"load_benchmark knows no option {unknown[0]!r}; it takes the fields of Benchmark")
    named = read_names_and_templates(class_names, templates, overrides.get("label_names"))
    given = {**overrides, **named}
    source = str(source)
    if source in REGISTRY:
        sets = REGISTRY[source]()
        if split is None:
            return {name: replace(benchmark, **given) for name, benchmark in sets.items()}
        if split not in sets:
            raise ValueError(f"{source} has no set {split!r}; its sets are {quoted(list(sets), 20)}")
        return replace(sets[split], **given)
    return _own_benchmark(source, split, given)


def _own_benchmark(source: str, split: str | None, given: dict) -> Benchmark:
    path = Path(source).expanduser().absolute()
    if path.is_file() and path.suffix.lower() == ".parquet":
        where, splits, stem = {"path": "parquet", "data_files": str(path)}, (split or "train",), path.stem
    elif path.is_file():
        raise ValueError(f"the file {source!r} is no parquet file; give a .parquet file or a folder")
    elif path.is_dir():
        where, splits, stem = {"path": str(path)}, folder_splits(path), path.name
    elif "/" not in source and "\\" not in source and not path.suffix:
        raise ValueError(
            f"unknown benchmark {source!r}: it is neither one of {quoted(sorted(REGISTRY), 20)} nor an existing path; "
            "give a name, a path, or a Hub id owner/name"
        )
    else:
        _require_hub_id(source)
        builder = _from_hub(
            load_dataset_builder,
            source,
            given.get("config"),
            revision=given.get("revision"),
            data_files=given.get("data_files"),
        )
        splits = tuple(builder.info.splits or builder.config.data_files or ())
        where, stem = {"path": source}, source.split("/")[-1]
    if split is None:
        if len(splits) != 1:
            raise ValueError(f"{source!r} has the splits {quoted(splits, 20)}; choose one with split")
        split = splits[0]
    elif split not in splits:
        raise ValueError(f"{source!r} has no split {split!r}; its splits are {quoted(splits, 20)}")
    name = re.sub(r"[\s/]+", "-", stem if len(splits) == 1 else f"{stem}-{split}")
    settings = {"name": name, "role": "id", "split": split, **where, **given}
    label_column = settings.get("label_column", "label")
    if settings.get("class_names") or settings.get("caption_column") or label_column is None:
        benchmark = Benchmark(**settings)
        benchmark.load()
        return benchmark
    # The data name their classes: read them first, without looking at the labels, then complete the description.
    dataset = _read(Benchmark(**{**settings, "label_column": None}))
    settings["class_names"] = own_class_names(dataset, label_column, f"benchmark {name!r}")
    benchmark = Benchmark(**settings)
    benchmark._check(dataset)
    return benchmark
