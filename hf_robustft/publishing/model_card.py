# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Model cards made of measured facts: README.md with results, conventions, limits and a model-index."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from .. import __version__
from ..data.benchmarks import Benchmark
from ..data.messages import unreadable_note
from ..evaluation.report import TRAINED_HEAD, ZERO_SHOT_HEAD, EvaluationReport
from ..evaluation.tables import check_same_data
from ..files import locked
from ..modeling.kept_adapter import claims_adapter
from ..modeling.zero_shot import HEAD_FILE
from ..objectives.papers import METHOD_FACTS, OPTIMIZER_PAPERS, MethodFacts
from . import snippets, verdict
from .card_facts import CardFacts, SetFacts
from .card_file import RELIABILITY_FILE, write_card
from .card_sections import (
    aimv2_sentence,
    family_in,
    history_table,
    results_section,
    sigmoid_sentence,
    temperature_section,
    training_log,
)
from .error_section import error_section
from .eval_results import PARTS, card_data, defined_tasks, has_hub_form, write_eval_results
from .metadata import METADATA_FILE, load_robustft_json
from .multi_label_section import is_multi_label, multi_label_section, multi_label_summary, plain_pipeline_sentence
from .open_set_section import open_set_facts
from .prediction_sets_section import prediction_sets_section
from .text import (
    WITHHELD,
    code_block,
    code_span,
    duration,
    link_or_text,
    markdown_text,
    one_line,
    shown_value,
    unbroken,
)

__all__ = ["RELIABILITY_FILE", "refresh_model_card", "write_model_card"]

#: Said of a method's own batch, `Not set by hand`, where it was made as small as the training set.
FEWER = "all images where there are fewer"
TEMPLATE = Path(__file__).resolve().parent / "card_template.md"
_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "huggingface_hub")


def write_model_card(
    output_dir: str | Path,
    *,
    report: EvaluationReport,
    method: str,
    data: Sequence[Benchmark],
    settings: Mapping[str, Any],
    baseline: EvaluationReport | None = None,
    base_model: str | None = None,
    base_model_revision: str | None = None,
    base_model_note: str | None = None,
    hardware: str | None = None,
    wall_seconds: float | None = None,
    seed: int | None = None,
    alpha: float | None = None,
    merge: Mapping[str, Any] | None = None,
    licence: str = "apache-2.0",
    command: str | None = None,
    notes: Sequence[str] = (),
    log_history: Iterable[Mapping[str, Any]] = (),
    run: Mapping[str, str] | None = None,
    emissions: Mapping[str, Any] | None = None,
    eval_tasks: Mapping[str, str] | None = None,
    tags: Sequence[str] = (),
    title: str | None = None,
) -> Path:
    """
    Write `README.md` into a checkpoint folder, and `.eval_results/*.yaml` for benchmark data sets of the Hub.

    Call it last: the card shows `reliability.png`, `shift.png`, `scores.png` and `thresholds.png`, its code uses `robustft.json` and
    `head.safetensors`, and it states the detector and temperature in `robustft.json`, where these are in the folder.
    Machine paths, tokens, and settings that name places or accounts are left out. A README.md that was not generated
    here, or was edited since, is kept, and the card goes into `README.generated.md`. What the card says beyond the
    results is kept in `robustft.json`, if there is one, for `refresh_model_card`.

    Args:
        output_dir (`str` or `Path`): Folder of the checkpoint; its name is the card's title.
        report ([`EvaluationReport`]): The model's results.
        method (`str`): Short name: `"carot"`, `"croft"`, `"carot+croft"`, `"flyp"`, `"ft"`, `"wise_ft"`, or that of your
            own method.
        data (`Sequence[Benchmark]`): The sets of training and evaluation: names, parts, licences and sources, and the
            class names and templates for the code.
        settings (`Mapping[str, Any]`): Training arguments that differ from the defaults.
        baseline ([`EvaluationReport`], *optional*): The model it started from, on the same data.
        base_model (`str`, *optional*): A Hub id, which goes into the metadata, or a name or path, of which the text shows
            the last part.
        base_model_revision (`str`, *optional*): Its commit on the Hub.
        base_model_note (`str`, *optional*): A sentence about it.
        hardware (`str`, *optional*), wall_seconds (`float`, *optional*), seed (`int`, *optional*): Facts of the training.
        alpha (`float`, *optional*): Share of the fine-tuned weights; needed for `"wise_ft"`.
        merge (`Mapping[str, Any]`, *optional*): What a method that merges made the weights of, as in `robustft.json`.
        licence (`str`, *optional*, defaults to `"apache-2.0"`): Licence of the weights, as the Hub spells it.
        command (`str`, *optional*): The command that trained the model.
        notes (`Sequence[str]`, *optional*, defaults to `()`): Sentences for the section on limits.
        log_history (`Iterable[Mapping[str, Any]]`, *optional*, defaults to `()`): The Trainer's `state.log_history`, or that of a
            `trainer_state.json`; a few rows of it are shown.
        run (`Mapping[str, str]`, *optional*): What ran, in words, defaults included: learning rate, batch, length,
            precision, optimizer.
        emissions (`Mapping[str, Any]`, *optional*): `{"emissions": grams of CO2 equivalent, "source": what measured
            them}`, only if they were measured.
        eval_tasks (`Mapping[str, str]`, *optional*): By name of a test set on the Hub the id of the task that its repository
            defines; by default the repositories' `eval.yaml` are asked (see `defined_tasks`).
        tags (`Sequence[str]`, *optional*, defaults to `()`): Tags for the metadata, such as the `model_tags` that a tracker gave the model.
        title (`str`, *optional*): Title of the card; the folder's name by default.

    Returns:
        `Path`: The file written: `README.md` or `README.generated.md`.

    Raises:
        ValueError: If no set has class names, the baseline was measured on other data, `"wise_ft"` comes without
            `alpha`, a quote in the command is not closed, or emissions are not in grams.
    """
    if not report.results and not report.multi_label:
        raise ValueError("The report has no results; a card needs at least one evaluated data set.")
    if isinstance(data, (str, Benchmark, Mapping)):
        raise ValueError(f"data is a {type(data).__name__}; give a list of benchmarks, training sets included.")
    if method == "wise_ft" and alpha is None:
        raise ValueError("A card of 'wise_ft' must say how the weights were interpolated; give alpha.")
    if baseline is not None:
        check_same_data(report, baseline)
    if not _method_facts(method).trains:
        data = [benchmark for benchmark in data if benchmark.role != "train" or benchmark.name in _measured(report)]
    facts = CardFacts.of(
        data,
        _example_benchmark(data, report),
        method=method,
        settings=settings,
        base_model=base_model,
        base_model_revision=base_model_revision,
        base_model_note=base_model_note,
        hardware=hardware,
        wall_seconds=wall_seconds,
        seed=None if seed is None else int(seed),
        alpha=alpha,
        merge=dict(merge or {}),
        licence=licence,
        command=command,
        notes=notes,
        log=training_log(log_history),
        run={} if run is None else dict(run),
        emissions=emissions,
        tags=tags,
    )
    facts = replace(facts, eval_tasks=defined_tasks(facts.sets, eval_tasks))
    with locked(output_dir):
        facts.save(output_dir)
        return _write(Path(output_dir), facts, report, baseline, title)


def refresh_model_card(
    output_dir: str | Path,
    report: EvaluationReport,
    baseline: EvaluationReport | None = None,
    title: str | None = None,
) -> Path | None:
    """
    Write the card of a folder again, with other results or after its `robustft.json` or pictures changed.

    What is not in the results, such as settings and hardware, is what `write_model_card` has kept in `robustft.json`.

    Args:
        output_dir (`str` or `Path`): Folder of the checkpoint.
        report ([`EvaluationReport`]), baseline ([`EvaluationReport`], *optional*): As for `write_model_card`.
        title (`str`, *optional*): Title of the card; the folder's name by default.

    Returns:
        `Path` or `None`: The file written, or `None` if `robustft.json` holds no facts of a card.

    Raises:
        OSError: If the folder has no `robustft.json`.
        ValueError: If the facts are broken, or the baseline was measured on other data.
    """
    facts = CardFacts.load(output_dir)
    if facts is None:
        return None
    if baseline is not None:
        check_same_data(report, baseline)
    with locked(output_dir):
        return _write(Path(output_dir), facts, report, baseline, title)


def _write(
    output_dir: Path,
    facts: CardFacts,
    report: EvaluationReport,
    baseline: EvaluationReport | None,
    title: str | None = None,
) -> Path:
    facts = replace(facts, sets=tuple(item.as_measured(report) for item in facts.sets))
    method = _method_facts(facts.method)
    title = one_line(title or output_dir.resolve().name) or "model"
    # A report that has the method's short name is shown under the name that the paper uses.
    shown = method.label if report.model == facts.method else verdict.model_name(report)
    names = unbroken(shown), (None if baseline is None else unbroken(verdict.model_name(baseline)))
    unknown = open_set_facts(output_dir, report, baseline, names, facts.sets)
    history, selected = history_table(facts.log), _selected(output_dir)
    summary = verdict.summary_sentence if report.results else multi_label_summary
    fitted = [part for part in facts.run.get("Not set by hand", "").split("; ") if FEWER in part]
    card = ModelCard.from_template(
        card_data(title, report, facts, family_in(output_dir)[0]),
        template_path=str(TEMPLATE),
        md=markdown_text,
        code=code_span,
        code_block=code_block,
        title=title,
        licence=facts.licence,
        **results_section(output_dir, report, baseline, names),
        **_how_to_use(output_dir, report, facts),
        unknown=unknown,
        lists=multi_label_section(output_dir, report, baseline, names),
        temperature=temperature_section(output_dir, report),
        sets=prediction_sets_section(output_dir, report),
        errors=error_section(report),
        summary=summary(_subject(method, facts, family_in(output_dir)[1].label), report, baseline),
        warning=verdict.warning_sentence(report, baseline, unknown["leading_score"]),
        trained=method.trains,
        method_summary=method.summary if method.trains or not selected else "The weights are those of the start.",
        merged=_merged(facts, report),
        selected=selected,
        run_facts=_run_facts(facts, family_in(output_dir)[1].label),
        settings=[(name, shown_value(value)) for name, value in facts.settings.items() if not any(f" {name}=" in part for part in fitted)],
        command=_command(facts.command) if facts.command else None,
        history=history,
        data_rows=[_data_row(item, report) for item in facts.sets],
        data_notes=[f"{markdown_text(item.name)}: {markdown_text(item.note)}" for item in facts.sets if item.note],
        notes=list(facts.notes),
        papers=(*method.papers, *(paper for name, paper in OPTIMIZER_PAPERS.items() if name == facts.settings.get("optim"))),
        versions=_versions(report),
    )
    write_eval_results(output_dir, report, facts.sets, facts.eval_tasks)
    return write_card(output_dir, card.content)


def _method_facts(method: str) -> MethodFacts:
    return METHOD_FACTS.get(method) or MethodFacts(
        markdown_text(method), f"The method is {code_span(method)}.", (), how=f"fine-tuned with {code_span(method)}"
    )


def _how_to_use(output_dir: Path, report: EvaluationReport, facts: CardFacts) -> dict[str, Any]:
    names, templates = facts.class_names, facts.templates
    in_metadata = False
    if len(names) > snippets.LITERAL_CLASSES and (output_dir / METADATA_FILE).is_file():
        stored = load_robustft_json(output_dir)
        in_metadata = stored["class_names"] == list(names) and stored["templates"] == list(templates)
    shown = len(names) if len(names) <= snippets.LITERAL_CLASSES else snippets.SHOWN_CLASSES
    of_head = [(name, row["head"]) for name, row in _measured(report).items() if row["head"] != ZERO_SHOT_HEAD]
    lists = is_multi_label(output_dir)
    has_head = of_head and (output_dir / HEAD_FILE).is_file()
    sigmoid, aimv2 = sigmoid_sentence(output_dir), aimv2_sentence(output_dir)
    pairs = plain_pipeline_sentence(output_dir) if lists else None
    fixed = sigmoid is not None or aimv2 is not None
    adapter = claims_adapter(output_dir) is not None
    return {
        "image_adapter": code_block(snippets.image_adapter_snippet(names, templates, in_metadata), "python") if adapter else None,
        "trained_head": ", ".join(markdown_text(name) for name, _ in of_head),
        "head_label": markdown_text(of_head[0][1]) if of_head else None,
        "head_snippet": code_block(snippets.trained_head_snippet(lists), "python") if has_head else None,
        "pipeline_snippet": code_block(snippets.pipeline_snippet(names, templates), "python"),
        "model_snippet": code_block(snippets.model_snippet(names, templates, in_metadata, fixed, aimv2 is not None, pairs is not None), "python"),
        "sigmoid": None if lists else sigmoid,
        "plain_pipeline": pairs or (None if lists else sigmoid) or aimv2,
        "shown_classes": shown,
        "n_classes": len(names),
        "n_templates": len(templates),
        "names_in_metadata": in_metadata,
    }


def _measured(report: EvaluationReport) -> dict[str, Any]:
    """By name what was measured of sets with one label per image, and with lists."""
    return {**{name: vars(result) for name, result in report.results.items()}, **(report.multi_label or {})}


def _example_benchmark(data: Sequence[Benchmark], report: EvaluationReport) -> Benchmark:
    """Choose the set whose class names and templates the code shows: in distribution and evaluated, if possible."""
    named = [benchmark for benchmark in data if benchmark.class_names and benchmark.role != "open_set"]
    if not named:
        raise ValueError("No set in `data` has class names, which the card's code needs; give the evaluated sets.")
    return min(named, key=lambda benchmark: (benchmark.role != "id", benchmark.name not in _measured(report)))


def _subject(method: MethodFacts, facts: CardFacts, kind: str) -> str:
    trained_on: list[str] = []
    for item in facts.sets:
        if item.role == "train":
            suite = f" set of {markdown_text(item.suite)}" if item.suite else ""
            trained_on.append(f"the {markdown_text(item.name)}{suite}" if suite else markdown_text(item.name))
    on = f" on {', '.join(trained_on)}" if trained_on else ""
    base = f"A{_a(kind)[1:]}" if facts.base_model is None else f"The {kind} {_base_name(facts.base_model)}"
    return f"{base}, {method.phrase}{on},"


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'AEIOU' else 'a'} {kind}"


def _base_name(base_model: str) -> str:
    if has_hub_form(base_model):
        return f"[{markdown_text(base_model)}](https://huggingface.co/{base_model})"
    return code_span(base_model)


def _full_name(item: SetFacts) -> str:
    name = markdown_text(item.name)
    return f"{markdown_text(item.suite)}: {name}" if item.suite else name


def _selected(folder: Path) -> str | None:
    """Return by which rule method and rate were chosen, from which candidates, as the `robustft.json` of a `folder` says."""
    record = load_robustft_json(folder).get("selection") if (folder / METADATA_FILE).is_file() else None
    if not record:
        return None
    grid = {name: ", ".join(f"{rate:g}" for rate in rates if rate is not None) for name, rates in record["grid"].items()}
    rates = [f"{name} at {rates}" if rates else name for name, rates in grid.items()]
    seeds = ", ".join(map(str, record["seeds"]))
    said = (
        f"Method and learning rate were chosen by the rule {code_span(record['rule'])}: {markdown_text(record['says'])}. It looked at "
        f"{', '.join(map(markdown_text, record['looked_at']))} alone, and chose from {markdown_text('; '.join(rates))}, with seed"
        f"{'s' if len(record['seeds']) > 1 else ''} {seeds}."
    )
    if "doubt" in record:
        said += f" {markdown_text(record['doubt'])}."
    if "instead_of" in record:
        said += f" It chose {markdown_text(record['instead_of'])}, but {markdown_text(record['why'])}: the comparison kept the zero-shot model instead."
    return said


def _merged(facts: CardFacts, report: EvaluationReport) -> str | None:
    """Return how the weights were merged, and from what."""
    merge, alpha = facts.merge, facts.alpha
    if alpha is None and not merge:
        return None
    said = []
    if alpha is not None:
        said.append(f"Every weight is (1 - alpha) × zero-shot + alpha × fine-tuned, with alpha = {alpha:g}.")
    elif "alpha" in merge:
        outside = ", and all of the projections'" if merge.get("whole_projections") else ""
        said.append(f"alpha = {merge['alpha']:g} of the change of the first layers is kept{outside}.")
    if "trained_with" in merge:
        said.append(f"The fine-tuned model was trained with {_method_facts(merge['trained_with']).label} in the same run.")
    elif "fine_tuned" in merge:
        commits = merge.get("fine_tuned_revisions", {})
        models = [code_span(name) + (f" (revision {code_span(commits[name])})" if name in commits else "") for name in merge["fine_tuned"]]
        said.append(f"Fine-tuned: {', '.join(models)}.")
    for row in merge.get("unreadable_images", ()):
        said += [f"In the training of {code_span(row.get('model') or 'one of them')}, {note}" for note in unreadable_note(row)]
    if merge.get("alpha_rule", "given") != "given":
        said.append(f"This alpha has the {merge['alpha_rule']}.")
    words = {
        ZERO_SHOT_HEAD: f"{ZERO_SHOT_HEAD}, rebuilt from the merged text tower",
        TRAINED_HEAD: "the models' heads, merged like the weights",
    }
    if alpha is not None:
        words = {
            ZERO_SHOT_HEAD: f"{ZERO_SHOT_HEAD}, rebuilt from the interpolated text tower; WiSE-FT's own code interpolates the "
            "two models' heads instead",
            TRAINED_HEAD: "the two models' heads, interpolated like the weights, as WiSE-FT's own code does",
        }
    kinds = list(dict.fromkeys(result.head for result in report.results.values()))
    said.append(f"Head of the results above: {' and '.join(words.get(kind, markdown_text(kind)) for kind in kinds)}.")
    return " ".join(said)


def _run_facts(facts: CardFacts, kind: str) -> list[str]:
    lines = []
    if facts.base_model is not None or facts.base_model_note is not None:
        name = _a(kind) if facts.base_model is None else _base_name(facts.base_model)
        commit = f", revision {code_span(facts.base_model_revision)}" if facts.base_model_revision else ""
        note = f". {markdown_text(facts.base_model_note)}" if facts.base_model_note else ""
        lines.append(f"Started from: {name}{commit}{note}")
    lines.append(f"Seed: {'not recorded' if facts.seed is None else facts.seed}")
    lines += [f"{markdown_text(name)}: {markdown_text(value)}" for name, value in facts.run.items()]
    if facts.hardware is not None:
        lines.append(f"Hardware: {markdown_text(facts.hardware)}")
    if facts.wall_seconds is not None:
        lines.append(f"Wall time of training: {duration(facts.wall_seconds)}")
    if facts.emissions is not None:
        grams, source = facts.emissions["emissions"], facts.emissions["source"]
        lines.append(f"Emissions: {grams:.4g} g of CO2 equivalent, measured by {markdown_text(source)}")
    return lines


def _data_row(item: SetFacts, report: EvaluationReport) -> list[str]:
    result = _measured(report).get(item.name)
    images = result["n"] if result is not None else item.images
    if item.role == "open_set":
        images = (report.open_set or {}).get(item.name, {}).get("n", images)
    source = link_or_text(item.source) if item.source else ""
    if item.path is not None:
        # Which rows of which commit: without them the numbers cannot be measured again.
        place = f"[{markdown_text(item.path)}](https://huggingface.co/datasets/{item.path})"
        parts = [markdown_text(part) for part in (item.config, item.split) if part]
        revision = f"revision {code_span(item.revision)}" if item.revision else "revision not recorded"
        place = ", ".join([place, *parts, revision])
        source = f"{source}; {place}" if source else place
    return [
        _full_name(item),
        PARTS.get(item.role, markdown_text(item.role)),
        "not stated" if images is None else f"{images:,}",
        _classes(item),
        source or "not stated",
        markdown_text(item.licence) if item.licence else "not stated",
    ]


def _command(command: str) -> str:
    note = f"# {WITHHELD} stands for a path that is not published.\n" if WITHHELD in command else ""
    return code_block(note + command, "bash")


def _classes(item: SetFacts) -> str:
    if item.role == "open_set":
        return f"{item.n_classes:,} others" if item.n_classes else "images of other classes"
    return f"{item.n_classes:,}" if item.n_classes else "captions"


def _versions(report: EvaluationReport) -> str:
    """Return the versions with which the report was measured, as far as it says so, else the installed ones."""
    found = {"hf_robustft": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    found.update(report.settings.get("versions") or {})
    return ", ".join(f"{markdown_text(name)} {markdown_text(number)}" for name, number in found.items())
