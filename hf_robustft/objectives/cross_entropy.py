# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Classification with cross-entropy on a linear head that starts from the zero-shot classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from accelerate.utils import broadcast
from torch import Tensor, nn

from ..data.labels import check_class_indices, check_label_order
from ..modeling.dual_encoder import DualEncoder
from ..modeling.feature_cache import class_lists
from ..modeling.features import ClipFeatures
from ..modeling.heads import MultiLabelHead
from ..modeling.zero_shot import ZeroShotHead
from .base import ObjectiveMixin, refuse_idle
from .multi_label import common_bias, multi_label_loss
from .settings import ObjectiveSettings, setting


def classification_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """
    Mean cross-entropy of class logits.

    Args:
        logits (`torch.Tensor` of shape `(batch, classes)`): From a [`ZeroShotHead`], which holds the logit scale.
        labels (`torch.Tensor` of shape `(batch,)`): Class indices.
        label_smoothing (`float`, *optional*, defaults to 0.0): Share of the target spread over the classes.

    Returns:
        `torch.Tensor`: Scalar.

    Raises:
        ValueError: If there is not one label a row, or one is the index of no class.
    """
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"Logits of shape {tuple(logits.shape)} need as many labels, got {tuple(labels.shape)}.")
    check_class_indices(labels, logits.shape[1])
    return F.cross_entropy(logits, labels.long(), label_smoothing=label_smoothing)


@dataclass
class HeadSettings(ObjectiveSettings):
    """The linear head."""

    head_start: str = setting(
        "zero_shot",
        "The head to start from: 'zero_shot' (CLIP's own classifier) or 'zeros' (nothing known of the classes).",
        choices=["zero_shot", "zeros"],
    )


class CrossEntropyMixin(ObjectiveMixin):
    """
    Adds the term `cross_entropy` and owns the linear head, started from the zero-shot classifier or (`head_start`) from zeros.

    Of images with lists of labels it is the term `binary_cross_entropy` ([`~objectives.multi_label.multi_label_loss`]) of a
    [`MultiLabelHead`]. Where the family has no logit bias, the head's starts from one for all classes that is fitted to the
    zero-shot logits of the training images, which are encoded once for that.

    Text tower, text projection and logit scale stay as they are (the head has taken the scale in, and a bias that all
    logits have in common changes no probability); the image tower and the head train. A trained head cannot live in such a model: it is saved beside it as `head.safetensors`.

    Args:
        head ([`ZeroShotHead`], *optional*): A head to start from, which is taken as it is; by default it is built from the
            model's text tower, with the class names and templates of the training set.
        class_names (`Sequence[str]`, *optional*), templates (`Sequence[str]`, *optional*): For the head, where the training set has none.
        args (`Any`), kwargs (`Any`, *optional*): As for [`RobustTrainer`].

    Raises:
        ValueError: If there is neither a head nor class names and a tokenizer to build one from, a head and a `head_start`, or
            the head is not linear or that of another model.
    """

    needs_labels = True
    trained_parts = ("image", "projections")
    smooths_labels = True
    label_lists = ("softmax", "sigmoid")
    settings: type[ObjectiveSettings] = HeadSettings

    def __init__(
        self,
        *args,
        head: ZeroShotHead | None = None,
        class_names: Sequence[str] | None = None,
        templates: Sequence[str] | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.head_is_given = head is not None
        kind = MultiLabelHead if self.multi_label else ZeroShotHead
        for given, what in ((class_names, "`class_names=`"), (None if head is None else head.class_names, "`head=`")):
            for own in class_lists(self.train_dataset) if given else ():
                check_label_order(given, own, what, "the training set")
        class_names = class_names or getattr(self.train_dataset, "class_names", None)
        templates = templates or getattr(self.train_dataset, "templates", None)
        if class_names and templates:
            self.classes = tuple(class_names), tuple(templates)
        if head is not None:
            refuse_idle(self.args, ["head_start"], "the head that is given is taken as it is; leave `head=` out")
        elif self.classes is None or self.processing_class is None:
            raise ValueError(
                "A head needs class names, templates and a processor: pass `head=`, or a labelled training set "
                "with `class_names=`, `templates=` and `processing_class=`."
            )
        elif self.args.head_start == "zeros":
            head = kind(torch.zeros(len(class_names), self.encoder.embed_dim, dtype=self.model.dtype), class_names)
        else:
            head = kind.from_model(self.model, self.processing_class, *self.classes, sharded=True)
        if head.kind != kind.kind:
            raise ValueError(f"`head` is a {type(head).__name__}; give a linear one to start from, a `{kind.__name__}`.")
        head.check_model(self.model)
        self.head = self.make_head(head.to(self.args.device))
        self.encoder.text_side().requires_grad_(False)
        for scalar in self.encoder.scalars:
            scalar.requires_grad_(False)

    def make_head(self, head: ZeroShotHead) -> ZeroShotHead:
        """
        Make the head that trains. Called once, on the device of the run.

        Args:
            head ([`ZeroShotHead`]): The linear head that the run starts from.

        Returns:
            [`ZeroShotHead`]: The head, which may be the one given.
        """
        return head

    @classmethod
    def check_label_lists(cls, args, encoder: DualEncoder, captioned: bool) -> None:
        super().check_label_lists(args, encoder, captioned)
        if args.label_smoothing_factor:
            raise ValueError(
                f"`label_smoothing_factor={args.label_smoothing_factor}` spreads one target over the classes, and with lists of labels "
                "each class is a question of its own; set it to 0."
            )

    def prepare_training(self, total_steps: int) -> None:
        super().prepare_training(total_steps)
        if not (self.is_resuming or self.head_is_given):
            self.fit_head()

    def fit_head(self) -> None:
        """
        Fit the head that was made to the training images, before training begins. Called once for a run that neither goes on nor was
        given a head.
        """
        if self.head.function == "softmax" or self.encoder.similarity == "sigmoid" or self.args.head_start == "zeros":
            return
        embeds, labels = self.embed_training_images()
        with torch.no_grad():
            found = common_bias(nn.functional.linear(embeds.double(), self.head.weight.cpu().double()), labels)
            self.head.bias.fill_(found.item())
        # The same sum may be another by a rounding elsewhere.
        self.head.bias.data.copy_(broadcast(self.head.bias.data))

    def loss_terms(self, features: ClipFeatures, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        terms = super().loss_terms(features, batch)
        labels = batch.get("labels")
        if labels is None:
            raise ValueError("Cross-entropy needs `labels` in every batch; name the label column, or use captions.")
        if self.head.function == "sigmoid":
            terms["binary_cross_entropy"] = multi_label_loss(self.head(features.image_embeds), labels)
            return terms
        terms["cross_entropy"] = classification_loss(
            self.head(features.image_embeds), labels, self.args.label_smoothing_factor
        )
        return terms

    def trainable_modules(self) -> dict[str, nn.Module]:
        return {**super().trainable_modules(), "head": self.head}

    def save_extras(self, directory: str) -> None:
        super().save_extras(directory)
        self.head.save_pretrained(directory)
