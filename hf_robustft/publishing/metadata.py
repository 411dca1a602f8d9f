# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`robustft.json`: what a checkpoint folder must say beyond the weights for its numbers to be repeated."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_robustft import __version__
from hf_robustft.data.prompts import check_class_names, check_templates
from hf_robustft.publishing.text import public_settings

METADATA_FILE = "robustft.json"
FORMAT = 1


def write_robustft_json(
    output_dir: str | Path,
    *,
    method: str,
    class_names: Sequence[str],
    templates: Sequence[str],
    settings: Mapping[str, Any],
    alpha: float | None = None,
    head: str | None = None,
) -> Path:
    """
    Write `robustft.json` beside the weights.

    Args:
        output_dir: Folder of the checkpoint; made if it does not exist.
        method (`str`): The method's short name, such as `"carot"`.
        class_names: The classes in label order; empty for a model trained on captions.
        templates: Prompt templates with one `{}` each; may be empty only if the class names are.
        settings (`Mapping[str, Any]`): Training arguments that differ from the defaults. Those that name places,
            accounts or secrets are left out (see `public_settings`).
        alpha (`float`, *optional*): Share of the fine-tuned weights in an interpolation, in [0, 1].
        head (`str`, *optional*): The head behind the results: `"zero-shot prompts"` or `"trained linear head"`.

    Returns:
        `Path`: The file.

    Raises:
        ValueError: If the method is empty, class names or templates are unfit (see `check_class_names`,
            `check_templates`), `alpha` lies outside [0, 1], or a setting is a number that JSON cannot hold.
    """
    if not method:
        raise ValueError("The method's name is empty; give the name of the method, such as 'carot'.")
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; a share of the fine-tuned weights lies in [0, 1].")
    content = {
        "format": FORMAT,
        "hf_robustft": __version__,
        "method": method,
        "class_names": list(check_class_names(class_names)) if class_names else [],
        "templates": list(check_templates(templates)) if class_names or templates else [],
        "settings": public_settings(settings),
    }
    if alpha is not None:
        content["alpha"] = float(alpha)
    if head is not None:
        content["head"] = head
    path = Path(output_dir) / METADATA_FILE
    try:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"A setting cannot be written to {METADATA_FILE}: {error}; give finite numbers.") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")
    return path


def load_robustft_json(directory: str | Path) -> dict[str, Any]:
    """
    Read the `robustft.json` of a checkpoint folder.

    Args:
        directory: The folder.

    Returns:
        `dict[str, Any]`: `format`, `hf_robustft` (the version that wrote it), `method`, `class_names`, `templates`,
        `settings`, and, where they were given, `alpha` and `head`.

    Raises:
        OSError: If the folder has no `robustft.json`.
        ValueError: If it is not JSON, of another format, or a field is missing or of the wrong kind.
    """
    path = Path(directory) / METADATA_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {METADATA_FILE} in {directory}; give the folder of a model that hf_robustft has trained."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
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
    if content["class_names"]:
        check_class_names(content["class_names"])
        check_templates(content["templates"])
    return content
