# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Logits collected for fitting are the Evaluator's own, and only labels that mean the head's classes come with them."""

import pytest
import torch
from helpers import CLASSES, TEMPLATES, arguments, assert_rounded, image_dataset, tiny_processor
from helpers.evaluations import benchmark, evaluator, unreadable, whole_arrays
from safetensors.torch import load_file
from torch import nn

from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.evaluation.collect import collect_logits
from hf_robustft.modeling.zero_shot import ZeroShotHead
from hf_robustft.training.methods import FineTuneTrainer

pytestmark = pytest.mark.numbers


def collect(model, chosen, **settings):
    return collect_logits(model, chosen, tiny_processor(), progress=False, **{"batch_size": 8, **settings})


def trained_head(dtype=torch.float32):
    return ZeroShotHead(torch.randn(4, 16, generator=torch.Generator().manual_seed(0)).to(dtype), CLASSES)


@pytest.mark.parametrize("role", ["train", "validation", "id", "shift"])
def test_logits_and_labels_are_those_of_the_whole_arrays(tiny_clip, role):
    chosen = benchmark(role, 19)
    logits, labels = collect(tiny_clip, chosen)
    _, want, want_labels = whole_arrays(tiny_clip, chosen)
    assert logits.dtype == torch.float32 and logits.shape == (19, 4)
    assert_rounded(logits, want)
    assert torch.equal(labels, want_labels) and labels.dtype == torch.int64


@pytest.mark.same_bits("the same batches of 8 through the same model and head")
def test_they_are_the_evaluators_bits(tiny_clip, tmp_path):
    chosen = benchmark("id", 19)
    evaluator([chosen]).evaluate(tiny_clip, logits_dir=tmp_path)
    saved = load_file(tmp_path / "id.safetensors")
    logits, labels = collect(nn.DataParallel(tiny_clip), chosen, num_workers=1)
    assert torch.equal(logits, saved["logits"]) and torch.equal(labels, saved["labels"])
    # Ordinary tensors, that may take part in a gradient.
    assert not logits.is_inference() and not logits.requires_grad
    weight = torch.ones((), requires_grad=True)
    (weight * logits).sum().backward()


def test_precision_follows_the_model(tiny_clip):
    chosen = benchmark("id", 5)
    assert collect(tiny_clip.double(), chosen)[0].dtype == torch.float64
    assert collect(tiny_clip.bfloat16(), chosen)[0].dtype == torch.float32
    assert collect(tiny_clip.float(), chosen, head=trained_head(torch.bfloat16))[0].dtype == torch.float32


def test_a_trained_head_classifies(tiny_clip):
    head = trained_head()
    logits, labels = collect(tiny_clip, benchmark("validation", 9), head=head)
    assert_rounded(logits, whole_arrays(tiny_clip, benchmark("validation", 9), head)[1])
    assert labels.tolist() == [i % 4 for i in range(9)] and head.weight.grad is None


def test_labels_of_other_classes_do_not_come_back(tiny_clip):
    unseen = benchmark("open_set", 7, classes=("ant", "fox"))
    captions = Benchmark.from_dataset(
        image_dataset(6).add_column("text", ["a"] * 6),
        name="c",
        role="train",
        label_column=None,
        caption_column="text",
    )
    for chosen in (unseen, captions):
        logits, labels = collect(tiny_clip, chosen, head=trained_head())
        assert logits.shape == (len(chosen.load()), 4) and labels is None
        with pytest.raises(ValueError, match="give the head of the known classes"):
            collect(tiny_clip, chosen)


def test_no_trace_is_left(tiny_clip):
    tiny_clip.train()
    random_state = torch.get_rng_state()
    collect(tiny_clip, benchmark("id", 9))
    assert all(module.training for module in tiny_clip.modules())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_bad_input_is_refused(tiny_clip):
    other = benchmark("id", 4, classes=("dog", "cat", "owl", "bee"), templates=TEMPLATES)
    with pytest.raises(ValueError, match="in its order"):
        collect(tiny_clip, other, head=trained_head())
    for settings in ({"batch_size": 0}, {"num_workers": -1}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            collect(tiny_clip, benchmark("id", 4), **settings)
    tiny_clip.train()
    with pytest.raises(OSError, match="row 5"):
        collect(tiny_clip, unreadable(8, row=5))
    assert tiny_clip.training


def test_a_head_for_embeddings_of_another_dimension_is_refused(tiny_clip, tmp_path):
    head, chosen = ZeroShotHead(torch.randn(4, 8), CLASSES), benchmark("id")
    for refuse in (
        lambda: collect(tiny_clip, chosen, head=head),
        lambda: evaluator([chosen]).evaluate(tiny_clip, head=head),
        lambda: FineTuneTrainer(tiny_clip, arguments(tmp_path), train_dataset=image_dataset(4), head=head, processing_class=tiny_processor()),
    ):
        with pytest.raises(ValueError, match="8 dimensions, and the model gives 16") as caught:
            refuse()
        assert "\n" not in str(caught.value)
