# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Only `modeling/dual_encoder.py` knows the parts of a model and the families there are."""

import ast
import re
from pathlib import Path

import pytest
from test_import_direction import tree
from transformers.models.auto.modeling_auto import MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES

from hf_robustft.modeling.families import FAMILIES

PACKAGE = "hf_robustft"
ROOM = "modeling/dual_encoder.py"
#: And what it is made of: which token ends a caption is known there.
ROOMS = {ROOM, "modeling/caption_rules.py", "modeling/families.py"}
#: Parts of a model, of its configuration and of its output.
PARTS = {
    *("visual_projection", "text_projection", "projection_dim", "logit_bias"),
    *("vision_model", "text_model", "vision_config", "text_config", "vision_model_output", "text_model_output"),
    *("get_image_features", "get_text_features", "pooler_output", "eos_token_id", "max_position_embeddings"),
}
#: The same, where an object of ours has an attribute of that name.
OURS = {
    "logit_scale": {"features", "report", "detector", "encoder", "self.encoder"},
    "visual_projection": {"encoder", "self.encoder"},
    "text_projection": {"encoder", "self.encoder"},
    "logit_bias": {"encoder", "self.encoder"},
}
CLASSES = {name for name in MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES.values() if isinstance(name, str)}
CLASSES |= {family.class_name for family in FAMILIES.values()}
CLASSES |= {name.removesuffix("Model") + kind for name in CLASSES for kind in ("Config", "TextConfig", "VisionConfig")}
#: Names of tensors in a file, with or without what follows a part.
TENSORS = {name for part in PARTS for name in (part, f"{part}.weight")} | {"encoder.layers"}


def attribute_path(node: ast.AST) -> str:
    """`self.model` of the expression, `DualEncoder.of()` of a call; '' of anything that is not a plain name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{attribute_path(node.value)}.{node.attr}"
    return f"{attribute_path(node.func)}()" if isinstance(node, ast.Call) else ""


def fields(tree: ast.AST) -> dict[ast.AST, set[str]]:
    """For each `self.x` inside a class, the attributes that the class itself declares or assigns."""
    found = {}
    for cls in ast.walk(tree):
        if isinstance(cls, ast.ClassDef):
            nodes = list(ast.walk(cls))
            declared = {n.target.id for n in nodes if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
            found |= {n: declared for n in nodes if isinstance(n, ast.Attribute) and attribute_path(n.value) == "self"}
    return found


def violations(root: Path) -> list[str]:
    """Each place below `root` (the package folder), outside the room, that names a part of a model or a family."""
    wrong = []
    for file in sorted(root.rglob("*.py")):
        if file.relative_to(root).as_posix() in ROOMS:
            continue
        module = ast.parse(file.read_text(encoding="utf-8"))
        own = fields(module)
        for node in ast.walk(module):
            found = None
            if isinstance(node, ast.Attribute) and node.attr in PARTS | OURS.keys():
                holder = attribute_path(node.value)
                ours = OURS.get(node.attr, set()) | {"DualEncoder.of()", "tokenizer"}
                if holder not in ours and node.attr not in own.get(node, ()):
                    found = f"{holder}.{node.attr}"
            elif isinstance(node, ast.Attribute) and node.attr == "layers":
                holder = attribute_path(node.value)
                found = f"{holder}.layers" if holder.endswith(".encoder") and holder != "self.encoder" else None
            elif isinstance(node, ast.Name) and node.id in CLASSES:
                found = node.id
            elif isinstance(node, ast.alias) and node.name.rpartition(".")[2] in CLASSES:
                found = node.name
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found = node.value if node.value in TENSORS else None
                found = found or next((word for word in re.findall(r"\w+", node.value) if word in CLASSES), None)
            if found:
                wrong.append(f"{file.relative_to(root).as_posix()}:{node.lineno} names {found}")
    for file in sorted(root.rglob("*.md")):
        # The cards of the package's own models name theirs.
        words = set() if "assets" in file.parts else set(re.findall(r"\w+", file.read_text(encoding="utf-8")))
        wrong += [f"{file.relative_to(root).as_posix()} names {name}" for name in sorted(words & CLASSES)]
    return wrong


def test_no_other_room_names_a_part_of_a_model(repository):
    assert violations(repository / PACKAGE) == []


def test_the_room_is_looked_at_by_the_same_means(repository, tmp_path):
    """What the checker passes is passed for where it is, not because the checker does not see it."""
    text = "\n".join((repository / PACKAGE / room).read_text(encoding="utf-8") for room in sorted(ROOMS - {"modeling/caption_rules.py"}))
    text = text.replace("from __future__ import annotations", "")
    found = {line.rpartition("names ")[2] for line in violations(tree(tmp_path, {"modeling/other.py": text}))}
    parts = {name.rpartition(".")[2] for name in found}
    assert {"logit_scale", "vision_model", "text_config", "pooler_output", "visual_projection"} <= parts
    assert {family.model_class.__name__ for family in FAMILIES.values()} <= found
    assert violations(tree(tmp_path, {"modeling/other.py": "x = model.vision_model.encoder.layers\n"}))


ALLOWED = {
    "modeling/dual_encoder.py": "from transformers import CLIPModel\nweight = model.visual_projection.weight\n",
    "modeling/a.py": "def f(features, encoder):\n    return features.logit_scale, encoder.visual_projection.shape\n",
    "evaluation/a.py": "class R:\n    logit_scale: float\n    def f(self):\n        return self.logit_scale\n",
    "training/a.py": "visual, text = self.encoder.visual_projection, DualEncoder.of(model).logit_scale\nx = tokenizer.eos_token_id\n",
}


def test_the_checker_passes_what_is_allowed(tmp_path):
    assert violations(tree(tmp_path, ALLOWED)) == []


def test_the_checker_reads_templates(tmp_path):
    assert violations(tree(tmp_path, {**ALLOWED, "publishing/card.md": "A plain `CLIPModel`.\n"})) == [
        "publishing/card.md names CLIPModel"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "weight = self.model.visual_projection.weight\n",
        "bound = self.model.logit_scale.item()\n",
        "scale = unwrapped(model).logit_scale\n",
        "class T:\n    def f(self):\n        return self.logit_scale\n",
        "dim = model.config.projection_dim\n",
        "for layer in model.vision_model.encoder.layers: pass\n",
        "for layer in tower.encoder.layers: pass\n",
        "features = output.vision_model_output\n",
        "features = output.pooler_output\n",
        "features = model.get_text_features(input_ids=ids)\n",
        "end = config.text_config.eos_token_id\n",
        "weight = getattr(model, 'text_projection')\n",
        "parameters['visual_projection.weight'] = weight\n",
        "from transformers import CLIPModel\n",
        "from transformers.models.metaclip_2.modeling_metaclip_2 import MetaClip2Model\n",
        "import transformers\nisinstance(model, transformers.CLIPModel)\nok = CLIPModel\n",
        "from transformers import SiglipModel\n",
        "raise ValueError('the model is not a `CLIPModel`; give one')\n",
        'def f():\n    """Loads a [`~transformers.CLIPModel`]."""\n',
        "raise ValueError(f'{what} is not a CLIPModel.')\n",
    ],
)
def test_the_checker_finds_a_planted_violation(tmp_path, text):
    found = violations(tree(tmp_path, {**ALLOWED, "training/bad.py": text}))
    assert found and all(line.startswith("training/bad.py") for line in found)
