# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The card of a run that is not finished: what is known so far, and that the run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from .. import __version__
from ..evaluation.report import SHIFT_METRICS, EvaluationReport
from ..evaluation.tables import label, metric_texts, multi_label_cells, multi_label_name, ordered
from ..modeling.kept_adapter import claims_adapter
from ..objectives.papers import METHOD_FACTS
from .card_file import CARD_FILE, RELIABILITY_FILE, write_card
from .card_sections import family_in
from .eval_results import is_hub_id
from .text import code_span, markdown_text, one_line, public_value

TEMPLATE = Path(__file__).resolve().parent / "progress_card.md"
#: In the metadata of every such card, and of no other.
TAG = "unfinished-run"


def write_progress_card(
    output_dir: str | Path,
    *,
    title: str,
    method: str,
    step: int,
    total_steps: int,
    base_model: str | None = None,
    trained_on: Sequence[str] = (),
    loss: tuple[int, float] | None = None,
    report: EvaluationReport | None = None,
    evaluated_at: int | None = None,
) -> Path:
    """
    Write the `README.md` of a run that is still going, or that ended without its own card.

    Its metadata hold no results, so that the numbers of a half-trained model do not enter a ranking. With a report it
    shows `reliability.png`, if that is in the folder.

    Args:
        output_dir (`str` or `Path`): The folder.
        title (`str`): Heading, usually the repository's name.
        method (`str`): Short name.
        step (`int`), total_steps (`int`): Optimizer steps so far, and of the whole run.
        base_model (`str`, *optional*): A Hub id, name or path of the model that it started from.
        trained_on (`Sequence[str]`, *optional*): Names of the training sets.
        loss (`tuple[int, float]`, *optional*): The step of the last log, and its training loss.
        report ([`EvaluationReport`], *optional*): The last evaluation.
        evaluated_at (`int`, *optional*): The step of the last evaluation.

    Returns:
        `Path`: The file, see `write_card`: one that a person wrote or edited is kept.
    """
    facts = METHOD_FACTS.get(method)
    lines = [f"Method: {markdown_text(facts.label if facts else method)}"]
    if base_model:
        name = base_model if is_hub_id(base_model) else Path(public_value(base_model)).name
        lines.append(f"Started from: {code_span(name)}")
    if trained_on:
        lines.append(f"Trained on: {', '.join(map(markdown_text, trained_on))}")
    if loss is not None:
        lines.append(f"Training loss at step {loss[0]:,}: {loss[1]:.4g}")
    rows = []
    for result in () if report is None else ordered(report):
        numbers = metric_texts({key: getattr(result, key) for key in SHIFT_METRICS})
        rows.append([markdown_text(label(result)), f"{result.n:,}", *numbers])
    measured = {} if report is None else report.multi_label or {}
    lists = [[markdown_text(multi_label_name(name, row)), f"{row['n']:,}", *multi_label_cells(row)] for name, row in measured.items()]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="zero-shot-image-classification",
        tags=["hf_robustft", one_line(method), family_in(output_dir)[0], TAG],
        **({"base_model": base_model} if base_model and is_hub_id(base_model) else {}),
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        md=markdown_text,
        title=one_line(title) or "model",
        method_summary=facts.summary if facts else f"The method is {code_span(method)}.",
        finished=step >= total_steps,
        step=f"{step:,}",
        steps=f"{step:,}",
        total=f"{total_steps:,}",
        facts=lines,
        rows=rows,
        lists=lists,
        image_adapter=claims_adapter(output_dir) is not None,
        picture=RELIABILITY_FILE if (Path(output_dir) / RELIABILITY_FILE).is_file() else None,
        evaluated_at="an earlier point" if evaluated_at is None else f"{evaluated_at:,}",
        versions=", ".join(
            [f"hf_robustft {__version__}", *(f"{name} {version(name)}" for name in ("torch", "transformers"))]
        ),
    )
    return write_card(Path(output_dir), card.content)


def is_progress_card(folder: str | Path) -> bool:
    """Return whether the `README.md` of a `folder` was written by `write_progress_card`."""
    path = Path(folder) / CARD_FILE
    if not path.is_file():
        return False
    front = path.read_text(encoding="utf-8", errors="replace").split("\n---", 1)[0]
    return f"- {TAG}" in front.splitlines()
