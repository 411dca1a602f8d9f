# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Every public name as a program would use it, for type checkers: nothing runs this. See test_types.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_type

import torch
from datasets import Dataset
from PIL import Image
from torch import Tensor

from hf_robustft import (
    AlphaSweep,
    BadImages,
    Benchmark,
    CachedFeatures,
    CARFTTrainer,
    CaRotCRoFTTrainer,
    CaRotTrainer,
    ClipAdapterHead,
    ClipAdapterMixin,
    ClipAdapterTrainer,
    Comparison,
    ConformalClassifier,
    ContextDistillationMixin,
    ContrastiveMixin,
    CovarianceAnchorMixin,
    CovarianceAnchorTrainer,
    CRoFTTrainer,
    CrossEntropyMixin,
    EnergyGradientMixin,
    EvaluationReport,
    Evaluator,
    FeatureAdapters,
    FineTuneTrainer,
    FLYPTrainer,
    FrozenEnergyGradientMixin,
    L2SPTrainer,
    LinearProbeMixin,
    LinearProbeTrainer,
    LipsumFTTrainer,
    LPFTTrainer,
    MultiLabelClipAdapterHead,
    MultiLabelHead,
    ObjectiveMixin,
    ObjectiveSettings,
    OpenSetDetector,
    RandomTextMixin,
    RobustTrainer,
    RobustTrainingArguments,
    SelfDistillationMixin,
    SingularValueMixin,
    StartingWeightsMixin,
    TemperatureScaling,
    TipAdapterFTrainer,
    TipAdapterHead,
    TipAdapterMixin,
    TRACERTrainer,
    TrajectoryDistillationMixin,
    ZeroShotHead,
    __version__,
    cache_features,
    choose_threshold,
    collect_logits,
    export_checkpoint,
    few_shot,
    finish_checkpoint,
    interpolate_weights,
    lines,
    load_adapters,
    load_benchmark,
    load_checkpoint,
    load_comparison,
    load_dual_encoder,
    load_head,
    merge_adapters,
    model_stock,
    pipeline,
    publish,
    read_runs,
    refresh_model_card,
    register_benchmark,
    setting,
    summarise,
    sweep_alpha,
    write_model_card,
)


def data(folder: Path, rows: Dataset) -> tuple[Benchmark, dict[str, Benchmark]]:
    suite = load_benchmark("emoji_shift")
    assert_type(suite, dict[str, Benchmark])
    own = load_benchmark(folder, "train", class_names=["cat", "dog"], templates="a photo of a {}.", label_column="kind")
    assert_type(own, Benchmark)
    made = Benchmark("mine", "id", class_names=("cat", "dog"), path=str(folder), streaming=True)
    held = Benchmark.from_dataset(rows, name="held", role="validation", class_names={0: "cat", 1: "dog"})
    assert_type(held.class_names, tuple[str, ...])
    assert_type(made.n_images, int | None)
    assert_type(held.commit, str | None)
    register_benchmark("ours", {"path": "owner/name", "class_names": ["cat", "dog"]})
    return few_shot(own, 16, seed=1), suite


class Margin(ObjectiveMixin):
    """An objective of your own."""

    @dataclass
    class Settings(ObjectiveSettings):
        """Its settings."""

        margin: float = setting(0.1, "How far apart.", paper=0.2)

    settings: type[ObjectiveSettings] = Settings

    def loss_terms(self, features: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"margin": features.image_embeds.sum()}


class MarginTrainer(Margin, ContrastiveMixin, RobustTrainer):
    """A method of your own."""


MIXINS: tuple[type[ObjectiveMixin], ...] = (
    ClipAdapterMixin,
    ContextDistillationMixin,
    ContrastiveMixin,
    CovarianceAnchorMixin,
    CrossEntropyMixin,
    EnergyGradientMixin,
    FrozenEnergyGradientMixin,
    LinearProbeMixin,
    RandomTextMixin,
    SelfDistillationMixin,
    SingularValueMixin,
    StartingWeightsMixin,
    TipAdapterMixin,
    TrajectoryDistillationMixin,
)
TRAINERS: tuple[type[RobustTrainer], ...] = (
    CARFTTrainer,
    CaRotCRoFTTrainer,
    CaRotTrainer,
    ClipAdapterTrainer,
    CovarianceAnchorTrainer,
    CRoFTTrainer,
    FineTuneTrainer,
    FLYPTrainer,
    L2SPTrainer,
    LinearProbeTrainer,
    LipsumFTTrainer,
    LPFTTrainer,
    MarginTrainer,
    TipAdapterFTrainer,
    TRACERTrainer,
)


def train(method: type[RobustTrainer], train_set: Benchmark, suite: dict[str, Benchmark]) -> EvaluationReport | None:
    model, processor = load_dual_encoder("openai/clip-vit-base-patch16", revision="main", dtype=torch.float32)
    trainer = method(
        model,
        RobustTrainingArguments("outputs/mine", learning_rate=3e-4, orthogonality_weight=0.2),
        train_dataset=train_set,
        eval_dataset=[suite["validation"]],
        processing_class=processor,
        bad_images=BadImages("skip", threshold=0.1),
    )
    trainer.train(resume_from_checkpoint="last")
    trainer.push_to_hub("End of training", blocking=True)
    return finish_checkpoint(Path("outputs/mine"), trainer=trainer, detector="energy", fold_temperature=True)


def measure(suite: Mapping[str, Benchmark], folder: str) -> EvaluationReport:
    model, processor = load_checkpoint(Path(folder))
    head: ZeroShotHead = ZeroShotHead.from_model(model, processor, ["cat", "dog"], ["a photo of a {}."])
    report = Evaluator(suite.values(), processor, batch_size=64, knn_bank=suite["train"]).evaluate(model, head, name="mine")
    assert_type(report.results["test"].accuracy, float)
    assert_type(report.metrics(), dict[str, float])
    assert_type(report.table(baseline=EvaluationReport.load_json("before.json")), str)
    report.save_json(Path(folder) / "evaluation.json")
    logits, labels = collect_logits(model, suite["validation"], processor, head, progress=False)
    if labels is not None:
        scaling = TemperatureScaling().fit(logits, labels)
        assert_type(scaling.temperature, float)
        detector = OpenSetDetector.fit(logits, class_names=head.class_names, logit_scale=100.0, temperature=scaling)
        assert_type([guess.label for guess in detector.predict(logits)], list[str])
        assert_type(detector.save(folder), Path)
        sets = ConformalClassifier.fit(logits, labels, class_names=head.class_names, logit_scale=100.0, temperature=scaling)
        assert_type(sets.predict_sets(logits), list[tuple[str, ...]])
        assert_type(sets.save(folder), Path)
        assert_type(choose_threshold(logits.amax(dim=1), max_error=0.05).threshold, float)
    assert_type(ConformalClassifier.from_pretrained(folder).coverage, float)
    assert_type(OpenSetDetector.from_pretrained(folder, token=True).threshold, float)
    return report


def heads_and_merges(train_set: Benchmark, suite: dict[str, Benchmark]) -> AlphaSweep:
    start, processor = load_dual_encoder("emoji_clip")
    tuned, _ = load_dual_encoder("outputs/mine")
    features = cache_features(start, train_set, processor, views=4, cache_dir="features")
    assert_type(features, CachedFeatures)
    head: ZeroShotHead = load_head("outputs/ft", revision="main")
    assert_type(ClipAdapterHead.around(head, ratio=0.2), ClipAdapterHead)
    of_lists = MultiLabelHead.from_model(start, processor, train_set.class_names, train_set.templates)
    assert_type(of_lists, MultiLabelHead)
    assert_type(MultiLabelClipAdapterHead.around(of_lists, ratio=0.2), MultiLabelClipAdapterHead)
    assert_type(TipAdapterHead.from_benchmark(start, train_set, processor, views=4, batch_size=64), TipAdapterHead)
    adapters = load_adapters(start, "outputs/croft")
    assert_type(adapters, FeatureAdapters)
    merge_adapters(start, adapters, n_templates=7)
    for weights in (interpolate_weights(start, tuned, 0.3), model_stock(start, [tuned, tuned]), lines(start, tuned)):
        assert_type(weights, dict[str, Tensor])
        start.load_state_dict(weights)
    sweep = sweep_alpha(start, tuned, Evaluator(suite, processor), [0.2, 0.8])
    assert_type(sweep.best(), float)
    return sweep


def publication(report: EvaluationReport, suite: dict[str, Benchmark]) -> str | None:
    card = write_model_card(
        "outputs/mine", report=report, method="carot", data=list(suite.values()), settings={"learning_rate": 3e-4}
    )
    assert_type(card, Path)
    assert_type(refresh_model_card("outputs/mine", report), Path | None)
    return publish("outputs/mine", "owner/name", private=True, dry_run=True).url


def names_of(picture: Image.Image) -> list[str]:
    answers = pipeline("outputs/mine", batch_size=8, require_detector=False)
    assert_type(answers(picture), dict[str, Any])
    assert_type(answers([picture, "b.png", Path("c.png")]), list[dict[str, Any]])
    return [answer["label"] for answer in answers("photos")] + [answers(Path("a.png"))["label"]]


def export(validation: Benchmark) -> None:
    classify = pipeline("outputs/mine")
    facts = export_checkpoint(classify, Path("exported"), precisions=["fp32", "int8"], dataset=validation, min_agreement=0.98)
    assert_type(facts, dict[str, Any])


def compare() -> tuple[Comparison, Any]:
    comparison = read_runs(["outputs/carot", Path("outputs/flyp")])
    summary = summarise(comparison, rule="id_within")
    assert_type(load_comparison("outputs/compare"), dict[str, Any])
    return comparison, summary["winner"]


print(__version__.split("."), MIXINS, TRAINERS)
