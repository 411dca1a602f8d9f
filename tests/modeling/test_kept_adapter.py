# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""An image adapter that no weight can take in goes with its model, or the model is refused; none is left out without a word."""

import json
import shutil

import pytest
import torch
from helpers import CLASSES, TEMPLATES, image_dataset
from helpers.families import family_batch, family_images, family_model, family_processor, plain_images, save_family
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from hf_robustft import Benchmark, FeatureAdapters, load_adapters, load_dual_encoder, merge_adapters
from hf_robustft.modeling.adapter_file import ADAPTERS_FILE
from hf_robustft.modeling.adapters import carry_kept
from hf_robustft.modeling.dual_encoder import IMAGE_ADAPTER, DualEncoder
from hf_robustft.modeling.feature_cache import cache_features, image_fingerprint
from hf_robustft.modeling.features import encode
from hf_robustft.modeling.interpolation import interpolate_weights
from hf_robustft.modeling.kept_adapter import FACTS, carrying
from hf_robustft.modeling.spread_weights import exchanged
from hf_robustft.publishing.finish import complete_folder
from hf_robustft.publishing.metadata import write_robustft_json

#: Families whose image features end in a pooling head.
POOLING = ("siglip", "siglip2")


def adapters_of(seed: int = 0, dtype=torch.float32, **settings) -> FeatureAdapters:
    """Far from the identity."""
    adapters = FeatureAdapters(32, **{"image_ratio": 0.2, "dtype": dtype, **settings})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for matrix in adapters.parameters():
            matrix += (0.3 * torch.randn(32, 32, generator=generator, dtype=torch.float64)).to(dtype)
    return adapters


def finished(name, folder, dtype=torch.float32, adapters=None, facts=True):
    """A finished run: the adapter of texts merged, that of images beside the weights. Returns the start and the adapters."""
    model, adapters = family_model(name).to(dtype), adapters_of(dtype=dtype) if adapters is None else adapters
    merged = adapters.effective_projections(model, exact=True)
    with exchanged([model.get_parameter(key) for key in merged], [*merged.values()]):
        with carrying(model, adapters.kept_image_matrix(model)):
            model.save_pretrained(folder)
    family_processor(name).save_pretrained(folder)
    adapters.save_pretrained(folder, model)
    write_robustft_json(
        folder, method="croft", class_names=CLASSES, templates=TEMPLATES, settings={}, adapters=FACTS if facts else None
    )
    return model, adapters


@torch.no_grad()
def brute_force(name, model, adapters, n=4) -> torch.Tensor:
    """`r A x + (1 - r) x` of the model's own features, image by image."""
    features = model.get_image_features(**plain_images(name, n, dtype=model.dtype)).pooler_output
    ratio, matrix = adapters.image_ratio, adapters.image_adapter.to(features.dtype)
    return torch.stack([ratio * (matrix @ row) + (1 - ratio) * row for row in features])


@pytest.mark.parametrize("name", POOLING)
def test_features_go_through_it_in_every_way_in_which_they_are_computed(tmp_path, name):
    start, adapters = finished(name, tmp_path, torch.float64)
    want, plain = brute_force(name, start, adapters), brute_force(name, start, adapters_of(dtype=torch.float64, image_ratio=0.0))
    # Transformers' SigLIP 2 stretches its positions in float32, whatever it is in.
    limit = {"rtol": 0, "atol": 1e-12 if name == "siglip" else 1e-6}
    model, _ = load_dual_encoder(tmp_path, dtype=None)
    encoder, images = DualEncoder.of(model), family_images(name, 4, dtype=torch.float64)
    with torch.no_grad():
        alone = encoder.image_features(images)
        together, texts = encoder.forward(images, family_batch(name, 4)["input_ids"])
        torch.testing.assert_close(texts, encoder.text_features(family_batch(name, 4)["input_ids"]), rtol=0, atol=1e-12)
        batch = {**family_batch(name, 4), "pixel_values": images}
        torch.testing.assert_close(encode(model, batch).image_features, want, **limit)
        torch.testing.assert_close(encode(torch.compile(model, backend="eager"), batch).image_features, want, **limit)
    for found in (alone, together):
        torch.testing.assert_close(found, want, **limit)
    assert (want - plain).abs().max() > 0.01, "an adapter that changes nothing would show nothing"
    assert model.state_dict().keys() == start.state_dict().keys()


def test_in_other_dtypes_and_copies_it_stays(tmp_path):
    start, adapters = finished("siglip", tmp_path)
    want, images = brute_force("siglip", start, adapters), family_images("siglip", 4)
    for dtype, limit in ((torch.float32, 1e-6), (torch.float64, 1e-6), (torch.bfloat16, 3e-2)):
        model, _ = load_dual_encoder(tmp_path, dtype=dtype)
        assert DualEncoder.of(model).image_adapter.dtype == torch.float32
        with torch.no_grad():
            found = DualEncoder.of(model).image_features(images.to(dtype))
        torch.testing.assert_close(found.float(), want, rtol=0, atol=limit * want.abs().max().item())


def test_cached_features_are_of_the_adapted_model(tmp_path):
    finished("siglip", tmp_path / "kept")
    data = Benchmark.from_dataset(image_dataset(6), name="few", role="train", templates=TEMPLATES)
    model, processor = load_dual_encoder(tmp_path / "kept")
    found = cache_features(model, data, processor, cache_file=tmp_path / "cache.safetensors", progress=False)
    plain = family_model("siglip")
    assert image_fingerprint(model) != image_fingerprint(plain)
    with pytest.raises(ValueError, match="another model"):
        cache_features(plain, data, processor, cache_file=tmp_path / "cache.safetensors", progress=False)
    other = cache_features(plain, data, processor, progress=False)
    assert (found.features - other.features).abs().max() > 0.01


def test_training_goes_on_from_it(tmp_path):
    start, adapters = finished("siglip", tmp_path)
    for model in (load_dual_encoder(tmp_path)[0], AutoModel.from_pretrained(tmp_path)):
        loaded = load_adapters(model, tmp_path)
        assert torch.equal(loaded.image_adapter, adapters.image_adapter) and loaded.image_ratio == 0.2
        assert all(torch.equal(value, start.state_dict()[key]) for key, value in model.state_dict().items())
        assert DualEncoder.of(model).image_adapter is None and not hasattr(model.config, IMAGE_ADAPTER)


def test_a_folded_temperature_does_not_hide_what_it_belongs_to(tmp_path):
    finished("siglip", tmp_path)
    model, _ = load_dual_encoder(tmp_path)
    DualEncoder.of(model).fold(1.7)
    assert load_adapters(model, tmp_path).image_ratio == 0.2


# ---- What is refused ---------------------------------------------------------------------------------------------------


def test_a_plain_model_with_it_is_refused(tmp_path):
    finished("siglip", tmp_path)
    model, processor = load_dual_encoder(tmp_path)
    for use in (
        lambda: merge_adapters(family_model("siglip"), adapters_of()),
        lambda: interpolate_weights(family_model("siglip"), model, 0.5),
        lambda: complete_folder(tmp_path / "other", model=model, processor=processor),
    ):
        with pytest.raises(ValueError, match=ADAPTERS_FILE) as caught:
            use()
        assert "\n" not in str(caught.value)


def test_a_model_that_was_loaded_without_it_gives_no_feature(tmp_path):
    finished("siglip", tmp_path)
    model, images = AutoModel.from_pretrained(tmp_path), family_images("siglip", 2)
    for use in (lambda e: e.image_features(images), lambda e: e.forward(images, family_batch("siglip", 2)["input_ids"])):
        with pytest.raises(ValueError, match="adapters.safetensors.*load_dual_encoder"):
            use(DualEncoder.of(model))
    # Nor does what Transformers alone saves of it.
    model.save_pretrained(tmp_path / "saved")
    family_processor("siglip").save_pretrained(tmp_path / "saved")
    with pytest.raises(FileNotFoundError, match="adapters.safetensors.*config.json"):
        load_dual_encoder(tmp_path / "saved")


def said_by(folder, config: bool, metadata: bool) -> None:
    content = json.loads((folder / "config.json").read_text())
    assert content[IMAGE_ADAPTER] == ADAPTERS_FILE
    if not config:
        del content[IMAGE_ADAPTER]
        (folder / "config.json").write_text(json.dumps(content))
    if not metadata:
        (folder / "robustft.json").unlink()


@pytest.mark.parametrize(("config", "metadata"), [(True, True), (True, False), (False, True)])
def test_a_missing_file_is_one_line(tmp_path, config, metadata):
    finished("siglip", tmp_path)
    said_by(tmp_path, config, metadata)
    (tmp_path / ADAPTERS_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=f"adapters.safetensors.*{'config.json' if config else 'robustft.json'}") as caught:
        load_dual_encoder(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_file_alone_says_it_too(tmp_path):
    start, adapters = finished("siglip", tmp_path)
    said_by(tmp_path, False, False)
    model, _ = load_dual_encoder(tmp_path)
    assert torch.equal(DualEncoder.of(model).image_adapter, adapters.kept_image_matrix(start))


def test_that_of_other_weights_is_refused(tmp_path):
    finished("siglip", tmp_path / "one")
    finished("siglip", tmp_path / "two", adapters=adapters_of(seed=1))
    shutil.copy(tmp_path / "two" / ADAPTERS_FILE, tmp_path / "one")
    with pytest.raises(ValueError, match=f"one/{ADAPTERS_FILE}.*finished run"):
        load_dual_encoder(tmp_path / "one")
    # In a checkpoint of a run the adapter of texts is not merged yet.
    save_family("siglip", tmp_path / "base")
    shutil.copy(tmp_path / "two" / ADAPTERS_FILE, tmp_path / "base")
    with pytest.raises(ValueError, match=f"base/{ADAPTERS_FILE}.*finished run"):
        load_dual_encoder(tmp_path / "base")
    # One that is merged cannot be the one that is not.
    adapters_of(image_ratio=0.0).save_pretrained(tmp_path / "two", family_model("siglip"))
    with pytest.raises(ValueError, match="are merged, though its config.json"):
        load_dual_encoder(tmp_path / "two")


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16])
def test_that_of_another_image_tower_with_the_same_text_features_is_refused(tmp_path, dtype):
    finished("siglip", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    changed = next(name for name in sorted(weights) if name.startswith("vision_model"))
    weights[changed][0] += 1
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"{ADAPTERS_FILE}.*one training") as caught:
        load_dual_encoder(tmp_path, dtype=dtype)
    assert "\n" not in str(caught.value)


def test_a_damaged_one_is_refused(tmp_path):
    finished("siglip", tmp_path)
    tensors = load_file(tmp_path / ADAPTERS_FILE)
    save_file(tensors, tmp_path / ADAPTERS_FILE)
    with pytest.raises(ValueError, match="adapters.safetensors has no image_ratio"):
        load_dual_encoder(tmp_path)


def test_of_linear_maps_all_is_merged_as_before(tmp_path, tiny_clip):
    adapters = FeatureAdapters(16)
    assert adapters.kept_image_matrix(tiny_clip) is None
    tiny_clip.save_pretrained(tmp_path)
    adapters.save_pretrained(tmp_path, tiny_clip)
    carry_kept(tiny_clip, tmp_path)
    assert DualEncoder.of(tiny_clip).image_adapter is None and not hasattr(tiny_clip.config, IMAGE_ADAPTER)
