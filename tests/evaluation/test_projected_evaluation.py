# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Data sets that know a part of a head's classes: measured by its logits projected to theirs, as the papers define it."""

import numpy as np
import pytest
import torch
from helpers import CLASSES, TEMPLATES, image_dataset, tiny_processor
from helpers.evaluations import benchmark, evaluator, whole_arrays
from safetensors.torch import load_file

from hf_robustft.data.bad_images import BadImages
from hf_robustft.data.benchmarks import Benchmark, load_benchmark
from hf_robustft.data.catalog.schema import facts
from hf_robustft.data.class_projection import ClassProjection
from hf_robustft.data.columns import StoredRows
from hf_robustft.data.few_shot import few_shot
from hf_robustft.evaluation import calibration, image_numbers
from hf_robustft.evaluation.collect import collect_logits
from hf_robustft.evaluation.evaluator import Evaluator
from hf_robustft.evaluation.open_set import score
from hf_robustft.evaluation.report import TRAINED_HEAD, ZERO_SHOT_HEAD, EvaluationReport
from hf_robustft.modeling.zero_shot import ZeroShotHead

pytestmark = pytest.mark.numbers

# Of cat, dog, owl, bee: two of them, and two groups of them.
SUBSET = ClassProjection.of_subset(CLASSES, (1, 3))
GROUPS = ClassProjection(CLASSES, ((0, 2), (3,)))


def projected(name, n, projection, classes, role="shift"):
    return benchmark(role, n, classes=classes, name=name, projection=projection)


def sets():
    return [
        benchmark("id", 21),
        projected("part", 13, SUBSET, ("dog", "bee")),
        projected("groups", 11, GROUPS, ("animal", "insect")),
        benchmark("open_set", 10, classes=("ant", "fox")),
    ]


@pytest.mark.same_bits("the same batches through the same model and head")
def test_the_numbers_are_those_of_projected_logits(tiny_clip, tmp_path):
    model = tiny_clip.double()
    with torch.no_grad():
        model.logit_scale.fill_(4.0)
    chosen = sets()
    judge = evaluator(chosen)
    report = judge.evaluate(model, logits_dir=tmp_path)
    head = ZeroShotHead.from_model(model, tiny_processor(), CLASSES, TEMPLATES)
    for item, columns in ((chosen[1], [[1], [3]]), (chosen[2], [[0, 2], [3]])):
        _, logits, labels = whole_arrays(model, item, head)
        own = torch.stack([logits[:, group].max(dim=1).values for group in columns], dim=1)
        probabilities = own.softmax(dim=1)
        found = report.results[item.name]
        assert found.accuracy == pytest.approx((own.argmax(1) == labels).double().mean().item())
        assert found.ece == pytest.approx(calibration.expected_calibration_error(probabilities, labels), rel=1e-9)
        assert found.nll == pytest.approx(calibration.negative_log_likelihood(own, labels, from_logits=True), rel=1e-9)
        assert found.brier == pytest.approx(calibration.brier_score(probabilities, labels), rel=1e-9)
        assert (found.n_classes, found.head_classes, found.head) == (2, 4, ZERO_SHOT_HEAD)
        saved = load_file(tmp_path / f"{item.name}.safetensors")["logits"]
        torch.testing.assert_close(saved, own, rtol=1e-9, atol=1e-9)
        collected, kept = collect_logits(model, item, tiny_processor(), batch_size=8, progress=False)
        assert torch.equal(collected, saved) and torch.equal(kept, labels)
        # A detector cannot know which classes an image could be of: its score is over all of the head's.
        wanted = score("energy", logits=logits)
        torch.testing.assert_close(judge.scores[item.name]["energy"], wanted, rtol=1e-9, atol=1e-9)
    assert set(report.open_set["open_set"]["scores"]["energy"]["shifts"]) == {"part", "groups"}
    assert report.results["id"].head_classes == report.results["id"].n_classes == 4


def test_one_head_for_all_sets_of_its_classes(tiny_clip, monkeypatch):
    built, build = [], ZeroShotHead.from_model.__func__

    def counted(cls, model, processor, class_names, templates, **settings):
        built.append((class_names, settings["sharded"]))
        return build(cls, model, processor, class_names, templates, **settings)

    monkeypatch.setattr(ZeroShotHead, "from_model", classmethod(counted))
    evaluator(sets()).evaluate(tiny_clip)
    assert built == [(CLASSES, True)]


def test_trained_heads_of_either_list_of_classes(tiny_clip):
    whole = ZeroShotHead(torch.zeros(4, 16), CLASSES, torch.tensor([0.0, 3, 0, 1]))
    report = evaluator(sets()).evaluate(tiny_clip, head=whole)
    # The largest bias is the dog's, the first of the two classes of the subset; of the groups, the bee's.
    assert report.results["part"].accuracy == 7 / 13 and report.results["groups"].accuracy == 5 / 11
    assert {result.head for result in report.results.values()} == {TRAINED_HEAD}
    own = ZeroShotHead(torch.zeros(2, 16), ("dog", "bee"), torch.tensor([0.0, 3]))
    report = evaluator(sets()).evaluate(tiny_clip, head=own)
    assert report.results["part"].accuracy == 6 / 13 and report.results["part"].head == TRAINED_HEAD
    assert report.results["part"].head_classes == 2 and report.results["groups"].head == ZERO_SHOT_HEAD
    # Another head than that of the in-distribution set: its scores are not compared.
    assert set(report.open_set["open_set"]["scores"]["energy"]["shifts"]) == {"groups"}
    logits, _ = collect_logits(tiny_clip, sets()[1], tiny_processor(), head=whole, progress=False)
    assert logits.shape == (13, 2) and logits[0].tolist() == [3, 1]
    with pytest.raises(ValueError, match="The head has 2 classes, which are not the 2"):
        collect_logits(tiny_clip, sets()[2], tiny_processor(), head=own, progress=False)


def test_classes_that_the_head_knows_are_no_open_set():
    with pytest.raises(ValueError, match="1 of its classes \\('cat'\\) are classes of 'part'"):
        evaluator(
            [projected("part", 8, SUBSET, ("dog", "bee"), role="id"), benchmark("open_set", 4, classes=("cat", "fox"))]
        )


@pytest.mark.parametrize("name", ["imagenet-r", "imagenet-a", "objectnet"])
def test_the_fields_projections_on_random_logits(name, monkeypatch, tiny_clip):
    """The Evaluator's numbers of random logits of ImageNet's 1000 classes are those of the definitions."""
    described = load_benchmark(name)
    n_classes = len(described.class_names)
    rows = image_dataset(40).remove_columns("label").add_column("label", list(range(40)))
    chosen = Benchmark(**{
        **{key: getattr(described, key) for key in ("name", "role", "class_names", "templates", "projection")},
        "dataset": rows,
    })  # fmt: skip
    random = np.random.default_rng(0).normal(size=(40, 1000)) * 3
    head = ZeroShotHead(torch.zeros(1000, 16), described.projection.source_classes)
    rows_of = iter(torch.from_numpy(random).split(8))
    monkeypatch.setattr(image_numbers, "classify", lambda head, embeds: next(rows_of))
    report = evaluator([chosen]).evaluate(tiny_clip, head=head)
    if name == "objectnet":
        own = np.stack([random[:, columns].max(axis=1) for _, _, _, columns in facts("objectnet")["classes"]], axis=1)
    else:
        mask = np.zeros(1000, dtype=bool)
        mask[facts("imagenet")[name.replace("-", "_")]] = True
        own = random[:, mask]
    labels = np.arange(40)
    shifted = np.exp(own - own.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    found = report.results[name]
    assert found.n_classes == n_classes == own.shape[1] and found.head_classes == 1000
    assert found.accuracy == pytest.approx((own.argmax(axis=1) == labels).mean())
    assert found.nll == pytest.approx(-np.log(probabilities[np.arange(40), labels]).mean(), rel=1e-9)
    one_hot = np.eye(n_classes)[labels]
    assert found.brier == pytest.approx(((probabilities - one_hot) ** 2).sum(axis=1).mean(), rel=1e-9)


def test_what_the_report_says_of_them(tiny_clip):
    report = evaluator(sets()).evaluate(tiny_clip)
    text = " ".join(report.table().split())
    assert "Of the 4 classes of the head, softmax is over the 2 classes (part), 2 classes (groups)" in text
    again = EvaluationReport.from_dict(report.to_dict())
    assert again == report and again.results["part"].head_classes == 4
    old = report.to_dict()
    for row in old["results"].values():
        for key in ("head_classes", "source", "unreadable"):
            del row[key]
    for row in old["open_set"].values():
        del row["source"], row["unreadable"]
    assert EvaluationReport.from_dict(old).results["part"].head_classes is None


def test_where_the_images_came_from(tiny_clip, tmp_path):
    image_dataset(8).to_parquet(tmp_path / "photos.parquet")
    chosen = [
        load_benchmark(tmp_path / "photos.parquet", name="id"),
        Benchmark(
            "x", "open_set", path=str(tmp_path), label_column=None, split="photos", opened=StoredRows(image_dataset(4))
        ),
        benchmark("shift", 4),
    ]
    report = evaluator(chosen).evaluate(tiny_clip)
    assert report.results["id"].source == {"path": "photos.parquet"}
    assert report.results["shift"].source is None
    assert report.open_set["x"]["source"] == {"path": tmp_path.name, "split": "photos"}
    assert str(tmp_path) not in str(report.to_dict())


def test_what_may_not_be_trained_on_is_no_bank_and_gives_no_shots():
    classes = ("cat", "dog")
    given = {"class_names": classes, "dataset": image_dataset(6, classes=classes), "evaluation_only": True}
    forbidden = Benchmark("objects", "shift", **given)
    with pytest.raises(ValueError, match="'objects' may only be evaluated on"):
        Evaluator([benchmark("id", 4)], tiny_processor(), knn_bank=forbidden)
    with pytest.raises(ValueError, match="'objects' may never be trained or tuned on"):
        few_shot(forbidden, 1)


def test_a_bank_of_other_rows_of_the_same_place_is_another_set():
    data = load_benchmark("pacs-sketch")
    judge = Evaluator([data["id"]], tiny_processor(), knn_bank=data["train"])
    assert judge.knn_bank is data["train"] and data["train"].path == data["id"].path
    with pytest.raises(ValueError, match="is also evaluated, as 'pacs-id'"):
        Evaluator([data["id"]], tiny_processor(), knn_bank=data["id"])


def test_unreadable_images_are_left_out_and_named(tiny_clip, tmp_path):
    for number, row in enumerate(image_dataset(16)):
        folder = tmp_path / "photos" / CLASSES[row["label"]]
        folder.mkdir(parents=True, exist_ok=True)
        row["image"].save(folder / f"{number}.png")
    (tmp_path / "photos" / "cat" / "0.png").write_bytes(b"no picture")
    chosen = load_benchmark(tmp_path / "photos", name="photos")
    with pytest.raises(OSError, match="cannot be read"):
        evaluator([chosen]).evaluate(tiny_clip)
    report = evaluator([chosen], bad_images=BadImages("skip")).evaluate(tiny_clip)
    found = report.results["photos"]
    assert found.n == 15 and found.unreadable["count"] == 1 and found.unreadable["of"] == 16
    assert "(cat/0.png)" in found.unreadable["first"][0] and str(tmp_path) not in str(report.to_dict())
    assert "photos: 1 of 16 images cannot be read and are left out: row 4 (cat/0.png)" in " ".join(
        report.table().split()
    )
    assert EvaluationReport.from_dict(report.to_dict()) == report
