# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""How text towers read captions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class CaptionRules:
    """
    How a text tower reads a caption.

    Whatever it is, a feature depends on the tokens of its own caption up to the last one that counts: not on what
    follows, nor on the other captions of a batch. So a table of token ids of any width says all there is, and repeated
    captions may be encoded once. [`DualEncoder`] gives each tower what it needs beside: a mask, or the full width.

    Attributes:
        end_of_text (`int`, *optional*): The token that ends a caption.
        padding (`int`, *optional*): The token that fills a row up.
        at_highest_id (`bool`, *optional*, defaults to `False`): Whether captions are read at their highest token id.
        max_length (`int`, *optional*), vocab_size (`int`, *optional*): Tokens of a caption, and tokens there are.
        reads (`str`, *optional*, defaults to `"end"`): `"end"`: a causal tower, read at the first end-of-text token; what
            follows may be anything. `"mask"`: a tower that sees the whole caption, and padding is masked. `"fixed"`: a
            tower that sees rows of `max_length` tokens whole, padding included.
        causal_unasked (`bool`, *optional*, defaults to `True`): Whether a causal tower is causal without being given a mask.
    """

    end_of_text: int | None
    padding: int | None = None
    at_highest_id: bool = False
    max_length: int | None = None
    vocab_size: int | None = None
    reads: str = "end"
    causal_unasked: bool = True

    def __post_init__(self):
        if self.padding is None and self.reads == "end":
            object.__setattr__(self, "padding", self.end_of_text)

    def end_positions(self, input_ids: Tensor) -> Tensor:
        """
        The position of the last token of each caption that counts; where captions are read at their end, that one.

        Args:
            input_ids (`torch.Tensor` of shape `(texts, length)`): Token ids.

        Returns:
            `torch.Tensor` of shape `(texts,)`: The first end-of-text token, or the last token that is not padding; 0 where
            there is none, as Transformers has it.
        """
        if self.reads != "end":
            places = torch.arange(input_ids.shape[1], device=input_ids.device)
            return (places * (input_ids != self.padding)).amax(dim=-1)
        if self.at_highest_id:
            return input_ids.int().argmax(dim=-1)
        return (input_ids == self.end_of_text).int().argmax(dim=-1)

    @property
    def blank(self) -> list[int]:
        """The tokens of a caption that means nothing, for a tower that is called and not asked."""
        if self.reads == "mask":
            return [0 if self.padding else 1]
        return [self.padding]

    def inputs(self, input_ids: Tensor, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """
        What a text tower is called with for a table of captions.

        Args:
            input_ids (`torch.Tensor` of shape `(texts, length)`): Token ids, padded on the right.
            dtype (`torch.dtype`, *optional*, defaults to `torch.float32`): In which the tower computes.

        Returns:
            `dict[str, torch.Tensor]`: `input_ids`; with the mask of padding as `attention_mask`, or filled up to
            `max_length` tokens, where the tower needs it.

        Raises:
            ValueError: If rows are longer than a tower of fixed length reads.
        """
        if self.reads == "mask":
            places = torch.arange(input_ids.shape[1], device=input_ids.device)
            mask = places[None, :] <= self.end_positions(input_ids)[:, None]
            return {"input_ids": input_ids, "attention_mask": mask.long()}
        if self.reads == "fixed":
            missing = self.max_length - input_ids.shape[1]
            if missing < 0:
                raise ValueError(
                    f"The captions have {input_ids.shape[1]} tokens, and the text tower reads {self.max_length}; tokenize them "
                    f"with truncation and max_length={self.max_length}."
                )
            input_ids = F.pad(input_ids, (0, missing), value=self.padding)
        if not self.causal_unasked:
            length = input_ids.shape[1]
            above = torch.full((length, length), torch.finfo(dtype).min, dtype=dtype, device=input_ids.device).triu(1)
            return {"input_ids": input_ids, "attention_mask": above[None, None].expand(input_ids.shape[0], 1, -1, -1)}
        # What follows the token at which a causal tower is read cannot change its feature: no mask.
        return {"input_ids": input_ids}

    def check(self) -> None:
        """
        Refuse rules without the token at which captions are read, or up to which they are.

        Raises:
            ValueError: If it is not a number.
        """
        name, token = ("eos_token_id", self.end_of_text) if self.reads == "end" else ("pad_token_id", self.padding)
        if not isinstance(token, int):
            raise ValueError(f"{name} is {token!r}, not a number")

    def check_tokenizer(self, tokenizer) -> None:
        """
        Refuse a `tokenizer` with more tokens than the text tower has, or that fills rows up with another one than it knows as padding.

        Raises:
            ValueError: If it does, or fills them up on the left.
        """
        if getattr(tokenizer, "padding_side", "right") != "right":
            raise ValueError(
                "The tokenizer pads on the left, which moves the positions of captions; set padding_side='right' "
                "(in tokenizer_config.json, or of the object)."
            )
        if self.vocab_size is not None and hasattr(tokenizer, "__len__") and len(tokenizer) > self.vocab_size:
            raise ValueError(
                f"The tokenizer has {len(tokenizer)} tokens, and the model knows {self.vocab_size}; load both with `load_dual_encoder`, or "
                "leave out what was added."
            )
        if self.reads != "end" and tokenizer.pad_token_id != self.padding:
            raise ValueError(
                f"The tokenizer pads with the token {tokenizer.pad_token_id}, and the model's configuration has the "
                f"pad_token_id {self.padding}; load both with `load_dual_encoder`, or set model.config.text_config.pad_token_id."
            )
