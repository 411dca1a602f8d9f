# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Which benchmarks can be evaluated together, decided before anything is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from ..data.benchmarks import Benchmark
from ..data.class_projection import head_classes
from ..data.messages import quoted
from ..data.prompts import class_key
from ..modeling.heads import ReorderedHead


def checked_benchmarks(benchmarks: Iterable[Benchmark] | Mapping[str, Benchmark]) -> dict[str, Benchmark]:
    """
    Check that benchmarks can be evaluated together.

    Args:
        benchmarks (iterable or mapping of [`Benchmark`]): The benchmarks.

    Returns:
        `dict[str, Benchmark]`: The benchmarks by name.

    Raises:
        ValueError: If there are none, two have the same name, one without class names or labels is not an open set, there is
            an open set but no in-distribution set, or an open set shares classes with it.
    """
    if isinstance(benchmarks, Benchmark):
        benchmarks = [benchmarks]
    given = list(benchmarks.values() if isinstance(benchmarks, Mapping) else benchmarks)
    other = next((item for item in given if not isinstance(item, Benchmark)), None)
    if isinstance(benchmarks, str) or other is not None:
        shown = repr(benchmarks if isinstance(benchmarks, str) else other)[:80]
        raise ValueError(f"{shown} is not a Benchmark; `load_benchmark` makes one of a path or name.")
    if not given:
        raise ValueError(
            "There are no benchmarks to evaluate on; give at least one, for example from `load_benchmark`."
        )
    checked: dict[str, Benchmark] = {}
    for benchmark in given:
        if benchmark.role != "open_set" and (not benchmark.class_names or benchmark.label_column is None):
            raise ValueError(f"Benchmark {benchmark.name!r} has no class names or no labels; accuracy needs both.")
        if benchmark.name in checked:
            raise ValueError(f"Two benchmarks are called {benchmark.name!r}; rename one, the report is keyed by name.")
        checked[benchmark.name] = benchmark
    known = next((benchmark for benchmark in given if benchmark.role == "id"), None)
    for benchmark in given:
        if benchmark.role == "open_set":
            _check_open_set(benchmark, known)
    return checked


def with_validation(benchmarks: Mapping[str, Benchmark], validation: Benchmark | None) -> dict[str, Benchmark]:
    """
    Add validation images to the benchmarks that are measured.

    Args:
        benchmarks (`Mapping[str, Benchmark]`): From [`checked_benchmarks`].
        validation ([`Benchmark`], *optional*): Images that may be among them already.

    Returns:
        `dict[str, Benchmark]`: All by name, the validation images last where they are added.

    Raises:
        ValueError: As [`checked_benchmarks`].
    """
    # By identity: benchmarks of rows in memory are equal when their descriptions are.
    if validation is None or any(validation is item for item in benchmarks.values()):
        return dict(benchmarks)
    return checked_benchmarks([*benchmarks.values(), validation])


def is_classified_by(class_names: Sequence[str], benchmark: Benchmark) -> bool:
    """
    Return whether a trained head with these `class_names` classifies a `benchmark`: it has its classes, or those that it is projected
    from. By name: the order in which a data set has its classes does not matter.
    """
    if tuple(class_names) in head_classes(benchmark):
        return True
    return benchmark.projection is None and sorted(map(class_key, class_names)) == sorted(map(class_key, benchmark.class_names))


def trained_head_of(benchmark: Benchmark, trained: nn.Module, made: dict[Any, Any]) -> nn.Module:
    """Return the `trained` head for the classes of a `benchmark` that it classifies, one for each order, which are kept in `made`."""
    names = benchmark.class_names
    if benchmark.role == "open_set" or trained.class_names in head_classes(benchmark):
        return trained
    return made.setdefault(names, ReorderedHead(trained, names))


def head_keys(
    benchmarks: Mapping[str, Benchmark], trained_classes: Sequence[str] | None = None
) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]] | None]:
    """
    Decide which head classifies each benchmark.

    Args:
        benchmarks (`Mapping[str, Benchmark]`): From [`checked_benchmarks`].
        trained_classes (sequence of `str`, *optional*): The class names of a trained head.

    Returns:
        `dict`: By name `None` for the trained head, else the class names and templates of a zero-shot head. Benchmarks
        with equal entries share one.
    """
    known = next((benchmark for benchmark in benchmarks.values() if benchmark.role == "id"), None)
    keys = {}
    for name, benchmark in benchmarks.items():
        # Unseen classes are those that are not known, so they are scored by the head of the known ones.
        of = known if benchmark.role == "open_set" else benchmark
        classes = head_classes(of)
        trained = trained_classes is not None and is_classified_by(trained_classes, of)
        keys[name] = None if trained else (classes[0], of.templates)
    return keys


def _check_open_set(benchmark: Benchmark, known: Benchmark | None) -> None:
    if known is None:
        raise ValueError(
            f"Benchmark {benchmark.name!r} is an open set: its images have no accuracy and are only compared with those "
            "of known classes; add an in-distribution test set (role='id')."
        )
    # The head of the known set scores the open set, and may know more classes than the known set holds.
    keys = {class_key(name) for classes in head_classes(known) for name in classes}
    shared = [name for name in benchmark.class_names if class_key(name) in keys]
    if shared:
        raise ValueError(
            f"Benchmark {benchmark.name!r} is an open set, but {len(shared)} of its classes ({quoted(shared, 3)}) are "
            f"classes of {known.name!r}, which the model knows; leave them out, or give other class names if they mean "
            "other things."
        )


def check_several(benchmarks: Mapping[str, Benchmark], validation: Benchmark | None = None) -> None:
    """
    Refuse what cannot be measured on images with lists of labels. Own data are opened to see whether they have such.

    Args:
        benchmarks (`Mapping[str, Benchmark]`): From [`checked_benchmarks`].
        validation ([`Benchmark`], *optional*): Images that are measured for their predictions alone.

    Raises:
        ValueError: If such a set is the known set of open sets, or is measured for its predictions.
    """
    several = [benchmark for benchmark in benchmarks.values() if benchmark.role != "open_set" and benchmark.several]
    known = next((benchmark for benchmark in benchmarks.values() if benchmark.role == "id"), None)
    for benchmark in several:
        what = f"Benchmark {benchmark.name!r} has lists of labels"
        if benchmark is validation:
            raise ValueError(f"{what}, and predictions are of one label per image; leave save_predictions (--save_predictions) out.")
        if benchmark is known and any(other.role == "open_set" for other in benchmarks.values()):
            raise ValueError(f"{what}, and open sets are compared with images of one known class each; leave the open sets out.")


def refuse_lists(benchmarks: Iterable[Benchmark], advice: str = "measure them with hf-robustft evaluate") -> None:
    """
    Refuse images with lists of labels, for what needs one label per image. Own data are opened to see whether they have such.

    Args:
        benchmarks (`Iterable[Benchmark]`): The sets.
        advice (`str`, *optional*): What to do with such images instead.

    Raises:
        ValueError: If one has lists of labels.
    """
    for benchmark in benchmarks:
        if benchmark.role != "open_set" and benchmark.several:
            raise ValueError(
                f"Benchmark {benchmark.name!r} has lists of labels, and what is fitted, measured and told of a model here needs one "
                f"label per image; {advice}."
            )


def check_bank(bank: Benchmark | None, benchmarks: Mapping[str, Benchmark]) -> None:
    """
    Refuse images that cannot be the bank of the score `knn`.

    Args:
        bank ([`Benchmark`], *optional*): The known images, if there is a bank.
        benchmarks (`Mapping[str, Benchmark]`): From [`checked_benchmarks`].

    Raises:
        ValueError: If they are an open set, streamed, evaluated too, or may only be evaluated on.
    """
    if bank is None:
        return
    if bank.role == "open_set":
        raise ValueError(f"The bank {bank.name!r} is an open set, but it must hold known images, such as train.")
    if bank.evaluation_only:
        raise ValueError(f"The bank {bank.name!r} may only be evaluated on, its licence says; give the training set.")
    if bank.streaming:
        raise ValueError(
            f"The bank {bank.name!r} is streamed; its images are kept, so load them: leave streaming out."
        )
    for benchmark in benchmarks.values():
        # Of registered data the place alone says little: several sets are parts of the rows of one split.
        places = [(b.place, b.registered) for b in (bank, benchmark)]
        if bank.dataset is not benchmark.dataset if bank.dataset is not None else places[0] != places[1]:
            continue
        raise ValueError(
            f"The bank {bank.name!r} is also evaluated, as {benchmark.name!r}: each image would be its own nearest "
            "neighbour; give the training set as the bank."
        )
