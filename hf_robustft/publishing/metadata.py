# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`robustft.json` of a finished run, without anything private. `modeling.metadata` holds its schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..data.prompts import check_class_names, check_templates
from ..modeling.metadata import FORMAT, METADATA_FILE, MULTI_LABEL, dump_robustft_json, load_robustft_json
from .text import public_settings

__all__ = ["METADATA_FILE", "load_robustft_json", "write_robustft_json"]


def write_robustft_json(
    output_dir: str | Path,
    *,
    method: str,
    class_names: Sequence[str],
    templates: Sequence[str],
    settings: Mapping[str, Any],
    alpha: float | None = None,
    head: str | None = None,
    image_hashes: Sequence[Mapping[str, Any]] = (),
    label_names: Sequence[str] | None = None,
    merge: Mapping[str, Any] | None = None,
    left_out_classes: Mapping[str, Any] | None = None,
    problem_type: str | None = None,
    adapters: Mapping[str, Any] | None = None,
    unreadable_images: Mapping[str, Any] | None = None,
) -> Path:
    """
    Write `robustft.json` beside the weights.

    Args:
        output_dir (`str` or `Path`): Folder of the checkpoint, created if it does not exist.
        method (`str`): The method's short name, such as `"carot"`.
        class_names (`Sequence[str]`): The classes in label order; empty for a model trained on captions.
        templates (`Sequence[str]`): Prompt templates with one `{}` each; may be empty only if the class names are.
        settings (`Mapping[str, Any]`): Training arguments that differ from the defaults. Those that name places,
            accounts or secrets are left out (see `public_settings`).
        alpha (`float`, *optional*): Share of the fine-tuned weights in an interpolation, in [0, 1].
        head (`str`, *optional*): The head behind the results: `"zero-shot prompts"`, or the `label` of a trained head.
        image_hashes (`Sequence[Mapping[str, Any]]`, *optional*): `ImageCheck.hashes`, by which images that the model has seen
            are recognised later.
        label_names (`Sequence[str]`, *optional*): What the training data call the classes, in the same order, where that
            differs; evaluation data may use these names too.
        merge (`Mapping[str, Any]`, *optional*): What a method that merges made the weights of.
        left_out_classes (`Mapping[str, Any]`, *optional*): The `share` and `fold` of the classes that were left out of the
            training, and their names as `classes`.
        adapters (`Mapping[str, Any]`, *optional*): The `file` of adapters that are not in the weights, and what is `kept` in it.
        unreadable_images (`Mapping[str, Any]`, *optional*): Of the training images those that could not be read: `count`, `of` how many
            if that is known, and whether they were `left_out`; or others took their places.
        problem_type (`str`, *optional*): `"multi_label_classification"` of a model that was trained on lists of labels.

    Returns:
        `Path`: The file.

    Raises:
        ValueError: If the method is empty, class names or templates are unfit (see `check_class_names`,
            `check_templates`), `alpha` lies outside [0, 1], the problem type is another, or a setting is a number that JSON cannot hold.
    """
    if not method:
        raise ValueError("The method's name is empty; give the name of the method, such as 'carot'.")
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; a share of the fine-tuned weights lies in [0, 1].")
    if problem_type not in (None, MULTI_LABEL):
        raise ValueError(f"problem_type is {problem_type!r}; give {MULTI_LABEL!r} for lists of labels, or leave it out.")
    content = {
        "format": FORMAT,
        "hf_robustft": __version__,
        "method": method,
        "class_names": list(check_class_names(class_names)) if class_names else [],
        "templates": list(check_templates(templates)) if class_names or templates else [],
        "settings": public_settings(settings),
    }
    if problem_type is not None:
        content["problem_type"] = problem_type
    if alpha is not None:
        content["alpha"] = float(alpha)
    if merge:
        content["merge"] = dict(merge)
    if head is not None:
        content["head"] = head
    if image_hashes:
        content["image_hashes"] = [dict(entry) for entry in image_hashes]
    if label_names is not None:
        content["label_names"] = list(label_names)
    if adapters:
        content["adapters"] = dict(adapters)
    if left_out_classes:
        content["left_out_classes"] = dict(left_out_classes)
    if unreadable_images:
        content["unreadable_images"] = dict(unreadable_images)
    return dump_robustft_json(output_dir, content)
