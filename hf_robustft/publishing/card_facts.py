# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a card says beyond the results, kept in `robustft.json` so that the card can be written again without the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..data.benchmarks import Benchmark
from ..evaluation.report import EvaluationReport
from ..modeling.metadata import METADATA_FILE, dump_robustft_json, load_robustft_json
from .eval_results import is_hub_id
from .text import one_line, public_command, public_settings, public_text, public_value

PART = "card"


@dataclass(frozen=True)
class SetFacts:
    """
    A data set as a card names it: a [`Benchmark`] without its images and without paths of this machine.

    Attributes:
        name, role, suite, licence, source, note (`str`): As in the [`Benchmark`].
        n_classes (`int`): Classes; 0 for captions.
        images (`int`, *optional*): Rows that were loaded.
        path, config, split, revision (`str`, *optional*): Of a data set on the Hub; `None` for any other.
    """

    name: str
    role: str
    n_classes: int = 0
    images: int | None = None
    suite: str | None = None
    licence: str | None = None
    source: str | None = None
    note: str | None = None
    path: str | None = None
    config: str | None = None
    split: str | None = None
    revision: str | None = None

    def __post_init__(self):
        for item in fields(self):
            value, wanted = getattr(self, item.name), int if item.name in ("n_classes", "images") else str
            if type(value) is not wanted and not (value is None and item.default is None):
                raise TypeError(f"{item.name} of a set is {value!r}")

    @classmethod
    def from_benchmark(cls, benchmark: Benchmark) -> SetFacts:
        """Collect the facts of a `benchmark`; if it was opened, of the copy that was read, with the number of images."""
        texts = {name: getattr(benchmark, name) for name in ("suite", "licence", "source", "note")}
        place = benchmark.place
        names = ("path", "config", "split", "revision") if place["path"] and is_hub_id(place["path"]) else ()
        return cls(
            name=benchmark.name,
            role=benchmark.role,
            n_classes=len(benchmark.class_names),
            images=benchmark.n_images,
            **{name: public_text(text) for name, text in texts.items() if text is not None},
            # A split may be a NamedSplit, which JSON does not know.
            **{name: one_line(place[name]) for name in names if place[name] is not None},
            **({"revision": benchmark.commit} if names and benchmark.commit else {}),
        )

    def as_measured(self, report: EvaluationReport) -> SetFacts:
        """Return the same facts, at the commit of the Hub that the images of the `report` come from, if it says so."""
        result = report.results.get(self.name)
        other = {**(report.open_set or {}), **(report.multi_label or {})}
        source = other.get(self.name, {}).get("source") if result is None else result.source
        if self.path is None or not source or source.get("path") != self.path or "commit" not in source:
            return self
        return replace(self, revision=one_line(source["commit"]))


@dataclass(frozen=True)
class CardFacts:
    """
    The arguments of `write_model_card` except for the results, with everything private removed.

    Attributes:
        method (`str`): Short name.
        sets (`tuple[SetFacts, ...]`): The data.
        class_names, templates (`tuple[str, ...]`): For the card's code.
        log (`tuple[dict, ...]`): Rows of the training log, see `training_log`.
        run (`dict[str, str]`): What ran, in words.
        emissions (`dict`, *optional*): `emissions` in grams and `source`, as the Hub spells them.
        eval_tasks (`dict[str, str]`): See `defined_tasks`.
        tags (`tuple[str, ...]`): For the metadata, besides the usual ones.
        settings, base_model, base_model_revision, base_model_note, hardware, wall_seconds, seed, alpha, merge, licence, command, notes (*optional*):
            See `write_model_card`.
    """

    method: str
    sets: tuple[SetFacts, ...]
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    base_model: str | None = None
    base_model_revision: str | None = None
    base_model_note: str | None = None
    hardware: str | None = None
    wall_seconds: float | None = None
    seed: int | None = None
    alpha: float | None = None
    merge: dict[str, Any] = field(default_factory=dict)
    licence: str = "apache-2.0"
    command: str | None = None
    notes: tuple[str, ...] = ()
    log: tuple[dict[str, float], ...] = ()
    run: dict[str, str] = field(default_factory=dict)
    emissions: dict[str, Any] | None = None
    eval_tasks: dict[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()

    @classmethod
    def of(cls, data: Sequence[Benchmark], example: Benchmark, **given: Any) -> CardFacts:
        """
        Gather facts.

        Args:
            data (`Sequence[Benchmark]`): The sets of the card.
            example ([`Benchmark`]): The set whose class names and templates the code shows.
            given (`Any`, *optional*): The other attributes as `write_model_card` takes them; private parts of texts are removed.

        Returns:
            [`CardFacts`]: The facts.

        Raises:
            ValueError: If a quote in the command is not closed, or the emissions are not in grams.
        """
        for name in ("base_model_note", "hardware"):
            if given.get(name) is not None:
                given[name] = public_text(given[name])
        if given.get("base_model") is not None and not is_hub_id(given["base_model"]):
            # A relative path says no more about the model than its last part either.
            given["base_model"] = (
                one_line(public_value(given["base_model"])).replace("\\", "/").rstrip("/").split("/")[-1]
            )
        if given.get("command"):
            given["command"] = public_command(given["command"])
        given["run"] = {
            one_line(name): one_line(public_text(value)) for name, value in (given.get("run") or {}).items()
        }
        if given.get("emissions") is not None:
            given["emissions"] = _checked_emissions(given["emissions"])
        return cls(
            sets=tuple(SetFacts.from_benchmark(benchmark) for benchmark in data),
            class_names=tuple(example.class_names),
            templates=tuple(example.templates),
            settings=public_settings(given.pop("settings", {})),
            notes=tuple(public_text(note) for note in given.pop("notes", ())),
            tags=tuple(one_line(public_text(tag)) for tag in given.pop("tags", ())),
            **given,
        )

    def save(self, directory: str | Path) -> None:
        """Put the facts into the `robustft.json` of the folder `directory`, if it has one."""
        directory = Path(directory)
        if not (directory / METADATA_FILE).is_file():
            return
        content = load_robustft_json(directory)
        facts = {name: value for name, value in asdict(self).items() if value not in (None, (), {})}
        facts["sets"] = [{key: value for key, value in row.items() if value is not None} for row in facts["sets"]]
        for name in ("class_names", "templates"):
            if tuple(content[name]) == getattr(self, name):
                facts.pop(name, None)
        dump_robustft_json(directory, {**content, PART: facts})

    @classmethod
    def load(cls, directory: str | Path) -> CardFacts | None:
        """
        Restore what `save` put into a folder.

        Args:
            directory (`str` or `Path`): The folder.

        Returns:
            [`CardFacts`] or `None`: `None` if the folder's `robustft.json` holds no facts of a card.

        Raises:
            OSError: If the folder has no `robustft.json`.
            ValueError: If a fact is missing or unknown.
        """
        content = load_robustft_json(directory)
        if PART not in content:
            return None
        try:
            facts = {name: content[name] for name in ("class_names", "templates")} | content[PART]
            facts["sets"] = [SetFacts(**row) for row in facts["sets"]]
            lists = {"sets", "class_names", "templates", "notes", "log", "tags"} & set(facts)
            return cls(**{**facts, **{name: tuple(facts[name]) for name in lists}})
        except (TypeError, KeyError) as error:
            raise ValueError(
                f"The part {PART!r} of {METADATA_FILE} in {directory} is incomplete or of another version ({error}); "
                f"known are {', '.join(item.name for item in fields(cls))}. Write the card again with write_model_card."
            ) from None


def _checked_emissions(given: Mapping[str, Any]) -> dict[str, Any]:
    grams, source = given.get("emissions"), given.get("source")
    if isinstance(grams, bool) or not isinstance(grams, (int, float)) or not 0 <= grams < float("inf") or not source:
        raise ValueError(
            f"emissions are {dict(given)!r}; give those that were measured as {{'emissions': grams of CO2 equivalent, "
            "'source': what measured them}, or leave them out."
        )
    return {"emissions": float(grams), "source": one_line(public_text(source))}
