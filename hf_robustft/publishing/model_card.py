# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Model cards made of measured facts: README.md with results, conventions, limits and a model-index."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from hf_robustft import __version__
from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.evaluation.report import TRAINED_HEAD, EvaluationReport
from hf_robustft.evaluation.tables import check_same_data, label, ordered
from hf_robustft.modeling.zero_shot import HEAD_FILE
from hf_robustft.publishing import snippets, verdict
from hf_robustft.publishing.card_file import write_card
from hf_robustft.publishing.metadata import METADATA_FILE, load_robustft_json
from hf_robustft.publishing.model_index import PARTS, card_data, is_hub_id, n_bins, on_hub
from hf_robustft.publishing.open_set_section import open_set_facts
from hf_robustft.publishing.papers import METHOD_FACTS, MethodFacts
from hf_robustft.publishing.text import (
    code_block,
    code_span,
    duration,
    link_or_text,
    markdown_text,
    one_line,
    public_command,
    public_settings,
    public_text,
    public_value,
    shown_value,
)

RELIABILITY_FILE = "reliability.png"
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
    base_model_note: str | None = None,
    hardware: str | None = None,
    wall_seconds: float | None = None,
    seed: int | None = None,
    alpha: float | None = None,
    licence: str = "apache-2.0",
    command: str | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """
    Write `README.md` into a checkpoint folder.

    Call it last: the card shows `reliability.png` and `scores.png`, its code uses `robustft.json` and
    `head.safetensors`, and it states the detector and temperature in `robustft.json`, where these are in the folder.
    Machine paths, tokens, and settings that name places or accounts are left out. A README.md that was not generated
    here, or was edited since, is kept, and the card goes into `README.generated.md`.

    Args:
        output_dir: Folder of the checkpoint; its name is the card's title.
        report ([`EvaluationReport`]): The model's results.
        method (`str`): Short name: `"carot"`, `"croft"`, `"carot+croft"`, `"flyp"`, `"ft"`, `"wise_ft"`, or that of an
            own method.
        data (`Sequence[Benchmark]`): The sets of training and evaluation: names, parts, licences and sources, and the
            class names and templates for the code.
        settings (`Mapping[str, Any]`): Training arguments that differ from the defaults.
        baseline ([`EvaluationReport`], *optional*): The model it started from, on the same data.
        base_model (`str`, *optional*): A Hub id, which goes into the metadata, or a name or path, of which the last
            part is named in the text.
        base_model_note (`str`, *optional*): A sentence on it.
        hardware (`str`, *optional*), wall_seconds (`float`, *optional*), seed (`int`, *optional*): Of the training.
        alpha (`float`, *optional*): Share of the fine-tuned weights; needed for `"wise_ft"`.
        licence (`str`, *optional*, defaults to `"apache-2.0"`): Of the weights, as the Hub spells it.
        command (`str`, *optional*): The command that trained the model.
        notes (`Sequence[str]`, *optional*): Sentences for the section on limits.

    Returns:
        `Path`: The file written: `README.md` or `README.generated.md`.

    Raises:
        ValueError: If no set has class names, the baseline was measured on other data, `"wise_ft"` comes without
            `alpha`, or the command has an open quote.
    """
    if not report.results:
        raise ValueError("The report has no results; a card needs at least one evaluated data set.")
    if isinstance(data, (str, Benchmark, Mapping)):
        raise ValueError(f"data is a {type(data).__name__}; give a list of benchmarks, training sets included.")
    if method == "wise_ft" and alpha is None:
        raise ValueError("A card of 'wise_ft' must say how the weights were interpolated; give alpha.")
    if baseline is not None:
        check_same_data(report, baseline)
    output_dir = Path(output_dir)
    facts = METHOD_FACTS.get(method) or MethodFacts(
        markdown_text(method), f"fine-tuned with {code_span(method)}", f"The method is {code_span(method)}.", ()
    )
    if not facts.trains:
        data = [benchmark for benchmark in data if benchmark.role != "train" or benchmark.name in report.results]
    example = _example_benchmark(data, report)
    title = one_line(output_dir.resolve().name) or "model"
    # A report that is called by the method's short name is shown by the name that its paper has.
    names = (
        (facts.label if report.model == method else verdict.model_name(report)),
        (None if baseline is None else verdict.model_name(baseline)),
    )
    unknown = open_set_facts(output_dir, report, baseline, names, data)
    card = ModelCard.from_template(
        card_data(title, report, method, data, base_model, licence),
        template_path=str(TEMPLATE),
        md=markdown_text,
        code=code_span,
        code_block=code_block,
        title=title,
        licence=licence,
        **_results(output_dir, report, baseline, names),
        **_how_to_use(output_dir, report, example),
        unknown=unknown,
        summary=verdict.summary_sentence(_subject(facts, base_model, data), report, baseline),
        warning=verdict.warning_sentence(report, baseline, unknown.leading_score),
        trained=facts.trains,
        method_summary=facts.summary,
        interpolation=_interpolation(alpha, report),
        run_facts=_run_facts(base_model, base_model_note, seed, hardware, wall_seconds),
        settings=[(name, shown_value(value)) for name, value in public_settings(settings).items()],
        command=code_block(public_command(command), "bash") if command else None,
        data_rows=[_data_row(benchmark, report) for benchmark in data],
        data_notes=[
            f"{markdown_text(benchmark.name)}: {markdown_text(public_text(benchmark.note))}"
            for benchmark in data
            if benchmark.note
        ],
        notes=[public_text(note) for note in notes],
        papers=facts.papers,
        versions=_versions(report),
    )
    return write_card(output_dir, card.content)


def _results(
    output_dir: Path,
    report: EvaluationReport,
    baseline: EvaluationReport | None,
    names: tuple[str, str | None],
) -> dict[str, Any]:
    results = ordered(report)
    draws = report.settings.get("bootstrap_draws")
    by_head: dict[str, list[str]] = {}
    for result in results:
        by_head.setdefault(markdown_text(result.head), []).append(markdown_text(result.name))
    heads = [head if len(by_head) == 1 else f"{head} on {', '.join(names)}" for head, names in by_head.items()]
    return {
        "rows": _table_rows(report, baseline, names),
        "draws": f" ({draws} draws)" if draws else "",
        "n_bins": n_bins(results[0]),
        "heads": "; ".join(heads),
        "logit_scale": None if report.logit_scale is None else f"{report.logit_scale:.2f}",
        "spectrum": _spectrum(report, baseline),
        "reliability_picture": (output_dir / RELIABILITY_FILE).is_file(),
        "shift_count": len(report.shifts),
        "shift_names": ", ".join(markdown_text(result.name) for result in report.shifts),
        "no_shift": not report.shifts,
        "has_id": any(result.role == "id" for result in results),
    }


def _table_rows(
    report: EvaluationReport, baseline: EvaluationReport | None, names: tuple[str, str | None]
) -> list[list[str]]:
    rows = []
    results = ordered(report)
    last_shift = max((index for index, result in enumerate(results) if result.role == "shift"), default=None)
    for index, result in enumerate(results):
        before = None if baseline is None else baseline.results.get(result.name)
        title = markdown_text(label(result))
        if before is not None:
            rows.append([title, names[1], f"{before.n:,}", *_cells(vars(before))])
        rows.append(["" if before is not None else title, names[0], f"{result.n:,}", *_cells(vars(result))])
        if index == last_shift and len(report.shifts) > 1:
            title = f"**mean of {len(report.shifts)} shifts**"
            if verdict.same_shifts(report, baseline):
                rows.append([title, names[1], "", *_cells(baseline.shift_mean)])
                title = ""
            rows.append([title, names[0], "", *_cells(report.shift_mean)])
    return rows


def _cells(values: Mapping[str, Any]) -> list[str]:
    se, floor = values.get("accuracy_se"), values.get("ece_noise_floor")
    return [
        f"{100 * values['accuracy']:.1f}" + ("" if se is None else f" ± {100 * se:.1f}"),
        f"{100 * values['ece']:.1f}" + ("" if floor is None else f" ({100 * floor:.1f})"),
        f"{values['nll']:.3f}",
        f"{values['brier']:.3f}",
    ]


def _spectrum(report: EvaluationReport, baseline: EvaluationReport | None) -> str | None:
    if report.spectrum is None:
        return None
    spectrum = report.spectrum
    before = ""
    if baseline is not None and baseline.spectrum is not None:
        before = f" ({verdict.model_name(baseline)}: {baseline.spectrum['smallest_singular_value']:.3e})"
    sentence = (
        f"Smallest singular value of the centred covariance of the unit-norm image embeddings of "
        f"{markdown_text(spectrum['dataset'])}: {spectrum['smallest_singular_value']:.3e}{before}, "
        f"from n = {spectrum['n']:,} images in {spectrum['dimension']} dimensions."
    )
    return f"{sentence} {markdown_text(spectrum['note'])}" if spectrum.get("note") else sentence


def _how_to_use(output_dir: Path, report: EvaluationReport, example: Benchmark) -> dict[str, Any]:
    names, templates = example.class_names, example.templates
    in_metadata = False
    if len(names) > snippets.LITERAL_CLASSES and (output_dir / METADATA_FILE).is_file():
        facts = load_robustft_json(output_dir)
        in_metadata = facts["class_names"] == list(names) and facts["templates"] == list(templates)
    shown = len(names) if len(names) <= snippets.LITERAL_CLASSES else snippets.SHOWN_CLASSES
    with_head = [markdown_text(result.name) for result in ordered(report) if result.head == TRAINED_HEAD]
    has_head = with_head and (output_dir / HEAD_FILE).is_file()
    return {
        "trained_head": ", ".join(with_head),
        "head_snippet": code_block(snippets.trained_head_snippet(), "python") if has_head else None,
        "pipeline_snippet": code_block(snippets.pipeline_snippet(names, templates), "python"),
        "model_snippet": code_block(snippets.model_snippet(names, templates, in_metadata), "python"),
        "shown_classes": shown,
        "n_classes": len(names),
        "n_templates": len(templates),
        "names_in_metadata": in_metadata,
    }


def _example_benchmark(data: Sequence[Benchmark], report: EvaluationReport) -> Benchmark:
    """The set whose class names and templates the code shows: in distribution if possible, evaluated if possible."""
    named = [benchmark for benchmark in data if benchmark.class_names and benchmark.role != "open_set"]
    if not named:
        raise ValueError("No set in `data` has class names, which the card's code needs; give the evaluated sets.")
    return min(named, key=lambda benchmark: (benchmark.role != "id", benchmark.name not in report.results))


def _subject(facts: MethodFacts, base_model: str | None, data: Sequence[Benchmark]) -> str:
    trained_on: list[str] = []
    for benchmark in data:
        if benchmark.role == "train":
            suite = f" set of {markdown_text(benchmark.suite)}" if benchmark.suite else ""
            trained_on.append(
                f"the {markdown_text(benchmark.name)}{suite}" if suite else markdown_text(benchmark.name)
            )
    on = f" on {', '.join(trained_on)}" if trained_on else ""
    base = "A CLIP model" if base_model is None else f"The CLIP model {_base_name(base_model)}"
    return f"{base}, {facts.phrase}{on},"


def _base_name(base_model: str) -> str:
    if is_hub_id(base_model):
        return f"[{markdown_text(base_model)}](https://huggingface.co/{base_model})"
    # A relative path says no more about the model than its last part either.
    return code_span(re.split(r"[\\/]", public_value(base_model).rstrip("\\/"))[-1])


def _full_name(benchmark: Benchmark) -> str:
    name = markdown_text(benchmark.name)
    return f"{markdown_text(benchmark.suite)}: {name}" if benchmark.suite else name


def _interpolation(alpha: float | None, report: EvaluationReport) -> str | None:
    if alpha is None:
        return None
    kinds = list(dict.fromkeys(result.head for result in report.results.values()))
    head = " and ".join(markdown_text(kind) for kind in kinds)
    return (
        f"Every weight is (1 - alpha) × zero-shot + alpha × fine-tuned, with alpha = {alpha:g}. Head of the results "
        f"above: {head}."
    )


def _run_facts(
    base_model: str | None,
    base_model_note: str | None,
    seed: int | None,
    hardware: str | None,
    wall_seconds: float | None,
) -> list[str]:
    lines = []
    if base_model is not None or base_model_note is not None:
        name = "a CLIP model" if base_model is None else _base_name(base_model)
        note = f". {markdown_text(public_text(base_model_note))}" if base_model_note else ""
        lines.append(f"Started from: {name}{note}")
    lines.append(f"Seed: {'not recorded' if seed is None else int(seed)}")
    if hardware is not None:
        lines.append(f"Hardware: {markdown_text(public_text(hardware))}")
    if wall_seconds is not None:
        lines.append(f"Wall time of training: {duration(wall_seconds)}")
    return lines


def _data_row(benchmark: Benchmark, report: EvaluationReport) -> list[str]:
    result = report.results.get(benchmark.name)
    loaded = benchmark.dataset if benchmark.dataset is not None else benchmark._loaded
    images = result.n if result is not None else None if loaded is None else len(loaded)
    if benchmark.role == "open_set":
        images = (report.open_set or {}).get(benchmark.name, {}).get("n", images)
    source = "not stated"
    if benchmark.source:
        source = link_or_text(benchmark.source)
    elif on_hub(benchmark):
        source = f"[{markdown_text(benchmark.path)}](https://huggingface.co/datasets/{benchmark.path})"
    return [
        _full_name(benchmark),
        PARTS.get(benchmark.role, markdown_text(benchmark.role)),
        "not stated" if images is None else f"{images:,}",
        f"{len(benchmark.class_names):,}" if benchmark.class_names else "captions",
        source,
        markdown_text(benchmark.licence) if benchmark.licence else "not stated",
    ]


def _versions(report: EvaluationReport) -> str:
    """Installed versions; where the report says with which ones it was measured, those."""
    found = {"hf_robustft": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    found.update(report.settings.get("versions") or {})
    return ", ".join(f"{markdown_text(name)} {markdown_text(number)}" for name, number in found.items())
