# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Cached features are trained on by adapters of the very model that made them, and by nothing else."""

import copy

import pytest
import torch
from helpers import CLASSES, TEMPLATES, arguments, image_dataset, stack, tiny_processor
from torch.utils.data import ConcatDataset, Subset

from hf_robustft import Benchmark
from hf_robustft.modeling.feature_cache import cache_features
from hf_robustft.training.methods import METHODS


def cached(model):
    benchmark = Benchmark.from_dataset(image_dataset(16), name="train", role="train", templates=TEMPLATES)
    return cache_features(model, benchmark, tiny_processor(), progress=False)


@pytest.mark.parametrize("method", [name for name, trainer in METHODS.items() if trainer.trains_model])
@pytest.mark.parametrize("part", [False, True])
def test_methods_that_train_encoders_refuse_cached_features(tiny_clip, tmp_path, method, part):
    features = cached(tiny_clip)
    chosen = Subset(features, range(8)) if part else features
    with pytest.raises(ValueError, match="Cached features.*train on images.*CRoFTTrainer.*LinearProbeTrainer"):
        METHODS[method](tiny_clip, arguments(tmp_path), train_dataset=chosen, processing_class=tiny_processor())


def test_features_without_a_record_are_refused_by_encoders_that_train(tiny_clip, tmp_path):
    examples = [{"image_features": torch.randn(16), "labels": torch.tensor(i % 4)} for i in range(8)]
    trainer = METHODS["ft"](
        tiny_clip,
        arguments(tmp_path, max_steps=1),
        train_dataset=examples,
        data_collator=stack,
        class_names=CLASSES,
        templates=TEMPLATES,
        processing_class=tiny_processor(),
    )
    with pytest.raises(ValueError, match="Cached features.*train on images"):
        trainer.train()


def test_features_of_images_that_another_processor_prepared_are_refused(tiny_clip, tmp_path):
    features = cached(tiny_clip)
    other = tiny_processor()
    other.image_processor.image_mean = [0.1, 0.5, 0.5]
    given = {"class_names": CLASSES, "templates": TEMPLATES}
    for method, chosen in (("croft", features), ("lp", Subset(features, range(8))), ("lp", ConcatDataset([features, features]))):
        with pytest.raises(ValueError, match=r"prepared with mean \[0.5, 0.5, 0.5\], and the processor of this run has mean \[0.1"):
            METHODS[method](tiny_clip, arguments(tmp_path), train_dataset=chosen, processing_class=other, **given)
        METHODS[method](tiny_clip, arguments(tmp_path), train_dataset=chosen, processing_class=tiny_processor(), **given)


def test_croft_refuses_a_part_of_another_models_features(tiny_clip, tmp_path):
    features = cached(copy.deepcopy(tiny_clip))
    with torch.no_grad():
        tiny_clip.visual_projection.weight.mul_(1.5)
    for chosen in (features, Subset(features, range(8)), ConcatDataset([features, features])):
        with pytest.raises(ValueError, match="another model"):
            METHODS["croft"](
                tiny_clip,
                arguments(tmp_path),
                train_dataset=chosen,
                class_names=CLASSES,
                templates=TEMPLATES,
                processing_class=tiny_processor(),
            )
