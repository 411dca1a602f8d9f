# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The prompt-ensemble classification head that CLIP's text tower gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..data.prompts import check_class_names, check_templates, class_prompts
from .features import logit_scale, project_texts, unwrapped

HEAD_FILE = "head.safetensors"


def class_embeddings(prompt_embeds: Tensor) -> Tensor:
    """
    Ensemble of the prompts of each class: normalise each, average, normalise again.

    Args:
        prompt_embeds (`torch.Tensor` of shape `(classes, templates, embed_dim)`): Text embeddings, of any norm.

    Returns:
        `torch.Tensor` of shape `(classes, embed_dim)`: Rows of unit norm.
    """
    mean = (prompt_embeds / prompt_embeds.norm(dim=-1, keepdim=True)).mean(dim=1)
    return mean / mean.norm(dim=-1, keepdim=True)


@torch.no_grad()
def prompt_features(
    model: nn.Module,
    tokenizer,
    class_names: Sequence[str],
    templates: Sequence[str],
    batch_size: int = 256,
) -> Tensor:
    """
    Projected text features, before normalisation, of every prompt of every class.

    Args:
        model: A `CLIPModel`, possibly wrapped, on any device; its training mode is restored afterwards.
        tokenizer: Its tokenizer, or a processor that holds one.
        class_names: One name a class.
        templates: Prompt templates with one `{}` each.
        batch_size (`int`, *optional*, defaults to 256): Prompts encoded at once.

    Returns:
        `torch.Tensor` of shape `(classes, templates, embed_dim)`, at least float32.

    Raises:
        ValueError: If a class name appears twice or a template has no `{}`.
    """
    class_names, templates = check_class_names(class_names), check_templates(templates)
    model = unwrapped(model)
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    prompts = class_prompts(class_names, templates)
    training = model.training
    model.eval()
    try:
        features = []
        for start in range(0, len(prompts), batch_size):
            tokens = tokenizer(prompts[start : start + batch_size], padding=True, truncation=True, return_tensors="pt")
            features.append(project_texts(model, tokens["input_ids"].to(model.device)))
    finally:
        model.train(training)
    return torch.cat(features).view(len(class_names), len(templates), -1)


class ZeroShotHead(nn.Module):
    """
    A linear classifier on unit-norm image embeddings.

    Started from a model's text tower it is CLIP's zero-shot classifier: row c is the model's learned logit scale
    times the unit embedding of class c, and the bias is 0, so that `head(image_embeds)` are the model's own logits
    and their softmax its own confidence (never a hard-coded scale of 100). Trained on (`CrossEntropyMixin`), it is
    the linear head of ordinary fine-tuning.

    Args:
        weight (`torch.Tensor` of shape `(classes, embed_dim)`): Logit scale times class embedding.
        bias (`torch.Tensor` of shape `(classes,)`, *optional*, defaults to zeros).
        class_names: The name of each row; duplicates are refused.

    Raises:
        ValueError: If the shapes and the number of class names disagree, or a class name appears twice.
    """

    def __init__(self, weight: Tensor, class_names: Sequence[str], bias: Tensor | None = None):
        super().__init__()
        self.class_names = check_class_names(class_names)
        bias = torch.zeros(len(weight), dtype=weight.dtype, device=weight.device) if bias is None else bias
        if weight.ndim != 2 or len(weight) != len(self.class_names) or bias.shape != weight.shape[:1]:
            raise ValueError(
                f"A head for {len(self.class_names)} classes needs a weight (classes, embed_dim) and a bias (classes,), "
                f"got {tuple(weight.shape)} and {tuple(bias.shape)}."
            )
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = nn.Parameter(bias.detach().clone())

    def forward(self, image_embeds: Tensor) -> Tensor:
        """Logits of shape `(batch, classes)` for unit-norm `image_embeds` of shape `(batch, embed_dim)`."""
        return nn.functional.linear(image_embeds, self.weight, self.bias)

    @classmethod
    @torch.no_grad()
    def from_model(
        cls,
        model: nn.Module,
        tokenizer,
        class_names: Sequence[str],
        templates: Sequence[str],
        batch_size: int = 256,
    ) -> ZeroShotHead:
        """
        Build the head from a model's text tower.

        Args:
            model: A `CLIPModel`, possibly wrapped, on any device; its training mode is restored afterwards.
            tokenizer: Its tokenizer, or a processor that holds one.
            class_names: One name a class.
            templates: Prompt templates with one `{}` each.
            batch_size (`int`, *optional*, defaults to 256): Prompts encoded at once.

        Returns:
            [`ZeroShotHead`] on the model's device, in float32 (float64 if the model is).

        Raises:
            ValueError: If a class name appears twice or a template has no `{}`.
        """
        features = prompt_features(model, tokenizer, class_names, templates, batch_size)
        embeds = features / features.norm(dim=-1, keepdim=True)
        return cls(logit_scale(model) * class_embeddings(embeds), class_names)

    def save_pretrained(self, directory: str | Path) -> Path:
        """Write `head.safetensors` (weight, bias; class names in its metadata) into `directory`; returns its path."""
        path = Path(directory) / HEAD_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(tensors, path, metadata={"format": "pt", "class_names": json.dumps(list(self.class_names))})
        return path

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> ZeroShotHead:
        """
        Load a head that `save_pretrained` wrote.

        Raises:
            OSError: If the folder holds no `head.safetensors`.
            ValueError: If the file was not written by `save_pretrained`.
        """
        path = Path(directory) / HEAD_FILE
        if not path.is_file():
            raise OSError(f"No {HEAD_FILE} in {directory}; it is written by a fine-tuning run of `FineTuneTrainer`.")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if "class_names" not in metadata:
                raise ValueError(f"{path} carries no class names; write it with `ZeroShotHead.save_pretrained`.")
            return cls(file.get_tensor("weight"), json.loads(metadata["class_names"]), bias=file.get_tensor("bias"))
