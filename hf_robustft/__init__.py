# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Robust, calibrated fine-tuning of CLIP with Transformers. Names are imported when they are first used."""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:
    # For editors and type checkers; a test keeps it equal to the table below.
    from .comparison.runs import Comparison as Comparison
    from .comparison.runs import read_runs as read_runs
    from .comparison.summary import load_comparison as load_comparison
    from .comparison.summary import summarise as summarise
    from .data.bad_images import BadImages as BadImages
    from .data.benchmarks import Benchmark as Benchmark
    from .data.benchmarks import load_benchmark as load_benchmark
    from .data.catalog.sets import register_benchmark as register_benchmark
    from .data.few_shot import few_shot as few_shot
    from .deployment.export import export_checkpoint as export_checkpoint
    from .deployment.pipeline import pipeline as pipeline
    from .evaluation.alpha_sweep import AlphaSweep as AlphaSweep
    from .evaluation.alpha_sweep import sweep_alpha as sweep_alpha
    from .evaluation.collect import collect_logits as collect_logits
    from .evaluation.detector import OpenSetDetector as OpenSetDetector
    from .evaluation.evaluator import Evaluator as Evaluator
    from .evaluation.prediction_sets import ConformalClassifier as ConformalClassifier
    from .evaluation.report import EvaluationReport as EvaluationReport
    from .evaluation.risk_control import choose_threshold as choose_threshold
    from .evaluation.temperature import TemperatureScaling as TemperatureScaling
    from .modeling.adapters import FeatureAdapters as FeatureAdapters
    from .modeling.adapters import load_adapters as load_adapters
    from .modeling.adapters import merge_adapters as merge_adapters
    from .modeling.checkpoint import load_checkpoint as load_checkpoint
    from .modeling.checkpoint import load_dual_encoder as load_dual_encoder
    from .modeling.feature_cache import CachedFeatures as CachedFeatures
    from .modeling.feature_cache import cache_features as cache_features
    from .modeling.heads import ClipAdapterHead as ClipAdapterHead
    from .modeling.heads import MultiLabelClipAdapterHead as MultiLabelClipAdapterHead
    from .modeling.heads import MultiLabelHead as MultiLabelHead
    from .modeling.heads import TipAdapterHead as TipAdapterHead
    from .modeling.heads import load_head as load_head
    from .modeling.interpolation import interpolate_weights as interpolate_weights
    from .modeling.interpolation import lines as lines
    from .modeling.interpolation import model_stock as model_stock
    from .modeling.zero_shot import ZeroShotHead as ZeroShotHead
    from .objectives.adapter_heads import ClipAdapterMixin as ClipAdapterMixin
    from .objectives.adapter_heads import TipAdapterMixin as TipAdapterMixin
    from .objectives.base import ObjectiveMixin as ObjectiveMixin
    from .objectives.context_distillation import ContextDistillationMixin as ContextDistillationMixin
    from .objectives.contrastive import ContrastiveMixin as ContrastiveMixin
    from .objectives.covariance_anchor import CovarianceAnchorMixin as CovarianceAnchorMixin
    from .objectives.croft import EnergyGradientMixin as EnergyGradientMixin
    from .objectives.croft import FrozenEnergyGradientMixin as FrozenEnergyGradientMixin
    from .objectives.cross_entropy import CrossEntropyMixin as CrossEntropyMixin
    from .objectives.linear_probe import LinearProbeMixin as LinearProbeMixin
    from .objectives.random_text import RandomTextMixin as RandomTextMixin
    from .objectives.self_distillation import SelfDistillationMixin as SelfDistillationMixin
    from .objectives.settings import ObjectiveSettings as ObjectiveSettings
    from .objectives.settings import setting as setting
    from .objectives.singular_value import SingularValueMixin as SingularValueMixin
    from .objectives.starting_weights import StartingWeightsMixin as StartingWeightsMixin
    from .objectives.trajectory_distillation import TrajectoryDistillationMixin as TrajectoryDistillationMixin
    from .publishing.finish import finish_checkpoint as finish_checkpoint
    from .publishing.hub import publish as publish
    from .publishing.model_card import refresh_model_card as refresh_model_card
    from .publishing.model_card import write_model_card as write_model_card
    from .training.methods import CARFTTrainer as CARFTTrainer
    from .training.methods import CaRotCRoFTTrainer as CaRotCRoFTTrainer
    from .training.methods import CaRotTrainer as CaRotTrainer
    from .training.methods import ClipAdapterTrainer as ClipAdapterTrainer
    from .training.methods import CovarianceAnchorTrainer as CovarianceAnchorTrainer
    from .training.methods import CRoFTTrainer as CRoFTTrainer
    from .training.methods import FineTuneTrainer as FineTuneTrainer
    from .training.methods import FLYPTrainer as FLYPTrainer
    from .training.methods import L2SPTrainer as L2SPTrainer
    from .training.methods import LinearProbeTrainer as LinearProbeTrainer
    from .training.methods import LipsumFTTrainer as LipsumFTTrainer
    from .training.methods import LPFTTrainer as LPFTTrainer
    from .training.methods import RobustTrainingArguments as RobustTrainingArguments
    from .training.methods import TipAdapterFTrainer as TipAdapterFTrainer
    from .training.methods import TRACERTrainer as TRACERTrainer
    from .training.trainer import RobustTrainer as RobustTrainer

_ROOMS = {
    "comparison.runs": ["Comparison", "read_runs"],
    "comparison.summary": ["load_comparison", "summarise"],
    "data.bad_images": ["BadImages"],
    "data.benchmarks": ["Benchmark", "load_benchmark"],
    "data.catalog.sets": ["register_benchmark"],
    "data.few_shot": ["few_shot"],
    "modeling.adapters": ["FeatureAdapters", "load_adapters", "merge_adapters"],
    "modeling.checkpoint": ["load_checkpoint", "load_dual_encoder"],
    "modeling.feature_cache": ["CachedFeatures", "cache_features"],
    "modeling.zero_shot": ["ZeroShotHead"],
    "modeling.heads": ["ClipAdapterHead", "MultiLabelClipAdapterHead", "MultiLabelHead", "TipAdapterHead", "load_head"],
    "modeling.interpolation": ["interpolate_weights", "lines", "model_stock"],
    "objectives.adapter_heads": ["ClipAdapterMixin", "TipAdapterMixin"],
    "objectives.base": ["ObjectiveMixin"],
    "objectives.context_distillation": ["ContextDistillationMixin"],
    "objectives.contrastive": ["ContrastiveMixin"],
    "objectives.covariance_anchor": ["CovarianceAnchorMixin"],
    "objectives.cross_entropy": ["CrossEntropyMixin"],
    "objectives.singular_value": ["SingularValueMixin"],
    "objectives.settings": ["ObjectiveSettings", "setting"],
    "objectives.self_distillation": ["SelfDistillationMixin"],
    "objectives.linear_probe": ["LinearProbeMixin"],
    "objectives.random_text": ["RandomTextMixin"],
    "objectives.starting_weights": ["StartingWeightsMixin"],
    "objectives.trajectory_distillation": ["TrajectoryDistillationMixin"],
    "objectives.croft": ["EnergyGradientMixin", "FrozenEnergyGradientMixin"],
    "evaluation.alpha_sweep": ["AlphaSweep", "sweep_alpha"],
    "evaluation.collect": ["collect_logits"],
    "evaluation.detector": ["OpenSetDetector"],
    "evaluation.evaluator": ["Evaluator"],
    "evaluation.prediction_sets": ["ConformalClassifier"],
    "evaluation.report": ["EvaluationReport"],
    "evaluation.risk_control": ["choose_threshold"],
    "evaluation.temperature": ["TemperatureScaling"],
    "deployment.export": ["export_checkpoint"],
    "deployment.pipeline": ["pipeline"],
    "publishing.finish": ["finish_checkpoint"],
    "publishing.hub": ["publish"],
    "publishing.model_card": ["refresh_model_card", "write_model_card"],
    "training.trainer": ["RobustTrainer"],
    "training.methods": [
        "CARFTTrainer",
        "CaRotCRoFTTrainer",
        "CaRotTrainer",
        "ClipAdapterTrainer",
        "CovarianceAnchorTrainer",
        "CRoFTTrainer",
        "FLYPTrainer",
        "FineTuneTrainer",
        "L2SPTrainer",
        "LPFTTrainer",
        "LinearProbeTrainer",
        "LipsumFTTrainer",
        "RobustTrainingArguments",
        "TipAdapterFTrainer",
        "TRACERTrainer",
    ],
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
