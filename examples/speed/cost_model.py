# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
What a training step costs on paper: floating-point operations and bytes of each of its parts.

    python examples/speed/cost_model.py            # tables for ViT-B/32, ViT-B/16 and ViT-L/14, and ImageNet's run

Operations are those of matrix products, convolutions and attention, two for each multiply-add; a backward pass costs
two forward ones, but for the patch convolution, whose input needs no gradient. Of its last layer a tower computes the keys
and values of all tokens and the rest for the one that is read. Bytes are those that travel between
memory and processor if every operation reads its inputs and writes its output once, and nothing stays in a cache.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import CLIPConfig
from workload import SIZES, model_config

#: Tokens of the longest of 32 captions of ImageNet, on average.
CAPTION_LENGTH = 14
#: Reads and writes of one layer, in tensors of tokens x width: LayerNorm 2, q, k, v 6, attention 4, its output 2,
#: sum 3; LayerNorm 2, fc1 5, quick GELU (three operations on 4 widths) 28, fc2 5, sum 3.
_LAYER_TENSORS = 60
#: What a layer keeps for its backward pass: inputs of both norms and of q, k, v; q, k, v; output of the attention; input
#: of fc1; then fc1's output, its sigmoid and their product, 4 widths each.
_KEPT_TENSORS = 20
#: The same of the last layer: LayerNorm 2, k, v 4, and attention of one query 2; it keeps the inputs of norm and of k, v, and k, v.
_LAST_LAYER_TENSORS, _LAST_KEPT_TENSORS = 8, 4


@dataclass(frozen=True)
class Tower:
    """Sizes of a transformer: tokens an example, width, layers, width of the MLP, patch (0 for text), embedding size."""

    tokens: int
    width: int
    layers: int
    inner: int
    patch: int
    projection: int

    @property
    def forward_flops(self) -> float:
        """Operations of one example's forward pass, projection included."""
        layers = (self.layers - 1) * self._layer_flops(self.tokens) + self._layer_flops(1)
        return self.patch_flops + layers + 2 * self.width * self.projection

    @property
    def patch_flops(self) -> float:
        """Operations of the patch convolution for one image; 0 for text."""
        return 2 * (self.tokens - 1) * 3 * self.patch**2 * self.width if self.patch else 0

    @property
    def training_flops(self) -> float:
        """Operations of one example's forward and backward pass."""
        return 3 * self.forward_flops - self.patch_flops

    @property
    def layer_weights(self) -> int:
        """Weights of all layers (matrices, without biases and norms), patch convolution and projection included."""
        layer = 4 * self.width**2 + 2 * self.width * self.inner
        return self.layers * layer + 3 * self.patch**2 * self.width + self.width * self.projection

    def _layer_flops(self, read: int) -> float:
        keys_and_values = 2 * self.tokens * 2 * self.width**2
        return keys_and_values + read * (4 * self.width**2 + 4 * self.width * self.inner + 4 * self.tokens * self.width)

    def _tensors(self, each: int, last: int) -> int:
        return ((self.layers - 1) * each + last) * self.tokens * self.width

    def forward_bytes(self, batch: int, size: int) -> float:
        """Bytes of the forward pass of `batch` examples at `size` bytes a number."""
        return size * (self.layer_weights + batch * self._tensors(_LAYER_TENSORS, _LAST_LAYER_TENSORS))

    def kept_bytes(self, batch: int, size: int) -> float:
        """Bytes that the forward pass of `batch` examples keeps for the backward pass."""
        return size * batch * self._tensors(_KEPT_TENSORS, _LAST_KEPT_TENSORS)


def towers(config: CLIPConfig, caption_length: int = CAPTION_LENGTH) -> tuple[Tower, Tower]:
    """The vision and the text tower of a model, for captions of `caption_length` tokens."""
    vision, text, projection = config.vision_config, config.text_config, config.projection_dim
    patches = (vision.image_size // vision.patch_size) ** 2
    return (
        Tower(
            patches + 1,
            vision.hidden_size,
            vision.num_hidden_layers,
            vision.intermediate_size,
            vision.patch_size,
            projection,
        ),
        Tower(caption_length, text.hidden_size, text.num_hidden_layers, text.intermediate_size, 0, projection),
    )


def parameter_count(config: CLIPConfig) -> int:
    """All parameters of a model, embeddings, biases and norms included."""
    vision, text = towers(config)
    biases = sum(t.layers * (9 * t.width + t.inner) for t in (vision, text))
    tables = text.width * (config.text_config.vocab_size + config.text_config.max_position_embeddings)
    tables += vision.width * (vision.tokens + 1)
    norms = 4 * vision.width + 2 * text.width
    return vision.layer_weights + text.layer_weights + biases + tables + norms + 1


def parts(config: CLIPConfig, batch: int, caption_length: int = CAPTION_LENGTH, size: int = 4) -> dict[str, tuple]:
    """
    The parts of a CaRot step.

    Args:
        config: Configuration of the model.
        batch (`int`): Pairs in the step.
        caption_length (`int`): Tokens that captions are trimmed to.
        size (`int`, *optional*, defaults to 4): Bytes of an activation and of a weight in the towers.

    Returns:
        `dict` from a part's name to `(operations, bytes)`.
    """
    vision, text = towers(config, caption_length)
    weights, dim = parameter_count(config), config.projection_dim
    matrix, features = batch * batch, 2 * batch * dim
    # Two products of the two sets of features; a forward pass for student and teacher, and the student's backward pass.
    contrastive = 2 * 2 * matrix * dim * (1 + 2 + 1)
    gram = 2 * dim * dim * vision.width
    cross = 2 * dim * vision.width * text.width
    return {
        "vision tower, forward and backward": (batch * vision.training_flops, 3 * vision.forward_bytes(batch, size)),
        "text tower, forward and backward": (batch * text.training_flops, 3 * text.forward_bytes(batch, size)),
        "teacher's vision tower": (batch * vision.forward_flops, vision.forward_bytes(batch, size)),
        "teacher's text tower": (batch * text.forward_flops, text.forward_bytes(batch, size)),
        # Scaling, softmax and its logarithm, both ways, forward and backward: about 30 times over the matrix.
        "contrastive matrix and distillation": (contrastive, 4 * (30 * matrix + 8 * features)),
        "orthogonality and cross term": (
            3 * (gram + cross),
            4 * 3 * (3 * dim * vision.width + 4 * dim * dim + dim * text.width + 4 * vision.width * text.width),
        ),
        # A norm (read), a scaling (read, write); reads of weight, gradient and both moments, writes of all but the gradient.
        "gradient clipping": (0, 4 * 3 * weights),
        "AdamW (fused)": (0, 4 * 7 * weights),
        # One product in place, one sum in place.
        "EMA, in a step that has one": (0, 4 * 5 * weights),
    }


def step_flops(config: CLIPConfig, batch: int, caption_length: int = CAPTION_LENGTH, teacher: bool = True) -> float:
    """
    Operations of a whole step.

    Args:
        config: Configuration of the model.
        batch (`int`): Pairs in the step.
        caption_length (`int`): Tokens that captions are trimmed to.
        teacher (`bool`, *optional*, defaults to `True`): Whether a teacher encodes the batch too (CaRot, not FLYP).
    """
    return sum(
        operations
        for name, (operations, _) in parts(config, batch, caption_length).items()
        if teacher or not name.startswith("teacher")
    )


def table(name: str, batch: int, size: int = 4) -> str:
    """The parts of a model's step as a Markdown table, with their shares of the operations."""
    config = model_config(name)
    found = parts(config, batch, size=size)
    total = sum(operations for operations, _ in found.values())
    lines = [f"| {name}, batch {batch} | GFLOP | share | GB moved |", "|---|---:|---:|---:|"]
    for part, (operations, moved) in found.items():
        lines.append(f"| {part} | {operations / 1e9:,.1f} | {operations / total:.1%} | {moved / 1e9:.2f} |")
    moved = sum(moved for _, moved in found.values())
    lines.append(f"| all | {total / 1e9:,.0f} | 100% | {moved / 1e9:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    from paper_run import paper_run, recipe_hours

    for model in SIZES:
        print(table(model, 32), end="\n\n")
    print(paper_run(), end="\n\n")
    print(recipe_hours())
