# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The prompt-ensemble classification head that a text tower gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..data.prompts import check_class_names, check_templates, class_prompts
from .captions import check_class_prompts, distinct_captions, pad_captions
from .dual_encoder import DualEncoder
from .features import logit_scale
from .tensor_files import write_tensors

HEAD_FILE = "head.safetensors"

#: Prompts that are tokenized in one call, which takes a few kB of memory each until they are a tensor.
_TOKENIZED_AT_ONCE = 4096


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
    sharded: bool = False,
) -> Tensor:
    """
    Projected text features, before normalisation, of every prompt of every class.

    Prompts of like length are encoded together, so that each is padded little, and equal ones once; the order in which
    they are encoded changes their features by rounding only.

    Args:
        model (`torch.nn.Module`): A dual encoder, possibly wrapped, on any device; its training mode is restored
            afterwards.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Its tokenizer, or a processor that holds one.
        class_names (`Sequence[str]`): One name per class.
        templates (`Sequence[str]`): Prompt templates with one `{}` each.
        batch_size (`int`, *optional*, defaults to 256): Prompts encoded at once.
        sharded (`bool`, *optional*, defaults to `False`): Share the prompts out over the processes of the default
            group, all of which must then make this call, with the same model; each gets the same bits. Without such a
            group it changes nothing.

    Returns:
        `torch.Tensor` of shape `(classes, templates, embed_dim)`, at least float32.

    Raises:
        ValueError: If a class name appears twice, two classes give equal tokens, a template has no `{}`, or
            `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size}: at least one prompt must be encoded at once.")
    class_names, templates = check_class_names(class_names), check_templates(templates)
    encoder = DualEncoder.of(model)
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    check_class_prompts(tokenizer, class_names, templates, encoder.caption_rules)
    prompts = class_prompts(class_names, templates)
    shares = sharded and dist.is_available() and dist.is_initialized()
    rank, processes = (dist.get_rank(), dist.get_world_size()) if shares else (0, 1)
    # Every process has as many, the last of them a second time where they do not come out even.
    share = -(-len(prompts) // processes)
    own = [prompts[min(rank + processes * row, len(prompts) - 1)] for row in range(share)]
    features = _encoded_by_length(encoder, tokenizer, own, batch_size)
    if processes > 1:
        parts = [torch.empty_like(features) for _ in range(processes)]
        dist.all_gather(parts, features)
        features = torch.stack(parts, dim=1).flatten(0, 1)[: len(prompts)]
    return features.view(len(class_names), len(templates), -1)


def _encoded_by_length(encoder: DualEncoder, tokenizer, prompts: Sequence[str], batch_size: int) -> Tensor:
    model, rules = encoder.core, encoder.caption_rules
    tables = [
        tokenizer(prompts[start : start + _TOKENIZED_AT_ONCE], padding=True, truncation=True, return_tensors="pt")
        for start in range(0, len(prompts), _TOKENIZED_AT_ONCE)
    ]
    distinct = distinct_captions(pad_captions([table["input_ids"] for table in tables], rules.padding), rules)
    lengths = rules.end_positions(distinct.input_ids) + 1
    # The longest first: what does not fit into memory fails at once.
    order = lengths.argsort(descending=True, stable=True)
    training = model.training
    model.eval()
    try:
        parts = [
            encoder.text_features(distinct.input_ids[chosen, : lengths[chosen].max()].to(model.device))
            for chosen in order.split(batch_size)
        ]
    finally:
        model.train(training)
    features = torch.cat(parts)[order.argsort().to(model.device)]
    return features if distinct.rows is None else features[distinct.rows.to(model.device)]


class ZeroShotHead(nn.Module):
    """
    A linear classifier on unit-norm image embeddings.

    Started from a model's text tower it is CLIP's zero-shot classifier: row c is the model's learned logit scale
    times the unit embedding of class c, and the bias is 0, so that `head(image_embeds)` are the model's own logits
    and their softmax its own confidence (never a hard-coded scale of 100). Trained on (`CrossEntropyMixin`), it is
    the linear head of ordinary fine-tuning.

    Args:
        weight (`torch.Tensor` of shape `(classes, embed_dim)`): Logit scale times class embedding.
        class_names (`Sequence[str]`): The name of each row; duplicates are refused.
        bias (`torch.Tensor` of shape `(classes,)`, *optional*): What is added to the logits; zeros by default.

    Raises:
        ValueError: If the shapes and the number of class names disagree, or a class name appears twice.
    """

    #: What `head.safetensors` calls a head of this class, what reports call it, and the tensors that are in the file.
    kind = "linear"
    label = "trained linear head"
    #: What makes probabilities of its logits.
    function = "softmax"
    parts: tuple[str, ...] = ("weight", "bias")

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
        """
        Classify embeddings.

        Args:
            image_embeds (`torch.Tensor` of shape `(batch, embed_dim)`): Of unit norm.

        Returns:
            `torch.Tensor` of shape `(batch, classes)`: The logits.
        """
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
        sharded: bool = False,
    ) -> ZeroShotHead:
        """
        Build the head from a model's text tower.

        Args:
            model (`torch.nn.Module`): A dual encoder, possibly wrapped, on any device; its training mode is restored
                afterwards.
            tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Its tokenizer, or a processor that holds one.
            class_names (`Sequence[str]`): One name per class.
            templates (`Sequence[str]`): Prompt templates with one `{}` each.
            batch_size (`int`, *optional*, defaults to 256): Prompts encoded at once.
            sharded (`bool`, *optional*, defaults to `False`): Share the prompts out over the processes, all of which
                must then make this call ([`prompt_features`]); each gets the same bits.

        Returns:
            [`ZeroShotHead`] on the model's device, in float32 (float64 if the model is).

        Raises:
            ValueError: If a class name appears twice, a template has no `{}`, `batch_size` is below 1, or the logit scale is 0 or
                infinite.
        """
        DualEncoder.of(model).check_logit_scale()
        features = prompt_features(model, tokenizer, class_names, templates, batch_size, sharded)
        embeds = features / features.norm(dim=-1, keepdim=True)
        return cls(logit_scale(model) * class_embeddings(embeds), class_names)

    def check_model(self, model: nn.Module) -> None:
        """
        Refuse a model that the head does not fit.

        Args:
            model (`torch.nn.Module`): A dual encoder, possibly wrapped.

        Raises:
            ValueError: If its embeddings have another dimension than those of the head.
        """
        wanted, given = self.weight.shape[1], DualEncoder.of(model).embed_dim
        if wanted != given:
            raise ValueError(
                f"The head takes embeddings of {wanted} dimensions, and the model gives {given}; use the head that was trained "
                "with this model."
            )

    @torch.no_grad()
    def fold(self, temperature: float) -> None:
        """
        Divide all logits by a temperature, in place.

        Args:
            temperature (`float`): What to divide by, above 0.
        """
        self.weight.div_(temperature)
        self.bias.div_(temperature)

    def save_pretrained(self, directory: str | Path) -> Path:
        """
        Write `head.safetensors`: the tensors, with kind and class names in its metadata.

        Args:
            directory (`str` or `Path`): The folder.

        Returns:
            `Path`: The file.
        """
        path = Path(directory) / HEAD_FILE
        metadata = {"format": "pt", "class_names": json.dumps(list(self.class_names))}
        if self.kind != ZeroShotHead.kind:
            # Earlier versions read linear heads, and know of no kinds.
            metadata["kind"] = self.kind
        return write_tensors(path, self.state_dict(), metadata)

    @classmethod
    def from_pretrained(
        cls, directory: str | Path, *, revision: str | None = None, token: str | bool | None = None
    ) -> ZeroShotHead:
        """
        Load a head that `save_pretrained` wrote.

        Args:
            directory (`str` or `Path`): A folder, or an id on the Hub.
            revision (`str`, *optional*): Branch, tag or commit on the Hub.
            token (`str` or `bool`, *optional*): Access token for a private repository.

        Returns:
            [`ZeroShotHead`]: The head, of the class that this is called on.

        Raises:
            OSError: As [`load_head`].
            ValueError: As [`load_head`], and if it is a head of another class.
        """
        # The kinds are made of this class.
        from .heads import load_head

        head = load_head(directory, revision=revision, token=token)
        if not isinstance(head, cls):
            raise ValueError(
                f"The head in {directory} is a {type(head).__name__}, not a {cls.__name__}; use `load_head`."
            )
        return head
