# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Code that a reader of a card can run in the checkpoint's folder, with the real class names and templates."""

from __future__ import annotations

from collections.abc import Sequence

from .text import source_string

#: Longer lists of classes are read from `robustft.json` where it holds them.
LITERAL_CLASSES = 12
SHOWN_CLASSES = 4
_SHARES = """\
probabilities = logits.softmax(dim=-1)[0]
best = probabilities.argmax().item()
print(f"{probabilities[best].item():.3f} {class_names[best]}")
"""
_PAIRS = """\
probabilities = logits.sigmoid()[0].tolist()
for name, probability in sorted(zip(class_names, probabilities), key=lambda pair: -pair[1]):
    print(f"{probability:.3f} {name}")
"""


def pipeline_snippet(class_names: Sequence[str], templates: Sequence[str]) -> str:
    """Return code for Transformers' own pipeline, with the first of `templates` and (the first few) `class_names`."""
    shown = class_names if len(class_names) <= LITERAL_CLASSES else class_names[:SHOWN_CLASSES]
    # The pipeline fills the template with str.format; ours know no other brace than "{}".
    template = templates[0].replace("{", "{{").replace("}", "}}").replace("{{}}", "{}")
    return f"""\
from PIL import Image
from transformers import pipeline

# "." is this folder; its id on the Hub works as well.
classifier = pipeline("zero-shot-image-classification", model=".")
image = Image.open("photo.png")
candidate_labels = {_literal(shown)}
template = {source_string(template)}
for guess in classifier(image, candidate_labels=candidate_labels, hypothesis_template=template):
    print(f"{{guess['score']:.3f}} {{guess['label']}}")
"""


def model_snippet(
    class_names: Sequence[str],
    templates: Sequence[str],
    from_metadata: bool,
    fixed_length: bool = False,
    clamped: bool = False,
    pairs: bool = False,
) -> str:
    """
    Return code for Transformers alone, as evaluated: with `class_names` and `templates`, or both `from_metadata`, captions
    padded to the longest or to a `fixed_length`, and the scale as it is or `clamped` as the model's own `forward` does. `pairs`: each
    class by itself, by a sigmoid.
    """
    padding = '"max_length"' if fixed_length else "True"
    clamp = "clamp(0, model.max_log_logit_scale)." if clamped else ""
    if from_metadata:
        imports, facts = (
            "import json\n\n",
            """\
with open("robustft.json", encoding="utf-8") as file:
    facts = json.load(file)
class_names, templates = facts["class_names"], facts["templates"]""",
        )
    else:
        imports, facts = "", f"class_names = {_literal(class_names)}\ntemplates = {_literal(templates)}"
    return f"""\
{imports}import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained(".").eval()
processor = AutoProcessor.from_pretrained(".")
{facts}

prompts = [template.replace("{{}}", name) for name in class_names for template in templates]
image = Image.open("photo.png").convert("RGB")
texts = processor.tokenizer(prompts, padding={padding}, truncation=True, return_tensors="pt")
images = processor.image_processor(image, return_tensors="pt")
with torch.no_grad():
    output = model(**texts, **images)
    classes = output.text_embeds.float().unflatten(0, (len(class_names), len(templates)))
    classes = torch.nn.functional.normalize(classes.mean(dim=1), dim=-1)
    logits = model.logit_scale.{clamp}exp().float() * output.image_embeds.float() @ classes.T
{_PAIRS.replace("logits", "(logits + model.logit_bias.float())", 1) if pairs else _SHARES}"""


def trained_head_snippet(pairs: bool = False) -> str:
    """Return code for the trained head in `head.safetensors`, which plain loading of the folder ignores; `pairs`: by a sigmoid."""
    judged = _PAIRS if pairs else _SHARES
    return f"""\
import torch
from hf_robustft import load_head
from hf_robustft.data.transforms import ImageTransform
from hf_robustft.modeling.features import encode_images
from PIL import Image
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained(".").eval()
processor = AutoProcessor.from_pretrained(".")
head = load_head(".")
image = Image.open("photo.png").convert("RGB")
pixel_values = ImageTransform.from_processor(processor, train=False)(image)[None]
with torch.no_grad():
    logits = head(encode_images(model, pixel_values))
class_names = head.class_names
{judged}"""


def image_adapter_snippet(class_names: Sequence[str], templates: Sequence[str], from_metadata: bool) -> str:
    """Return code for a model with an image adapter beside its weights, with `class_names` and `templates`, or both `from_metadata`."""
    if from_metadata:
        facts = 'facts = load_robustft_json(".")\nclass_names, templates = facts["class_names"], facts["templates"]'
        imports = "from hf_robustft.modeling.metadata import load_robustft_json\n"
    else:
        imports, facts = "", f"class_names = {_literal(class_names)}\ntemplates = {_literal(templates)}"
    return f"""\
import torch
from hf_robustft import ZeroShotHead, load_dual_encoder
from hf_robustft.data.transforms import ImageTransform
from hf_robustft.modeling.features import encode_images
{imports}from PIL import Image

model, processor = load_dual_encoder(".")
{facts}
head = ZeroShotHead.from_model(model, processor, class_names, templates)
image = Image.open("photo.png").convert("RGB")
pixel_values = ImageTransform.from_processor(processor, train=False)(image)[None]
with torch.no_grad():
    logits = head(encode_images(model, pixel_values))
{_SHARES}"""


def label_lists_snippet() -> str:
    """Return code that gives each image of a folder the labels whose probability is above the thresholds in `robustft.json`."""
    return """\
from hf_robustft import pipeline

classify = pipeline(".")
for found in classify("photos/"):
    print(f"{found['image']}: {', '.join(item['label'] for item in found['labels']) or 'no label'}")
"""


def open_set_snippet() -> str:
    """Return code that classifies a folder of images with the detector in `robustft.json`."""
    return """\
from hf_robustft import pipeline

classify = pipeline(".")
for found in classify("photos/"):
    print(f"{found['image']}: {found['label']} ({found['probability']:.3f} for {found['nearest_class']})")
"""


def _literal(items: Sequence[str], width: int = 88) -> str:
    """A list of strings as Python source, wrapped."""
    parts = [source_string(item) for item in items]
    if len(", ".join(parts)) <= width - 20:
        return f"[{', '.join(parts)}]"
    lines = ["   "]
    for part in parts:
        if len(lines[-1]) + len(part) + 2 > width:
            lines.append("   ")
        lines[-1] += f" {part},"
    return "\n".join(["[", *lines, "]"])
