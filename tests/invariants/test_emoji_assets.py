# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The shipped benchmark and checkpoints: sizes, counts, labels, licences, and that the scripts give these very files."""

import hashlib
import importlib
import json
import shutil
import sys
import warnings

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers.cards import table_of_results
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor, CLIPModel, CLIPProcessor, pipeline

import hf_robustft
from hf_robustft import Evaluator, OpenSetDetector, load_benchmark, load_dual_encoder, publish
from hf_robustft.data.packaged import CHECKPOINTS
from hf_robustft.evaluation.report import load_reports
from hf_robustft.modeling.metadata import load_robustft_json
from hf_robustft.publishing.card_file import is_untouched
from hf_robustft.publishing.recalibrate import recalibrate

COUNTS = {
    "train": (200, 16),
    "validation": (200, 5),
    "noto": (200, 10),
    "twemoji": (200, 10),
    "openmoji": (200, 10),
    "fluent-emoji": (200, 10),
    "fluent-emoji-high-contrast": (200, 10),
    "open_set": (150, 14),
}


@pytest.fixture(scope="module")
def shift_dir(repository):
    return repository / "hf_robustft" / "assets" / "emoji_shift"


@pytest.fixture(scope="module")
def clip_dir(repository):
    return repository / "hf_robustft" / "assets" / "emoji_clip"


@pytest.fixture(scope="module")
def carot_dir(repository):
    return repository / "hf_robustft" / "assets" / "emoji_clip_carot"


@pytest.fixture(scope="module")
def facts(shift_dir):
    return json.loads((shift_dir / "classes.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def sets(shift_dir, tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("datasets"))
    return {
        name: datasets.load_dataset(
            "parquet", data_files=str(shift_dir / f"{name}.parquet"), split="train", cache_dir=cache
        )
        for name in COUNTS
    }


@pytest.fixture(scope="module")
def scripts(repository):
    folder = str(repository / "examples" / "emoji")
    sys.path.insert(0, folder)
    yield importlib.import_module
    sys.path.remove(folder)
    for name in ("common", "augment", "build_views", "build_rotations", "build_tokenizer", "build_artwork", "pretrain", "trim_embedding", "package_checkpoint"):
        sys.modules.pop(name, None)


def image_bytes(shift_dir, name):
    return [
        row["bytes"] for row in pq.read_table(shift_dir / f"{name}.parquet", columns=["image"])["image"].to_pylist()
    ]


def test_package_data_is_small(shift_dir, clip_dir):
    size = sum(file.stat().st_size for folder in (shift_dir, clip_dir) for file in folder.rglob("*") if file.is_file())
    assert size < 25_000_000


@pytest.mark.parametrize("name", COUNTS)
def test_counts_labels_and_features(sets, facts, name):
    data = sets[name]
    concepts, views = COUNTS[name]
    assert isinstance(data.features["image"], datasets.Image)
    prefix = "open_set_" if name == "open_set" else ""
    assert data.features["label"].names == facts[f"{prefix}classes"]
    assert np.bincount(data["label"]).tolist() == [views] * concepts
    assert data["code_point"] == [facts[f"{prefix}code_points"][label] for label in data["label"]]
    assert data["view"] == list(range(views)) * concepts


def test_test_sets_are_large_enough_for_calibration(sets):
    assert all(len(sets[name]) >= 2000 for name in COUNTS if name not in ("train", "validation"))


def test_open_set_is_disjoint(facts):
    assert not set(facts["classes"]) & set(facts["open_set_classes"])
    assert not set(facts["code_points"]) & set(facts["open_set_code_points"])
    for key in ("classes", "open_set_classes", "code_points", "open_set_code_points"):
        assert len(set(facts[key])) == len(facts[key])
    assert all(template.count("{}") == 1 for template in facts["templates"])


@pytest.mark.parametrize("name", COUNTS)
def test_images_decode_and_show_something(sets, name):
    for row in sets[name].select(range(0, len(sets[name]), 97)):
        assert row["image"].size == (64, 64)
        assert np.ptp(np.asarray(row["image"].convert("L"))) > 20


def test_no_image_of_one_split_is_in_another(shift_dir):
    names = [name for name in COUNTS if name != "open_set"]
    digests = {name: {hashlib.sha256(data).digest() for data in image_bytes(shift_dir, name)} for name in names}
    for i, name in enumerate(names):
        for other in names[i + 1 :]:
            assert not digests[name] & digests[other], (name, other)


def test_licences_name_every_style(shift_dir, scripts):
    text = (shift_dir / "LICENSES.md").read_text(encoding="utf-8")
    versions = scripts("build_artwork").VERSIONS
    for style in scripts("common").ALL_STYLES:
        package = f"@iconify-json/{style}"
        assert f"| {style} | `{package}@{versions[package]}` |" in text
    for package in ("emojibase-data", "emojilib"):
        assert f"`{package}@{versions[package]}`" in text
    for name in COUNTS:
        assert f"`{name}.parquet`" in text
    assert "modified" in text


def test_card_lists_every_file(shift_dir):
    text = (shift_dir / "README.md").read_text(encoding="utf-8")
    assert all(f"path: {name}.parquet" in text for name in COUNTS)


def test_views_are_a_pure_function(scripts):
    render = scripts("build_views").render_view
    drawing = np.full((64, 64, 3), 255, dtype=np.uint8)
    drawing[16:40, 20:50] = (200, 30, 60)
    first = np.asarray(render(drawing, 1, "train", "1f436", 0))
    np.random.seed(5)
    assert np.array_equal(first, np.asarray(render(drawing, 1, "train", "1f436", 0)))
    for other in (
        (2, "train", "1f436", 0),
        (1, "test", "1f436", 0),
        (1, "train", "1f431", 0),
        (1, "train", "1f436", 1),
    ):
        assert not np.array_equal(first, np.asarray(render(drawing, *other)))


def test_views_show_their_drawing_around_the_middle(scripts, monkeypatch):
    module = scripts("build_views")
    monkeypatch.setitem(module.VIEW_PARAMETERS, "occlusion_probability", 0.0)
    drawing = np.full((64, 64, 3), 255, dtype=np.uint8)
    drawing[26:38, 26:38] = 0
    for view in range(30):
        dark = np.argwhere(np.asarray(module.render_view(drawing, 0, "train", "x", view).convert("L")) < 110)
        assert len(dark) > 30
        # A drawing's middle moves by the translation and nothing else, at most 9.6 pixels each way.
        assert np.abs(dark.mean(axis=0) - 31.5).max() < 10.7


def test_a_patch_hides_one_rectangle_and_changes_nothing_else(scripts, monkeypatch):
    module = scripts("build_views")
    drawing = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    monkeypatch.setitem(module.VIEW_PARAMETERS, "blur_probability", 0.0)
    least, most = (round(64 * side) for side in module.VIEW_PARAMETERS["occlusion_side"])
    for view in range(20):
        shown = []
        for probability in (0.0, 1.0):
            monkeypatch.setitem(module.VIEW_PARAMETERS, "occlusion_probability", probability)
            shown.append(np.asarray(module.render_view(drawing, 0, "train", "x", view)))
        rows, columns = np.where((shown[0] != shown[1]).any(axis=-1))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert least - 1 <= min(height, width) and max(height, width) <= most + 1
        patch = shown[1][rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert (patch == patch[0, 0]).all()


def test_rotations_show_another_artist_by_the_same_views(scripts, tmp_path, monkeypatch):
    module, views = scripts("build_rotations"), scripts("build_views")
    artists = {style: {code: np.full((64, 64, 3), 9 * i + j, dtype=np.uint8) for j, code in enumerate("abc")} for i, style in enumerate(("noto", "twemoji"))}  # fmt: skip
    monkeypatch.setattr(module, "choose_concepts", lambda artwork, seed, n_classes, n_open: (["a", "b"], ["c"], {}))
    monkeypatch.setattr(module, "load_concepts", lambda artwork: {code: {"name": code * 3} for code in "abc"})
    monkeypatch.setattr(module, "load_style", lambda artwork, style: style)
    monkeypatch.setattr(module, "first_drawings", artists.get)
    argv = ["build_rotations.py", "--artwork", "art", "--output", str(tmp_path / "out"), "--styles", "noto", "twemoji"]
    monkeypatch.setattr(sys, "argv", argv)
    module.main()
    for style, drawings in artists.items():
        views.write_views(tmp_path / "train", drawings, ["a", "b"], ["aaa", "bbb"], 2026, "train", 16)
        assert (tmp_path / "out" / style / "train.parquet").read_bytes() == (tmp_path / "train").read_bytes()
        assert pq.read_metadata(tmp_path / "out" / style / "open_set.parquet").num_rows == 14
        assert pq.read_metadata(tmp_path / "out" / style / "validation.parquet").num_rows == 10


def test_recorded_parameters_are_those_of_the_script(scripts, facts):
    assert facts["views"] == scripts("build_views").VIEW_PARAMETERS
    assert facts["templates"] == list(scripts("common").TEMPLATES)


def test_shifted_views_differ_by_the_artist_only(sets):
    # The same concept and view in two styles share the paper: where both corners are bare, they have the same colour.
    near = total = 0
    for name in ("twemoji", "openmoji"):
        for i in range(0, 2000, 61):
            corners = [
                np.asarray(sets[s][i]["image"])[[0, 0, -1, -1], [0, -1, 0, -1]].max(axis=0) for s in ("noto", name)
            ]
            near += np.abs(corners[0].astype(int) - corners[1]).max() <= 6
            total += 1
    assert near / total > 0.8


def test_bad_arguments_are_told(scripts, tmp_path):
    with pytest.raises(OSError, match="build_artwork.py"):
        scripts("common").load_concepts(tmp_path)
    with pytest.raises(OSError, match="--styles noto"):
        scripts("common").load_style(tmp_path, "noto")
    with pytest.raises(ValueError, match="no room for merges"):
        scripts("build_tokenizer").train(["a dog"], 300, 16)
    with pytest.raises(OSError, match="--resume"):
        scripts("pretrain").load_progress(tmp_path, None, None, None, None)


def test_downstream_styles_are_never_trained_on(scripts):
    common = scripts("common")
    assert not set(common.PRETRAINING_STYLES) & set(common.DOWNSTREAM_STYLES)


def test_pretraining_batches_and_loss(scripts):
    pretrain = scripts("pretrain")
    views = scripts("augment").random_views(torch.full((4, 3, 64, 64), 128, dtype=torch.uint8), 48, torch.Generator())
    assert views.shape == (4, 3, 48, 48) and 0.0 <= views.min() and views.max() <= 1.0
    # Two concepts, two drawings each, one caption of another concept: embeddings that agree cost next to nothing.
    axes = torch.eye(3)
    images, texts = axes[[0, 1, 0, 1]], axes
    good = pretrain.losses(images, texts, torch.tensor(50.0), 2, 50.0)
    assert good["image_text"] < 1e-4 and good["image_image"] < 1e-4
    # Two right drawings share the probability of their caption: ln 2 is the least there can be.
    assert good["text_image"].item() == pytest.approx(np.log(2.0), abs=1e-4)
    bad = pretrain.losses(images.roll(1, 0), texts, torch.tensor(50.0), 2, 50.0)
    assert bad["image_text"] > 10.0 and bad["text_image"] > 10.0


def test_fast_activation_is_quick_gelu(scripts):
    x = torch.linspace(-6.0, 6.0, 101)
    torch.testing.assert_close(scripts("pretrain").QuickGELUBySiLU()(x), x * torch.sigmoid(1.702 * x))


def test_checkpoint_is_a_plain_clip_model(clip_dir, sets, facts):
    model = CLIPModel.from_pretrained(clip_dir).eval()
    processor = CLIPProcessor.from_pretrained(clip_dir)
    assert model.dtype == torch.float32
    assert model.config.text_config.eos_token_id == processor.tokenizer.eos_token_id
    # Padding follows the first end of text, so that a longer batch gives a caption the same embedding.
    with torch.inference_mode():
        alone = model.get_text_features(**processor(text=["a dog emoji."], return_tensors="pt")).pooler_output
        texts = ["a dog emoji.", "a small picture of a moon viewing ceremony."]
        padded = model.get_text_features(**processor(text=texts, return_tensors="pt", padding=True)).pooler_output
    torch.testing.assert_close(alone[0], padded[0], atol=1e-5, rtol=1e-4)
    pixels = processor(images=Image.new("RGB", (64, 64), "white"), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 48, 48)
    torch.testing.assert_close(pixels, torch.ones_like(pixels))


def test_zero_shot_pipeline_classifies(clip_dir, sets, facts):
    classify = pipeline("zero-shot-image-classification", model=str(clip_dir), device="cpu")
    rows = sets["noto"].select(range(0, 2000, 40))
    labels = facts["classes"][::4]
    answers = classify(list(rows["image"]), candidate_labels=labels, hypothesis_template="an emoji of a {}.")
    right = [
        answer[0]["label"] == facts["classes"][label] for answer, label in zip(answers, rows["label"], strict=True)
    ]
    # One in fifty would be chance.
    assert len(right) == 50 and sum(right) / len(right) > 0.5


def test_model_card_is_the_one_beside_the_weights(clip_dir, repository):
    card = (clip_dir / "README.md").read_text(encoding="utf-8")
    assert card == (repository / "model_cards" / "emoji_clip.md").read_text(encoding="utf-8")
    for style in ("noto", "twemoji", "openmoji", "fluent-emoji", "fluent-emoji-high-contrast"):
        assert f"| {style} |" in card and f"config: {style}\n" in card


def test_trimming_keeps_similarities_and_narrows_the_embedding(scripts, tiny_clip):
    module = scripts("trim_embedding")
    pixels = torch.randn(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[62, 5, 9, 63], [62, 7, 63, 63]])

    def embed(model):
        with torch.no_grad():
            images = model.get_image_features(pixel_values=pixels).pooler_output
            texts = model.get_text_features(input_ids=ids).pooler_output
        return images / images.norm(dim=1, keepdim=True), images, texts

    unit, images, texts = embed(tiny_clip)
    trimmed, kept = module.trim(tiny_clip, unit.double(), 10)
    _, narrow, narrow_texts = embed(trimmed)
    assert narrow.shape == (10, 10) and trimmed.config.vision_config.projection_dim == 10
    # Ten images span ten directions, which keep every product with them.
    assert kept == pytest.approx(1.0)
    torch.testing.assert_close(narrow @ narrow_texts.T, images @ texts.T, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="--dimension 16 must lie between 0 and the model's 16"):
        module.trim(tiny_clip, unit.double(), 16)


def test_the_checkpoints_embedding_is_narrower_than_its_tower(clip_dir):
    config = json.loads((clip_dir / "config.json").read_text(encoding="utf-8"))
    assert config["projection_dim"] == 96 < config["vision_config"]["hidden_size"]


# ---- emoji_clip_carot: the quick start's result ---------------------------------------------------------------------


def test_the_quick_starts_result_is_small_whole_and_in_half_precision(carot_dir, facts):
    assert sum(file.stat().st_size for file in carot_dir.rglob("*") if file.is_file()) < 4_000_000
    stored = load_file(carot_dir / "model.safetensors")
    # A logit scale in half precision could not hold a temperature.
    assert {name for name, value in stored.items() if value.dtype != torch.float16} == {"logit_scale"}
    assert stored["logit_scale"].dtype == torch.float32
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, _ = load_dual_encoder("emoji_clip_carot")
        plain = AutoModel.from_pretrained(carot_dir)
    assert isinstance(plain, CLIPModel) and AutoProcessor.from_pretrained(carot_dir).tokenizer.eos_token_id == 2047
    for (name, value), (_, other) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        assert value.dtype == torch.float32 and torch.equal(value, other) and torch.isfinite(value).all(), name
        assert torch.equal(value, stored[name].float()), name
    told = load_robustft_json(carot_dir)
    assert told["class_names"] == facts["classes"] and told["templates"] == facts["templates"]
    assert told["card"]["base_model"] == "emoji_clip" and "float16" in told["card"]["run"]["Weights"]
    card = (carot_dir / "README.md").read_text(encoding="utf-8")
    assert is_untouched(carot_dir / "README.md") and "\n# emoji_clip_carot\n" in card
    assert {"reliability.png", "shift.png", "scores.png"} <= {path.name for path in carot_dir.iterdir()}


@pytest.mark.numbers
def test_the_numbers_of_its_card_are_those_of_its_weights(carot_dir):
    model, processor = load_dual_encoder("emoji_clip_carot")
    noto = load_benchmark("emoji_shift", "noto")
    found = Evaluator([noto], processor, batch_size=256, progress=False).evaluate(model).results["noto"]
    *_, written = load_reports(carot_dir / "evaluation.json")
    told = written.results["noto"]
    # Another processor may move an image or two of 2,000 across a border.
    assert found.accuracy == pytest.approx(told.accuracy, abs=1.5e-3)
    assert found.nll == pytest.approx(told.nll, rel=1e-3) and found.ece == pytest.approx(told.ece, abs=2e-3)
    card = table_of_results((carot_dir / "README.md").read_text(encoding="utf-8"))
    for name, result in written.results.items():
        accuracy, ece, nll, brier = (cell.split()[0] for cell in card[name, written.model][1:])
        assert (accuracy, ece) == (f"{100 * result.accuracy:.1f}", f"{100 * result.ece:.1f}")
        assert (nll, brier) == (f"{result.nll:.3f}", f"{result.brier:.3f}")


def test_it_goes_by_name_and_answers(carot_dir, sets, tmp_path, monkeypatch):
    for i in range(0, 200, 20):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        sets["validation"][i]["image"].save(tmp_path / "pictures" / f"{i:03}.png")
    monkeypatch.chdir(tmp_path)
    answers = hf_robustft.pipeline("emoji_clip_carot")("pictures")
    named = load_benchmark("emoji_shift", "validation").class_names
    right = [row["nearest_class"] == named[sets["validation"]["label"][20 * i]] for i, row in enumerate(answers)]
    assert sum(right) >= 8 and any(row["is_known"] for row in answers)
    assert OpenSetDetector.from_pretrained("emoji_clip_carot").to_dict() == load_robustft_json(carot_dir)["detector"]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_of_the_package_stays_as_it_is(name, repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (name, repository / "hf_robustft" / "assets" / name):
        with pytest.raises(ValueError, match=f"copy it first, cp -r .*{name} "):
            recalibrate(folder, load_benchmark("emoji_shift", "validation"))
        with pytest.raises(ValueError, match=f"copy it first, cp -r .*{name} "):
            publish(folder, "me/clip", dry_run=True)


def test_a_copy_can_be_published(carot_dir, tmp_path):
    shutil.copytree(carot_dir, tmp_path / "mine")
    published = publish(tmp_path / "mine", "me/clip", dry_run=True)
    assert set(published.files) == {path.name for path in carot_dir.iterdir()}


@pytest.mark.slow
def test_the_script_makes_the_same_bytes_of_the_same_run(scripts, carot_dir, tmp_path):
    """Two minutes: `python -m pytest -m slow tests/invariants/test_emoji_assets.py`. It is a finished folder itself."""
    package = scripts("package_checkpoint").package
    for work in ("a", "b"):
        package(carot_dir, tmp_path / work / "emoji_clip_carot", progress=False)
    first, second = (tmp_path / work / "emoji_clip_carot" for work in ("a", "b"))
    assert {path.name for path in first.iterdir()} == {path.name for path in carot_dir.iterdir()}
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name
    shipped, made = (load_reports(folder / "evaluation.json")[-1] for folder in (carot_dir, first))
    for name, result in shipped.results.items():
        assert made.results[name].accuracy == pytest.approx(result.accuracy, abs=1.5e-3)
        assert made.results[name].nll == pytest.approx(result.nll, rel=1e-3)


def test_rounding_keeps_scalars_and_refuses_what_overflows(scripts, tiny_clip, tmp_path):
    halve = scripts("package_checkpoint").halve
    tiny_clip.save_pretrained(tmp_path)
    halve(tmp_path / "model.safetensors")
    stored = load_file(tmp_path / "model.safetensors")
    assert {name for name, value in stored.items() if value.dtype == torch.float32} == {"logit_scale"}
    assert CLIPModel.from_pretrained(tmp_path).dtype == torch.float32
    with torch.no_grad():
        tiny_clip.visual_projection.weight[0, 0] = 1e5
    tiny_clip.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="visual_projection.weight"):
        halve(tmp_path / "model.safetensors")
