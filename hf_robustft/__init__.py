# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Robust, calibrated fine-tuning of CLIP with Transformers. Names are imported when they are first used."""

from importlib import import_module

__version__ = "0.1.0.dev0"

_ROOMS = {
    "data.benchmarks": ["Benchmark", "load_benchmark"],
    "data.few_shot": ["few_shot"],
    "data.images": ["BadImages"],
    "modeling.adapters": ["FeatureAdapters", "load_adapters", "merge_adapters"],
    "modeling.checkpoint": ["load_checkpoint"],
    "modeling.feature_cache": ["CachedFeatures", "cache_features"],
    "modeling.zero_shot": ["ZeroShotHead"],
    "modeling.interpolation": ["interpolate_weights"],
    "objectives.base": ["ObjectiveMixin"],
    "objectives.contrastive": ["ContrastiveMixin"],
    "objectives.cross_entropy": ["CrossEntropyMixin"],
    "objectives.singular_value": ["SingularValueMixin"],
    "objectives.self_distillation": ["SelfDistillationMixin"],
    "objectives.energy_gradient_mixin": ["EnergyGradientMixin"],
    "evaluation.collect": ["collect_logits"],
    "evaluation.detector": ["OpenSetDetector"],
    "evaluation.evaluator": ["Evaluator"],
    "evaluation.report": ["EvaluationReport"],
    "evaluation.temperature": ["TemperatureScaling"],
    "publishing.finish": ["finish_checkpoint"],
    "publishing.hub": ["publish"],
    "publishing.model_card": ["refresh_model_card", "write_model_card"],
    "publishing.pipeline": ["pipeline"],
    "training.arguments": ["RobustTrainingArguments"],
    "training.trainer": ["RobustTrainer"],
    "training.methods": ["CaRotCRoFTTrainer", "CaRotTrainer", "CRoFTTrainer", "FLYPTrainer", "FineTuneTrainer"],
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})
