# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
How the Trainer encodes a batch: at once, or in chunks with a gradient cache.

The memory of a contrastive step is the graph of the encoders, which grows with the batch; the features and their
similarities are small. The gradient cache (the idea is that of Gao et al., "Scaling Deep Contrastive Learning Batch
Size under Memory Limited Setup", RepL4NLP 2021) keeps the graph of one chunk only: encode all chunks without graph,
compute every loss term from the features as leaves of a graph of their own, then encode chunk by chunk again and send
the features' gradients through. The chain rule is applied to the same numbers in another order, so the gradient is that
of the whole batch up to rounding; the price is one more forward pass.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import get_device_states, set_device_states

from ..modeling.features import ClipFeatures, encode
from ..modeling.noise import dropout_rate
from .distributed import gather_rows, rank, world_size
from .gradient_shares import TermGradients

#: Part of a batch that can be encoded by itself: its rows of the batch, and its share of the further texts.
Chunk = tuple[dict[str, Tensor], Tensor | None]

CACHED_FEATURES_STAND_STILL = (
    "Cached features do not follow encoders that train; train on images, or what sits on features alone (`CRoFTTrainer`, "
    "`LinearProbeTrainer`)."
)
_BATCH_STATISTICS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def is_divided(batch: Mapping[str, Any], chunk_size: int) -> bool:
    """Return whether a `batch` is encoded in several chunks (a `chunk_size` of 0 sets no limit; cached features are not encoded)."""
    return bool(chunk_size) and batch.get("pixel_values") is not None and len(batch["pixel_values"]) > chunk_size


def divide(batch: Mapping[str, Any], extra_texts: Tensor | None, chunk_size: int) -> list[Chunk]:
    """
    The chunks of a batch, in order.

    Args:
        batch (`Mapping[str, Any]`): Holds `pixel_values` and, where captions are encoded, as many `input_ids`.
        extra_texts (`torch.Tensor` of shape `(texts, length)`, *optional*): Shared out over the chunks. The last chunk
            gets some if there are any: DDP reduces the gradients with it, and waits for the text tower's.
        chunk_size (`int`): Pairs in a chunk; the last may have fewer.

    Returns:
        List of pairs: the rows of the batch, and the chunk's share of `extra_texts` or `None`.

    Raises:
        ValueError: If images and captions differ in number.
    """
    images, captions = batch["pixel_values"], batch.get("input_ids")
    if captions is not None and len(captions) != len(images):
        raise ValueError(
            f"The batch holds {len(images)} images and {len(captions)} captions; each image needs exactly one caption."
        )
    starts = range(0, len(images), chunk_size)
    n_texts = 0 if extra_texts is None else len(extra_texts)
    bounds = [index * n_texts // len(starts) for index in range(len(starts) + 1)]
    chunks: list[Chunk] = []
    for index, start in enumerate(starts):
        rows = {"pixel_values": images[start : start + chunk_size]}
        if captions is not None:
            rows["input_ids"] = captions[start : start + chunk_size]
        texts = extra_texts[bounds[index] : bounds[index + 1]] if bounds[index] < bounds[index + 1] else None
        chunks.append((rows, texts))
    return chunks


def _tensors(features: ClipFeatures) -> dict[str, Tensor]:
    named = {field.name: getattr(features, field.name) for field in fields(features)}
    return {name: value for name, value in named.items() if isinstance(value, Tensor)}


def join(parts: Sequence[ClipFeatures]) -> ClipFeatures:
    """Join the features of all chunks in `parts` as those of one batch."""
    rows: dict[str, list[Tensor]] = {}
    for part in parts:
        for name, value in _tensors(part).items():
            rows.setdefault(name, []).append(value)
    joined = {name: torch.cat(values) if values[0].ndim else values[0] for name, values in rows.items()}
    return ClipFeatures(**{"text_embeds": None, **joined})


def encode_in_chunks(
    model: nn.Module,
    batch: Mapping[str, Any],
    chunk_size: int,
    captions: bool = True,
    extra_texts: Tensor | None = None,
) -> ClipFeatures:
    """
    [`~modeling.features.encode`] in chunks, which bounds the memory where no graph is kept.

    Args:
        model (`torch.nn.Module`): The model, possibly wrapped.
        batch (`Mapping[str, Any]`): As for `encode`.
        chunk_size (`int`): Pairs encoded at once; 0 encodes all of them at once.
        captions (`bool`, *optional*, defaults to `True`): As for `encode`.
        extra_texts (`torch.Tensor`, *optional*): As for `encode`.

    Returns:
        [`ClipFeatures`] of the whole batch.
    """
    if not is_divided(batch, chunk_size):
        return encode(model, batch, captions=captions, extra_texts=extra_texts)
    chunks = divide(batch, extra_texts, chunk_size)
    return join([encode(model, rows, captions=captions, extra_texts=texts) for rows, texts in chunks])


class _Randomness:
    # The states of the generators that dropout draws from, on the CPU and on the device of the batch.
    def __init__(self, tensor: Tensor):
        self.device_type = tensor.device.type
        self.cpu_state = torch.get_rng_state()
        self.devices, self.device_states = get_device_states(tensor)

    def restore(self) -> None:
        torch.set_rng_state(self.cpu_state)
        if self.devices:
            set_device_states(self.devices, self.device_states, device_type=self.device_type)


class CachedEncoding:
    """
    A batch encoded in chunks without graph, and the way back for the gradients of its features.

    Args:
        model (`torch.nn.Module`): The student, possibly wrapped, in the mode that it trains in.
        chunks (`Sequence[Chunk]`): From [`divide`].
        captions (`bool`): Whether captions are encoded.

    Attributes:
        features ([`ClipFeatures`]): Of the whole batch, leaves that collect gradients: so do `logit_scale` and
            `logit_bias`, which every chunk uses and whose gradient must be taken once.
        leaves (`dict[str, torch.Tensor]`): Its tensors by name.
    """

    def __init__(self, model: nn.Module, chunks: Sequence[Chunk], captions: bool):
        self._model, self._chunks, self._captions = model, chunks, captions
        self._randomness: list[_Randomness] = []
        parts = []
        with torch.no_grad():
            for rows, texts in chunks:
                self._randomness.append(_Randomness(rows["pixel_values"]))
                parts.append(encode(model, rows, captions=captions, extra_texts=texts))
            whole = join(parts)
        self.leaves = {name: value.detach().requires_grad_() for name, value in _tensors(whole).items()}
        self.features = replace(whole, **self.leaves)
        self._measured: list[tuple[str, dict[str, Tensor | None], TermGradients]] = []

    def take_along(self, term: str, gradients: Sequence[Tensor | None], found: TermGradients) -> None:
        """Let the backward pass also take the `gradients` of the leaves by one `term` to the parameters, into `found`."""
        self._measured.append((term, dict(zip(self.leaves, gradients, strict=True)), found))

    def backward(self, unsynced: Callable[[], AbstractContextManager] = nullcontext) -> None:
        """
        Send the gradients that the features have collected into the model, chunk by chunk.

        Args:
            unsynced (`Callable[[], AbstractContextManager]`, *optional*): Makes a context
                in which a backward pass is not reduced over processes, for all chunks but the last. The last one
                reduces what all of them, and the loss itself, have added up.
        """
        if world_size() == 1 and all(leaf.grad is None for leaf in self.leaves.values()):
            return
        randomness = _Randomness(self._chunks[0][0]["pixel_values"])
        starts = dict.fromkeys(self.leaves, 0)
        for index in range(len(self._chunks)):
            last = index == len(self._chunks) - 1
            self._randomness[index].restore()
            with nullcontext() if last else unsynced():
                self._backward_of_chunk(index, starts, last)
        # The next step draws what it would have drawn without this second pass.
        randomness.restore()

    def _backward_of_chunk(self, index: int, starts: dict[str, int], last: bool) -> None:
        rows, texts = self._chunks[index]
        with torch.enable_grad():
            part = _tensors(encode(self._model, rows, captions=self._captions, extra_texts=texts))
        # Scale and bias are whole in every chunk, and count in the last.
        part = {name: value for name, value in part.items() if value.requires_grad and (value.ndim or last)}
        for term, of_leaves, found in self._measured:
            values, gradients = _with_gradients(part, of_leaves, starts)
            if values:
                found.add(
                    term,
                    torch.autograd.grad(values, found.parameters, gradients, retain_graph=True, allow_unused=True),
                )
        # DDP reduces once every parameter has a gradient, be it zero.
        of_leaves = {name: leaf.grad for name, leaf in self.leaves.items()}
        values, gradients = _with_gradients(part, of_leaves, starts, fill=last and world_size() > 1)
        if values:
            torch.autograd.backward(values, gradients)
        for name, value in part.items():
            starts[name] += len(value) if value.ndim else 0


def _with_gradients(
    part: Mapping[str, Tensor], of_leaves: Mapping[str, Tensor | None], starts: Mapping[str, int], fill: bool = False
) -> tuple[list[Tensor], list[Tensor]]:
    """The features of a chunk, which begins at row `starts[name]`, and their gradients; `fill` the missing with zeros."""
    values, gradients = [], []
    for name, value in part.items():
        gradient = of_leaves[name]
        if gradient is not None and value.ndim:
            gradient = gradient[starts[name] : starts[name] + len(value)]
        if gradient is None and fill:
            gradient = torch.zeros_like(value)
        if gradient is not None:
            values.append(value)
            gradients.append(gradient)
    return values, gradients


class ChunkedEncoding:
    """
    The part of `RobustTrainer` that encodes batches, in chunks of `contrastive_chunk_size` pairs if that is set.

    Whatever the objectives compute from `ClipFeatures` and from parameters is exact; the loss needs no change. Stands
    before `ObjectiveMixin` and `Trainer` in the order of base classes.

    Raises:
        ValueError: If chunks are asked for where they would change the gradient: batch statistics, dropout under
            `torch.compile`, optimizers that step during the backward pass, sharded training.
    """

    _encoding: CachedEncoding | None = None
    _keeps_encoding = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.args.contrastive_chunk_size and (self.is_deepspeed_enabled or self.is_fsdp_enabled):
            name = "DeepSpeed" if self.is_deepspeed_enabled else "FSDP"
            raise ValueError(
                f"`contrastive_chunk_size={self.args.contrastive_chunk_size}` needs several backward passes a step, which "
                f"{name} is not known to do right here; use DDP (`accelerate launch --multi_gpu`), or set it to 0."
            )

    def validate_arguments(self, args) -> None:
        super().validate_arguments(args)
        size = args.contrastive_chunk_size
        if self._encodes_captions and args.gradient_accumulation_steps > 1:
            warnings.warn(
                f"With `gradient_accumulation_steps={args.gradient_accumulation_steps}` captions are contrasted within each "
                "micro-batch only, another objective than one large batch; for that raise --per_device_train_batch_size "
                "and set --contrastive_chunk_size to what fits in memory.",
                stacklevel=3,
            )
        if not size:
            return
        if "lomo" in str(args.optim).lower() or "layerwise" in str(args.optim).lower():
            raise ValueError(
                f"`optim={getattr(args.optim, 'value', args.optim)}` steps during the backward pass, that is after each "
                f"chunk with `contrastive_chunk_size={size}`; use another optimizer, or set the size to 0."
            )
        for name, module in self.model.named_modules():
            if isinstance(module, _BATCH_STATISTICS):
                raise ValueError(
                    f"`{name}` ({type(module).__name__}) takes statistics over the batch, which "
                    f"`contrastive_chunk_size={size}` would take over each chunk; set it to 0."
                )
        if args.torch_compile and self._has_dropout():
            raise ValueError(
                "A compiled model may draw other dropout masks with a graph than without, and "
                f"`contrastive_chunk_size={size}` needs the same; set dropout, --torch_compile or the size to 0."
            )

    def _has_dropout(self) -> bool:
        return any(dropout_rate(module) > 0 for module in self.model.modules())

    def training_step(self, model, inputs, num_items_in_batch=None):
        if not self.trains_model or not is_divided(inputs, self.args.contrastive_chunk_size):
            return super().training_step(model, inputs, num_items_in_batch)
        self._keeps_encoding = True
        try:
            # The loss reaches parameters that it uses directly; they are reduced with the last chunk's.
            with self.accelerator.no_sync(model):
                loss = super().training_step(model, inputs, num_items_in_batch)
            self._encoding.backward(lambda: self.accelerator.no_sync(model))
        finally:
            self._keeps_encoding, self._encoding = False, None
        return loss

    def _encode_student(self, model: nn.Module, batch: Mapping[str, Tensor]) -> ClipFeatures:
        frozen = not self.trains_model
        if not frozen and batch.get("image_features") is not None:
            raise ValueError(CACHED_FEATURES_STAND_STILL)
        if frozen:
            # Trainer sets training mode; dropout in a frozen encoder would be noise.
            self.model.eval()
        else:
            self.still_frozen_towers()
        size, captions, texts = self.args.contrastive_chunk_size, self._encodes_captions, self.extra_texts()
        if self._keeps_encoding:
            self._encoding = CachedEncoding(model, divide(batch, texts, size), captions)
            features = self._encoding.features
        else:
            with torch.set_grad_enabled(not frozen):
                features = encode_in_chunks(model, batch, size if frozen else 0, captions, texts)
        with torch.autocast(self.args.device.type, enabled=False):
            return self._with_all_columns(self.adapt_features(features))

    def encode_global(self, model: nn.Module, batch: Mapping[str, Tensor]) -> ClipFeatures:
        """
        Encode a batch, with the columns of all processes.

        Args:
            model (`torch.nn.Module`): The student (wrapped), the teacher, or any other model.
            batch (`Mapping[str, torch.Tensor]`): The local batch. Without gradient it is encoded in chunks, if
                `contrastive_chunk_size` is set.

        Returns:
            [`ClipFeatures`] in float32 (float64 for a float64 model).
        """
        size = 0 if torch.is_grad_enabled() else self.args.contrastive_chunk_size
        # The losses around this call have autocast off; a teacher runs in the student's precision.
        with self.accelerator.autocast():
            features = encode_in_chunks(model, batch, size, self._encodes_captions)
        return self._with_all_columns(features)

    def _with_all_columns(self, features: ClipFeatures) -> ClipFeatures:
        if features.text_embeds is not None and world_size() > 1:
            features.all_image_embeds = gather_rows(features.image_embeds)
            features.all_text_embeds = gather_rows(features.text_embeds)
            features.row_offset = rank() * len(features.image_embeds)
        return features
