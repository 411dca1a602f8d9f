# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Lipsum-FT: similarities to random texts stay what they were at the start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.randomness import example_rng, pick
from ..modeling.dual_encoder import at_least_float32
from ..modeling.features import ClipFeatures, logit_scale
from .base import refuse_idle, refuse_other_texts
from .settings import WEIGHT, ObjectiveSettings, Range, setting
from .starting_model import StartingModelMixin


def random_texts(tokens: Sequence[int], frame: Sequence[int], count: int, length: int, seed: int, step: int) -> Tensor:
    """
    Texts of random tokens, a function of the seed and the step alone.

    Args:
        tokens (`Sequence[int]`): The ids to draw from, all with the same probability.
        frame (`Sequence[int]`): The ids of an empty text: the last ends a text, what is before it begins one.
        count (`int`), length (`int`): Number of texts, and tokens of each within its frame.
        seed (`int`), step (`int`): Of the run, and of its optimizer.

    Returns:
        `torch.Tensor` of shape `(count, length + len(frame))`: Token ids.
    """
    rng = example_rng(seed, step, 0, "random text")
    begin, end = frame[:-1], frame[-1:]
    rows = [[*begin, *(tokens[pick(rng, len(tokens))] for _ in range(length)), *end] for _ in range(count)]
    return torch.tensor(rows)


def random_text_loss(image_embeds: Tensor, start_embeds: Tensor, text_embeds: Tensor, scale: Tensor) -> Tensor:
    """
    Half the mean squared change of the logits of random texts, `mean_i 1/(2M) Σ_m (s v_i·r_m - s v⁰_i·r_m)²`
    (Lipsum-FT, Nam et al., ICLR 2024).

    Args:
        image_embeds (`torch.Tensor` of shape `(batch, embed_dim)`): Unit-norm embeddings `v`.
        start_embeds (`torch.Tensor` of the same shape): Those of the model of the start, `v⁰`. No gradient flows to them.
        text_embeds (`torch.Tensor` of shape `(texts, embed_dim)`): Unit-norm embeddings `r` of the random texts.
        scale (`torch.Tensor`): The logit scale `s` of the start: a change of a cosine counts times its square.

    Returns:
        `torch.Tensor`: Scalar.
    """
    change = scale * (image_embeds - start_embeds.detach()) @ text_embeds.t()
    return change.square().mean() / 2


@dataclass
class RandomTextSettings(ObjectiveSettings):
    """The similarities to random texts (Lipsum-FT)."""

    random_text_weight: float = setting(
        1.0, "Weight of the change of the logits of random texts.", paper=1.0, range=WEIGHT
    )
    random_texts: int = setting(
        80, "Random texts of a step.", paper=80, range=Range("must be a number of texts", low=1, whole_from=1)
    )
    random_text_length: int = setting(
        8, "Random tokens of each text.", paper=8, range=Range("must be a number of tokens", low=1, whole_from=1)
    )


class RandomTextMixin(StartingModelMixin):
    """
    Adds the term `random_text` (weight `random_text_weight`).

    The texts are drawn for each optimizer step, as a function of the seed and the step, so that all processes and a resumed
    run have the same. They are encoded by the model's own text tower, which must not train.

    Raises:
        ValueError: If the tokenizer is missing, or a text would be longer than the text tower can read.
    """

    settings: type[ObjectiveSettings] = RandomTextSettings

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if not self.args.random_text_weight:
            return
        if self.processing_class is None:
            raise ValueError("Random texts are made of the tokens of a tokenizer: pass `processing_class=`.")
        tokenizer = getattr(self.processing_class, "tokenizer", self.processing_class)
        rules, self._frame = self.encoder.caption_rules, tokenizer("")["input_ids"]
        longest = rules.max_length - len(self._frame)
        if self.args.random_text_length > longest:
            raise ValueError(
                f"`random_text_length={self.args.random_text_length}`: the text tower reads {longest} tokens within the frame "
                f"of a text; set it to {longest} or less."
            )
        special = {*tokenizer.all_special_ids, rules.end_of_text, rules.padding}
        self._tokens = [token for token in range(rules.vocab_size) if token not in special]

    @classmethod
    def check_settings(cls, args) -> None:
        super().check_settings(args)
        if not args.random_text_weight:
            reason = "`random_text_weight=0` draws no texts; set a weight (the paper's is 1)"
            refuse_idle(args, ["random_texts", "random_text_length"], reason)

    def needs_start(self) -> bool:
        return bool(self.args.random_text_weight) or super().needs_start()

    def extra_texts(self) -> Tensor | None:
        if not self.args.random_text_weight:
            return super().extra_texts()
        refuse_other_texts(self, super().extra_texts())
        shape = self.args.random_texts, self.args.random_text_length
        texts = random_texts(self._tokens, self._frame, *shape, self.args.seed, self.optimizer_steps)
        return texts.to(self.args.device)

    def loss_terms(self, features: ClipFeatures, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        terms = super().loss_terms(features, batch)
        if self.args.random_text_weight:
            texts = F.normalize(at_least_float32(features.extra_text_features.detach()), dim=-1)
            images = features.image_embeds, self.start_features(batch).image_embeds
            loss = random_text_loss(*images, texts, logit_scale(self.start))
            terms["random_text"] = self.args.random_text_weight * loss
        return terms
