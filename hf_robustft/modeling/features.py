# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""From a `CLIPModel` to `ClipFeatures`. Nothing else in the package calls the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence


@dataclass
class ClipFeatures:
    """
    What the objectives see of one batch.

    In several processes each holds its own rows (`image_embeds`, `text_embeds`) and the columns of all processes
    (`all_image_embeds`, `all_text_embeds`, gathered with gradient, in rank order); the matrices below then are the
    local rows of the global matrix, and the mean over processes of a mean over local rows is the mean over the whole
    batch. In one process rows and columns are the same tensors.

    Attributes:
        image_embeds (`torch.Tensor` of shape `(batch, embed_dim)`): Image embeddings of unit L2 norm.
        text_embeds (`torch.Tensor` of shape `(batch, embed_dim)`, or `None` for methods without captions):
            Caption embeddings of unit L2 norm, row i belongs to image i.
        logit_scale (`torch.Tensor`, scalar): The model's learned scale, already exponentiated.
        all_image_embeds, all_text_embeds (`torch.Tensor` of shape `(global_batch, embed_dim)`, *optional*):
            The columns; default to the rows.
        row_offset (`int`, *optional*, defaults to 0): The column that row 0 pairs with.
        image_features (`torch.Tensor` of shape `(batch, embed_dim)`, *optional*): Projected image features before
            normalisation.
        extra_text_features (`torch.Tensor` of shape `(texts, embed_dim)`, *optional*): Projected features, before
            normalisation, of the texts that objectives asked for beside the captions.
    """

    image_embeds: Tensor
    text_embeds: Tensor | None
    logit_scale: Tensor
    all_image_embeds: Tensor | None = None
    all_text_embeds: Tensor | None = None
    row_offset: int = 0
    image_features: Tensor | None = None
    extra_text_features: Tensor | None = None

    @cached_property
    def logits_per_image(self) -> Tensor:
        """Scaled similarities of the local images to all captions, `(batch, global_batch)`."""
        columns = self.text_embeds if self.all_text_embeds is None else self.all_text_embeds
        return self.logit_scale * self.image_embeds @ columns.t()

    @cached_property
    def logits_per_text(self) -> Tensor:
        """Scaled similarities of the local captions to all images, `(batch, global_batch)`."""
        columns = self.image_embeds if self.all_image_embeds is None else self.all_image_embeds
        return self.logit_scale * self.text_embeds @ columns.t()


def unwrapped(model: nn.Module) -> nn.Module:
    """The `CLIPModel` inside the wrappers that DDP and `torch.compile` put around it."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif hasattr(model, "module") and isinstance(model.module, nn.Module):
            model = model.module
        else:
            return model


def logit_scale(model: nn.Module) -> Tensor:
    """The exponentiated logit scale (scalar, with gradient, at least float32)."""
    scale = unwrapped(model).logit_scale
    return (scale if scale.dtype == torch.float64 else scale.float()).exp()


def _at_least_float32(features: Tensor) -> Tensor:
    return features if features.dtype == torch.float64 else features.float()


def _unit(features: Tensor) -> Tensor:
    # Half-precision features are normalised in float32: losses and calibration are computed there, and a float16
    # norm overflows beyond 65,504.
    features = _at_least_float32(features)
    return features / features.norm(dim=-1, keepdim=True)


def encode(
    model: nn.Module, batch: Mapping[str, Tensor], captions: bool = True, extra_texts: Tensor | None = None
) -> ClipFeatures:
    """
    Encode the images and captions of a training batch in one forward call.

    The call goes through `model(...)`, not through `get_image_features`, so that the hooks of DDP, FSDP and
    `torch.compile` see it. No attention mask is passed: CLIP's text tower is causal and pools at the first
    end-of-text token, so what follows it cannot change the embedding (and OpenAI's model has no mask either).

    Args:
        model: A `CLIPModel`, possibly wrapped.
        batch: Holds `pixel_values` of shape `(batch, 3, height, width)` and `input_ids` of shape `(batch, length)`; or,
            where no text is encoded, `image_features` of shape `(batch, embed_dim)` that a frozen model gave before
            (`cache_features`), and the image tower does not run.
        captions (`bool`, *optional*, defaults to `True`): Whether captions are needed. If not, the text tower sees
            a single one-token caption, which `CLIPModel.forward` cannot do without, and `text_embeds` is `None`.
        extra_texts (`torch.Tensor` of shape `(texts, length)`, *optional*): Token ids of further texts, padded as the
            captions are; their features are `extra_text_features`.

    Returns:
        [`ClipFeatures`]: float32 embeddings (float64 if the model is float64).

    Raises:
        ValueError: If one of the two inputs is missing, or they differ in length.
    """
    texts = captions or extra_texts is not None
    if "image_features" in batch and not texts:
        features = batch["image_features"]
        return ClipFeatures(_unit(features), None, logit_scale(model), image_features=features)
    missing = [key for key in ("pixel_values", "input_ids")[: 2 if captions else 1] if batch.get(key) is None]
    if missing:
        raise ValueError(
            f"The batch holds {sorted(batch)} but no {' and no '.join(missing)}; "
            "use `ClipCollator`, or a collator that returns pixel_values and input_ids."
        )
    pixel_values = batch["pixel_values"]
    if captions and len(pixel_values) != len(batch["input_ids"]):
        raise ValueError(
            f"The batch holds {len(pixel_values)} images and {len(batch['input_ids'])} captions; "
            "each image needs exactly one caption."
        )
    n_captions = len(pixel_values) if captions else 0
    if not texts:
        end_of_text = unwrapped(model).config.text_config.eos_token_id
        input_ids = pixel_values.new_full((1, 1), end_of_text, dtype=torch.long)
    elif extra_texts is None:
        input_ids = batch["input_ids"]
    else:
        parts = [batch["input_ids"], extra_texts] if captions else [extra_texts]
        # What follows the first end-of-text token is not seen, so the shorter part may be padded with that token.
        padding = unwrapped(model).config.text_config.eos_token_id
        input_ids = pad_sequence([row for part in parts for row in part], batch_first=True, padding_value=padding)
    output = model(pixel_values=pixel_values, input_ids=input_ids)
    return ClipFeatures(
        _unit(output.image_embeds),
        _unit(output.text_embeds[:n_captions]) if captions else None,
        logit_scale(model),
        image_features=_at_least_float32(output.vision_model_output.pooler_output),
        extra_text_features=None
        if extra_texts is None
        else _at_least_float32(output.text_model_output.pooler_output[n_captions:]),
    )


def project_images(model: nn.Module, pixel_values: Tensor) -> Tensor:
    """
    Projected image features before normalisation.

    Args:
        model: A `CLIPModel`, possibly wrapped; call it in eval mode and without gradient.
        pixel_values (`torch.Tensor` of shape `(n, 3, height, width)`): Normalised images.

    Returns:
        `torch.Tensor` of shape `(n, embed_dim)`, at least float32.
    """
    return _at_least_float32(unwrapped(model).get_image_features(pixel_values=pixel_values).pooler_output)


def project_texts(model: nn.Module, input_ids: Tensor) -> Tensor:
    """
    Projected text features before normalisation.

    Args:
        model: A `CLIPModel`, possibly wrapped.
        input_ids (`torch.Tensor` of shape `(n, length)`): Token ids, padded after the end-of-text token.

    Returns:
        `torch.Tensor` of shape `(n, embed_dim)`, at least float32.
    """
    return _at_least_float32(unwrapped(model).get_text_features(input_ids=input_ids).pooler_output)


def encode_images(model: nn.Module, pixel_values: Tensor) -> Tensor:
    """
    Unit-norm image embeddings outside training.

    Args:
        model: A `CLIPModel`, possibly wrapped; call it in eval mode and without gradient.
        pixel_values (`torch.Tensor` of shape `(n, 3, height, width)`): Normalised images.

    Returns:
        `torch.Tensor` of shape `(n, embed_dim)`.
    """
    return _unit(project_images(model, pixel_values))


def encode_texts(model: nn.Module, input_ids: Tensor) -> Tensor:
    """
    Unit-norm text embeddings outside training.

    Args:
        model: A `CLIPModel`, possibly wrapped.
        input_ids (`torch.Tensor` of shape `(n, length)`): Token ids, padded after the end-of-text token.

    Returns:
        `torch.Tensor` of shape `(n, embed_dim)`.
    """
    return _unit(project_texts(model, input_ids))
