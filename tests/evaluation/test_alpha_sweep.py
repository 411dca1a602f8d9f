# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The models between a start and its fine-tuned self: each is measured as it would be alone."""

import copy
import csv

import pytest
import torch
from helpers import TEMPLATES, image_dataset, tiny_processor
from PIL import Image

from hf_robustft import Benchmark, Evaluator, ZeroShotHead, interpolate_weights, lines, sweep_alpha


@pytest.fixture(scope="module")
def evaluator():
    roles = {"photos": "id", "sketches": "shift", "held-out": "validation"}
    sets = [
        Benchmark.from_dataset(image_dataset(24, seed=seed), name=name, role=role, templates=TEMPLATES)
        for seed, (name, role) in enumerate(roles.items())
    ]
    return Evaluator(sets, tiny_processor(), progress=False, bootstrap_draws=2)


@pytest.fixture
def models(tiny_clip):
    tuned = copy.deepcopy(tiny_clip)
    with torch.no_grad():
        for value in tuned.parameters():
            value += 0.05 * torch.randn(value.shape, generator=torch.Generator().manual_seed(len(value.shape)))
    return tiny_clip, tuned


def test_every_model_is_measured_as_if_alone(models, evaluator):
    start, tuned = models
    before = {name: value.clone() for name, value in start.state_dict().items()}
    names, templates = evaluator.benchmarks["photos"].class_names, evaluator.benchmarks["photos"].templates
    zero_shot = ZeroShotHead.from_model(start, tiny_processor(), names, templates)
    head = copy.deepcopy(zero_shot)
    with torch.no_grad():
        head.weight += 1.0
        head.bias += torch.arange(len(names))
    for heads in (None, (zero_shot, head)):
        sweep = sweep_alpha(start, tuned, evaluator, (1, 0, 0.25, 0.25), heads=heads)
        assert list(sweep.reports) == [0, 0.25, 1]
        for alpha, report in sweep.reports.items():
            model = copy.deepcopy(tuned)
            model.load_state_dict(interpolate_weights(start, tuned, alpha))
            own = None
            if heads is not None:
                own = copy.deepcopy(head)
                own.load_state_dict(interpolate_weights(zero_shot, head, alpha))
            assert report.metrics() == evaluator.evaluate(model, head=own).metrics(), alpha
        assert sweep.reports[0].metrics() == evaluator.evaluate(start).metrics()
        assert sweep.reports[1].metrics() == evaluator.evaluate(tuned, head=None if heads is None else head).metrics()
    assert all(torch.equal(before[name], value) for name, value in start.state_dict().items())


def test_another_way_between_them(models, evaluator):
    start, tuned = models
    model = copy.deepcopy(start)
    model.load_state_dict(lines(start, tuned, 0.0))
    assert sweep_alpha(start, tuned, evaluator, [0], merge=lines).reports[0].metrics() == evaluator.evaluate(model).metrics()


def test_best_is_by_validation_and_files_hold_all_metrics(models, evaluator, tmp_path):
    sweep = sweep_alpha(*models, evaluator, (0, 0.5, 1))
    for alpha, accuracy in ((0, 0.5), (0.5, 0.75), (1, 0.75)):
        sweep.reports[alpha].results["held-out"].accuracy = accuracy
        sweep.reports[alpha].results["photos"].accuracy = 0.1 * alpha
    assert sweep.best() == 0.5, "of equal ones the smallest"
    table, picture = sweep.save(tmp_path, saved=0.5)
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    for row, (alpha, report) in zip(rows, sweep.reports.items(), strict=True):
        assert {key: float(value) for key, value in row.items()} == {"alpha": alpha, "temperature": 1, **report.metrics()}
    assert Image.open(picture).size == (900, 675)
    lines_of_table = sweep.table(saved=0.5).splitlines()
    assert len(lines_of_table) == 4 and [line.lstrip().startswith("*") for line in lines_of_table] == [False, False, True, False]
    assert "75.0" in lines_of_table[2]


def test_nothing_to_measure_or_to_choose_by_is_refused(models, evaluator):
    with pytest.raises(ValueError, match="no alpha"):
        sweep_alpha(*models, evaluator, [])
    with pytest.raises(ValueError, match="alpha=1.1"):
        sweep_alpha(*models, evaluator, [0, 1.1])
    sweep = sweep_alpha(*models, Evaluator([evaluator.benchmarks["photos"]], tiny_processor(), progress=False), [0])
    with pytest.raises(ValueError, match="role validation"):
        sweep.best()
    with pytest.raises(ValueError, match="a shift"):
        from hf_robustft.evaluation.plots import plot_alpha_sweep

        plot_alpha_sweep(sweep.reports, "x.png")
