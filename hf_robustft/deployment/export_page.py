# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What lies beside an exported graph for its users: how images are prepared, and a page with numbers and a snippet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..data.transforms import ImageTransform

#: Prepares images with Pillow and NumPy alone; a test compares the result with [`ImageTransform`].
PREPARE = '''\
import json

import numpy as np
from PIL import Image, ImageOps

with open("preprocess.json", encoding="utf-8") as file:
    FACTS = json.load(file)


def prepare(path):
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):
        # 16-bit greys, whose brighter ones Pillow would make white.
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    image = image.convert("RGB")
    if FACTS["do_resize"]:
        size, (short, long) = FACTS["resize"], sorted(image.size)
        if isinstance(size, int):
            longest = int(size * long / short)
            size = (size, longest) if image.width <= image.height else (longest, size)
        image = image.resize(size, Image.Resampling[FACTS["resample"].upper()])
    left, top = ((side - FACTS["size"]) // 2 for side in image.size)
    levels = np.asarray(image.crop((left, top, left + FACTS["size"], top + FACTS["size"])))
    if FACTS["input"] == "uint8":
        return levels
    values = (levels * FACTS["rescale_factor"]).astype(np.float32)
    mean, std = np.float32(FACTS["mean"]), np.float32(FACTS["std"])
    return ((values - mean) / std).transpose(2, 0, 1)
'''
_RUN_ONNX = '''\
import onnxruntime

session = onnxruntime.InferenceSession("{file}")
names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
pixels = np.stack([prepare(path) for path in ["photo.jpg"]])
found = dict(zip([item.name for item in session.get_outputs()], session.run(None, {{"pixel_values": pixels}})))
'''
_RUN_TORCH = '''\
import torch

names = FACTS["class_names"]
pixels = torch.from_numpy(np.stack([prepare(path) for path in ["photo.jpg"]]))
found = torch.export.load("{file}").module()(pixels)
'''
_PRINT = '''\
for number in range(len(pixels)):
    label = int(found["label"][number])
    print(names[label], float(found["probabilities"][number, label]){known})
'''
#: What the outputs are.
OUTPUTS = {
    "image_embeds": "embeddings of unit norm, `(batch, {dim})`",
    "logits": "of the classes, at the model's logit scale, `(batch, {classes})`",
    "probabilities": "{what}, `(batch, {classes})`",
    "label": "index of the most probable class, `(batch,)`",
    "score": "of the open-set detector, `(batch,)`: {score}",
    "is_known": "whether `score` reaches {threshold}, `(batch,)`; where it does not the answer is \"unknown\"",
    "has_label": "whether the probability of each class is above its threshold, `(batch, {classes})`",
}


def preprocess_facts(transform: ImageTransform, input: str, class_names: Sequence[str]) -> dict[str, Any]:
    """What `preprocess.json` says: the steps of a `transform`, what the graph takes (`input`), and `class_names`."""
    resize = transform.size if transform.resize is None else transform.resize
    return {
        "input": input,
        "layout": "batch, height, width, channel" if input == "uint8" else "batch, channel, height, width",
        "do_resize": transform.do_resize,
        # As Pillow has it: the shortest side, or width and height.
        "resize": resize if isinstance(resize, int) else [resize[1], resize[0]],
        "resample": str(transform.resample),
        "size": transform.size,
        "rescale_factor": transform.rescale_factor,
        "mean": list(transform.mean),
        "std": list(transform.std),
        "class_names": list(class_names),
    }


def page(facts: Mapping[str, Any], outputs: Mapping[str, str]) -> str:
    """
    The page of an export.

    Args:
        facts (`Mapping[str, Any]`): What `export.json` says.
        outputs (`Mapping[str, str]`): What each output is.
    """
    known, onnx = "is_known" in outputs, facts["format"] == "onnx"
    check, files = facts["check"], facts["files"]
    snippet = PREPARE + "\n\n" + (_RUN_ONNX if onnx else _RUN_TORCH).format(file=next(iter(files)))
    snippet += _PRINT.format(known=', "known" if found["is_known"][number] else "unknown"' if known else "")
    takes = "uint8 levels `(batch, size, size, 3)`, normalised inside" if facts["input"] == "uint8" else "normalised float32 images `(batch, 3, size, size)`"
    lines = [f"# `{' '.join(facts['name'].replace('`', '').split())}`, exported", "", f"By hf_robustft {facts['versions']['hf_robustft']}. Input `pixel_values`: {takes}."]
    lines += ["", "| output | what it is |", "|---|---|", *(f"| `{name}` | {text} |" for name, text in outputs.items())]
    lines += ["", f"## Compared with the pipeline on {check['n']} {_of(check)}", "", *table(facts, speed=False).splitlines(), ""]
    lines += [note for note in facts["notes"]]
    lines += ["", "## Images in, answers out", "", "```python", *snippet.splitlines(), "```", ""]
    return "\n".join(lines)


def _of(check: Mapping[str, Any]) -> str:
    return check["images"] if check["images"].startswith("random") else f"images of {check['images']}"


def table(facts: Mapping[str, Any], speed: bool = True) -> str:
    """
    The numbers of an export as a table in Markdown.

    Args:
        facts (`Mapping[str, Any]`): What `export.json` says.
        speed (`bool`, *optional*, defaults to `True`): Whether to tell images per second, which are others each time.
    """
    check = facts["check"]
    measured = "accuracy" in check["torch"]
    head = ["", "same decisions", "largest difference of a probability", *(["accuracy", "ECE", "NLL"] if measured else []), "MB", *(["images/s"] if speed else [])]
    lines = [f"| {' | '.join(head)} |", f"|---{'|---:' * (len(head) - 1)}|"]
    for name, row in {"torch, float32": check["torch"], **facts["files"]}.items():
        cells = [name, f"{100 * row['agreement']:.2f} %", f"{row['max_probability_difference']:.1e}"]
        if measured:
            cells += [f"{100 * row['accuracy']:.1f} %", f"{100 * row['ece']:.2f} %", f"{row['nll']:.4f}"]
        cells += [f"{row['bytes'] / 1e6:.1f}", *([f"{row['images_per_second']:.0f}"] if speed else [])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
