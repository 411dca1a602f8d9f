# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The data sets that a command line names, for training and for evaluation. How it names them: `cli.specs`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..data.bad_images import DEFAULT_THRESHOLD, POLICIES, BadImages
from ..data.benchmarks import Benchmark, load_benchmark
from ..data.beside import split_purpose
from ..data.catalog.registered import check_one_path, own_copy
from ..data.catalog.sets import named_templates, registered_sets
from ..data.class_matching import load_matched, shared_classes
from ..data.class_projection import head_classes
from ..data.hold_out import NAMES, hold_out
from ..data.hub import ask_commit, is_hub_id
from ..data.messages import quoted
from ..data.prompts import read_names_and_templates
from .commands import option
from .specs import Spec, own_columns, own_split

MEASURED = ("id", "shift", "open_set")
SETS = (
    "Each is `NAME[/SET][=PATH][:ROLE]`: a name of the registry (`imagenet-r`; `imagenet-1k=/data/imagenet` reads your own "
    "copy), or a folder, a .parquet file or a Hub id of your own (`owner/name/test` for a split). ROLE is id (default), "
    "shift, validation (also fits detector and temperature) or open_set (images of other classes); sets of the registry "
    "have roles of their own, and the name of a suite stands for all its test sets."
)


@dataclass
class ReadingOptions:
    """How data are read, by every command."""

    _argument_group_name = "data"
    templates = None

    image_column: str | None = option("Column of the images in your own data.", None)
    label_column: str | None = option("Column of the labels in your own data.", None)
    group_column: str | None = option(
        "Column of what images of your own sets have in common, such as the patient. Standard errors then draw whole groups.",
        None,
    )
    class_names: str | None = option(
        "Text file of class names in label order, one per line. Or `label<TAB>name`, where the label is what your "
        "own data call the class.",
        None,
    )
    streaming: bool = option("Read the data as they come instead of downloading them first.", False)
    bad_images: str = option(
        "'skip' images that cannot be read, or 'error'. Those that are skipped are counted and named.",
        "skip",
        choices=list(POLICIES),
    )
    bad_images_threshold: float = option(
        "Share of unreadable images of a data set above which the run stops all the same.", DEFAULT_THRESHOLD
    )

    def policy(self) -> BadImages:
        """The policy for images that cannot be read; raises ValueError if there is no such policy or threshold."""
        return BadImages(self.bad_images, self.bad_images_threshold)


@dataclass
class DataOptions(ReadingOptions):
    """How data are read, and by which prompts they are classified."""

    templates: str | None = option(
        "Prompts: a text file with one {} per line, or a name such as imagenet-80. Others are imagenet-croft-7, "
        "croft-dtd and so on.",
        None,
    )


@dataclass(frozen=True)
class Known:
    """The classes of a model, in label order, with its prompts and what data may call the classes too."""

    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    label_names: tuple[str, ...] | None = None

    @classmethod
    def of(cls, benchmark: Benchmark) -> Known | None:
        """The classes of a benchmark; None if it has none."""
        if not benchmark.class_names:
            return None
        return cls(benchmark.class_names, benchmark.templates, benchmark.label_names)


def ask_commits(texts: Sequence[str | None]) -> None:
    """
    Ask the Hub of which commits the data sets of a command are, which holds for all of it (see [`data.hub.ask_commit`]).

    Args:
        texts (`Sequence[str]`): All sets, as the command names them; `None` for one that is not given.

    Raises:
        ValueError, OSError: If a name cannot be understood, or the path of a copy does not exist.
    """
    for spec in (Spec.parse(text) for text in texts if text is not None):
        if not spec.registered:
            if is_hub_id(spec.source) and not Path(spec.source).exists():
                ask_commit(spec.source)
            continue
        for key, described in registered_sets(spec.source).items():
            data = described.get("registered")
            if data is None or spec.part not in (None, key):
                continue
            if spec.copy is not None:
                data, _ = own_copy(data, {"path": spec.copy}, f"benchmark {described['name']!r}")
            for copy in () if data.folder is not None else data.repositories:
                # The first copy that is there is the one that is read.
                if ask_commit(copy.path, copy.revision) is not None:
                    break


def train_benchmark(text: str, options: ReadingOptions, caption_column: str | None = None) -> Benchmark:
    """
    The data set to train on.

    Args:
        text (`str`): `NAME[/SET][=PATH]`; the name of a suite stands for its training set.
        options ([`ReadingOptions`]): How data are read.
        caption_column (`str`, *optional*): Column of captions of your own data.

    Raises:
        ValueError: For a registered set without training data, or one that may not be trained on; options for your own
            data beside a registered name; or as `load_benchmark`.
        OSError: As `load_benchmark`.
    """
    spec = Spec.parse(text)
    if spec.role is not None:
        raise ValueError(f"`--train_dataset {text}`: data to train on have no role; leave ':{spec.role}' out")
    if not spec.registered:
        own = (
            own_columns(spec, _given(options, "image_column", "label_column"))
            | _given(options, "class_names", "templates")
            | _streamed(options)
        )
        if caption_column is not None:
            own["caption_column"] = caption_column
        benchmark: Benchmark = load_benchmark(spec.source, own_split(spec, "train"), name="train", role="train", **own)
        return benchmark
    for name in ("class_names", "caption_column"):
        if (caption_column if name == "caption_column" else options.class_names) is not None:
            raise ValueError(f"`--{name}` describes your own training data, but {text} is registered; leave it out")
    sets = registered_sets(spec.source)
    part = spec.part or next((key for key, described in sets.items() if described["role"] == "train"), None)
    if part is None and len(sets) == 1:
        # Of these some may not be trained on, which the benchmark says by itself.
        load_benchmark(spec.source, role="train", **_registered(spec, options))
    if part is None or part not in sets or sets[part]["role"] != "train":
        chosen = [key for key, described in sets.items() if described["role"] == "train"]
        raise ValueError(
            f"`--train_dataset {text}` is not a training set; "
            + (f"{spec.source} has {quoted(chosen)}" if chosen else f"{spec.source} has only {quoted(list(sets), 20)}")
            + ": choose another data set, or give your own"
        )
    return load_benchmark(spec.source, part, **_registered(spec, options))


def evaluation_benchmarks(
    texts: Sequence[str], options: ReadingOptions, known: Known | None
) -> tuple[list[Benchmark], list[str]]:
    """
    The data sets to measure on.

    Args:
        texts (`Sequence[str]`): `NAME[/SET][=PATH][:ROLE]` each.
        options ([`ReadingOptions`]): How data are read.
        known ([`Known`], *optional*): The model's classes, with which the labels of your own data are matched by name. The
            data of a model without have their own classes, except for shifts, which have those of the set with the role
            id before them.

    Returns:
        `tuple`: The benchmarks, and notes on what differs between them: classes without images, labels without names.

    Raises:
        ValueError: For two sets of one name, classes that the model does not know, a role that the data may not have; or as
            `load_benchmark`.
        OSError: As `load_benchmark`.
    """
    benchmarks: list[Benchmark] = []
    notes: list[str] = []
    specs = _apart([Spec.parse(text) for text in texts])
    own_names = [spec.name for spec in specs if not spec.registered]
    for spec in specs:
        if spec.registered:
            found = _suite(spec, options)
            notes += [note for note in (_other_classes(item, known) for item in found) if note]
        else:
            name = spec.name
            if own_names.count(name) > 1:
                # a/test and b/test are told apart by their folders.
                outer = Path(spec.source).name if spec.part else Path(spec.source).absolute().parent.name
                name = re.sub(r"\s+", "-", f"{outer}-{name}")
            benchmark, more = _own(spec, name, options, known)
            found, notes = [benchmark], notes + more
        benchmarks += found
        if known is None:
            known = next((Known.of(item) for item in found if item.role == "id"), None)
    names = [benchmark.name for benchmark in benchmarks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"Two evaluation sets are called {', '.join(twice)}; rename a folder, reports are by name.")
    return benchmarks, notes


def check_columns(
    texts: Sequence[str | None], options: ReadingOptions, measured: Sequence[str] = ()
) -> None:
    """
    Refuse --image_column, --label_column and --group_column where none of the sets of a command has columns.

    Args:
        texts (`Sequence[str]`): All sets, as the command names them; `None` for one that is not given.
        options ([`ReadingOptions`]): How data are read.
        measured (`Sequence[str]`, *optional*): Those of them whose standard errors are told, for which groups count.

    Raises:
        ValueError: If all sets are class folders or go by a name of the registry, or nothing is measured in groups.
    """
    for names, of in ((("image_column", "label_column"), texts), (("group_column",), measured)):
        given, specs = _given(options, *names), [Spec.parse(text) for text in of if text is not None]
        if not given or any(spec.has_columns for spec in specs):
            continue
        named = f"`--{next(iter(given))} {next(iter(given.values()))}`"
        if not specs:
            raise ValueError(f"{named} is for the sets to measure on; give --eval_datasets, or leave it out.")
        raise ValueError(
            f"{named} names a column, but {quoted([spec.text for spec in specs])} "
            "have none: class folders and names of the registry say themselves what is what; leave it out."
        )


def default_evaluation(train: str) -> list[str]:
    """What to measure on by default: the test sets of the suite that `train` names; none for your own data."""
    spec = Spec.parse(train)
    if not spec.registered:
        return []
    return [spec.source if spec.copy is None else f"{spec.source}={spec.copy}"]


def validation_benchmark(train: str, options: ReadingOptions, benchmarks: Sequence[Benchmark]) -> Benchmark | None:
    """
    In-distribution images that are not tested on, to fit detector and temperature.

    Those of `benchmarks` with the role validation; else the validation set of the suite that `train` names, if it has one,
    read as the `options` say.
    """
    chosen = next((benchmark for benchmark in benchmarks if benchmark.role == "validation"), None)
    spec = Spec.parse(train)
    if chosen is not None or not spec.registered:
        return chosen
    sets = registered_sets(spec.source)
    part = next((key for key, described in sets.items() if described["role"] == "validation"), None)
    return None if part is None else load_benchmark(spec.source, part, **_registered(spec, options))


def notes_on_validation(texts: Sequence[str], options: ReadingOptions) -> list[str]:
    """
    Notes on sets that are called like validation images and have no role, where a run on them fits nothing.

    Args:
        texts (`Sequence[str]`): `NAME[/SET][=PATH][:ROLE]` each.
        options ([`ReadingOptions`]): Of the command; images that it holds out of training are fitted on.

    Returns:
        `list[str]`: One for each such set, unless another one has the role validation.
    """
    specs = [Spec.parse(text) for text in texts]
    if getattr(options, "hold_out", None) is not None or any(spec.role == "validation" for spec in specs):
        return []
    own = [spec for spec in specs if not spec.registered and spec.role is None]
    return [
        f"{spec.text} is measured like test images, and no temperature or detector is fitted; give {spec.text}:validation if it is to be fitted on"
        for spec in own
        if split_purpose(spec.part or Path(spec.source).name.removesuffix(".parquet")) == "validation"
    ]


def held_out(
    train: Benchmark,
    benchmarks: Sequence[Benchmark],
    validation: Benchmark | None,
    share: float,
    group_column: str | None = None,
) -> tuple[Benchmark, list[Benchmark], Benchmark]:
    """
    Hold images out of the training set for what is missing: validation images, and test images like the training data.

    Args:
        train ([`Benchmark`]): The training set.
        benchmarks (`Sequence[Benchmark]`): The sets to measure on.
        validation ([`Benchmark`], *optional*): The validation set, if there is one.
        share (`float`): Of the images of each class, for each of the two.
        group_column (`str`, *optional*): As for `hold_out`.

    Returns:
        `tuple`: The training set without these images, all sets to measure on, and the validation set.

    Raises:
        ValueError: If nothing is missing, or as `hold_out`.
    """
    missing = [] if validation is not None else ["validation"]
    missing += [] if any(benchmark.role == "id" for benchmark in benchmarks) else ["id"]
    if not missing:
        raise ValueError(
            f"`--hold_out {share:g}` would do nothing: there are validation images and test images like the training data; leave it out."
        )
    names = [NAMES[role] for role in missing if any(benchmark.name == NAMES[role] for benchmark in benchmarks)]
    if names:
        raise ValueError(f"`--hold_out {share:g}` makes a set {names[0]!r}, and an evaluation set has that name; rename its folder.")
    train, *held = hold_out(train, share, missing, group_column)
    found = dict(zip(missing, held, strict=True))
    return train, [*([found["id"]] if "id" in found else []), *benchmarks], found["validation"] if validation is None else validation


def model_classes(
    options: ReadingOptions,
    class_names: Sequence[str],
    templates: Sequence[str],
    label_names: Sequence[str] | None = None,
) -> Known | None:
    """
    The classes of a checkpoint, unless files for --class_names or --templates say otherwise.

    Args:
        options ([`ReadingOptions`]): How data are read.
        class_names (`Sequence[str]`), templates (`Sequence[str]`): Those of the checkpoint; empty if it does not say.
        label_names (`Sequence[str]`, *optional*): What its training data call the classes, where that differs.
    """
    found = read_names_and_templates(
        options.class_names, named_templates(options.templates or "") or options.templates
    )
    names = found.get("class_names") or tuple(class_names)
    if not names:
        return None
    prompts = found.get("templates") or tuple(templates) or Benchmark.templates
    kept = None if label_names is None or "class_names" in found else tuple(label_names)
    return Known(names, prompts, found.get("label_names", kept))


def _suite(spec: Spec, options: ReadingOptions) -> list[Benchmark]:
    sets, given = registered_sets(spec.source), _registered(spec, options)
    if spec.part is not None:
        keys = [spec.part]
    else:
        keys = [key for key, described in sets.items() if described["role"] in MEASURED]
    if len(keys) > 1 and spec.role is not None:
        raise ValueError(
            f"{spec.text!r}: {spec.source} has the sets {quoted(keys, 20)}, each with its own role; leave ':{spec.role}' "
            f"out, or name one, such as {spec.source}/{keys[0]}:{spec.role}"
        )
    if len(keys) > 1 and spec.copy is not None:
        check_one_path({key: sets[key] for key in keys}, spec.copy, spec.source)
    if spec.role is not None:
        given["role"] = spec.role
    return [load_benchmark(spec.source, key, **given) for key in keys]


def _apart(specs: Sequence[Spec]) -> list[Spec]:
    """The same sets, with the splits named of data that are given twice, whose roles stand for one each; raises ValueError for a set given twice."""
    places = [spec.source if spec.registered else os.path.realpath(os.path.expanduser(spec.source)) for spec in specs]
    found: dict[tuple, Spec] = {}
    for spec, place in zip(specs, places, strict=True):
        if not spec.registered and places.count(place) > 1:
            spec = replace(spec, part=_split(spec))
        earlier = found.setdefault((place, spec.part, spec.copy), spec)
        if earlier is not spec:
            raise ValueError(f"{earlier.text!r} and {spec.text!r} are the same data; give each evaluation set once.")
    return list(found.values())


def _split(spec: Spec) -> str | None:
    return own_split(spec, *(("validation",) if spec.role == "validation" else ()), "test")


def _own(spec: Spec, name: str, options: ReadingOptions, known: Known | None) -> tuple[Benchmark, list[str]]:
    given = _given(options, "image_column", "label_column", "group_column")
    role, columns = spec.role or "id", own_columns(spec, given)
    split = _split(spec)
    if role == "open_set":
        label_column = columns.pop("label_column", "label")
        given = {"name": name, "role": role, "label_column": None, **columns, **_streamed(options)}
        benchmark: Benchmark = load_benchmark(spec.source, split, **given)
        shared = [] if known is None or options.streaming else shared_classes(benchmark, known.class_names, label_column, known.label_names)
        if shared:
            raise ValueError(
                f"{spec.text!r} is an open set, but it has images of {quoted(shared)}, which the model knows; leave these "
                "classes out, or give them as a set of their own with the role shift"
            )
        # What else these images show is of no consequence, and names would be taken for those of labels.
        return (replace(benchmark, class_names=(), label_names=None) if benchmark.class_names else benchmark), []
    settings = {"name": name, "role": role, **columns, **_streamed(options)}
    notes = []
    if role == "validation" and spec.part is None and split is not None and split_purpose(str(split)) == "id":
        notes = [f"{spec.text}: {spec.source} has no split for validation, and its split {split!r} is taken"]
    if known is None:
        benchmark = load_benchmark(spec.source, split, **settings, **_given(options, "class_names", "templates"))
        return benchmark, notes
    matched = {"class_names": known.class_names, "templates": known.templates, "label_names": known.label_names}
    benchmark, more = load_matched(spec.source, split, **settings, **matched)
    return benchmark, notes + more


def _registered(spec: Spec, options: ReadingOptions) -> dict:
    copy = {} if spec.copy is None else {"path": spec.copy}
    return {**copy, **_given(options, "templates"), **_streamed(options)}


def _given(options: ReadingOptions, *names: str) -> dict:
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _streamed(options: ReadingOptions) -> dict:
    return {"streaming": True} if options.streaming else {}


def _other_classes(benchmark: Benchmark, known: Known | None) -> str | None:
    if known is None or benchmark.role == "open_set" or known.class_names in head_classes(benchmark):
        return None
    return (
        f"{benchmark.name}: its {len(benchmark.class_names)} classes are not the {len(known.class_names)} of the model, so it "
        "is classified by its own prompts"
    )
