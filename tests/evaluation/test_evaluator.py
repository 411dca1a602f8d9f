# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The Evaluator's numbers are those of the whole arrays, in one process and in two, and it leaves no trace."""

import copy
import json
from contextlib import nullcontext
from dataclasses import asdict

import pytest
import torch
from helpers import CLASSES, TEMPLATES, assert_rounded, image_dataset, tiny_processor
from helpers.evaluations import benchmark, evaluator, unreadable, whole_arrays
from helpers.forked import run_ranks
from safetensors.torch import load_file
from torch import nn

from hf_robustft.data.bad_images import BadImages
from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.data.transforms import ImageTransform
from hf_robustft.evaluation import calibration
from hf_robustft.evaluation.binning import MOST_BINS
from hf_robustft.evaluation.evaluator import Evaluator
from hf_robustft.evaluation.image_numbers import ImageNumbers
from hf_robustft.evaluation.open_set import SCORES
from hf_robustft.evaluation.predictions import load_predictions
from hf_robustft.evaluation.report import TRAINED_HEAD, ZERO_SHOT_HEAD, EvaluationReport, load_reports, save_reports
from hf_robustft.evaluation.spectrum import smallest_singular_value
from hf_robustft.modeling.features import logit_scale
from hf_robustft.modeling.zero_shot import ZeroShotHead

WORKER = """
import sys
import torch
from accelerate import PartialState
from helpers import tiny_config
from helpers import tiny_processor
from safetensors.torch import save_file
from helpers.evaluations import benchmark, unreadable
from transformers import CLIPModel
from hf_robustft.evaluation.collect import collect_logits
from hf_robustft.evaluation.evaluator import Evaluator

torch.set_num_threads(1)
torch.manual_seed(0)
state = PartialState(cpu=True)
model = CLIPModel(tiny_config()).eval()
# Five batches of four, and a single batch, so that the second process once has less and once has nothing.
sets = [benchmark("id", 19, group_column="label"), benchmark("shift", 3), benchmark("open_set", 10, classes=("ant", "fox"))]
evaluator = Evaluator(sets, tiny_processor(), batch_size=4, knn_bank=benchmark("train", 13), knn_k=2)
report = evaluator.evaluate(
    model, logits_dir=f"{sys.argv[1]}/{state.num_processes}-logits", validation=benchmark("validation", 9)
)
place = f"{sys.argv[1]}/{state.num_processes}-{state.process_index}"
evaluator.predictions.save(place)
report.save_json(place + ".json")
flat = {f"{name}/{key}": values for name, row in evaluator.scores.items() for key, values in row.items()}
logits, labels = collect_logits(model, sets[0], tiny_processor(), batch_size=4)
save_file({**flat, "logits": logits, "labels": labels}, place + ".safetensors")
if state.num_processes == 2:
    # Row 5 lies in the second batch: the second process fails, and the first must not wait for it.
    try:
        Evaluator([unreadable(8, row=5)], tiny_processor(), batch_size=4).evaluate(model)
    except (OSError, RuntimeError) as error:
        print(f"<{state.process_index}: {type(error).__name__}: {error}>")
    # Only the main process writes, and the other must not wait for it.
    try:
        evaluator.evaluate(model, logits_dir=place.replace("2-1", "2-0") + ".json")
    except (OSError, RuntimeError) as error:
        print(f"<{state.process_index}: {type(error).__name__}, logits: {error}>")
"""


def as_lists(values):
    """Arrays, or a dict of them, as JSON types."""
    if isinstance(values, dict):
        return {key: as_lists(item) for key, item in values.items()}
    return values.tolist() if hasattr(values, "tolist") else values


@pytest.mark.numbers
def test_every_number_is_that_of_the_whole_arrays(tiny_clip):
    # float64, so that the batch size of the forward pass does not show.
    model = tiny_clip.double()
    with torch.no_grad():
        model.logit_scale.fill_(4.0)
    sets = [benchmark("id", 30), benchmark("shift", 21, name="a"), benchmark("shift", 13, name="b")]
    report = evaluator(sets).evaluate(model, name="tiny")
    assert report.model == "tiny" and list(report.results) == ["id", "a", "b"]
    assert report.logit_scale == pytest.approx(logit_scale(model).item()) and report.settings["dtype"] == "float64"
    for chosen in sets:
        got = report.results[chosen.name]
        embeds, logits, labels = whole_arrays(model, chosen)
        scores, p = calibration.image_scores(logits, labels)
        errors = calibration.bootstrap_standard_error(**scores, draws=50)
        want = {
            "accuracy": (logits.argmax(1) == labels).double().mean().item(),
            "ece": calibration.expected_calibration_error(p, labels),
            "ece_noise_floor": calibration.ece_noise_floor(scores["confidence"]),
            "adaptive_ece": calibration.adaptive_calibration_error(p, labels),
            "classwise_ece": calibration.classwise_calibration_error(p, labels),
            "nll": calibration.negative_log_likelihood(logits, labels, from_logits=True),
            "brier": calibration.brier_score(p, labels),
            **{f"{key}_se": value for key, value in errors.items()},
        }
        assert {key: getattr(got, key) for key in want} == pytest.approx(want, rel=1e-9)
        assert (got.n, got.n_classes, got.role, got.head) == (len(labels), 4, chosen.role, ZERO_SHOT_HEAD)
        assert sum(got.reliability["count"]) == len(labels)
        if chosen.role == "id":
            assert report.spectrum["smallest_singular_value"] == pytest.approx(
                smallest_singular_value(embeds), rel=1e-9
            )
            assert (report.spectrum["n"], report.spectrum["dimension"], report.spectrum["dataset"]) == (30, 16, "id")
    assert 0 < report.results["id"].accuracy < 1


def test_the_order_is_the_data_sets(tiny_clip):
    labels_wrong = benchmark("id", 30).load().select(list(range(29, -1, -1)))
    backwards = Benchmark.from_dataset(labels_wrong, name="id", role="id", templates=TEMPLATES)
    one, other = (evaluator([chosen]).evaluate(tiny_clip.double()) for chosen in (benchmark("id", 30), backwards))
    assert other.results["id"].nll == pytest.approx(one.results["id"].nll, rel=1e-9)
    assert other.results["id"].classwise_ece == pytest.approx(one.results["id"].classwise_ece, abs=1e-9)


def test_without_a_test_set_the_spectrum_is_that_of_validation(tiny_clip):
    """A run that looks at validation images alone still sees what CaRot is about."""
    alone = evaluator([benchmark("validation", 30)]).evaluate(tiny_clip.double())
    both = evaluator([benchmark("validation", 30), benchmark("id", 20)]).evaluate(tiny_clip.double())
    embeds, _, _ = whole_arrays(tiny_clip, benchmark("validation", 30))
    assert (alone.spectrum["dataset"], both.spectrum["dataset"]) == ("validation", "id")
    assert alone.spectrum["smallest_singular_value"] == pytest.approx(smallest_singular_value(embeds), rel=1e-9)


def test_what_is_no_benchmark_is_named():
    assert list(Evaluator(benchmark(), tiny_processor()).benchmarks) == [benchmark().name]
    for wrong in ("photos/test", ["photos/test"]):
        with pytest.raises(ValueError, match="'photos/test' is not a Benchmark; `load_benchmark`"):
            Evaluator(wrong, tiny_processor())


def test_without_an_id_set_there_is_no_spectrum(tiny_clip):
    report = evaluator({"any": benchmark("shift", 5), "other": benchmark("train", 5)}).evaluate(tiny_clip)
    assert report.spectrum is None and list(report.results) == ["shift", "train"]


def test_a_trained_head_serves_the_sets_with_its_classes(tiny_clip):
    head = ZeroShotHead(torch.zeros(4, 16, dtype=torch.bfloat16), CLASSES, torch.tensor([0.0, 0, 9, 0]).bfloat16())
    sets = [benchmark("id", 8), benchmark("shift", 8, classes=("red", "green", "blue"))]
    report = evaluator(sets).evaluate(tiny_clip, head=head)
    assert report.results["id"].head == TRAINED_HEAD and report.results["shift"].head == ZERO_SHOT_HEAD
    assert report.results["id"].accuracy == 2 / 8 and report.results["shift"].n_classes == 3
    assert head.weight.dtype == torch.bfloat16
    other = ZeroShotHead(torch.zeros(2, 16), ("one", "two"))
    with pytest.raises(ValueError, match="2 classes .* none of id, shift"):
        evaluator(sets).evaluate(tiny_clip, head=other)


def test_one_zero_shot_head_a_class_list(tiny_clip, monkeypatch):
    calls = []
    build = ZeroShotHead.from_model.__func__

    def counted(cls, model, processor, class_names, templates, **settings):
        calls.append((class_names, templates))
        return build(cls, model, processor, class_names, templates, **settings)

    monkeypatch.setattr(ZeroShotHead, "from_model", classmethod(counted))
    sets = [benchmark("id", 4), benchmark("shift", 4), benchmark("shift", 4, name="x", templates=("a {}.",))]
    evaluator(sets).evaluate(tiny_clip)
    assert calls == [(CLASSES, TEMPLATES), (CLASSES, ("a {}.",))]


def test_no_trace_is_left(tiny_clip):
    tiny_clip.train()
    tiny_clip.text_model.eval()
    modes = [module.training for module in tiny_clip.modules()]
    weights = copy.deepcopy(tiny_clip.state_dict())
    random_state = torch.get_rng_state()
    evaluator([benchmark("id", 9)]).evaluate(tiny_clip)
    assert [module.training for module in tiny_clip.modules()] == modes and not all(modes) and any(modes)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, weights[name]) for name, value in tiny_clip.state_dict().items())
    assert not any(parameter.is_inference() for parameter in tiny_clip.parameters())


def test_the_mode_comes_back_after_an_error(tiny_clip):
    tiny_clip.train()
    with pytest.raises(OSError, match="row 5"):
        evaluator([unreadable(8, row=5)]).evaluate(tiny_clip)
    assert all(module.training for module in tiny_clip.modules())


@pytest.mark.same_bits("the same batches of 8, whoever reads them")
def test_the_same_twice_wrapped_or_not_and_with_workers(tiny_clip):
    chosen = [benchmark("id", 11)]
    report = evaluator(chosen).evaluate(tiny_clip)
    assert evaluator(chosen).evaluate(tiny_clip) == report
    assert evaluator(chosen).evaluate(nn.DataParallel(tiny_clip)) == report
    assert evaluator(chosen, num_workers=1).evaluate(tiny_clip).results == report.results
    assert evaluator(chosen, seed=1).evaluate(tiny_clip).results["id"].accuracy_se != report.results["id"].accuracy_se
    assert EvaluationReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_still_gives_float32_logits(tiny_clip, monkeypatch, autocast):
    seen = []
    original = calibration.image_scores
    monkeypatch.setattr(
        calibration, "image_scores", lambda logits, y: (seen.append(logits.dtype), original(logits, y))[1]
    )
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        evaluator([benchmark("id", 4)]).evaluate(tiny_clip if autocast else tiny_clip.bfloat16())
    assert seen == [torch.float32]


def test_what_is_kept_of_an_image_does_not_grow_with_the_classes(tiny_clip, monkeypatch):
    kept = []
    original = ImageNumbers.merged

    def recorded(self, *arguments):
        kept.append(original(self, *arguments))
        return kept[-1]

    monkeypatch.setattr(ImageNumbers, "merged", recorded)
    many = tuple(chr(97 + a) + chr(97 + b) for a in range(10) for b in range(10))
    evaluator([benchmark("id", 18), benchmark("shift", 18, classes=many)]).evaluate(tiny_clip)
    names = [
        "index",
        "confidence",
        "correct",
        "nll",
        "brier",
        "predicted",
        "label",
        "msp",
        "mcm",
        "max_logit",
        "energy",
    ]
    for columns, tensors in kept:
        assert list(columns) == names and not tensors
        assert all(column.shape == (18,) for column in columns.values())


def test_a_diverged_model_is_named_with_its_data(tiny_clip):
    with torch.no_grad():
        tiny_clip.visual_projection.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="Data set 'id', images 0 to 7: The logits are not all finite"):
        evaluator([benchmark("id", 30)]).evaluate(tiny_clip)


def test_impossible_evaluations_are_refused():
    captions = Benchmark.from_dataset(
        image_dataset(4).add_column("text", ["a"] * 4),
        name="captions",
        role="id",
        label_column=None,
        caption_column="text",
    )
    for sets, message in (
        ([], "no benchmarks"),
        ([benchmark("open_set", 4, classes=("ant", "fox"))], "open set.*add an in-distribution test set"),
        ([benchmark("id", 4), benchmark("shift", 4, name="id")], "Two benchmarks are called 'id'"),
        ([captions], "no class names"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluator(sets)
    for settings in ({"batch_size": 0}, {"num_workers": -1}, {"bootstrap_draws": 1}, {"n_bins": 0}, {"knn_k": 0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            evaluator([benchmark("id", 4)], **settings)


@pytest.mark.parametrize(("n_bins", "expected"), [(MOST_BINS, nullcontext()), (MOST_BINS + 1, pytest.raises(ValueError, match="n_bins.*100,000"))])
def test_there_are_as_many_bins_as_a_report_may_have_that_is_read_again(n_bins, expected, tmp_path):
    save_reports(tmp_path / "evaluation.json", [EvaluationReport("a", {}, settings={"n_bins": n_bins})])
    with expected:
        load_reports(tmp_path / "evaluation.json")
    with expected:
        evaluator([benchmark("id", 4)], n_bins=n_bins)


@pytest.mark.numbers
def test_two_processes_equal_one(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    printed = ""
    for processes in (1, 2):
        run = run_ranks(processes, script, tmp_path, ACCELERATE_USE_CPU="true")
        assert run.returncode == 0, run.stderr[-3000:]
        printed += run.stdout
    one, first, second = (EvaluationReport.load_json(tmp_path / f"{name}.json") for name in ("1-0", "2-0", "2-1"))
    assert first == second
    # Up to rounding: who encodes how many prompts and images together differs.
    assert_rounded(
        {name: asdict(result) for name, result in first.results.items()},
        {name: asdict(result) for name, result in one.results.items()},
    )
    assert [result.n for result in first.results.values()] == [19, 3]
    assert_rounded(first.spectrum, one.spectrum)
    assert (first.spectrum["n"], first.spectrum["dataset"]) == (19, "id")
    assert_rounded(first.open_set, one.open_set)
    assert set(one.open_set["open_set"]["scores"]) == set(SCORES)
    alone, *pair = (load_file(tmp_path / f"{name}.safetensors") for name in ("1-0", "2-0", "2-1"))
    assert set(alone) == {
        "logits",
        "labels",
        *(f"{name}/{key}" for name in ("id", "shift", "open_set") for key in SCORES),
    }
    for tensors in pair:
        assert_rounded(tensors, alone)
    assert all(torch.equal(pair[0][key], pair[1][key]) for key in alone), "every process has the same bits"
    kept = [load_predictions(tmp_path / name).sets for name in ("1-0", "2-0", "2-1")]
    assert list(kept[0]) == ["id", "shift", "open_set", "validation"]
    for name, alone in kept[0].items():
        for key in vars(alone):
            one, *pair = (vars(sets[name])[key] for sets in kept)
            assert_rounded([*map(as_lists, pair)], [as_lists(one)] * 2, f"{key} of {name}")
    for name in ("id", "shift", "open_set"):
        saved = [load_file(tmp_path / f"{processes}-logits" / f"{name}.safetensors") for processes in (1, 2)]
        assert_rounded(saved[1], saved[0], name)
    assert "<0: FileExistsError, logits" in printed or "<0: NotADirectoryError, logits" in printed
    assert "<1: RuntimeError, logits: Evaluation on 'id' failed in process 0" in printed
    assert "<1: UnreadableImage: The image of row 5" in printed
    assert "<0: RuntimeError: Evaluation on 'broken' failed in process 1" in printed


@pytest.mark.same_bits("the same images in the same batches, read once or twice")
@pytest.mark.parametrize("workers", [0, 2])
def test_images_are_read_once_for_several_evaluations(tiny_clip, monkeypatch, workers):
    other = copy.deepcopy(tiny_clip)
    with torch.no_grad():
        other.visual_projection.weight.mul_(torch.linspace(0.5, 1.5, other.visual_projection.weight.shape[1]))
    sets = [benchmark("id", 19, group_column="label"), benchmark("shift", 3), unreadable(8, row=5)]
    settings = {"bad_images": BadImages(threshold=0.5), "num_workers": workers, "knn_bank": benchmark("train", 13), "knn_k": 2}
    kept, read, extra = evaluator(sets, **settings), evaluator(sets, kept_bytes=0, **settings), benchmark("validation", 9)
    for model in (tiny_clip, other):
        found, expected = (item.evaluate(model, validation=extra) for item in (kept, read))
        assert asdict(found) == asdict(expected) and found.results["broken"].unreadable["count"] == 1
        assert kept.predictions.sets.keys() == read.predictions.sets.keys()
        for name, row in read.scores.items():
            assert all(torch.equal(kept.scores[name][key], values) for key, values in row.items())
    monkeypatch.setattr(ImageTransform, "decode", lambda *given: pytest.fail("an image is read again"))
    assert asdict(kept.evaluate(other, validation=extra)) == asdict(found)
    if not workers:
        with pytest.raises(pytest.fail.Exception):
            read.evaluate(other)


def test_sets_that_find_no_room_are_read_again(tiny_clip, monkeypatch):
    sets, decode, read = [benchmark("id", 19), benchmark("shift", 3)], ImageTransform.decode, []
    pixels = 3 * ImageTransform.from_processor(tiny_processor(), train=False).size ** 2
    measured = evaluator(sets, kept_bytes=18 * pixels)
    expected = evaluator(sets, kept_bytes=0).evaluate(tiny_clip)
    monkeypatch.setattr(ImageTransform, "decode", lambda *given: read.append(1) or decode(*given))
    for images in (22, 19):
        read.clear()
        assert asdict(measured.evaluate(tiny_clip)) == asdict(expected) and len(read) == images
    assert measured._kept.size == 3 * pixels


@pytest.mark.parametrize("names", [("bee", "cat", "dog", "owl"), ("Owl", "DOG", "bee", "cat")])
def test_a_trained_head_classifies_its_classes_in_any_order(tiny_clip, tmp_path, names):
    generator = torch.Generator().manual_seed(3)
    head = ZeroShotHead(torch.randn(4, 16, generator=generator), CLASSES, torch.randn(4, generator=generator))
    rows = image_dataset(14, seed=4)
    place = {CLASSES.index(name.lower()): label for label, name in enumerate(names)}
    turned = rows.remove_columns("label").add_column("label", [place[label] for label in rows["label"]])
    own = {"name": "shift", "role": "shift", "templates": TEMPLATES}
    reports, logits, scores = [], [], []
    for shift in (
        Benchmark.from_dataset(rows, **own),
        Benchmark.from_dataset(turned, class_names=names, **own),
    ):
        judge = evaluator([benchmark("id", 9), shift, benchmark("open_set", 6, classes=("ant", "fox"))])
        folder = tmp_path / str(len(reports))
        reports.append(judge.evaluate(tiny_clip, head=head, logits_dir=folder))
        logits.append(load_file(folder / "shift.safetensors")["logits"])
        scores.append(judge.scores)
    one, two = reports
    assert torch.equal(logits[1], logits[0][:, [CLASSES.index(name.lower()) for name in names]])
    found = [{key: value for key, value in asdict(report.results["shift"]).items() if key != "predictions"} for report in reports]
    assert_rounded(found[1], found[0])
    assert found[1]["head"] == TRAINED_HEAD and 0 < found[0]["accuracy"] < 1
    assert_rounded(two.open_set["open_set"]["scores"], one.open_set["open_set"]["scores"])
    assert_rounded(scores[1], scores[0])
    with pytest.raises(ValueError, match="are the class names of none of shift"):
        evaluator([Benchmark.from_dataset(turned, class_names=("bee", "cat", "dog", "fox"), **own)]).evaluate(tiny_clip, head=head)
