# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
SigLIP's loss, and distillation of its kind: each pair of an image and a caption is a question of its own, whether the two
belong together.

All sums are over the pairs of the global batch and divided by its images. There is one question for a pair, not one from
each side, so rows of images say all of it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pairwise_sigmoid_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float = 0.0,
    *,
    labels: Tensor | None = None,
    caption_labels: Tensor | None = None,
) -> Tensor:
    """
    SigLIP's loss, `-1/B Σ_ij log σ(y_ij (s v_i·t_j + b))` with `y` 1 for pairs that belong together and -1 for others
    (Zhai et al., ICCV 2023). Without labels it is the loss that Transformers' own model returns.

    Args:
        image_embeds (`torch.Tensor` of shape `(batch, embed_dim)`): Unit-norm image embeddings.
        text_embeds (`torch.Tensor` of shape `(batch, embed_dim)`): Unit-norm caption embeddings; row i belongs to image i.
        logit_scale (`torch.Tensor` or `float`): Scale `s` of the similarities, already exponentiated.
        logit_bias (`torch.Tensor` or `float`, *optional*, defaults to 0.0): `b`.
        labels (`torch.Tensor` of shape `(batch,)` or `(batch, classes)`, *optional*): If given, every image and every caption of
            the same label belong together. Each such pair is a positive of full weight, as no share of anything is given to it:
            the answer to one question takes nothing from the others. Positives then count as often as there are such pairs.
            Without labels the captions of other images are negatives, identical ones too. Of images with lists of labels they
            are 0 and 1, and an image belongs together with each caption of one of its classes.
        caption_labels (`torch.Tensor` of shape `(batch,)`, *optional*): The class that each caption is of, where images have
            lists of labels; by default `labels`.

    Returns:
        `torch.Tensor`: Scalar.

    Raises:
        ValueError: If the shapes differ.
    """
    if image_embeds.shape != text_embeds.shape or image_embeds.ndim != 2:
        raise ValueError(
            "The sigmoid loss needs image and text embeddings of one shape (batch, embed_dim), "
            f"got {tuple(image_embeds.shape)} and {tuple(text_embeds.shape)}."
        )
    logits = logit_scale * image_embeds @ text_embeds.t() + logit_bias
    return pairwise_sigmoid_loss_of_rows(logits, row_labels=labels, column_labels=labels if caption_labels is None else caption_labels)


def pairwise_sigmoid_loss_of_rows(
    logits_per_image: Tensor,
    *,
    row_offset: int = 0,
    row_labels: Tensor | None = None,
    column_labels: Tensor | None = None,
) -> Tensor:
    """
    [`pairwise_sigmoid_loss`] of some rows of the global matrix; its mean over equal parts is the loss of the whole.

    Args:
        logits_per_image (`torch.Tensor` of shape `(rows, global_batch)`): Scaled similarities of images to captions, with
            the bias.
        row_offset (`int`, *optional*, defaults to 0): Column of the first row's own caption.
        row_labels (`torch.Tensor` of shape `(rows,)` or `(rows, classes)`, *optional*), column_labels (`torch.Tensor` of shape
            `(global_batch,)`, *optional*): Labels of the rows (0 and 1 where they are lists) and of the captions of the global
            batch, if pairs of one label belong together.

    Returns:
        `torch.Tensor`: Scalar.

    Raises:
        ValueError: If captions have lists of labels.
    """
    rows, columns = logits_per_image.shape
    if row_labels is None:
        row_labels = torch.arange(rows, device=logits_per_image.device) + row_offset
        column_labels = torch.arange(columns, device=logits_per_image.device)
    if column_labels.ndim != 1:
        raise ValueError("A caption is of one class: give the classes of captions, of shape (batch,), beside the lists of labels of images.")
    lists = row_labels.ndim == 2
    together = row_labels[:, column_labels].bool() if lists else row_labels[:, None] == column_labels[None, :]
    # Not `binary_cross_entropy_with_logits`: at SigLIP's bias of -13 it loses most of a negative's loss to rounding.
    return -F.logsigmoid(logits_per_image.where(together, -logits_per_image)).sum() / rows


def pairwise_sigmoid_distillation_loss(student_logits_per_image: Tensor, teacher_logits_per_image: Tensor) -> Tensor:
    """
    Cross-entropy of the student's answers under the teacher's, `1/B Σ_ij H(σ(z_T,ij), σ(z_S,ij))`: self-distillation for
    models with SigLIP's loss, and divided as that.

    There are no two directions to sum, as [`~hf_robustft.objectives.self_distillation.self_distillation_loss`] does. As
    there, the teacher's entropy is not subtracted.

    Args:
        student_logits_per_image (`torch.Tensor` of shape `(rows, global_batch)`): With the student's scale and bias.
        teacher_logits_per_image (`torch.Tensor` of the same shape): With the teacher's own. No gradient flows to it.

    Returns:
        `torch.Tensor`: Scalar; its mean over equal parts of the rows is that of the whole.

    Raises:
        ValueError: If the shapes differ.
    """
    yes, no = _answers(student_logits_per_image, teacher_logits_per_image)
    log_yes, log_no = F.logsigmoid(student_logits_per_image), F.logsigmoid(-student_logits_per_image)
    return -(yes * log_yes + no * log_no).sum() / len(student_logits_per_image)


def pairwise_sigmoid_divergence(student_logits_per_image: Tensor, teacher_logits_per_image: Tensor) -> Tensor:
    """
    Kullback-Leibler divergence of the student's answers from the teacher's, `1/B Σ_ij KL(σ(z_T,ij) || σ(z_S,ij))`: what
    TRACER's distillation of in-batch distributions is for models with SigLIP's loss.

    It has the gradient of [`pairwise_sigmoid_distillation_loss`], whose `student_logits_per_image`,
    `teacher_logits_per_image` and errors it has too.

    Returns:
        `torch.Tensor`: Scalar, 0 where the two are the same.
    """
    yes, no = _answers(student_logits_per_image, teacher_logits_per_image)
    student, teacher = student_logits_per_image, teacher_logits_per_image.detach()
    of_yes = yes * (F.logsigmoid(teacher) - F.logsigmoid(student))
    of_no = no * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return (of_yes + of_no).sum() / len(student)


def _answers(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """The teacher's probabilities of yes and of no; one minus the other would lose what is small."""
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            "Student and teacher must score the same pairs, got logits of shape "
            f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}."
        )
    teacher_logits = teacher_logits.detach()
    return teacher_logits.sigmoid(), (-teacher_logits).sigmoid()
