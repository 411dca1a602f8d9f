# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.

import numpy as np
import pytest
import torch
from helpers import sent_to_a_worker

from hf_robustft.data.benchmarks import Benchmark, load_benchmark
from hf_robustft.data.catalog.schema import facts
from hf_robustft.data.class_projection import ClassProjection

NAMES = ("cat", "dog", "fox", "wolf", "owl")


@pytest.fixture
def logits():
    return torch.randn(64, 1000, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", ["imagenet-r", "imagenet-a"])
def test_a_subset_is_the_boolean_mask_in_ascending_class_index(name, logits):
    benchmark = load_benchmark(name)
    mask = np.zeros(1000, dtype=bool)
    mask[facts("imagenet")[name.replace("-", "_")]] = True
    projected = benchmark.project_logits(logits)
    assert projected.shape == (64, 200) and torch.equal(projected, logits[:, torch.from_numpy(mask)])
    assert benchmark.projection.class_names == benchmark.class_names
    # Softmax comes after the selection.
    probabilities = projected.softmax(-1)
    assert torch.allclose(probabilities.sum(-1), torch.ones(64))
    assert torch.equal(benchmark.project_logits(projected), projected)


def test_objectnet_is_the_maximum_over_its_imagenet_classes(logits):
    benchmark = load_benchmark("objectnet")
    expected = np.zeros((64, 113))
    for position, (_, _, _, columns) in enumerate(facts("objectnet")["classes"]):
        expected[:, position] = logits.numpy()[:, columns].max(axis=1)
    projected = benchmark.project_logits(logits)
    assert projected.dtype == torch.float32 and np.array_equal(projected.numpy().astype(np.float64), expected)
    assert benchmark.projection.class_names is None
    assert sum(len(group) > 1 for group in benchmark.projection.groups) == 9
    assert torch.equal(benchmark.project_logits(logits.double()), torch.from_numpy(expected))


def test_the_gradient_reaches_the_largest_column_alone():
    projection = ClassProjection(NAMES, ((0,), (3, 1)))
    logits = torch.tensor([[1.0, 5.0, 9.0, 2.0, 7.0]], requires_grad=True)
    projected = projection(logits)
    assert projected.tolist() == [[1.0, 5.0]]
    projected.sum().backward()
    assert logits.grad.tolist() == [[1.0, 1.0, 0.0, 0.0, 0.0]]


def test_any_leading_shape_and_workers():
    projection = sent_to_a_worker(ClassProjection.of_subset(NAMES, (1, 4)))
    assert projection(torch.arange(30.0).view(2, 3, 5)).tolist() == [
        [[1, 4], [6, 9], [11, 14]],
        [[16, 19], [21, 24], [26, 29]],
    ]
    assert projection(torch.arange(5)).tolist() == [1, 4]


@pytest.mark.parametrize("shape", [(3, 4), (5, 3), ()])
def test_another_number_of_columns(shape):
    with pytest.raises(ValueError, match=r"this projection takes 5 \(or passes 2\)"):
        ClassProjection.of_subset(NAMES, (1, 4))(torch.zeros(shape))


@pytest.mark.parametrize(
    "groups, message",
    [
        ((), "at least one class"),
        (((0,), ()), "each class at least one column"),
        (((0,), (5,)), "column 5 is outside the 5 columns"),
        (((-1,), (2,)), "column -1 is outside"),
        (((0, 1), (1,)), r"column 1 \('dog'\) stands for two classes"),
        (tuple((i,) for i in range(5)), "to 5 classes is none"),
    ],
)
def test_groups_that_cannot_be(groups, message):
    with pytest.raises(ValueError, match=message):
        ClassProjection(NAMES, groups)


def test_a_subset_must_ascend():
    with pytest.raises(ValueError, match="do not ascend"):
        ClassProjection.of_subset(NAMES, (4, 1))


def test_a_benchmark_with_and_without_projection():
    own = Benchmark("own", "id", ("cat", "owl"), path="folder")
    assert own.project_logits(torch.zeros(2, 2)).shape == (2, 2)
    with pytest.raises(ValueError, match="logits have 5 columns, data set 'own' has 2 classes and no projection"):
        own.project_logits(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="has 2 classes, its projection gives 1"):
        Benchmark("own", "id", ("cat", "owl"), path="folder", projection=ClassProjection.of_subset(NAMES, (0,)))
