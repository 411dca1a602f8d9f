# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""SigLIP 2 with pictures of any aspect ratio, from a folder to the pipeline."""

import json

import datasets
import pytest
import torch
from helpers import CLASSES
from helpers.families import PATCHES, pictures, save_family
from PIL import Image
from test_run_robust_ft import command
from transformers import AutoModel, AutoProcessor
from transformers import pipeline as plain_pipeline

from hf_robustft import cache_features, load_dual_encoder, pipeline
from hf_robustft.data.bad_images import BadImages
from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.evaluation.collect import collect_logits
from hf_robustft.publishing.metadata import write_robustft_json

TEMPLATE = "a photo of a {}."
SLOW = ("tracer", "covariance_anchor")


@pytest.fixture
def folders(tmp_path):
    """A checkpoint, and folders of pictures of eight aspect ratios."""
    save_family("siglip2", tmp_path / "base")
    for split, n, seed in (("train", 16, 0), ("test", 11, 1)):
        for i, picture in enumerate(pictures(n, seed)):
            folder = tmp_path / "images" / split / CLASSES[i % len(CLASSES)]
            folder.mkdir(parents=True, exist_ok=True)
            picture.save(folder / f"{i}.png")
    return tmp_path / "base", tmp_path / "images"


@torch.no_grad()
def expected(folder, images):
    """Files of the test pictures, their labels and scaled similarities, by Transformers alone."""
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    names, files = sorted(CLASSES), sorted((images / "test").rglob("*.png"))
    texts = processor.tokenizer([TEMPLATE.format(name) for name in names], padding="max_length", return_tensors="pt")
    shown = processor.image_processor([Image.open(file) for file in files], return_tensors="pt")
    labels = torch.tensor([names.index(file.parent.name) for file in files])
    return files, labels, model(**texts, **shown).logits_per_image


@pytest.mark.parametrize("method", ["flyp", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_from_a_folder_of_pictures_to_the_plain_pipeline(script, folders, tmp_path, method):
    """
    What is reported is what Transformers' own model says of its own processor's output, and so are the pipelines.

    The others: `python -m pytest -m slow tests/job/test_naflex.py`, 10 seconds.
    """
    base, images = folders
    report = script.main(command(base, images, tmp_path / "out", "--method", method, "--contrastive_chunk_size", "1"))
    settings = json.loads((tmp_path / "out" / "evaluation.json").read_text())["reports"][-1]["settings"]
    assert (settings["patch_size"], settings["max_num_patches"]) == (8, PATCHES) and "image_size" not in settings
    files, labels, logits = expected(tmp_path / "out", images)
    assert report.results["test"].nll == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert not torch.allclose(logits, expected(base, images)[2], atol=1e-3), "training moved them"
    classify = pipeline(tmp_path / "out", require_detector=False, batch_size=4)
    found = classify([str(file) for file in files], function_to_apply="sigmoid", top_k=None)
    plain = plain_pipeline("zero-shot-image-classification", model=str(tmp_path / "out"), device="cpu")
    for file, answer, row in zip(files, found, logits, strict=True):
        want = dict(zip(sorted(CLASSES), row.sigmoid().tolist(), strict=True))
        shown = plain(str(file), candidate_labels=sorted(CLASSES), hypothesis_template=TEMPLATE)
        for of_class in (answer["classes"], shown):
            assert {item["label"]: item["score"] for item in of_class} == pytest.approx(want, rel=1e-4)


def test_a_linear_probe_of_cached_crops(script, folders, tmp_path):
    base, images = folders
    more = ["--method", "lp", "--feature_views", "2", "--feature_cache", str(tmp_path / "cache"), "--skip_baseline"]
    reports = [script.main(command(base, images, tmp_path / name, *more)) for name in ("first", "again")]
    assert reports[0].results["test"].nll == reports[1].results["test"].nll
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 1


def test_streams_broken_pictures_and_half_precision(folders, tmp_path):
    """The batches of a stream, what stands for a picture that cannot be read, and the digits of a grid in bfloat16."""
    base, images = folders
    model, processor = load_dual_encoder(base)
    files, logits = expected(base, images)[::2]
    encoded = [{"bytes": file.read_bytes(), "path": None} for file in files] + [{"bytes": b"no picture", "path": None}]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=sorted(CLASSES))})
    rows = datasets.Dataset.from_dict({"image": encoded, "label": [0] * len(encoded)}, features=features)
    (tmp_path / "data").mkdir()
    rows.to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    described = {"name": "some", "path": str(tmp_path / "data"), "split": "train", "role": "id", "class_names": sorted(CLASSES), "templates": [TEMPLATE]}
    for streaming in (True, False):
        benchmark = Benchmark(streaming=streaming, **described)
        options = {"batch_size": 4, "progress": False}
        found = collect_logits(model, benchmark, processor, bad_images=BadImages(threshold=0.5), **options)[0]
        torch.testing.assert_close(found, logits - model.logit_bias, rtol=0, atol=1e-5)
    for views in (0, 2):
        cache = cache_features(model, benchmark, processor, views=views, bad_images=BadImages(threshold=0.5), progress=False)
        assert cache.features.shape[1] == len(files) and cache.features.isfinite().all()
    half = collect_logits(model.bfloat16(), benchmark, processor, bad_images=BadImages(threshold=0.5), **options)[0]
    assert 0 < (half.float() - found).abs().max() < 0.3
    (tmp_path / "broken.png").write_bytes(b"no picture")
    write_robustft_json(base, method="flyp", class_names=sorted(CLASSES), templates=[TEMPLATE], settings={})
    answers = pipeline(base, require_detector=False)([str(files[0]), str(tmp_path / "broken.png"), str(files[1])])
    assert [answer["error"] is None for answer in answers] == [True, False, True]
