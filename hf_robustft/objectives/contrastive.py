# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The image-text contrastive loss over the global batch: CLIP's symmetric one, and for models of its kind SigLIP's."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..modeling.dual_encoder import DualEncoder
from ..modeling.features import ClipFeatures
from .base import ObjectiveMixin
from .pairwise_sigmoid import pairwise_sigmoid_loss_of_rows
from .settings import ObjectiveSettings, Range, setting

#: Below so many pairs of a global batch a run is warned of.
FEW_PAIRS = 32


def contrastive_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    logit_scale: Tensor | float,
    *,
    labels: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """
    CLIP's loss: the mean of two cross-entropies, each image against all captions and each caption against all images
    (Radford et al., ICML 2021; the fine-tuning loss of FLYP and CaRot).

    Args:
        image_embeds (`torch.Tensor` of shape `(batch, embed_dim)`): Unit-norm image embeddings.
        text_embeds (`torch.Tensor` of shape `(batch, embed_dim)`): Unit-norm caption embeddings; row i belongs to
            image i. All other captions of the batch count as negatives, identical ones too.
        logit_scale (`torch.Tensor` or `float`): Scale of the similarities, already exponentiated.
        labels (`torch.Tensor` of shape `(batch,)`, *optional*): If given, every caption of the same label is a
            positive, each with the same share.
        label_smoothing (`float`, *optional*, defaults to 0.0): Share of the target spread over the batch.

    Returns:
        `torch.Tensor`: Scalar.

    Raises:
        ValueError: If the shapes differ, or the batch holds fewer than two pairs (no negatives: the loss is 0).
    """
    if image_embeds.shape != text_embeds.shape or image_embeds.ndim != 2:
        raise ValueError(
            "The contrastive loss needs image and text embeddings of one shape (batch, embed_dim), "
            f"got {tuple(image_embeds.shape)} and {tuple(text_embeds.shape)}."
        )
    logits = logit_scale * image_embeds @ text_embeds.t()
    return contrastive_loss_of_rows(
        logits, logits.t(), row_labels=labels, column_labels=labels, label_smoothing=label_smoothing
    )


def contrastive_loss_of_rows(
    logits_per_image: Tensor,
    logits_per_text: Tensor,
    *,
    row_offset: int = 0,
    row_labels: Tensor | None = None,
    column_labels: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """
    [`contrastive_loss`] of some rows of the global matrices; its mean over equal parts is the loss of the whole.

    Args:
        logits_per_image (`torch.Tensor` of shape `(rows, global_batch)`): Scaled similarities, images to captions.
        logits_per_text (`torch.Tensor` of shape `(rows, global_batch)`): Scaled similarities, captions to images.
        row_offset (`int`, *optional*, defaults to 0): Column of the first row's positive.
        row_labels (`torch.Tensor` of shape `(rows,)`, *optional*), column_labels (`torch.Tensor`, *optional*):
            Labels of the rows and of the global batch, if pairs of one label are positives.
        label_smoothing (`float`, *optional*, defaults to 0.0): As in [`contrastive_loss`].

    Returns:
        `torch.Tensor`: Scalar.

    Raises:
        ValueError: If there are fewer than two columns.
    """
    rows, columns = logits_per_image.shape
    if columns < 2:
        raise ValueError(
            "A contrastive batch of one pair has no negatives and nothing to learn from; "
            "raise --per_device_train_batch_size (the papers use 512)."
        )
    if row_labels is None:
        target = torch.arange(rows, device=logits_per_image.device) + row_offset
    else:
        same = (row_labels[:, None] == column_labels[None, :]).to(logits_per_image.dtype)
        target = same / same.sum(dim=1, keepdim=True)
    per_image = F.cross_entropy(logits_per_image, target, label_smoothing=label_smoothing)
    per_text = F.cross_entropy(logits_per_text, target, label_smoothing=label_smoothing)
    return (per_image + per_text) / 2


@dataclass
class ContrastiveSettings(ObjectiveSettings):
    """The contrastive loss (FLYP, CaRot)."""

    contrastive_positives: str = setting(
        "diagonal",
        "Which captions are positives: 'diagonal' (a pair's own) or 'same_label' (all of its class; they share the target of a "
        "softmax, and each counts in full in the sigmoid loss of SigLIP).",
        paper="diagonal",
        choices=["diagonal", "same_label"],
    )
    contrastive_label_smoothing: float = setting(
        0.0,
        "Share of the target spread over the batch. The sigmoid loss of SigLIP has none.",
        paper=0,
        range=Range("must lie in [0, 1); 0 is off", high=1, below=True),
    )


class ContrastiveMixin(ObjectiveMixin):
    """
    Adds the term `contrastive`: [`contrastive_loss`] over the batches of all processes together, or, for models with SigLIP's
    loss, [`~hf_robustft.objectives.pairwise_sigmoid.pairwise_sigmoid_loss`].

    Of images with lists of labels the caption names one of the classes, drawn for each image and pass, and every pair of an
    image and a caption of one of its classes is a positive; the caption of an image without labels names any class, and belongs
    to the images that have it. Pairs are not weighed.

    A batch of one pair is refused for both. CLIP's loss of it is 0. SigLIP's is not, but only asks for a yes, which a bias
    that grows gives to every pair.
    """

    needs_captions = True
    # A softmax over captions gives the labels of an image shares of one; the sigmoid asks for each by itself.
    label_lists = ("sigmoid",)
    settings: type[ObjectiveSettings] = ContrastiveSettings

    @classmethod
    def check_model(cls, args, encoder: DualEncoder) -> None:
        super().check_model(args, encoder)
        if encoder.similarity == "sigmoid" and args.contrastive_label_smoothing:
            raise ValueError(
                f"`contrastive_label_smoothing={args.contrastive_label_smoothing}` spreads a target over the captions of a batch, "
                f"and the loss of a {encoder.name} asks of each pair by itself whether it belongs together; set it to 0."
            )

    @classmethod
    def check_label_lists(cls, args, encoder: DualEncoder, captioned: bool) -> None:
        super().check_label_lists(args, encoder, captioned)
        if captioned:
            if args.contrastive_positives == "same_label":
                raise ValueError(
                    "`contrastive_positives=same_label` asks of which class a caption is, and captions of images with lists of labels "
                    "do not say; set it to diagonal, or leave the captions out."
                )
            return
        if "contrastive_positives" in args.given and args.contrastive_positives != "same_label":
            raise ValueError(
                f"`contrastive_positives={args.contrastive_positives}` would call captions of an image's own labels wrong, where images "
                "have lists of labels; leave it out, or set it to same_label."
            )
        args.derive(contrastive_positives="same_label")

    def validate_arguments(self, args) -> None:
        super().validate_arguments(args)
        if args.per_device_train_batch_size * args.world_size < 2:
            raise ValueError(
                f"`per_device_train_batch_size={args.per_device_train_batch_size}` on {args.world_size} process leaves "
                "a contrastive batch of one pair, without negatives; set it to 2 or more (the papers use 512)."
            )
        if "dataloader_drop_last" in args.given and not args.dataloader_drop_last:
            raise ValueError(
                "`dataloader_drop_last=False` would keep an incomplete last batch, which has fewer negatives than the others; "
                "leave it out, or use a batch size that divides the data."
            )
        # An incomplete last batch has fewer negatives, or, of one pair, none at all; and processes must agree on
        # its size before they gather.
        args.derive(dataloader_drop_last=True)

    def prepare_training(self, total_steps: int) -> None:
        super().prepare_training(total_steps)
        pairs = self.args.per_device_train_batch_size * self.args.world_size
        if pairs < 2:
            # The default batch, made no larger than the training set.
            raise ValueError(
                "The training set has one image, and a contrastive batch of one pair has no negatives: nothing would be learned. "
                "Give at least two images."
            )
        if pairs < FEW_PAIRS:
            warnings.warn(
                f"A contrastive batch of {pairs} pairs has few negatives (the papers use 512); raise "
                "--per_device_train_batch_size, with --contrastive_chunk_size where memory is short.",
                stacklevel=2,
            )

    def loss_terms(self, features: ClipFeatures, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        terms = super().loss_terms(features, batch)
        row_labels = column_labels = None
        if self.args.contrastive_positives == "same_label":
            if batch.get("labels") is None:
                raise ValueError(
                    "`contrastive_positives='same_label'` needs a label column; use 'diagonal' for captions alone."
                )
            row_labels = batch["labels"]
            if row_labels.ndim == 2 and batch.get("caption_labels") is None:
                raise ValueError("Lists of labels need `caption_labels` in every batch, the class that each caption is of.")
            column_labels = self.gather_rows(batch["caption_labels"] if row_labels.ndim == 2 else row_labels)
        pairs = {"row_offset": features.row_offset, "row_labels": row_labels, "column_labels": column_labels}
        if self.encoder.similarity == "sigmoid":
            terms["contrastive"] = pairwise_sigmoid_loss_of_rows(features.logits_per_image, **pairs)
        else:
            terms["contrastive"] = contrastive_loss_of_rows(
                features.logits_per_image,
                features.logits_per_text,
                **pairs,
                label_smoothing=self.args.contrastive_label_smoothing,
            )
        return terms
