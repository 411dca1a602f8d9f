# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Standard errors of a set with a column of groups come from whole groups, wherever the set is read from."""

import numpy as np
import pytest
import torch
from helpers import CLASSES, TEMPLATES, image_dataset, tiny_processor
from helpers.evaluations import evaluator
from helpers.streams import benchmark as streamed

from hf_robustft import Benchmark, load_benchmark, register_benchmark
from hf_robustft.cli import main
from hf_robustft.data.catalog.sets import REGISTRY
from hf_robustft.evaluation.binning import bin_indices
from hf_robustft.evaluation.report import EvaluationReport, load_reports
from hf_robustft.evaluation.resampling import bootstrap_draws
from hf_robustft.evaluation.tables import choice_of_images

PATIENTS = ("ada", "bo", "cy", "di")


def images(n=30, seed=0):
    """Confidence, correctness and NLL of images of groups of unequal size, in no order."""
    rng = np.random.default_rng(seed)
    groups = rng.choice(["ada", "bo", "cy", "di", "eve"], n, p=[0.4, 0.2, 0.2, 0.1, 0.1])
    confidence = torch.from_numpy(rng.random(n))
    return confidence, torch.from_numpy(rng.random(n) < 0.6), torch.from_numpy(rng.random(n)), groups


def grouped(n=24, **columns):
    rows = image_dataset(n, seed=n)
    for name, values in {"patient": [PATIENTS[row % 4] for row in range(n)], **columns}.items():
        rows = rows.add_column(name, values)
    return rows


def described(rows, column="patient", **changes):
    return Benchmark.from_dataset(rows, name="id", role="id", templates=TEMPLATES, group_column=column, **changes)


def test_whole_groups_are_drawn_with_all_of_their_images():
    """By hand: the images of the groups that a generator of the same seed draws, one sample at a time."""
    confidence, correct, nll, groups = images()
    found = bootstrap_draws(confidence, correct, nll, groups=groups, draws=40, seed=3)
    names = np.unique(groups)
    for sample, drawn in enumerate(np.random.default_rng(3).integers(0, len(names), (40, len(names)))):
        rows = np.concatenate([np.flatnonzero(groups == names[group]) for group in drawn])
        assert found["accuracy"][sample] == pytest.approx(correct.numpy()[rows].mean())
        assert found["nll"][sample] == pytest.approx(nll.numpy()[rows].mean())
        bins, gaps = bin_indices(confidence, 15).numpy()[rows], (correct.double() - confidence).numpy()[rows]
        assert found["ece"][sample] == pytest.approx(sum(abs(gaps[bins == k].sum()) for k in range(16)) / len(rows))


def test_groups_of_one_image_are_images_and_copies_add_nothing():
    confidence, correct, nll, _ = images()
    alone = bootstrap_draws(confidence, correct, nll, draws=50)
    named = bootstrap_draws(confidence, correct, nll, groups=np.arange(30), draws=50)
    copies = bootstrap_draws(*(item.repeat(10) for item in (confidence, correct, nll)), groups=np.tile(np.arange(30), 10), draws=50)
    assert all((named[key] == alone[key]).all() for key in alone)
    assert all(copies[key] == pytest.approx(alone[key], rel=1e-12) for key in alone)


def test_the_order_of_the_images_changes_nothing():
    confidence, correct, nll, groups = images()
    order = np.random.default_rng(1).permutation(30)
    one = bootstrap_draws(confidence, correct, nll, groups=groups, draws=50)
    other = bootstrap_draws(confidence[order], correct[order], nll[order], groups=groups[order], draws=50)
    assert all(other[key] == pytest.approx(one[key], rel=1e-12) for key in one)


def test_one_group_is_refused():
    confidence, correct, nll, _ = images()
    with pytest.raises(ValueError, match="groups"):
        bootstrap_draws(confidence, correct, nll, groups=["ada"] * 30)


def test_a_report_draws_the_groups_of_its_sets(tiny_clip):
    rows = grouped()
    measures = evaluator([described(rows), Benchmark.from_dataset(rows, name="shift", role="shift", templates=TEMPLATES)])
    report = measures.evaluate(tiny_clip)
    found = measures.predictions.sets["id"]
    assert found.group.tolist() == rows["patient"][:] and measures.predictions.sets["shift"].group is None
    columns = (torch.from_numpy(values) for values in (found.confidence, found.correct, found.nll, found.brier))
    want = bootstrap_draws(*columns, groups=found.group, draws=50)
    result, images_alone = report.results["id"], report.results["shift"]
    assert {key: getattr(result, f"{key}_se") for key in want} == {key: want[key].std(ddof=1) for key in want}
    assert result.draws["nll"] == want["nll"].round(6).tolist()
    assert (result.n_groups, images_alone.n_groups) == (4, None)
    # Nothing but that differs from the same set without groups.
    assert (result.nll, result.ece_noise_floor) == (images_alone.nll, images_alone.ece_noise_floor)
    assert result.nll_se != images_alone.nll_se
    assert choice_of_images(report) == "the choice of images alone, drawn in whole groups (id: 4)"
    assert EvaluationReport.from_dict(report.to_dict()).results["id"].n_groups == 4
    assert "whole groups" in report.table()


@pytest.mark.parametrize("kind", ["parquet", "folder of pictures"])
def test_a_stream_draws_the_same_groups(tmp_path, tiny_clip, kind):
    """Over several files and workers, and where rows can be asked for by number."""
    names = [PATIENTS[row % 3] for row in range(11)]
    if kind == "parquet":
        stream = streamed(kind, tmp_path / "data", (5, 2, 4), role="id", group_column="patient", columns={"patient": names})
        stored = streamed(kind, tmp_path / "data", (), role="id", group_column="patient", streaming=False)
    else:
        grouped(11, patient=names).remove_columns([]).save_to_disk(str(tmp_path / "data"))
        settings = {"class_names": CLASSES, "templates": TEMPLATES, "name": kind.replace(" ", "-"), "role": "id"}
        stream, stored = (
            Benchmark(path=str(tmp_path / "data"), group_column="patient", streaming=streaming, **settings)
            for streaming in (True, False)
        )
    results = []
    for chosen, workers in ((stored, 0), (stream, 2 if kind == "parquet" else 0)):
        measures = evaluator([chosen], num_workers=workers)
        (result,) = measures.evaluate(tiny_clip.double()).results.values()
        (found,) = measures.predictions.sets.values()
        assert found.group.tolist() == names and result.n_groups == 3
        results.append(result)
    assert results[1].nll_se == pytest.approx(results[0].nll_se, rel=1e-6)
    assert next(iter(stream.stream()))["group"] == "ada"


def test_groups_that_cannot_be_drawn_are_refused_before_anything_is_read(tmp_path, tiny_clip):
    for column, values, message in (
        ("ward", None, "group_column"),
        ("patient", ["ada"] * 24, "single group.*--group_column"),
        ("patient", [None if row == 7 else "ada" for row in range(24)], "row 7.*'patient'"),
        ("patient", ["ada" if row % 2 else " " for row in range(24)], "row 0.*'patient'.*12 such rows"),
        ("patient", [0.5] * 24, "text or whole numbers"),
    ):
        rows = grouped() if values is None else image_dataset(24).add_column("patient", values)
        with pytest.raises(ValueError, match=message):
            described(rows, column)
    folder = tmp_path / "one"
    chosen = streamed("parquet", folder, (4, 3), role="id", group_column="patient", columns={"patient": ["ada"] * 7})
    with pytest.raises(ValueError, match="single group"):
        evaluator([chosen]).evaluate(tiny_clip)
    for missing in (None, ""):
        columns = {"patient": ["ada"] * 5 + [missing, "bo"]}
        chosen = streamed("parquet", tmp_path / f"none{missing}", (4, 3), role="id", group_column="patient", columns=columns)
        with pytest.raises(ValueError, match="row 1 of shard 1.*'patient'"):
            evaluator([chosen]).evaluate(tiny_clip)


def test_registered_sets_say_their_groups(tmp_path, monkeypatch):
    """Emoji Shift its drawings; your own as its facts do."""
    sets = load_benchmark("emoji_shift")
    assert {item.group_column for item in sets.values()} == {"code_point"}
    (tmp_path / "birds").mkdir()
    grouped(8).to_parquet(tmp_path / "birds" / "test.parquet")
    facts = {"role": "id", "copies": [{"path": str(tmp_path / "birds")}]}
    described_set = {"classes": list(CLASSES), "group_column": "patient", "sets": {"test": facts}}
    # Other tests read the registry.
    monkeypatch.setitem(REGISTRY, "birds-of-patients", None)
    register_benchmark("birds-of-patients", described_set)
    for streaming in (False, True):
        found = load_benchmark("birds-of-patients", streaming=streaming)
        found = found["test"] if isinstance(found, dict) else found
        rows = found.row_stream().rows(0) if streaming else [(0, found.load()[0])]
        row = dict(next(iter(rows))[1])
        assert row["group" if streaming else "patient"] == "ada"


def test_the_command_takes_the_column(tmp_path, tiny_clip, capsys):
    tiny_clip.save_pretrained(tmp_path / "clip")
    tiny_processor().save_pretrained(tmp_path / "clip")
    grouped().to_parquet(tmp_path / "test.parquet")
    command = ["evaluate", str(tmp_path / "clip"), "--eval_datasets", str(tmp_path / "test.parquet"), "--use_cpu"]
    command += ["--disable_tqdm", "--output_dir", str(tmp_path / "out"), "--save_predictions", "--group_column"]
    assert main([*command, "patient"]) == 0
    assert "drawn in whole groups (4 in each set)" in capsys.readouterr().out
    (report,) = load_reports(tmp_path / "out" / "evaluation.json")
    assert report.results["test"].n_groups == 4 and (tmp_path / "out" / "predictions.parquet").is_file()
    assert main([*command, "ward"]) == 2
    assert "--group_column" in capsys.readouterr().err
    for sets in (["emoji_shift/noto"], []):
        words = ["train", "--train_dataset", str(tmp_path / "test.parquet"), *(["--eval_datasets", *sets] if sets else [])]
        assert main([*words, "--group_column", "patient", "--output_dir", str(tmp_path / "run")]) == 2
        assert "--group_column patient" in capsys.readouterr().err
