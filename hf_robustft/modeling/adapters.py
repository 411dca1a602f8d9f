# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""CRoFT's linear adapters on image and text features, and their exact merge into the linear maps that features end in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from .dual_encoder import LOGIT_SCALE, PROJECTIONS, DualEncoder
from .spread_weights import exchanged, set_weights
from .tensor_files import opened, weights_fingerprint, write_tensors
from .zero_shot import class_embeddings

ADAPTERS_FILE = "adapters.safetensors"
FORMAT = "1"
TENSORS = ("image_adapter", "text_adapter")
FACTS = ("image_ratio", "text_ratio", "text_adapter_order", "base_fingerprint", "merged_fingerprint")

#: Added to the L2 norm before dividing by it, as CRoFT's code does.
EPSILON = 1e-6
ORDERS = ("before_ensemble", "after_ensemble")
# A temperature may be folded into the logit scale of a finished checkpoint; the adapters do not depend on it.
_NOT_ADAPTED = (LOGIT_SCALE,)


def near_unit(features: Tensor) -> Tensor:
    """`features / (1e-6 + ||features||)` over the last dimension: CRoFT's normalisation; a zero vector stays zero."""
    return features / (EPSILON + features.norm(dim=-1, keepdim=True))


def ensemble_features(prompt_features: Tensor) -> Tensor:
    """
    One raw text feature per class, as CRoFT's code builds it before adapting.

    Args:
        prompt_features (`torch.Tensor` of shape `(classes, templates, embed_dim)`): Projected text features, not
            normalised.

    Returns:
        `torch.Tensor` of shape `(classes, embed_dim)`: With one template the feature itself, not normalised; with
        several the average of the unit features, of unit norm.

    Raises:
        ValueError: If `prompt_features` has another number of dimensions or no template.
    """
    _check_prompts(prompt_features)
    return prompt_features[:, 0] if prompt_features.shape[1] == 1 else class_embeddings(prompt_features)


class FeatureAdapters(nn.Module):
    """
    Two square matrices on the projected features of a frozen model (CRoFT, Zhu et al., ICML 2024).

    A raw image feature x becomes `r * A x + (1 - r) * x`, and text features likewise with their own matrix and ratio;
    both matrices start at the identity, which changes nothing. There is no bias and no non-linearity, so each adapter
    is one linear map `M = I + r (A - I)` that [`merge_adapters`] folds into the projection.

    Where image features do not end in a linear map (SigLIP's), only `image_ratio=0` can be merged: texts alone are adapted.

    Half-precision features are adapted in float32, also under autocast: the matrices stay close to the identity, and
    what they add to it would drown in the rounding.

    Args:
        embed_dim (`int`): Size of the projected features ([`DualEncoder.embed_dim`]).
        image_ratio (`float`, *optional*, defaults to 0.2): Share r of the adapted image feature.
        text_ratio (`float`, *optional*, defaults to 0.5): Share r of the adapted text feature.
        text_adapter_order (`str`, *optional*, defaults to `"before_ensemble"`): With several templates per class,
            `"before_ensemble"` adapts the raw feature of each prompt, then normalises and averages: merging is exact.
            `"after_ensemble"` adapts the averaged unit feature, as CRoFT's code does on ImageNet: no projection can
            express that, so it cannot be merged. With one template they are the same.
        dtype (`torch.dtype`, *optional*), device (*optional*): Of the two matrices.

    Raises:
        ValueError: If a ratio is outside [0, 1], the order unknown, or `embed_dim` below 1.
    """

    def __init__(
        self,
        embed_dim: int,
        image_ratio: float = 0.2,
        text_ratio: float = 0.5,
        text_adapter_order: str = "before_ensemble",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        if embed_dim < 1:
            raise ValueError(
                f"`embed_dim={embed_dim}` is not a size of features; give the size of the model's embeddings."
            )
        for name, ratio in (("image_ratio", image_ratio), ("text_ratio", text_ratio)):
            if not 0.0 <= ratio <= 1.0:
                raise ValueError(f"`{name}={ratio}` lies outside [0, 1]; 0 leaves the features, 1 adapts them wholly.")
        if text_adapter_order not in ORDERS:
            raise ValueError(
                f"`text_adapter_order={text_adapter_order!r}` is unknown; take one of {', '.join(ORDERS)}."
            )
        self.embed_dim = embed_dim
        self.image_ratio, self.text_ratio = float(image_ratio), float(text_ratio)
        self.text_adapter_order = text_adapter_order
        self.image_adapter = nn.Parameter(torch.eye(embed_dim, dtype=dtype, device=device))
        self.text_adapter = nn.Parameter(torch.eye(embed_dim, dtype=dtype, device=device))

    def extra_repr(self) -> str:
        """Settings that `print` shows."""
        return f"{self.embed_dim}, {self.image_ratio}, {self.text_ratio}, {self.text_adapter_order!r}"

    def adapt_images(self, image_features: Tensor) -> Tensor:
        """
        Adapt raw image features of shape `(..., embed_dim)`; the result is not normalised.

        Raises:
            ValueError: If the last dimension is not `embed_dim`.
        """
        return self._adapt(image_features, self.image_adapter, self.image_ratio, "image")

    def adapt_texts(self, text_features: Tensor) -> Tensor:
        """
        Adapt raw text features of shape `(..., embed_dim)`; the result is not normalised.

        Raises:
            ValueError: If the last dimension is not `embed_dim`.
        """
        return self._adapt(text_features, self.text_adapter, self.text_ratio, "text")

    def image_matrix(self) -> Tensor:
        """The whole map on image features, `I + r (A - I)` of shape `(embed_dim, embed_dim)`, with gradient."""
        return _mixed_with_identity(self.image_adapter, self.image_ratio)

    def text_matrix(self) -> Tensor:
        """The whole map on text features, `I + r (A - I)` of shape `(embed_dim, embed_dim)`, with gradient."""
        return _mixed_with_identity(self.text_adapter, self.text_ratio)

    def adapt_class_features(self, prompt_features: Tensor) -> Tensor:
        """
        The class embeddings that images are compared with.

        Args:
            prompt_features (`torch.Tensor` of shape `(classes, templates, embed_dim)`): Projected text features, not
                normalised.

        Returns:
            `torch.Tensor` of shape `(classes, embed_dim)`: Rows of norm 1, but for the 1e-6 of `near_unit`.

        Raises:
            ValueError: If `prompt_features` has another shape.
        """
        _check_prompts(prompt_features)
        if prompt_features.shape[1] == 1 or self.text_adapter_order == "after_ensemble":
            return near_unit(self.adapt_texts(ensemble_features(prompt_features)))
        return near_unit(near_unit(self.adapt_texts(prompt_features)).mean(dim=1))

    def effective_projections(self, model: nn.Module, exact: bool = False) -> dict[str, Tensor]:
        """
        The projections that the merged model would have.

        Args:
            model (`torch.nn.Module`): A dual encoder, possibly wrapped, with its projections not merged.
            exact (`bool`, *optional*, defaults to `False`):
                Whether to give the very bits that [`merge_adapters`] sets, without gradient. Otherwise they come with
                gradient to the adapters and to the projections, in the wider of their dtypes.

        Returns:
            `dict[str, torch.Tensor]`: What the parameters of [`adapted_weights`] would be, by their names in the model.

        Raises:
            ValueError: As [`adapted_weights`], and if an exact one is not finite.
        """
        weights = adapted_weights(model, self)
        if exact:
            return _merged(weights, self)
        return {name: _product(self._matrix(name), weight) for name, weight in weights.items()}

    def _matrix(self, name: str) -> Tensor:
        """What the parameter of the model that has the `name` is multiplied by."""
        return self.image_matrix() if name.startswith(PROJECTIONS[0]) else self.text_matrix()

    def save_pretrained(self, directory: str | Path, model: nn.Module) -> Path:
        """
        Write `adapters.safetensors`: the adapters, the parameters that they are merged into as they were before, and the fingerprints of
        the model before and after merging (without the logit scale), by which [`load_adapters`] knows them again.

        Args:
            directory (`str` or `Path`): The folder; made where it is missing.
            model (`torch.nn.Module`): The model that the adapters belong to, its projections **not** merged; it is
                left as it is.

        Returns:
            `Path`: The file.

        Raises:
            ValueError: As [`adapted_weights`], and if an adapter is not finite.
        """
        weights = adapted_weights(model, self)
        tensors = {_key(name): weight.clone() for name, weight in weights.items()}
        tensors |= {"image_adapter": self.image_adapter, "text_adapter": self.text_adapter}
        base = weights_fingerprint(model, _NOT_ADAPTED)
        with exchanged([*weights.values()], [*_merged(weights, self).values()]):
            merged = weights_fingerprint(model, _NOT_ADAPTED)
        facts = {
            # repr gives the shortest text that reads back as the same float.
            "image_ratio": repr(self.image_ratio),
            "text_ratio": repr(self.text_ratio),
            "text_adapter_order": self.text_adapter_order,
            "base_fingerprint": base,
            "merged_fingerprint": merged,
        }
        metadata = {"format": "pt", "adapters_format": FORMAT, **facts}
        return write_tensors(Path(directory) / ADAPTERS_FILE, tensors, metadata)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> FeatureAdapters:
        """
        Load the adapters that `save_pretrained` wrote, without a look at any model; [`load_adapters`] takes the model
        that they belong to and puts its projections back.

        Raises:
            OSError: If the folder holds no `adapters.safetensors`.
            ValueError: If the file was not written by `save_pretrained`, or is damaged.
        """
        return cls._from_file(*_read_file(directory))

    @classmethod
    def _from_file(cls, tensors: dict[str, Tensor], facts: dict[str, str]) -> FeatureAdapters:
        matrix = tensors["image_adapter"]
        adapters = cls(
            matrix.shape[0],
            float(facts["image_ratio"]),
            float(facts["text_ratio"]),
            facts["text_adapter_order"],
            dtype=matrix.dtype,
        )
        with torch.no_grad():
            adapters.image_adapter.copy_(matrix)
            adapters.text_adapter.copy_(tensors["text_adapter"])
        return adapters

    def _adapt(self, features: Tensor, matrix: Tensor, ratio: float, kind: str) -> Tensor:
        if features.ndim < 1 or features.shape[-1] != self.embed_dim:
            raise ValueError(
                f"The {kind} features have the shape {tuple(features.shape)}, but the adapters are for features of size "
                f"{self.embed_dim}; give projected features of the model that they were made for."
            )
        features = features.to(torch.promote_types(features.dtype, matrix.dtype))
        return ratio * _product(features, matrix.t()) + (1.0 - ratio) * features


def merge_adapters(model: nn.Module, adapters: FeatureAdapters, n_templates: int = 1) -> nn.Module:
    """
    Fold the adapters into the linear maps that features end in, in place: of CLIP the two projections, of SigLIP the head of the
    text tower with its bias.

    The model then gives the adapted features itself, needs none of our code and costs nothing more. Normalising them
    without the 1e-6 of [`near_unit`] is all that is left of a difference. The product is taken in float64 and rounded
    once to the weights' dtype. Nothing marks a merged model: merge once, and save the adapters before.

    Args:
        model (`torch.nn.Module`): A dual encoder, possibly wrapped, its projections not merged.
        adapters ([`FeatureAdapters`]): Trained on this model.
        n_templates (`int`, *optional*, defaults to 1): Templates per class that the adapters are used with.

    Returns:
        The model that was given.

    Raises:
        ValueError: If the adapters act after the ensemble of more than one template, `n_templates` is below 1, as
            [`adapted_weights`], and if a merged weight is not finite.
    """
    _check_order(adapters, n_templates)
    weights = adapted_weights(model, adapters)
    set_weights([*weights.values()], [*_merged(weights, adapters).values()])
    return model


def load_adapters(model: nn.Module, directory: str | Path) -> FeatureAdapters:
    """
    Load adapters for further training, and put back the projections that the model had before merging.

    Args:
        model (`torch.nn.Module`): The model of the same folder (merged), or the one that the adapters were trained on
            (not merged), possibly wrapped; its projections are those before merging afterwards. The logit scale may
            differ.
        directory (`str` or `Path`): The folder with `adapters.safetensors`.

    Returns:
        [`FeatureAdapters`] on the model's device.

    Raises:
        OSError: If the folder holds no `adapters.safetensors`.
        ValueError: If the model has other weights (adapting it twice, or another model, would go unnoticed), or the
            file is damaged. The model is then left as it was.
    """
    tensors, facts = _read_file(directory)
    path = Path(directory) / ADAPTERS_FILE
    adapters = FeatureAdapters._from_file(tensors, facts)
    named = adapted_weights(model, adapters)
    weights = [*named.values()]
    missing = [_key(name) for name in named if _key(name) not in tensors]
    if missing:
        raise ValueError(f"{path} has no {missing[0]}, which the model had before merging; restore the file.")
    if weights_fingerprint(model, _NOT_ADAPTED) not in (facts["merged_fingerprint"], facts["base_fingerprint"]):
        raise ValueError(
            f"The model's weights are neither those that {path} was merged into nor those that its adapters were trained "
            "on (or have another dtype); load the checkpoint of the same folder, in the dtype it was saved in."
        )
    unmerged = [tensors[_key(name)] for name in named]
    fits = all(weight.shape == value.shape for weight, value in zip(weights, unmerged, strict=True))
    if fits:
        with exchanged(weights, unmerged):
            fits = weights_fingerprint(model, _NOT_ADAPTED) == facts["base_fingerprint"]
    if not fits:
        raise ValueError(
            f"The projections in {path} do not give the model that its adapters were trained on; restore the file."
        )
    set_weights(weights, unmerged)
    return adapters.to(weights[0].device)


def _check_order(adapters: FeatureAdapters, n_templates: int) -> None:
    if n_templates < 1:
        raise ValueError(f"`n_templates={n_templates}` is not a number of templates; give 1 or more.")
    if adapters.text_adapter_order == "after_ensemble" and n_templates > 1:
        raise ValueError(
            f"The text adapter acts after the ensemble of {n_templates} templates, which no projection of single prompts "
            'can express; train with `text_adapter_order="before_ensemble"`, or with one template, to merge.'
        )


def _check_prompts(prompt_features: Tensor) -> None:
    if prompt_features.ndim != 3 or prompt_features.shape[1] < 1:
        raise ValueError(
            f"Prompt features have the shape (classes, templates, embed_dim), got {tuple(prompt_features.shape)}; with "
            "one prompt per class add a dimension of size 1."
        )


def adapted_weights(model: nn.Module, adapters: FeatureAdapters) -> dict[str, Tensor]:
    """
    The parameters of a model that adapters are merged into: weight and bias of the linear maps that its features end in.

    Args:
        model (`torch.nn.Module`): A dual encoder, possibly wrapped.
        adapters ([`FeatureAdapters`]): Those to merge. With an `image_ratio` of 0 the model needs no linear map of image features.

    Returns:
        `dict[str, torch.Tensor]`: By name, of shapes `(embed_dim, tower's width)` and `(embed_dim,)`.

    Raises:
        ValueError: If features that are adapted do not end in a linear map, or are of another size.
    """
    found: dict[str, Tensor] = {}
    for name, side, ratio in zip(
        PROJECTIONS, DualEncoder.of(model).feature_maps, (adapters.image_ratio, adapters.text_ratio), strict=True
    ):
        if side is None and not ratio:
            continue
        if side is None:
            raise ValueError(
                f"The model has no linear `{name}` into which adapters could be merged; give it as it was loaded."
            )
        size = len(next(iter(side.values())))
        if size != adapters.embed_dim:
            raise ValueError(
                f"The model's `{name}` gives features of size {size}, but the adapters are for {adapters.embed_dim}; give "
                "the model that they were made for."
            )
        found |= side
    return found


def _key(name: str) -> str:
    """How the file calls the parameter of a model that has the `name`."""
    return name.removesuffix(".weight")


def _mixed_with_identity(matrix: Tensor, ratio: float) -> Tensor:
    """`I + ratio * (matrix - I)`."""
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    return identity + ratio * (matrix - identity)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right` in the wider of their dtypes, also under autocast."""
    with torch.autocast(left.device.type, enabled=False):
        dtype = torch.promote_types(left.dtype, right.dtype)
        return left.to(dtype) @ right.to(dtype)


@torch.no_grad()
def _merged(weights: Mapping[str, Tensor], adapters: FeatureAdapters) -> dict[str, Tensor]:
    """
    `(I + ratio * (adapter - I)) @ weight` by name, taken in float64 and rounded once to the weight's dtype; on the CPU wherever
    they are, so that the same bits, and so the same fingerprint, come out on each device.
    """
    pairs = (adapters.image_adapter, adapters.image_ratio), (adapters.text_adapter, adapters.text_ratio)
    image, text = (_mixed_with_identity(adapter.cpu().double(), ratio) for adapter, ratio in pairs)
    result = {}
    for name, weight in weights.items():
        matrix = image if name.startswith(PROJECTIONS[0]) else text
        merged = _product(matrix, weight.cpu().double()).to(weight.dtype)
        if not merged.isfinite().all():
            raise ValueError(
                "Merging gives a projection that is not finite; the training that made the adapters diverged."
            )
        result[name] = merged
    return result


def _read_file(directory: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """
    The `TENSORS` and the `FACTS` of the file in `directory`.

    Raises:
        OSError: If the folder holds no `adapters.safetensors`.
        ValueError: If the file is damaged, of another format, or was written by something else.
    """
    path = Path(directory) / ADAPTERS_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"No {ADAPTERS_FILE} in {directory}; a run with adapters writes it beside the weights."
        )
    with opened(path) as file:
        facts = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    missing = [name for name in FACTS if name not in facts] + [name for name in TENSORS if name not in tensors]
    if missing or facts.get("adapters_format") != FORMAT:
        what = (
            f"has no {missing[0]}" if missing else f"has the format {facts.get('adapters_format')!r}, not {FORMAT!r}"
        )
        raise ValueError(f"{path} {what}; write it with `FeatureAdapters.save_pretrained` of this version.")
    for name in ("image_ratio", "text_ratio"):
        try:
            float(facts[name])
        except ValueError:
            raise ValueError(f"{path} has the {name} {facts[name]!r}, not a number; restore the file.") from None
    image, text = tensors["image_adapter"], tensors["text_adapter"]
    if image.ndim != 2 or image.shape[0] != image.shape[1] or text.shape != image.shape:
        raise ValueError(
            f"{path} has adapters of shapes {tuple(image.shape)} and {tuple(text.shape)}, not two square ones of one size; "
            "restore the file."
        )
    return tensors, facts
