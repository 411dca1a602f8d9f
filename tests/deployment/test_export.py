# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""An exported graph answers as the pipeline does, for every family and head, or is refused; and files say nothing of this machine."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import CLASSES, TEMPLATES, image_dataset
from helpers.commands import blocks
from helpers.families import FAMILY_NAMES, family_captions, family_images, family_model, family_processor, pictures
from PIL import Image

from hf_robustft.cli import main
from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.data.transforms import ImageTransform
from hf_robustft.deployment import export, extras
from hf_robustft.deployment.export import export_checkpoint
from hf_robustft.deployment.export_page import PREPARE, preprocess_facts
from hf_robustft.deployment.exported_classifier import ExportedClassifier, ExportedTextEncoder, rounded_up
from hf_robustft.deployment.pipeline import OpenSetImageClassificationPipeline
from hf_robustft.evaluation.detector import DETECTOR_SCORES, OpenSetDetector
from hf_robustft.evaluation.temperature import TemperatureScaling
from hf_robustft.modeling.features import encode_texts
from hf_robustft.modeling.heads import ClipAdapterHead, MultiLabelClipAdapterHead, MultiLabelHead, TipAdapterHead
from hf_robustft.modeling.kept_adapter import put
from hf_robustft.modeling.metadata import update_robustft_json
from hf_robustft.modeling.zero_shot import ZeroShotHead
from hf_robustft.publishing.metadata import write_robustft_json

onnxruntime = pytest.importorskip("onnxruntime")
#: Of these a graph is made in every run of the tests, which takes seconds; of the others in the slow ones.
OFTEN = ("clip",)
EXPORTED = [name for name in FAMILY_NAMES if name != "siglip2"]
#: Of numbers of size 1 to 10 that two programs compute in float32.
NEAR = {"rtol": 1e-5, "atol": 1e-5}


def classifier(name, folder, score="energy", head=None, temperature=1.7, **facts):
    """A pipeline with a detector that half of some random images pass, and these images."""
    model, processor = family_model(name), family_processor(name)
    folder.mkdir(exist_ok=True)
    write_robustft_json(folder, method="flyp", class_names=CLASSES, templates=TEMPLATES, settings={})
    update_robustft_json(folder, **facts)
    made = None if head is None else head(ZeroShotHead.from_model(model, processor, CLASSES, TEMPLATES))
    classify = OpenSetImageClassificationPipeline(model, processor, directory=folder, head=made, require_detector=False, device="cpu")
    images = family_images(name, 12)
    with torch.no_grad():
        logits = classify._forward({"pixel_values": images})["logits"]
    if score is not None:
        scale = model.logit_scale.exp().item()
        options = {"score": score, "true_positive_rate": 0.5, "temperature": TemperatureScaling(temperature)}
        classify.detector = OpenSetDetector.fit(logits, class_names=CLASSES, logit_scale=scale, **options)
        # The threshold is the score of an image, which another program may round down.
        values = torch.tensor([item.score for item in classify.detector.predict(logits)]).sort().values
        middle = (values[5] + values[6]).item() / 2
        classify.detector = replace(classify.detector, threshold=middle)
    return classify, images


def answers(classify, images):
    with torch.no_grad():
        logits = classify._forward({"pixel_values": images})["logits"]
    return logits, [classify.postprocess({"logits": row[None], "image": None, "error": None}, top_k=None) for row in logits]


def assert_same(found, classify, images):
    """What a graph or module gave is what the pipeline answers."""
    logits, want = answers(classify, images)
    found = {name: torch.as_tensor(value) for name, value in found.items()}
    torch.testing.assert_close(found["logits"], logits, **NEAR)
    assert len(want) == len(found["label"]) > 0
    for number, answer in enumerate(want):
        assert CLASSES[found["label"][number]] == answer["nearest_class"]
        by_name = {item["label"]: item["score"] for item in answer["classes"]}
        assert found["probabilities"][number].tolist() == pytest.approx([by_name[name] for name in CLASSES], rel=1e-4, abs=1e-6)
        if classify.detector is not None:
            assert bool(found["is_known"][number]) == answer["is_known"]
            assert found["score"][number].item() == pytest.approx(answer["score"], rel=1e-5, abs=1e-5)
        if "labels" in answer:
            given = {CLASSES[i] for i in found["has_label"][number].nonzero()[:, 0]}
            assert given == {item["label"] for item in answer["labels"]}


def run(path, pixels):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = [item.name for item in session.get_outputs()]
    return dict(zip(outputs, session.run(None, {session.get_inputs()[0].name: pixels}), strict=True))


# ---- The module: every family, score and head --------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPORTED)
@pytest.mark.parametrize("score", [*DETECTOR_SCORES, None])
def test_the_module_answers_as_the_pipeline(name, score, tmp_path):
    classify, images = classifier(name, tmp_path / "facts", score)
    with torch.no_grad():
        found = ExportedClassifier(classify)(images)
    assert_same(found, classify, images)
    if score is not None:
        assert found["is_known"].sum() == 6
    torch.testing.assert_close(found["image_embeds"].norm(dim=1), torch.ones(12))


def test_each_predicted_class_has_its_own_threshold(tmp_path):
    classify, images = classifier("clip", tmp_path / "facts")
    logits, _ = answers(classify, images)
    (most,) = logits.argmax(dim=1).mode().values[None].tolist()
    for common, own in ((-1e6, 1e6), (1e6, -1e6)):
        classify.detector = replace(classify.detector, threshold=common, thresholds={CLASSES[most]: own})
        with torch.no_grad():
            found = ExportedClassifier(classify)(images)
        assert_same(found, classify, images)
        assert torch.equal(found["is_known"], (found["label"] == most) == (own < 0))


def test_a_threshold_between_two_float32_is_reached_by_the_upper_one():
    scores = torch.randn(200, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 200)
    exact = scores.double()
    for limits in (exact, exact.nextafter(torch.tensor(np.inf)), exact.nextafter(torch.tensor(-np.inf)), exact.roll(1)):
        assert torch.equal(scores >= rounded_up(limits.tolist()), exact >= limits)


HEADS = {
    "linear": lambda head: ZeroShotHead(head.weight + 1, CLASSES, torch.arange(4.0)),
    "clip_adapter": lambda head: ClipAdapterHead.around(head, ratio=0.6),
    "tip_adapter": lambda head: TipAdapterHead.around(head, torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 4),
    "multi_label": lambda head: MultiLabelHead(head.weight, CLASSES, torch.tensor([-3.0, -2.0, -1.0, 0.0])),
    "multi_label_clip_adapter": lambda head: MultiLabelClipAdapterHead.around(head, ratio=0.6),
}


@pytest.mark.parametrize("kind", HEADS)
def test_the_module_has_the_trained_head(kind, tmp_path):
    several = {"thresholds": {"classes": dict(zip(CLASSES, (0.1, 0.3, 0.5, 0.6), strict=True))}} if kind.startswith("multi_label") else {}
    classify, images = classifier("clip", tmp_path / "facts", None if several else "energy", HEADS[kind], **several)
    with torch.no_grad():
        assert_same(ExportedClassifier(classify)(images), classify, images)
    # A zero-shot head would say something else.
    other, _ = classifier("clip", tmp_path / "others", None)
    assert not torch.allclose(answers(other, images)[0], answers(classify, images)[0], atol=1e-2)


def test_sigmoids_with_thresholds_have_the_bias_of_the_model(tmp_path):
    thresholds = {"thresholds": {"classes": dict(zip(CLASSES, (0.05, 0.1, 0.2, 0.3), strict=True))}}
    classify, images = classifier("siglip", tmp_path / "facts", None, **thresholds)
    with torch.no_grad():
        found = ExportedClassifier(classify)(images)
    assert_same(found, classify, images)
    assert 0 < found["has_label"].sum() < found["has_label"].numel()


def test_sure_labels_stay_above_a_threshold_near_1(tmp_path):
    # In float32 these sigmoids are 1, and so is the nearest number to the thresholds.
    several = {"thresholds": {"classes": dict.fromkeys(CLASSES, 1 - 1e-10)}}
    classify, images = classifier("clip", tmp_path / "facts", None, lambda head: MultiLabelHead(head.weight, CLASSES, torch.full((4,), 60.0)), **several)
    with torch.no_grad():
        found = ExportedClassifier(classify)(images)
    assert found["has_label"].all()
    assert_same(found, classify, images)


def test_an_image_adapter_beside_the_weights_is_inside(tmp_path):
    classify, images = classifier("siglip", tmp_path / "facts", None)
    with torch.no_grad():
        without = ExportedClassifier(classify)(images)
        put(classify.model, torch.eye(32) + 0.3 * torch.randn(32, 32, generator=torch.Generator().manual_seed(0)))
        found = ExportedClassifier(classify)(images)
    assert_same(found, classify, images)
    assert not torch.allclose(found["logits"], without["logits"], atol=1e-2)


def test_levels_are_normalised_inside(tmp_path):
    classify, _ = classifier("clip", tmp_path / "facts")
    transform = ImageTransform.from_processor(classify.processor, train=False)
    levels = torch.stack([replace(transform, output="uint8")(picture) for picture in pictures(6)])
    with torch.no_grad():
        found = ExportedClassifier(classify, input="uint8")(levels.permute(0, 2, 3, 1))
    assert_same(found, classify, torch.stack([transform(picture) for picture in pictures(6)]))


# ---- The files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in EXPORTED])
def test_a_graph_of_every_family_answers_as_the_pipeline(name, tmp_path):
    classify, images = classifier(name, tmp_path / "facts")
    if name == "siglip":
        put(classify.model, torch.eye(32) + 0.3 * torch.randn(32, 32, generator=torch.Generator().manual_seed(0)))
    found = export_checkpoint(classify, tmp_path / "out", check_images=24, text=True, progress=False)
    for n in (1, 3, 12):
        assert_same(run(tmp_path / "out" / "model.onnx", images[:n].numpy()), classify, images[:n])
    assert found["files"]["model.onnx"]["agreement"] == 1 and found["check"]["images"] == "random pictures"
    tokenizer = classify.processor.tokenizer
    longest = found["text"].get("max_length")
    for texts in (family_captions(5), ["a"]):
        length = {"padding": True} if longest is None else {"padding": "max_length", "max_length": longest}
        tokens = tokenizer(texts, truncation=True, return_tensors="pt", **length)["input_ids"]
        with torch.no_grad():
            want = encode_texts(classify.model, tokens)
        got = run(tmp_path / "out" / "text_encoder.onnx", tokens.numpy())["text_embeds"]
        torch.testing.assert_close(torch.from_numpy(got), want, rtol=0, atol=1e-5)


def labelled(n=48):
    return Benchmark.from_dataset(image_dataset(n), name="held_out", role="validation", templates=TEMPLATES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All precisions of a tiny model with a Tip-Adapter, of levels."""
    place = tmp_path_factory.mktemp("export")
    classify, _ = classifier("clip", place / "facts", head=HEADS["tip_adapter"])
    options = {"precisions": list(export.PRECISIONS), "input": "uint8", "dataset": labelled(), "min_agreement": 0.1, "progress": False}
    return classify, place / "out", export_checkpoint(classify, place / "out", batch_size=16, **options)


def test_each_precision_is_compared_with_the_pipeline(whole):
    classify, out, facts = whole
    transform = ImageTransform.from_processor(classify.processor, train=False)
    rows = [row for number, row in enumerate(labelled().load()) if number % 4]
    assert facts["check"]["n"] == len(rows) == 36 and facts["check"]["calibration_images"] == 12
    levels = torch.stack([replace(transform, output="uint8")(row["image"]) for row in rows]).permute(0, 2, 3, 1)
    logits, want = answers(classify, torch.stack([transform(row["image"]) for row in rows]))
    labels = np.array([row["label"] for row in rows])
    assert [row["precision"] for row in facts["files"].values()] == list(export.PRECISIONS)
    for name, row in facts["files"].items():
        # In batches as in the comparison, for ranges are those of a batch.
        parts = [run(out / name, batch.numpy()) for batch in levels.split(16)]
        label, known = (np.concatenate([part[key] for part in parts]) for key in ("label", "is_known"))
        same = [CLASSES[i] == answer["nearest_class"] and bool(k) == answer["is_known"] for i, k, answer in zip(label, known, want, strict=True)]
        assert row["agreement"] == pytest.approx(np.mean(same)) and row["bytes"] == (out / name).stat().st_size
        assert row["accuracy"] == pytest.approx((label == labels).mean())
        assert 0 <= row["ece"] <= 1 and row["nll"] > 0 and row["images_per_second"] > 0
    difference = {row["precision"]: row["max_probability_difference"] for row in facts["files"].values()}
    assert difference["fp32"] < 1e-5 < difference["fp16"] < 0.01 and all(1e-5 < difference[name] < 0.5 for name in ("int8", "int8-static"))
    assert_same(run(out / "model.onnx", levels.numpy()), classify, torch.stack([transform(row["image"]) for row in rows]))
    assert json.loads((out / "export.json").read_text()) == facts and facts["check"]["min_agreement"] == 0.1


def test_a_file_says_what_it_is_and_nothing_of_this_machine(whole, tmp_path, repository):
    classify, out, facts = whole
    for name in facts["files"]:
        session = onnxruntime.InferenceSession(str(out / name), providers=["CPUExecutionProvider"])
        told = session.get_modelmeta().custom_metadata_map
        assert json.loads(told["class_names"]) == list(CLASSES)
        assert json.loads(told["detector"]) == {"score": "energy", "threshold": classify.detector.threshold}
        assert float(told["temperature"]) == 1.7 and json.loads(told["versions"])["hf_robustft"]
        assert session.get_inputs()[0].shape[0] == "batch"
        content = (out / name).read_bytes()
        assert not re.search(rb"/(home|work|tmp|root|usr)/|site-packages|\.py\b", content), name
    again = export_checkpoint(classify, tmp_path / "again", input="uint8", dataset=labelled(), batch_size=16, progress=False)
    assert (tmp_path / "again" / "model.onnx").read_bytes() == (out / "model.onnx").read_bytes() and "min_agreement" not in again["check"]


def test_int8_leaves_what_is_behind_the_embeddings_alone(whole):
    import onnx

    _, out, facts = whole
    for name in ("model_int8.onnx", "model_int8_static.onnx"):
        graph = onnx.load(str(out / name)).graph
        kinds = {item.name: item.data_type for item in graph.initializer}
        eight = [key for key, kind in kinds.items() if kind == onnx.TensorProto.INT8 and "head" in key]
        assert onnx.TensorProto.INT8 in kinds.values() and not eight
    assert facts["files"]["model_int8.onnx"]["bytes"] < facts["files"]["model.onnx"]["bytes"]


def test_the_page_runs_as_printed(whole, tmp_path, monkeypatch, capsys):
    classify, out, _ = whole
    monkeypatch.chdir(out)
    picture = pictures(1)[0]
    picture.save(tmp_path / "photo.png")
    (code,) = blocks((out / "README.md").read_text(encoding="utf-8"), "python")
    exec(compile(code.replace("photo.jpg", str(tmp_path / "photo.png")), "README.md", "exec"), {})
    answer = classify(tmp_path / "photo.png")
    words = capsys.readouterr().out.split()
    assert words[0] == answer["nearest_class"] and float(words[1]) == pytest.approx(answer["probability"], abs=1e-5)
    assert words[2] == ("known" if answer["is_known"] else "unknown")


TRANSFORMS = [
    ImageTransform(32, (0.5, 0.4, 0.3), (0.3, 0.25, 0.2), train=False),
    ImageTransform(24, (0.5, 0.4, 0.3), (0.3, 0.25, 0.2), train=False, resize=32, resample="bilinear"),
    ImageTransform(32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), train=False, resize=(32, 32), do_center_crop=False),
    ImageTransform(48, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), train=False, do_resize=False),
]


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_snippet_prepares_images_to_the_bit(transform, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = [*pictures(8), pictures(1)[0].convert("L"), pictures(1)[0].convert("P"), pictures(1)[0].convert("CMYK")]
    alpha = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 4), dtype=np.uint8))
    found += [alpha, alpha.convert("LA")]
    found += [Image.fromarray(np.linspace(0, 65535, 91 * 57).reshape(57, 91).astype(np.uint16))]
    for input in ("float", "uint8"):
        (tmp_path / "preprocess.json").write_text(json.dumps(preprocess_facts(transform, input, CLASSES)))
        names = {}
        exec(compile(PREPARE, "README.md", "exec"), names)
        for number, picture in enumerate(found):
            path = tmp_path / f"{number}.tiff"
            picture.save(path)
            want = replace(transform, output="uint8" if input == "uint8" else "float32").decode(str(path)).numpy()
            got = names["prepare"](path)
            assert np.array_equal(got.transpose(2, 0, 1) if input == "uint8" else got, want) and got.dtype == want.dtype, (number, input)
    # Turned as its camera says.
    turned = pictures(1)[0].getexif()
    turned[274] = 6
    pictures(1)[0].save(tmp_path / "turned.png", exif=turned)
    assert np.array_equal(names["prepare"](tmp_path / "turned.png").transpose(2, 0, 1), replace(transform, output="uint8").decode(str(tmp_path / "turned.png")).numpy())


def test_a_program_of_torch_export_answers_as_the_pipeline(tmp_path):
    classify, images = classifier("clip", tmp_path / "facts")
    export_checkpoint(classify, tmp_path / "out", format="torch_export", check_images=24, progress=False)
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    for n in (1, 12):
        assert_same(program(images[:n]), classify, images[:n])
    content = (tmp_path / "out" / "model.pt2").read_bytes()
    # The other tower is not in it, nor where it was made.
    assert len(content) < 4 * sum(value.numel() for value in classify.model.parameters()) + 200_000
    assert b"text_model.encoder" not in content and b"hf_robustft/deployment" not in content


# ---- What is refused ----------------------------------------------------------------------------------------------------


@pytest.fixture
def by_modules(monkeypatch):
    """The modules themselves stand for the graphs, which take seconds to make."""

    def runner(self, file, name):
        module = self.module if name == "pixel_values" else ExportedTextEncoder(self.classify.model)
        assert file.read_bytes() == b"graph"
        return lambda batch: {key: value.detach().numpy() for key, value in module(torch.from_numpy(batch)).items()}

    monkeypatch.setattr(export._Export, "_exported", lambda self, module, example, stage, axes, name: stage.write_bytes(b"graph"))
    monkeypatch.setattr(export._Export, "_runner", runner)


def test_what_is_beside_a_graph_says_all_thresholds_and_what_is_not_in_it(tmp_path, by_modules):
    classify, _ = classifier("clip", tmp_path / "facts")
    classify.detector = replace(classify.detector, thresholds={CLASSES[1]: 2.5, CLASSES[2]: -3.0})
    classify.prediction_sets = SimpleNamespace(predict_sets=lambda logits: [CLASSES])
    facts = export_checkpoint(classify, tmp_path / "out", format="torch_export", check_images=6, progress=False)
    assert facts["detector"] == {"score": "energy", "threshold": classify.detector.threshold, "thresholds": classify.detector.thresholds}
    assert any("prediction sets" in note for note in facts["notes"]) and "2 classes" in (tmp_path / "out" / "README.md").read_text()


def test_a_graph_that_decides_otherwise_is_not_written(tmp_path, monkeypatch, by_modules):
    classify, images = classifier("clip", tmp_path / "facts")
    whole_init = ExportedClassifier.__init__

    def other_threshold(self, *arguments, **options):
        whole_init(self, *arguments, **options)
        self.limits += 2e6

    monkeypatch.setattr(ExportedClassifier, "__init__", other_threshold)
    classify.detector = replace(classify.detector, threshold=-1e6)
    with pytest.raises(ValueError, match=r"--precision fp32.* 0\.00 % of 9 images \(random pictures\)"):
        export_checkpoint(classify, tmp_path / "out", check_images=9, progress=False)
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_texts_that_are_off_are_refused(tmp_path, monkeypatch, by_modules):
    classify, _ = classifier("clip", tmp_path / "facts")
    whole_forward = ExportedTextEncoder.forward
    monkeypatch.setattr(ExportedTextEncoder, "forward", lambda self, ids: {name: value + 1e-3 for name, value in whole_forward(self, ids).items()})
    with pytest.raises(ValueError, match="--text"):
        export_checkpoint(classify, tmp_path / "out", format="torch_export", check_images=3, text=True, progress=False)
    assert not (tmp_path / "out" / "model.pt2").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"format": "tflite"}, "--format tflite"),
        ({"precisions": ["int4"]}, "--precision int4"),
        ({"precisions": []}, "--precision"),
        ({"input": "int32"}, "--input int32"),
        ({"precisions": ["int8-static"]}, "--dataset"),
        ({"min_agreement": 0.9}, "--min_agreement 0.9"),
        ({"precisions": ["fp16"], "min_agreement": 1.5}, "--min_agreement 1.5"),
        ({"format": "torch_export", "precisions": ["fp16"]}, "--precision fp16"),
        ({"format": "torch_export", "opset": 20}, "--opset 20"),
        ({"opset": 3}, "--opset 3"),
        ({"check_images": 0}, "--check_images 0"),
        ({"batch_size": 0}, "--batch_size 0"),
        ({"dataset": Benchmark.from_dataset(image_dataset(4, classes=("a", "b")), name="x", role="validation")}, "--dataset x"),
    ],
)
def test_wrong_options_are_refused(options, named, tmp_path):
    classify, _ = classifier("clip", tmp_path / "facts")
    with pytest.raises(ValueError, match=named):
        export_checkpoint(classify, tmp_path / "out", progress=False, **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", ["emoji_clip_carot", Path("outputs", "mine")], ids=["name", "path"])
def test_a_name_in_place_of_a_pipeline_is_refused_with_the_call_that_loads_it(given, tmp_path):
    with pytest.raises(ValueError, match=rf"`classify={re.escape(repr(str(given)))}`.* give pipeline\({re.escape(repr(str(given)))}\)"):
        export_checkpoint(given, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_of_patches_or_in_half_precision_is_refused(tmp_path):
    classify, _ = classifier("siglip2", tmp_path / "facts", None)
    with pytest.raises(ValueError, match="patches"):
        export_checkpoint(classify, tmp_path / "out", progress=False)
    classify, _ = classifier("clip", tmp_path / "facts", None)
    classify.model.half()
    with pytest.raises(ValueError, match="float32"):
        export_checkpoint(classify, tmp_path / "out", progress=False)


def test_a_folder_of_others_is_left_alone_and_an_earlier_export_replaced(tmp_path, by_modules):
    classify, _ = classifier("clip", tmp_path / "facts")
    out, options = tmp_path / "out", {"format": "torch_export", "check_images": 3, "progress": False}
    out.mkdir()
    (out / "README.md").write_text("mine")
    with pytest.raises(ValueError, match=r"README\.md"):
        export_checkpoint(classify, out, **options)
    (out / "README.md").unlink()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds a model"):
        export_checkpoint(classify, tmp_path / "facts", **options)
    export_checkpoint(classify, out, text=True, **options)
    export_checkpoint(classify, out, **options)
    assert {path.name for path in out.iterdir() if path.is_file() and path.name[0] != "."} == {"notes.txt", "README.md", "export.json", "preprocess.json", "model.pt2"}
    assert not (out / "tokenizer").exists() and (out / "notes.txt").read_text() == "mine"


# ---- The command --------------------------------------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path):
    family_model("clip").save_pretrained(tmp_path / "base")
    family_processor("clip").save_pretrained(tmp_path / "base")
    image_dataset(12).to_parquet(tmp_path / "held_out.parquet")
    (tmp_path / "names.txt").write_text("\n".join(CLASSES))
    return tmp_path / "base"


def test_a_plain_model_is_exported_with_class_names(base, tmp_path, capsys):
    words = ["export", str(base), "--output_dir", str(tmp_path / "out"), "--format", "torch_export", "--use_cpu", "--disable_tqdm"]
    assert main(words) == 2
    assert "--class_names" in capsys.readouterr().err.splitlines()[-1]
    words += ["--class_names", str(tmp_path / "names.txt"), "--dataset", str(tmp_path / "held_out.parquet")]
    assert main(words) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "| model.pt2 | 100.00 % |" in printed and "Compared on 12 images" in printed and "detector" in printed
    facts = json.loads((tmp_path / "out" / "export.json").read_text())
    assert facts["name"] == "base" and str(tmp_path) not in json.dumps(facts)
    assert json.loads((tmp_path / "out" / "preprocess.json").read_text())["class_names"] == list(CLASSES)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_said_before_anything_is_read(missing, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == missing else True)
    assert main(["export", "emoji_clip_carot", "--output_dir", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert missing in line and 'pip install "hf_robustft[onnx]"' in line and not (tmp_path / "out").exists()


def test_a_folder_of_images_is_not_taken_for_a_model(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    pictures(1)[0].save(tmp_path / "photos" / "1.png")
    assert main(["export", str(tmp_path / "photos"), "--output_dir", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "config.json" in line and "--class_names" not in line


def test_a_model_is_not_exported_into_itself(base, tmp_path, capsys):
    before = {path.name for path in base.iterdir()}
    assert main(["export", str(base), "--class_names", str(tmp_path / "names.txt"), "--output_dir", str(base / "out")]) == 2
    assert "--output_dir" in capsys.readouterr().err and {path.name for path in base.iterdir()} == before
