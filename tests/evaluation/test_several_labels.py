# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Images with lists of labels: read in every form, measured by what each family has, refused where one label is needed."""

import json

import datasets
import pytest
import torch
from helpers import CLASSES, TEMPLATES, image_dataset, tiny_processor
from helpers.families import family_model, family_processor, save_family
from helpers.forked import run_ranks
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import SiglipModel

from hf_robustft.cli import main
from hf_robustft.data.benchmarks import Benchmark, load_benchmark
from hf_robustft.data.class_matching import load_matched
from hf_robustft.data.few_shot import few_shot
from hf_robustft.data.left_out import leave_out_classes
from hf_robustft.deployment.pipeline import pipeline
from hf_robustft.evaluation.collect import collect_logits
from hf_robustft.evaluation.evaluator import Evaluator
from hf_robustft.evaluation.fitting import fit_label_thresholds, fit_on_validation
from hf_robustft.evaluation.list_predictions import load_list_predictions
from hf_robustft.evaluation.multi_label import fit_thresholds, multi_label_results
from hf_robustft.evaluation.report import EvaluationReport
from hf_robustft.modeling.heads import MultiLabelHead, TipAdapterHead
from hf_robustft.modeling.metadata import load_robustft_json, update_robustft_json
from hf_robustft.publishing.finish import finish_checkpoint
from hf_robustft.publishing.metadata import write_robustft_json
from hf_robustft.publishing.recalibrate import recalibrate

N = 14


def lists(n=N, seed=0):
    """No bee is seen, and some images show nothing."""
    generator = torch.Generator().manual_seed(seed)
    has = torch.rand(n, 3, generator=generator) < 0.45
    return [row.nonzero()[:, 0].tolist() for row in has]


def table(n=N, seed=0, labels=None, kind=None):
    images = image_dataset(n, seed=seed).remove_columns("label")
    kind = kind or datasets.List(datasets.ClassLabel(names=list(CLASSES)))
    return images.add_column("label", lists(n, seed) if labels is None else labels, feature=kind)


def benchmark(name="set", role="id", seed=0, **changes):
    return Benchmark.from_dataset(
        table(seed=seed), **{"name": name, "role": role, "class_names": CLASSES, "templates": TEMPLATES, **changes}
    )


def targets(seed=0):
    return torch.tensor([[int(c in row) for c in range(4)] for row in lists(seed=seed)])


def folder(path):
    path.mkdir()
    lines = []
    for index, row in enumerate(table()):
        row["image"].save(path / f"{index:02d}.png")
        lines.append({"file_name": f"{index:02d}.png", "label": [CLASSES[label] for label in row["label"]]})
    (path / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


# ---- Reading -------------------------------------------------------------------------------------------------------


def test_lists_are_read_in_every_form(tiny_clip, tmp_path):
    names = [[CLASSES[label] for label in row] for row in lists()]
    text, numbers = datasets.List(datasets.Value("string")), datasets.List(datasets.Value("int64"))
    given = {"name": "set", "role": "id", "class_names": CLASSES, "templates": TEMPLATES}
    table().to_parquet(tmp_path / "set.parquet")
    swapped = dict(enumerate(("bee", "owl", "dog", "cat")))
    forms = {
        "classes": benchmark(),
        "names": Benchmark.from_dataset(table(labels=names, kind=text), **given),
        "twice": Benchmark.from_dataset(table(labels=[[*row, *row] for row in names], kind=text), **given),
        "numbers": Benchmark.from_dataset(table(kind=numbers), **given),
        "parquet": load_benchmark(tmp_path / "set.parquet", **given),
        "stream": load_benchmark(tmp_path / "set.parquet", streaming=True, **given),
        "folder": load_benchmark(folder(tmp_path / "photos"), **given),
        "folder stream": load_benchmark(tmp_path / "photos", streaming=True, **given),
        "matched": load_matched(tmp_path / "photos", name="set", class_names=CLASSES, templates=TEMPLATES)[0],
        "renamed": Benchmark.from_dataset(
            table(labels=[[3 - label for label in row] for row in lists()], kind=numbers),
            **{**given, "class_names": CLASSES, "label_names": [str(list(swapped.values()).index(c)) for c in CLASSES]},
        ),
    }
    want, expected = collect_logits(tiny_clip, forms["classes"], tiny_processor(), progress=False)
    assert torch.equal(expected, targets()) and 0 in [len(row) for row in lists()]
    for form, chosen in forms.items():
        assert chosen.several == 4, form
        logits, found = collect_logits(tiny_clip, chosen, tiny_processor(), batch_size=5, progress=False)
        assert torch.equal(found, expected), form
        torch.testing.assert_close(logits, want, rtol=1e-4, atol=1e-4, msg=form)
    # The data name their classes.
    assert Benchmark.from_dataset(table(), name="a", role="id").class_names == CLASSES
    assert load_benchmark(tmp_path / "photos").class_names == ("cat", "dog", "owl")
    streamed = forms["stream"].stream()
    assert [sorted(row["label"]) for row in streamed] == lists()


@pytest.mark.parametrize("streaming", [False, True])
def test_a_wrong_label_in_a_list_is_named_with_its_row(tiny_clip, tmp_path, streaming):
    text = datasets.List(datasets.Value("string"))
    given = {"name": "set", "role": "id", "class_names": CLASSES, "templates": TEMPLATES, "streaming": streaming}
    for labels, words in ((["cat", "cow"], "'cow'.*row 2"), (None, "empty list")):
        rows = [["cat"], [], labels, ["owl"]]
        table(4, labels=rows, kind=text).to_parquet(tmp_path / "wrong.parquet")
        with pytest.raises(ValueError, match=words):
            found = load_benchmark(tmp_path / "wrong.parquet", **given)
            list(found.stream())


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["int64", "bool", "float32"])
def test_zeros_and_ones_for_each_class_are_not_taken_for_numbers_of_classes(tmp_path, kind, streaming):
    given = {"name": "set", "role": "id", "class_names": CLASSES, "templates": TEMPLATES, "streaming": streaming}

    def read(rows, length=-1):
        feature = datasets.List(datasets.Value(kind), length=length)
        rows = [[{"int64": int, "bool": bool, "float32": float}[kind](value) for value in row] for row in rows]
        table(len(rows), labels=rows, kind=feature).to_parquet(tmp_path / f"{length}.parquet")
        found = load_benchmark(tmp_path / f"{length}.parquet", **given)
        return [sorted(row["label"]) for row in (found.stream() if streaming else found.load())]

    # The second row has all classes and the first two of the others: sets of numbers may look so, but not with one twice.
    rows = [[0, 0, 0, 1], [1, 1, 1, 1], [0, 1, 0, 0]]
    for length in (-1, 4):
        with pytest.raises(ValueError, match="0 or 1 for each class.*numbers or names") as caught:
            read(rows, length)
        assert "row 0" in str(caught.value) and (streaming or "3 such rows of 3" in str(caught.value))
    assert read([[0, 1], [1], [], [1, 1, 0]]) == [[0, 1], [1], [], [0, 1]]


# ---- Measuring -----------------------------------------------------------------------------------------------------


@pytest.mark.numbers
@pytest.mark.parametrize("family, function", [("siglip", "sigmoid"), ("clip", "softmax")])
def test_the_numbers_are_those_of_the_pure_functions(family, function):
    model, processor = family_model(family), family_processor(family)
    sets = [benchmark("test"), benchmark("val", "validation", seed=5)]
    report = Evaluator(sets, processor, batch_size=5, progress=False).evaluate(model)
    assert report.results == {} and list(report.multi_label) == ["test", "val"]
    probabilities = {}
    for item in sets:
        logits, labels = collect_logits(model, item, processor, progress=False)
        logits = logits.double()
        found = (logits - 1.5).sigmoid() if function == "sigmoid" else logits.softmax(dim=1)
        probabilities[item.name] = (logits, found, labels)
    thresholds, _ = fit_thresholds(*probabilities["val"][1:])
    for name, (logits, found, labels) in probabilities.items():
        want, got = multi_label_results(logits, found, labels, CLASSES, thresholds), report.multi_label[name]
        assert got["probabilities"] == function and got["thresholds_of"] == "val" and got["default_thresholds"] == ["bee"]
        for key in ("n", "n_labels", "without_label", "without_images", "map", "f1", "f1_micro"):
            assert got[key] == pytest.approx(want[key], abs=1e-9), key
        assert got["ece"] == pytest.approx(want["ece"], abs=1e-5)
        for of, row in want["classes"].items():
            assert got["classes"][of] == pytest.approx(row, abs=1e-5), of
    assert report.metrics()["test/map"] == report.multi_label["test"]["map"]
    assert report.spectrum["dataset"] == "test"


@pytest.mark.numbers
@pytest.mark.parametrize("kind", ["prompts", "head", "stored"])
def test_thresholds_belong_to_names_in_whatever_order_a_set_has_its_classes(kind):
    """The same images with their classes in another order, and one in capitals, have the same numbers."""
    model, processor = family_model("siglip"), family_processor("siglip")
    turned = ("owl", "bee", "Cat", "dog")
    places = [[name.casefold() for name in turned].index(name) for name in CLASSES]
    labels = [[places[label] for label in row] for row in lists(seed=9)]
    kinds = datasets.List(datasets.ClassLabel(names=list(turned)))
    rows = table(seed=9, labels=labels, kind=kinds)
    other = Benchmark.from_dataset(rows, name="turned", role="shift", class_names=turned, templates=TEMPLATES)
    validation = benchmark("val", "validation", seed=5)
    head = MultiLabelHead.from_model(model, processor, CLASSES, TEMPLATES) if kind == "head" else None
    thresholds = None if kind != "stored" else fit_label_thresholds(model, validation, processor, progress=False)
    sets = [benchmark("usual", seed=9), other, *([] if kind == "stored" else [validation])]
    report = Evaluator(sets, processor, progress=False, thresholds=thresholds).evaluate(model, head=head)
    usual, found = report.multi_label["usual"], report.multi_label["turned"]
    assert usual["thresholds_of"] == found["thresholds_of"] == "val" and usual["default_thresholds"] == found["default_thresholds"] == ["bee"]
    for key in ("map", "f1", "f1_micro", "ece"):
        assert found[key] == pytest.approx(usual[key], abs=1e-6), key
    assert list(found["classes"]) == list(turned) and len({row["threshold"] for row in usual["classes"].values()}) > 2
    for name, row in found["classes"].items():
        assert row["threshold"] == pytest.approx(usual["classes"][name.casefold()]["threshold"], abs=1e-6), name


def test_without_validation_images_the_thresholds_are_the_default_and_the_report_says_so(tiny_clip, tmp_path):
    single = Benchmark.from_dataset(image_dataset(8), name="one", role="shift", templates=TEMPLATES)
    report = Evaluator([benchmark(), single], tiny_processor(), bootstrap_draws=20, progress=False).evaluate(tiny_clip)
    assert list(report.results) == ["one"] and report.multi_label["set"]["thresholds_of"] is None
    assert report.multi_label["set"]["default_thresholds"] == list(CLASSES)
    assert {row["threshold"] for row in report.multi_label["set"]["classes"].values()} == {0.5}
    read = EvaluationReport.load_json(report.save_json(tmp_path / "evaluation.json"))
    assert read.multi_label == report.multi_label
    for text in (report.table(), report.markdown(), report.table(read)):
        assert "mAP %" in text and "one" in text and "all 0.5, without validation images" in text
    broken = report.to_dict()
    broken["multi_label"]["set"]["map"] = 2
    with pytest.raises(ValueError, match="multi_label/set/map"):
        EvaluationReport.from_dict(broken)


WORKER = """
import sys
from pathlib import Path
from accelerate import PartialState
sys.path.insert(0, sys.argv[2])
from helpers import CLASSES, TEMPLATES
from helpers.families import family_model, family_processor
from hf_robustft.data.benchmarks import load_benchmark
from hf_robustft.evaluation.evaluator import Evaluator
state, folder = PartialState(cpu=True), Path(sys.argv[1])
rows = load_benchmark(folder / "set.parquet", class_names=CLASSES, templates=TEMPLATES)
report = Evaluator([rows], family_processor("siglip"), batch_size=3, progress=False).evaluate(family_model("siglip"))
report.save_json(folder / f"{state.process_index}.json")
state.destroy_process_group()
"""


@pytest.mark.numbers
def test_two_processes_measure_what_one_does(tmp_path, repository):
    table().to_parquet(tmp_path / "set.parquet")
    (tmp_path / "worker.py").write_text(WORKER)
    run = run_ranks(2, tmp_path / "worker.py", tmp_path, repository / "tests", ACCELERATE_USE_CPU="true")
    assert run.returncode == 0, run.stderr[-3000:]
    one = Evaluator([benchmark()], family_processor("siglip"), progress=False).evaluate(family_model("siglip"))
    for rank in (0, 1):
        found = EvaluationReport.load_json(tmp_path / f"{rank}.json").multi_label["set"]
        for key in ("n", "n_labels", "map", "f1", "ece"):
            assert found[key] == pytest.approx(one.multi_label["set"][key], abs=1e-5), key


def test_the_command_measures_a_folder_of_lists(tmp_path, capsys):
    save_family("siglip", tmp_path / "siglip")
    folder(tmp_path / "photos")
    out = tmp_path / "results"
    given = ["--eval_datasets", str(tmp_path / "photos"), "--output_dir", str(out), "--use_cpu", "--disable_tqdm"]
    assert main(["evaluate", str(tmp_path / "siglip"), *given, "--save_logits"]) == 0
    assert "mAP %" in capsys.readouterr().out
    content = json.loads((out / "evaluation.json").read_text())["reports"][0]
    assert content["multi_label"]["photos"]["probabilities"] == "sigmoid"
    assert (out / "logits" / "photos.safetensors").is_file()


# ---- Where one label per image is needed ---------------------------------------------------------------------------


def test_what_needs_one_label_per_image_refuses_lists(tiny_clip):
    for refused, option in (
        (lambda: few_shot(benchmark(role="train"), 1), "--shots"),
        (lambda: leave_out_classes(benchmark(role="train")), "--leave_out_classes"),
        (lambda: leave_out_classes(Benchmark.from_dataset(image_dataset(12), name="one", role="train"), benchmark()), "--leave_out_classes"),
        (lambda: TipAdapterHead.from_benchmark(tiny_clip, benchmark(role="train"), tiny_processor(), views=0), "label_column"),
    ):
        with pytest.raises(ValueError, match=f"lists of labels.*{option}"):
            refused()
    with pytest.raises(ValueError, match="--probabilities sigmoid"):
        fit_on_validation(tiny_clip, benchmark(role="validation"), tiny_processor())
    evaluator = Evaluator([benchmark()], tiny_processor(), progress=False)
    with pytest.raises(ValueError, match="--save_predictions"):
        evaluator.evaluate(tiny_clip, validation=benchmark("val", "validation"))
    unseen = Benchmark.from_dataset(image_dataset(6, classes=("ant", "bat")), name="unseen", role="open_set", label_column=None)
    with pytest.raises(ValueError, match="open sets"):
        Evaluator([benchmark(), unseen], tiny_processor(), progress=False).evaluate(tiny_clip)


def test_lists_of_labels_of_unseen_classes_are_not_read(tiny_clip):
    """There are as many unseen classes as known ones, for which their lists could be taken."""
    known = Benchmark.from_dataset(image_dataset(8), name="one", role="id", class_names=CLASSES, templates=TEMPLATES)
    kinds = datasets.List(datasets.ClassLabel(names=["ant", "bat", "eel", "fox"]))
    given = {"name": "unseen", "role": "open_set", "templates": TEMPLATES}
    unseen = (Benchmark.from_dataset(table(seed=3, kind=kinds), **given), Benchmark.from_dataset(table(seed=3), **given, label_column=None))
    assert unseen[0].several == 4
    reports = [Evaluator([known, item], tiny_processor(), bootstrap_draws=20, progress=False).evaluate(tiny_clip) for item in unseen]
    assert reports[0].multi_label is None and reports[0].open_set["unseen"]["n"] == N
    assert reports[0].open_set["unseen"]["scores"] == reports[1].open_set["unseen"]["scores"]


def with_groups(groups, name="g"):
    rows = table().add_column("patient", groups)
    return Benchmark.from_dataset(rows, name=name, role="id", class_names=CLASSES, templates=TEMPLATES, group_column="patient")


def test_groups_of_images_are_kept_beside_the_logits(tiny_clip, tmp_path):
    groups = [f"patient {row * 7 % 5}" for row in range(N)]
    report = Evaluator([with_groups(groups), benchmark()], tiny_processor(), progress=False, batch_size=5).evaluate(tiny_clip, logits_dir=tmp_path)
    assert report.multi_label["g"]["n_groups"] == 5 and report.multi_label["set"]["n_groups"] is None
    found = load_list_predictions(tmp_path, report.multi_label)
    assert found["g"].group.tolist() == groups and found["set"].group is None
    # Without the report's groups, with other numbers of them, or a number that has no name.
    with pytest.raises(ValueError, match="groups.*--save_logits"):
        load_list_predictions(tmp_path, {"g": {**report.multi_label["g"], "n_groups": None}})
    file = tmp_path / "g.safetensors"
    with safe_open(file, "pt") as opened:
        tensors, facts = {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()
    for codes, names in (
        (tensors["groups"] + 1, facts["group_names"]),
        (tensors["groups"][:-1], facts["group_names"]),
        (tensors["groups"].double(), facts["group_names"]),
        (tensors["groups"], '["a", "a", "b", "c", "d"]'),
        (tensors["groups"], "[1, 2, 3, 4, 5]"),
        (tensors["groups"] * 0, facts["group_names"]),
    ):
        save_file({**tensors, "groups": codes}, file, {**facts, "group_names": names})
        with pytest.raises(ValueError, match="groups.*--save_logits"):
            load_list_predictions(tmp_path, {"g": report.multi_label["g"]})
    with pytest.raises(ValueError, match="single group"):
        Evaluator([with_groups(["one"] * N)], tiny_processor(), progress=False).evaluate(tiny_clip)


@pytest.fixture
def siglip(tmp_path):
    """A saved SigLIP, and validation images that it is better than chance on."""
    save_family("siglip", tmp_path / "siglip")
    write_robustft_json(tmp_path / "siglip", method="flyp", class_names=CLASSES, templates=TEMPLATES, settings={})
    validation = benchmark("val", "validation")
    logits, labels = collect_logits(family_model("siglip"), validation, family_processor("siglip"), progress=False)
    if logits[labels.bool()].mean() < logits[~labels.bool()].mean():
        # A random model that is worse than chance has no positive temperature.
        flipped = [[label for label in range(3) if label not in row] for row in lists()]
        validation = Benchmark.from_dataset(
            table(labels=flipped), name="val", role="validation", class_names=CLASSES, templates=TEMPLATES
        )
    return tmp_path / "siglip", validation


def test_lists_calibrate_sigmoids_and_the_pipeline_gives_all_labels_above_their_thresholds(siglip, tmp_path):
    path, validation = siglip
    with pytest.raises(ValueError, match="--probabilities sigmoid"):
        recalibrate(path, validation, progress=False)
    with pytest.raises(ValueError, match="hf-robustft evaluate"):
        recalibrate(path, validation, [benchmark(seed=9)], progress=False, probabilities="sigmoid")
    found = recalibrate(path, validation, progress=False, probabilities="sigmoid")
    stored = load_robustft_json(path)
    record = stored["temperature"]
    assert record["sigmoid_ece_after"] < record["sigmoid_ece_before"] and "ece_before" not in record
    assert found.bias == pytest.approx(record["folded_bias"])
    assert stored["thresholds"] == found.thresholds and stored["thresholds"]["default"] == ["bee"]
    model = SiglipModel.from_pretrained(path).eval()
    model.config.text_config.pad_token_id = 0
    logits, labels = collect_logits(model, validation, family_processor("siglip"), progress=False)
    probabilities = (logits.double() + model.logit_bias.double()).sigmoid().detach()
    thresholds, _ = fit_thresholds(probabilities, labels)
    assert list(stored["thresholds"]["classes"].values()) == pytest.approx(thresholds.tolist(), abs=1e-6)
    # An evaluation without validation images takes them, for the sigmoids of these classes alone.
    measures = Evaluator([benchmark(seed=9)], family_processor("siglip"), progress=False, thresholds=stored["thresholds"])
    measured = measures.evaluate(model).multi_label["set"]
    assert (measured["thresholds_of"], measured["default_thresholds"]) == ("val", ["bee"])
    assert {name: row["threshold"] for name, row in measured["classes"].items()} == stored["thresholds"]["classes"]
    # The folder's own answers: all labels of an image, or none.
    classify = pipeline(path)
    images = [row["image"] for row in validation.load()]
    answers = classify(images)
    for row, values in zip(answers, probabilities, strict=True):
        want = {name for name, value, at in zip(CLASSES, values, thresholds, strict=True) if value > at}
        assert {item["label"] for item in row["labels"]} == want
        scores = [item["score"] for item in row["labels"]]
        assert scores == sorted(scores, reverse=True) and row["probability"] == pytest.approx(values.max().item(), abs=1e-5)
    assert {len(row["labels"]) for row in answers} != {1}
    assert "labels" not in classify(images[0], function_to_apply="softmax")
    classify.save_pretrained(tmp_path / "again")
    assert [row["labels"] for row in pipeline(tmp_path / "again")(images)] == [row["labels"] for row in answers]
    update_robustft_json(path, thresholds={**found.thresholds, "classes": {"cat": 0.5}})
    with pytest.raises(ValueError, match="thresholds"):
        pipeline(path)
    # Other probabilities, for which the thresholds mean nothing.
    most = [(best + (row % 4 == 0)) % 4 for row, best in enumerate(logits.argmax(dim=1).tolist())]
    rows = validation.load().remove_columns("label").add_column("label", most)
    single = Benchmark.from_dataset(rows, name="one", role="validation", class_names=CLASSES, templates=TEMPLATES)
    again = recalibrate(path, single, progress=False)
    assert any("thresholds" in note for note in again.notes) and "thresholds" not in load_robustft_json(path)


def test_training_does_not_begin_where_lists_are_to_be_measured(tiny_clip, tmp_path, capsys):
    tiny_clip.save_pretrained(tmp_path / "clip")
    tiny_processor().save_pretrained(tmp_path / "clip")
    folder(tmp_path / "photos")
    single = image_dataset(12)
    for index, row in enumerate(single):
        place = tmp_path / "train" / CLASSES[row["label"]]
        place.mkdir(parents=True, exist_ok=True)
        row["image"].save(place / f"{index}.png")
    model = ["--model", str(tmp_path / "clip"), "--output_dir", str(tmp_path / "out"), "--use_cpu", "--method", "flyp"]
    for train, measured, words in (("photos", "train", "label_column"), ("train", "photos", "hf-robustft evaluate")):
        sets = ["--train_dataset", str(tmp_path / train), "--eval_datasets", str(tmp_path / measured)]
        assert main(["train", *model, *sets]) != 0
        said = capsys.readouterr().err.strip().splitlines()
        assert words in said[-1] and "lists of labels" in said[-1]
    evaluator = Evaluator([benchmark()], tiny_processor(), progress=False)
    with pytest.raises(ValueError, match="lists of labels"):
        finish_checkpoint(
            tmp_path / "done", model=tiny_clip, processor=tiny_processor(), evaluator=evaluator, method="mine",
            class_names=CLASSES, templates=TEMPLATES,
        )  # fmt: skip
    assert not (tmp_path / "done").exists()
