# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The families of dual encoders that there are, one row each."""

from __future__ import annotations

from dataclasses import dataclass

import transformers
from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin

from .caption_rules import CaptionRules

#: Text towers that are causal and read a caption at its end; and those that read rows of one length with their padding.
_READ_AT_END = ("clip_text_model", "metaclip_2_text_model", "aimv2_text_model")
_READ_WHOLE = ("siglip_text_model", "siglip2_text_model")
#: Causal text towers that look at all tokens unless they are given a mask (in SDPA even then, if it masks nothing).
_CAUSAL_IF_MASKED = ("aimv2_text_model",)
#: Text towers whose positions begin behind the id of the padding token.
_SHIFTED_POSITIONS = (
    "altclip_text_model",
    "camembert",
    "data2vec-text",
    "mpnet",
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
)
#: The map behind text towers that stands in them, and has a bias.
_HEAD_OF_TEXT = "text_model.head"
#: Settings of image towers that say whether they pool their patches, and so have one feature per image.
POOLING_HEADS = ("use_head", "vision_use_head")


@dataclass(frozen=True)
class Family:
    """
    What sets a family of dual encoders apart.

    Attributes:
        class_name (`str`): The class in Transformers of the whole model, with both towers and their projections.
        label (`str`): What readers call such a model.
        processor_name (`str`, *optional*, defaults to `"CLIPProcessor"`): The class of the processor of its checkpoints.
        legacy_end_of_text (`int`, *optional*): The `eos_token_id` of old conversions, with which the text tower reads
            a caption at its highest token id. `None` if the family has none.
        similarity (`str`, *optional*, defaults to `"softmax"`): What makes probabilities of scaled similarities:
            `"softmax"` over captions, or `"sigmoid"` of each pair.
        projects (`bool`, *optional*, defaults to `True`): Whether `forward` of the model returns the outputs of its towers
            as they are after the projections. What it returns otherwise is projected again outside.
        any_towers (`bool`, *optional*, defaults to `False`): Whether towers may be of any kind, so that a configuration does
            not tell what images they take.
        may_idle (`bool`, *optional*, defaults to `False`): Whether there may be parameters that no feature depends on, such
            as those of attention from one tower to the other.
        text_map (`str`, *optional*, defaults to `"text_projection"`): The name of the linear map that text features end in, with
            or without a bias.
        patches (`bool`, *optional*, defaults to `False`): Whether images are taken as patches of a grid of their own
            (`data.patches`).
        reads_class_token (`bool`, *optional*, defaults to `True`): Whether the image tower is read at its first token, and not
            pooled over all.
    """

    class_name: str
    label: str
    processor_name: str = "CLIPProcessor"
    legacy_end_of_text: int | None = None
    similarity: str = "softmax"
    projects: bool = True
    any_towers: bool = False
    may_idle: bool = False
    text_map: str = "text_projection"
    patches: bool = False
    reads_class_token: bool = True

    @property
    def model_class(self) -> type[PreTrainedModel]:
        """The class of the model, imported when it is asked for."""
        return getattr(transformers, self.class_name)

    @property
    def processor_class(self) -> type[ProcessorMixin]:
        """The class of the processor, imported when it is asked for."""
        return getattr(transformers, self.processor_name)

    def caption_rules(self, config: PreTrainedConfig) -> CaptionRules:
        """How models of a configuration read captions."""
        text = config.text_config
        kind, limit = text.model_type, getattr(text, "max_position_embeddings", None)
        end, padding = getattr(text, "eos_token_id", None), getattr(text, "pad_token_id", None)
        if kind in _READ_AT_END:
            # The oldest conversions of CLIP alone are read at their highest id.
            legacy = self.legacy_end_of_text if kind == "clip_text_model" or not self.any_towers else None
            unasked = kind not in _CAUSAL_IF_MASKED
            return CaptionRules(end, end, end == legacy, limit, text.vocab_size, causal_unasked=unasked)
        if kind in _SHIFTED_POSITIONS and None not in (limit, padding):
            limit -= padding + 1
        reads = "fixed" if kind in _READ_WHOLE else "mask"
        return CaptionRules(end, padding, False, limit, text.vocab_size, reads)

    def towers(self, config: PreTrainedConfig) -> tuple[PreTrainedConfig, PreTrainedConfig]:
        """The parts of a configuration that say what the text tower and the image tower are."""
        return config.text_config, config.vision_config

    def missing_head(self, config: PreTrainedConfig) -> str | None:
        """The setting by which a configuration leaves out the pooling head of the image tower, `None` if none does."""
        return next((name for name in POOLING_HEADS if not getattr(config.vision_config, name, True)), None)

    def image_size(self, config: PreTrainedConfig) -> int | None:
        """Height and width in pixels of the images, or patches, that models of a configuration take, `None` if it does not say."""
        if self.any_towers:
            return None
        return config.vision_config.patch_size if self.patches else config.vision_config.image_size


#: The families by the `model_type` of their configurations.
FAMILIES = {
    "clip": Family("CLIPModel", "CLIP model", legacy_end_of_text=2),
    # Its released models have the `eos_token_id` 2 and mean it.
    "metaclip_2": Family("MetaClip2Model", "MetaCLIP 2 model"),
    "chinese_clip": Family("ChineseCLIPModel", "Chinese CLIP model", "ChineseCLIPProcessor"),
    "altclip": Family("AltCLIPModel", "AltCLIP model", "AltCLIPProcessor", projects=False),
    "aimv2": Family("Aimv2Model", "AIMv2 model", projects=False, reads_class_token=False),
    # Its text tower has cross-attention for other models of the family.
    "blip": Family("BlipModel", "BLIP model", "BlipProcessor", projects=False, may_idle=True),
    "siglip": Family(
        "SiglipModel",
        "SigLIP model",
        "SiglipProcessor",
        similarity="sigmoid",
        text_map=_HEAD_OF_TEXT,
        reads_class_token=False,
    ),
    # NaFlex; checkpoints of one resolution are `SiglipModel`s.
    "siglip2": Family(
        "Siglip2Model",
        "SigLIP 2 model",
        "Siglip2Processor",
        similarity="sigmoid",
        text_map=_HEAD_OF_TEXT,
        patches=True,
        reads_class_token=False,
    ),
    "vision-text-dual-encoder": Family(
        "VisionTextDualEncoderModel",
        "dual encoder",
        "VisionTextDualEncoderProcessor",
        legacy_end_of_text=2,
        projects=False,
        any_towers=True,
        may_idle=True,
        reads_class_token=False,
    ),
}
_NAMES = [family.class_name for family in FAMILIES.values()]
#: For messages: the models there are.
SUPPORTED = f"{', '.join(_NAMES[:-1])} or {_NAMES[-1]}"
