# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""CRoFT's linear adapters on image and text features, and their exact merge into the linear maps that features end in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from .adapter_file import ADAPTERS_FILE, FORMAT, IMAGE, KEPT, read_adapter_file
from .croft_features import check_prompts, ensemble_features, near_unit
from .dual_encoder import IMAGE_ADAPTER, LOGIT_BIAS, LOGIT_SCALE, PROJECTIONS, DualEncoder
from .kept_adapter import check_adapter_file, drop, put
from .spread_weights import exchanged, set_weights
from .tensor_files import weights_fingerprint, write_tensors

ORDERS = ("before_ensemble", "after_ensemble")


class FeatureAdapters(nn.Module):
    """
    Two square matrices on the projected features of a frozen model (CRoFT, Zhu et al., ICML 2024).

    A raw image feature x becomes `r * A x + (1 - r) * x`, and text features likewise with their own matrix and ratio;
    both matrices start at the identity, which changes nothing. There is no bias and no non-linearity, so each adapter
    is one linear map `M = I + r (A - I)` that [`merge_adapters`] folds into the projection.

    Where image features end in a pooling head and no linear map (SigLIP's), the image adapter stays in `adapters.safetensors`, and
    a model that [`load_dual_encoder`] loads from its folder applies it.

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
        check_prompts(prompt_features)
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

    @torch.no_grad()
    def kept_image_matrix(self, model: nn.Module) -> Tensor | None:
        """
        The whole map on image features where no weight can take it in.

        Args:
            model (`torch.nn.Module`): A dual encoder, possibly wrapped.

        Returns:
            `torch.Tensor` of shape `(embed_dim, embed_dim)`, *optional*: Rounded once to the adapters' dtype, without gradient; `None`
            if the adapter is merged, or changes nothing.

        Raises:
            ValueError: If it is not finite.
        """
        if not self.image_ratio or not DualEncoder.of(model).pools_images:
            return None
        matrix = _mixed_with_identity(self.image_adapter.cpu().double(), self.image_ratio).to(self.image_adapter)
        if not matrix.isfinite().all():
            raise ValueError("The image adapter is not finite; the training that made it diverged.")
        return matrix

    def save_pretrained(self, directory: str | Path, model: nn.Module) -> Path:
        """
        Write `adapters.safetensors`: the adapters, the parameters that they are merged into as they were before, and the fingerprints of
        the model before and after merging (without logit scale and bias), by which [`load_adapters`] knows them again.

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
        base = weights_fingerprint(model, _not_adapted(model))
        with exchanged([*weights.values()], [*_merged(weights, self).values()]):
            merged = weights_fingerprint(model, _not_adapted(model))
        facts = {
            # repr gives the shortest text that reads back as the same float.
            "image_ratio": repr(self.image_ratio),
            "text_ratio": repr(self.text_ratio),
            "text_adapter_order": self.text_adapter_order,
            "base_fingerprint": base,
            "merged_fingerprint": merged,
        }
        kept = {} if self.kept_image_matrix(model) is None else {KEPT: IMAGE}
        metadata = {"format": "pt", "adapters_format": FORMAT, **facts, **kept}
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
        return cls._from_file(*read_adapter_file(directory))

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
        ValueError: If the adapters act after the ensemble of more than one template, `n_templates` is below 1, image features
            end in no linear map and are adapted, as [`adapted_weights`], and if a merged weight is not finite.
    """
    _check_order(adapters, n_templates)
    if adapters.kept_image_matrix(model) is not None:
        raise ValueError(
            f"Image features of a {DualEncoder.of(model).name} end in no linear map that their adapter could be merged into, so there is no plain "
            f"model with it; it stays in {ADAPTERS_FILE} (`FeatureAdapters.save_pretrained`), or set adapter_image_ratio to 0."
        )
    weights = adapted_weights(model, adapters)
    set_weights([*weights.values()], [*_merged(weights, adapters).values()])
    return model


def load_adapters(model: nn.Module, directory: str | Path) -> FeatureAdapters:
    """
    Load adapters for further training, and put back the projections that the model had before merging.

    Args:
        model (`torch.nn.Module`): The model of the same folder (merged), or the one that the adapters were trained on
            (not merged), possibly wrapped; its projections are those before merging afterwards, and it no longer carries an
            adapter that was kept. Logit scale and bias may differ.
        directory (`str` or `Path`): The folder with `adapters.safetensors`.

    Returns:
        [`FeatureAdapters`] on the model's device.

    Raises:
        OSError: If the folder holds no `adapters.safetensors`.
        ValueError: If the model has other weights (adapting it twice, or another model, would go unnoticed), or the
            file is damaged. The model is then left as it was.
    """
    tensors, facts = read_adapter_file(directory)
    path = Path(directory) / ADAPTERS_FILE
    adapters = FeatureAdapters._from_file(tensors, facts)
    named = adapted_weights(model, adapters)
    weights = [*named.values()]
    missing = [_key(name) for name in named if _key(name) not in tensors]
    if missing:
        raise ValueError(f"{path} has no {missing[0]}, which the model had before merging; restore the file.")
    if weights_fingerprint(model, _not_adapted(model)) not in (facts["merged_fingerprint"], facts["base_fingerprint"]):
        raise ValueError(
            f"The model's weights are neither those that {path} was merged into nor those that its adapters were trained "
            "on (or have another dtype); load the checkpoint of the same folder, in the dtype it was saved in."
        )
    unmerged = [tensors[_key(name)] for name in named]
    fits = all(weight.shape == value.shape for weight, value in zip(weights, unmerged, strict=True))
    if fits:
        with exchanged(weights, unmerged):
            fits = weights_fingerprint(model, _not_adapted(model)) == facts["base_fingerprint"]
    if not fits:
        raise ValueError(
            f"The projections in {path} do not give the model that its adapters were trained on; restore the file."
        )
    set_weights(weights, unmerged)
    drop(model)
    return adapters.to(weights[0].device)


def carry_kept(model: nn.Module, directory: str | Path) -> None:
    """
    Let a model carry the image adapter that is kept beside its weights, if one is.

    Args:
        model (`torch.nn.Module`): A dual encoder as it was loaded from the folder, possibly wrapped.
        directory (`str` or `Path`): The checkpoint.

    Raises:
        OSError: If the folder says that there is an adapter, and it is missing.
        ValueError: If the file is damaged, or its adapters were not merged into these weights.
    """
    encoder, path = DualEncoder.of(model), Path(directory) / ADAPTERS_FILE
    named = getattr(encoder.core.config, IMAGE_ADAPTER, None) is not None
    if not (encoder.pools_images or named) or getattr(encoder.core, IMAGE_ADAPTER, None) is not None:
        # All adapters are in the weights, or the model carries it already.
        return
    check_adapter_file(directory)
    if not path.is_file():
        return
    tensors, facts = read_adapter_file(directory)
    if facts.get(KEPT) != IMAGE:
        return
    adapters = FeatureAdapters._from_file(tensors, facts)
    matrix, weights = adapters.kept_image_matrix(model), adapted_weights(model, adapters)
    before = {name: tensors.get(_key(name)) for name in weights}
    fits = matrix is not None and all(v is not None and v.shape == weights[name].shape for name, v in before.items())
    # In whatever dtype the model was loaded.
    if not fits or not all(torch.equal(v.to(weights[name].dtype), weights[name].cpu()) for name, v in _merged(before, adapters).items()):
        raise ValueError(
            f"The text features of this model are not those that {path} belongs to: it is of another model, or of a checkpoint of a "
            "run, whose adapters are not merged; load the folder of the finished run."
        )
    as_saved: nn.Module = encoder.core
    if any(v is not None and v.dtype != weights[name].dtype for name, v in before.items()):
        # The fingerprint is of the dtype that was saved.
        as_saved = type(encoder.core).from_pretrained(directory, dtype="auto", use_safetensors=True, local_files_only=True, trust_remote_code=False)
    if weights_fingerprint(as_saved, _not_adapted(as_saved)) != facts["merged_fingerprint"]:
        raise ValueError(
            f"The weights in {directory} are not those that the image adapter in {path} was trained on, though its text features are; "
            "restore the files of one training."
        )
    put(model, matrix)


def _not_adapted(model: nn.Module) -> list[str]:
    # A temperature may be folded into a finished checkpoint; the adapters do not depend on it.
    return [LOGIT_SCALE, *([] if DualEncoder.of(model).logit_bias is None else [LOGIT_BIAS])]


def _check_order(adapters: FeatureAdapters, n_templates: int) -> None:
    if n_templates < 1:
        raise ValueError(f"`n_templates={n_templates}` is not a number of templates; give 1 or more.")
    if adapters.text_adapter_order == "after_ensemble" and n_templates > 1:
        raise ValueError(
            f"The text adapter acts after the ensemble of {n_templates} templates, which no projection of single prompts "
            'can express; train with `text_adapter_order="before_ensemble"`, or with one template, to merge.'
        )


def adapted_weights(model: nn.Module, adapters: FeatureAdapters) -> dict[str, Tensor]:
    """
    The parameters of a model that adapters are merged into: weight and bias of the linear maps that its features end in.

    Args:
        model (`torch.nn.Module`): A dual encoder, possibly wrapped.
        adapters ([`FeatureAdapters`]): Those to merge. Of a model whose image features end in a pooling head the image adapter is not.

    Returns:
        `dict[str, torch.Tensor]`: By name, of shapes `(embed_dim, tower's width)` and `(embed_dim,)`.

    Raises:
        ValueError: If features that are adapted do not end in a linear map, or are of another size.
    """
    found: dict[str, Tensor] = {}
    encoder = DualEncoder.of(model)
    ratios = 0.0 if encoder.pools_images else adapters.image_ratio, adapters.text_ratio
    for name, side, ratio in zip(PROJECTIONS, encoder.feature_maps, ratios, strict=True):
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
