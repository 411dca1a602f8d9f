# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`robustft.json`: what a checkpoint folder must say beyond the weights. Its schema, reading and updating."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..data.overlap import Sketch
from ..data.prompts import DEFAULT_TEMPLATES, check_class_names, check_templates
from ..files import locked, settle, write_whole
from .fitted_weights import weight_files, weights_sample

METADATA_FILE = "robustft.json"
FORMAT = 1
#: What `head` is where results are those of prompts.
ZERO_SHOT_HEAD = "zero-shot prompts"
#: What Transformers' configurations call it, where an image may have several labels or none.
MULTI_LABEL = "multi_label_classification"
#: Parts that are there only where they were given, and their JSON types.
OPTIONAL = {
    "problem_type": str,
    "alpha": (int, float),
    "merge": dict,
    "selection": dict,
    "head": str,
    "cache": dict,
    "temperature": dict,
    "thresholds": dict,
    "detector": dict,
    "prediction_sets": dict,
    "fitted_prompts": str,
    "fitted_weights": str,
    "adapters": dict,
    "card": dict,
    "image_hashes": list,
    "label_names": list,
    "left_out_classes": dict,
    "unreadable_images": dict,
}
#: What holds for the weights, whatever prompts they classify by.
OF_THE_WEIGHTS = ("alpha", "merge", "adapters", "image_hashes", "unreadable_images")
#: What holds for the prompts and weights that it was fitted with, and no others.
FITTED = ("temperature", "thresholds", "detector", "prediction_sets")
_NUMBER = (int, float)
_UNREADABLE = {"model": str, "count": int, "of": int, "left_out": bool}
#: The kinds of entries of a part that readers count on, where they are there; of a list, the kind of its items.
ENTRIES: dict[str, dict[str, Any]] = {
    "settings": {"learning_rate": _NUMBER, "seed": int},
    "merge": {"fine_tuned": [str], "fine_tuned_revisions": dict, "trained_with": str, "alpha_rule": str, "unreadable_images": [dict]},
    "left_out_classes": {"share": _NUMBER, "fold": int, "classes": [str]},
    "unreadable_images": _UNREADABLE,
    "temperature": {
        **dict.fromkeys(("temperature", "folded", "folded_bias", "nll_before", "nll_after", "ece_before", "ece_after"), _NUMBER),
        **dict.fromkeys(("sigmoid_ece_before", "sigmoid_ece_after"), _NUMBER),
        **{"n": int, "fitted_on": str, "probabilities": str, "history": list, "sets": dict},
    },
    "adapters": {"file": str, "kept": [str]},
    "thresholds": {"fitted_on": str, "n": int, "classes": dict, "default": [str], "probabilities": str},
    "card": {
        **dict.fromkeys(("method", "base_model", "base_model_revision", "base_model_note", "hardware", "licence", "command"), str),
        **dict.fromkeys(("settings", "merge", "run", "emissions", "eval_tasks"), dict),
        **{"sets": [dict], "log": [dict], "notes": [str], "tags": [str]},
        **{"seed": int, "wall_seconds": _NUMBER, "alpha": _NUMBER},
    },
}


def dump_robustft_json(directory: str | Path, content: Mapping[str, Any]) -> Path:
    """
    Write `content` as the `robustft.json` of `directory`, whole or not at all.

    Raises:
        ValueError: If it holds a number that JSON cannot hold.
    """
    path = Path(directory) / METADATA_FILE
    try:
        text = json.dumps(dict(content), indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"A value cannot be written to {METADATA_FILE}: {error}; give finite numbers.") from None
    return write_whole(path, text + "\n")


def update_robustft_json(directory: str | Path, **parts: Any) -> Path:
    """
    Set parts of an existing `robustft.json`, and keep the others; a part set to `None` is removed.

    With what is fitted on images goes which prompts and which weights it was fitted with, so that others are noticed later.

    Args:
        directory (`str` or `Path`): Folder of the checkpoint.
        parts (`Any`, *optional*): JSON values by name: `problem_type`, `alpha`, `selection`, `head`, `cache`, `temperature`, `thresholds`, `detector`,
            `prediction_sets`, `fitted_weights`, `adapters`, `card`, `image_hashes`.

    Returns:
        `Path`: The file.

    Raises:
        OSError: If the folder has no `robustft.json`.
        ValueError: If a part is unknown, a number is not finite, or a file of weights is broken.
    """
    unknown = sorted(set(parts) - set(OPTIONAL))
    if unknown:
        raise ValueError(f"{METADATA_FILE} has no part {unknown[0]!r}; it has {', '.join(OPTIONAL)}.")
    if not (Path(directory) / METADATA_FILE).is_file():
        load_robustft_json(directory)
    with locked(directory):
        content = {name: value for name, value in {**load_robustft_json(directory), **parts}.items() if value is not None}
        if set(parts) & set(FITTED):
            for name in ("fitted_prompts", "fitted_weights"):
                content.pop(name, None)
            if set(content) & set(FITTED):
                if content.get("head", ZERO_SHOT_HEAD) == ZERO_SHOT_HEAD:
                    content["fitted_prompts"] = _prompts(content)
                weights = weights_sample(weight_files(directory).values())
                content |= {} if weights is None else {"fitted_weights": weights}
        return dump_robustft_json(directory, content)


def load_robustft_json(directory: str | Path) -> dict[str, Any]:
    """
    Read the `robustft.json` of a checkpoint folder.

    Args:
        directory (`str` or `Path`): The folder.

    Returns:
        `dict[str, Any]`: `format`, `hf_robustft` (the version that wrote it), `method`, `class_names`, `templates`, `settings`,
        and, where they were given, `problem_type` (`"multi_label_classification"` of a model that was trained on lists of labels),
        `alpha`, `merge` (what a method that merges made the weights of), `selection` (the rule that chose method and rate, from which
        grid and seeds, and what it looked at), `head`, `cache` (how its
        numbers were chosen), `temperature`, `thresholds` (above which sigmoid each class is given to an image), `detector`,
        `prediction_sets` (see [`ConformalClassifier`]), `fitted_prompts` (a hash of the class names and templates that these four were
        fitted with, where the model answers by prompts), `fitted_weights` (of the weights, see [`weights_sample`]), `adapters` (of an image adapter that no weight can take in: its `file`, and what is
        `kept` there), `label_names` (what the training
        data call the classes), `left_out_classes` (which classes were left out of the training), `unreadable_images` (of the training images those that could not be
        read), `card` (what the model card
        says beyond the results) and `image_hashes` (see
        [`data.overlap.Sketch`]: of the images that the model was trained, tuned and measured on).

    Raises:
        OSError: If the folder has no `robustft.json`.
        ValueError: If it is not JSON, of another format, a field is missing or of the wrong kind, or the class names or templates are not
            those that what is fitted was fitted with.
    """
    path = Path(directory) / METADATA_FILE
    settle(path.parent)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {METADATA_FILE} in {directory}; give the folder of a model that hf_robustft has trained."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_number, parse_float=_number, parse_int=_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); restore the file or write it again.") from None
    version = content.get("format") if isinstance(content, dict) else None
    if version != FORMAT:
        raise ValueError(
            f"{path} has the format {version!r}, but hf_robustft {__version__} reads {FORMAT}; use the version that "
            "wrote it."
        )
    for name, kind in (("method", str), ("class_names", list), ("templates", list), ("settings", dict)):
        if not isinstance(content.get(name), kind):
            raise ValueError(f"{path} has no {name!r} of type {kind.__name__}; restore the file or write it again.")
    for name, kind in OPTIONAL.items():
        if name in content and not isinstance(content[name], kind):
            raise ValueError(f"{path} has a part {name!r} of the wrong type; restore the file or write it again.")
    for part, kinds in {"": {"class_names": [str], "label_names": [str]}, **ENTRIES}.items():
        values = content.get(part, {}) if part else content
        wrong = next((name for name, kind in kinds.items() if not _is_of(values.get(name), kind)), None)
        if wrong is not None:
            raise ValueError(f"{path}: {wrong!r}{part and f' of {part!r}'} is of the wrong type; restore the file or write it again.")
    for merge in (content.get("merge"), content.get("card", {}).get("merge")):
        rows = (merge or {}).get("unreadable_images") or ()
        if not isinstance(rows, (list, tuple)) or not all(isinstance(row, dict) and all(_is_of(row.get(name), kind) for name, kind in _UNREADABLE.items()) for row in rows):
            raise ValueError(f"{path}: 'unreadable_images' of 'merge' is of the wrong type; restore the file or write it again.")
    left_out = content.get("left_out_classes")
    if left_out is not None and (None in map(left_out.get, ENTRIES["left_out_classes"]) or not 0 < left_out["share"] <= 1):
        raise ValueError(f"{path}: 'left_out_classes' does not say which share, fold and classes; restore the file or write it again.")
    try:
        for entry in content.get("image_hashes", ()):
            Sketch.from_dict(entry)
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).rstrip('.')}; restore the file or write it again.") from None
    if len(content.get("label_names", content["class_names"])) != len(content["class_names"]):
        raise ValueError(f"{path} has not one of 'label_names' per class; restore the file or write it again.")
    if content["class_names"]:
        try:
            # As benchmarks and heads have them, so that names that look alike are alike.
            content["class_names"] = list(check_class_names(content["class_names"]))
            check_templates(content["templates"])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    if content.get("fitted_prompts") not in (None, _prompts(content)):
        parts = ", ".join(name for name in FITTED if name in content)
        raise ValueError(
            f"{path}: 'class_names' or 'templates' are not those that {parts or 'what it says'} was fitted with; put them back, give other prompts to a "
            "command by --class_names and --templates, which leave out what was fitted, or remove 'fitted_prompts' from the file and fit again with "
            "hf-robustft calibrate."
        )
    return content


def _prompts(content: Mapping[str, Any]) -> str:
    """A hash of the class names and templates of `content`."""
    text = json.dumps([content["class_names"], content["templates"]], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def with_prompts(facts: Mapping[str, Any], class_names: Sequence[str] | None, templates: Sequence[str] | None) -> dict[str, Any]:
    """
    What `robustft.json` would say of a model that classifies by other prompts.

    Args:
        facts (`Mapping[str, Any]`): What it says; empty without one.
        class_names (`Sequence[str]`, *optional*), templates (`Sequence[str]`, *optional*): The classes and prompts; by default those of
            the facts, and for prompts `"a photo of a {}."`.

    Returns:
        `dict[str, Any]`: No head, no detector, no temperature and no thresholds: they belong to the model's own classes and prompts. Where those
            are what is given, what it says.

    Raises:
        ValueError: If there are no class names, or names or templates are wrong.
    """
    names = class_names or facts.get("class_names")
    if not names:
        raise ValueError(f"There is no {METADATA_FILE} with class names; give class_names (--class_names).")
    templates = templates or facts.get("templates") or DEFAULT_TEMPLATES
    given = {"class_names": list(check_class_names(names)), "templates": list(check_templates(templates))}
    if all(facts.get(name) == value for name, value in given.items()):
        return dict(facts)
    return {
        **{"format": FORMAT, "hf_robustft": facts.get("hf_robustft", __version__)},
        **{"method": facts.get("method", "zero_shot"), "settings": facts.get("settings", {}), "head": ZERO_SHOT_HEAD},
        **{name: facts[name] for name in OF_THE_WEIGHTS if name in facts},
        **given,
    }


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value is `None`, of a kind, or a list of items of a kind."""
    if isinstance(kind, list):
        return value is None or isinstance(value, list) and all(item is not None and _is_of(item, kind[0]) for item in value)
    return value is None or isinstance(value, kind) and not (isinstance(value, bool) and kind in (int, _NUMBER))


def _number(text: str) -> int | float:
    """What a number of JSON is; of NaN, infinity and what no float can hold there is none."""
    if not math.isfinite(float(text)):
        raise ValueError(f"{text[:20]} is not a number")
    return int(text) if text.lstrip("-").isdecimal() else float(text)
