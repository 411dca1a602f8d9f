# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""CRoFT's adapters: agreement with the reference, the exact merge, their file, and what is refused."""

import copy
import json
import os
import subprocess
import sys

import pytest
import torch
from helpers import assert_golden, random_batch, tolerance
from helpers.families import family_batch, family_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPModel

from hf_robustft.modeling.adapters import (
    ADAPTERS_FILE,
    FeatureAdapters,
    adapted_weights,
    ensemble_features,
    load_adapters,
    merge_adapters,
    near_unit,
)
from hf_robustft.modeling.croft_features import EPSILON
from hf_robustft.modeling.dual_encoder import DualEncoder
from hf_robustft.modeling.spread_weights import exchanged
from hf_robustft.modeling.tensor_files import weights_fingerprint

pytestmark = pytest.mark.numbers

CLASSES, TEMPLATES = 5, 8


def random_adapters(dim=16, seed=0, dtype=torch.float32, **settings) -> FeatureAdapters:
    """Adapters far from the identity, image and text different."""
    generator = torch.Generator().manual_seed(seed)
    adapters = FeatureAdapters(dim, dtype=dtype, **settings)
    with torch.no_grad():
        for matrix in adapters.parameters():
            matrix += 0.3 * torch.randn(dim, dim, generator=generator, dtype=torch.float64).to(dtype)
    return adapters


def prompt_tokens(templates: int) -> torch.Tensor:
    return random_batch(CLASSES * templates, seed=3)["input_ids"]


@torch.no_grad()
def raw_features(model, templates: int, dtype):
    """Image features, and text features a class and template."""
    texts = model.get_text_features(input_ids=prompt_tokens(templates)).pooler_output
    images = model.get_image_features(pixel_values=random_batch(seed=1, dtype=dtype)["pixel_values"]).pooler_output
    return images, texts.view(CLASSES, templates, -1)


@torch.no_grad()
def adapted_logits(model, adapters, templates: int, dtype) -> torch.Tensor:
    images, texts = raw_features(model, templates, dtype)
    a, b = near_unit(adapters.adapt_images(images)), adapters.adapt_class_features(texts)
    return model.logit_scale.exp() * a @ b.t()


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got - want).abs().max() / want.abs().max()).item()


# ---- the reference ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["f64", "f32"])
@pytest.mark.parametrize("case", ["c0", "c1"])
def test_golden_forward(golden, case, precision):
    dtype = {"f64": torch.float64, "f32": torch.float32}[precision]
    entry = golden.manifest("f_croft_static")
    limits, hyper = tolerance(entry["tolerance"][precision]), entry["cases"][case]
    data = {name[3:]: value for name, value in golden("f_croft_static").items() if name.startswith(f"{case}/")}
    images, texts = data["image_features"].to(dtype), data["text_features"].to(dtype)
    adapters = FeatureAdapters(images.shape[1], hyper["ratio"], hyper["ratio_text"], dtype=dtype)
    with torch.no_grad():
        adapters.image_adapter.copy_(data["fc_i"])
        adapters.text_adapter.copy_(data["fc_t"])

    for order in ("before_ensemble", "after_ensemble"):  # one template: no difference
        adapters.text_adapter_order = order
        a, b = near_unit(adapters.adapt_images(images)), adapters.adapt_class_features(texts[:, None])
        logits = data["log_scale"].to(dtype).exp() * a @ b.t()
        got = {"image_adapted": a, "text_adapted": b, "logits": logits, "image_zs": near_unit(images)}
        got["text_zs"] = near_unit(ensemble_features(texts[:, None]))
        for name, value in got.items():
            assert_golden(value, data[f"fwd_{name}_{precision}"], limits, name)

    loss = nn.functional.cross_entropy(logits, data["labels"])
    assert_golden(loss, data[f"ce_{precision}"], limits, "cross-entropy")
    gradients = torch.autograd.grad(loss, [adapters.image_adapter, adapters.text_adapter])
    assert_golden(gradients[0], data[f"ce_grad_fc_i_{precision}"], limits, "gradient of the image adapter")
    assert_golden(gradients[1], data[f"ce_grad_fc_t_{precision}"], limits, "gradient of the text adapter")

    # The golden features as the projections' own rows: merging must give the same adapted features.
    model = CLIPModel.__new__(CLIPModel)
    nn.Module.__init__(model)
    model.visual_projection = nn.Linear(len(images), images.shape[1], bias=False, dtype=dtype)
    model.text_projection = nn.Linear(len(texts), texts.shape[1], bias=False, dtype=dtype)
    with torch.no_grad():
        model.visual_projection.weight.copy_(images.t())
        model.text_projection.weight.copy_(texts.t())
    merge_adapters(model, adapters)
    merged = near_unit(model.visual_projection.weight.t()), near_unit(model.text_projection.weight.t())
    assert_golden(merged[0], data[f"fwd_image_adapted_{precision}"], limits, "merged images")
    assert_golden(merged[1], data[f"fwd_text_adapted_{precision}"], limits, "merged texts")


def test_by_hand():
    adapters = FeatureAdapters(2, image_ratio=0.25, text_ratio=0.5)
    with torch.no_grad():
        adapters.image_adapter.copy_(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
        adapters.text_adapter.copy_(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))
    # A (1, 4) = (9, 4): a quarter of that and three quarters of (1, 4). With A transposed it would be (1, 6).
    assert adapters.adapt_images(torch.tensor([[1.0, 4.0]])).tolist() == [[3.0, 4.0]]
    assert adapters.adapt_texts(torch.tensor([2.0, 4.0])).tolist() == [3.0, 1.0]
    assert adapters.image_matrix().tolist() == [[1.0, 0.5], [0.0, 1.0]]
    assert adapters.text_matrix().tolist() == [[0.5, 0.5], [-0.5, 0.5]]
    assert near_unit(torch.tensor([3.0, 4.0], dtype=torch.float64))[0].item() == 3 / (5 + EPSILON)
    assert near_unit(torch.zeros(1, 2)).tolist() == [[0.0, 0.0]]


def test_the_start_changes_nothing(tiny_clip):
    adapters = FeatureAdapters(16)
    assert [name for name, _ in adapters.named_parameters()] == ["image_adapter", "text_adapter"]
    features = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(adapters.adapt_images(features), features)
    torch.testing.assert_close(adapters.adapt_texts(features), features)
    base = weights_fingerprint(tiny_clip)
    assert weights_fingerprint(merge_adapters(tiny_clip, adapters)) == base


@pytest.mark.same_bits("with one template the same product; loops have a tolerance")
def test_orders_differ_for_several_templates_and_each_equals_a_slow_loop():
    texts = 10 * torch.randn(3, 4, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = random_adapters(dtype=torch.float64)
    after = random_adapters(dtype=torch.float64, text_adapter_order="after_ensemble")
    for c in range(3):
        adapted = [before.text_matrix() @ text for text in texts[c]]
        mean = sum(x / (1e-6 + x.norm()) for x in adapted) / 4
        torch.testing.assert_close(before.adapt_class_features(texts)[c], mean / (1e-6 + mean.norm()))
        mean = sum(x / x.norm() for x in texts[c]) / 4
        torch.testing.assert_close(ensemble_features(texts)[c], mean / mean.norm())
        adapted = after.text_matrix() @ (mean / mean.norm())
        torch.testing.assert_close(after.adapt_class_features(texts)[c], adapted / (1e-6 + adapted.norm()))
    assert (before.adapt_class_features(texts) - after.adapt_class_features(texts)).abs().max() > 1e-3
    one = texts[:, :1]
    assert torch.equal(before.adapt_class_features(one), after.adapt_class_features(one))
    assert torch.equal(ensemble_features(one), one[:, 0])


@pytest.mark.same_bits("the same products; half precision is converted exactly")
def test_half_precision_features_are_adapted_in_float32():
    adapters = FeatureAdapters(16)
    with torch.no_grad():
        adapters.image_adapter += 1e-4  # less than a rounding step of bfloat16 at 1
    features = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    half = features.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, plain = adapters.adapt_images(half), adapters.adapt_images(features)
    assert got.dtype == plain.dtype == torch.float32
    assert torch.equal(got, adapters.adapt_images(half.float()))
    assert torch.equal(plain, adapters.adapt_images(features))


# ---- merging ---------------------------------------------------------------------------------------------------------


PLAIN = """
import sys
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

for folder in sys.argv[1:]:
    model, data = CLIPModel.from_pretrained(folder).eval(), load_file(f"{folder}/inputs.safetensors")
    images, tokens = data["pixel_values"], data["input_ids"]
    with torch.no_grad():
        if tokens.shape[1] == 1:
            logits = model(pixel_values=images, input_ids=tokens[:, 0]).logits_per_image
        else:
            texts = model.get_text_features(input_ids=tokens.flatten(0, 1)).pooler_output.view(*tokens.shape[:2], -1)
            heads = (texts / texts.norm(dim=-1, keepdim=True)).mean(dim=1)
            images = model.get_image_features(pixel_values=images).pooler_output
            images = images / images.norm(dim=-1, keepdim=True)
            logits = model.logit_scale.exp() * images @ (heads / heads.norm(dim=-1, keepdim=True)).T
    save_file({"logits": logits.contiguous()}, f"{folder}/logits.safetensors")
sys.exit(any(name.startswith("hf_robustft") for name in sys.modules))
"""


def test_merged_models_give_the_same_logits_without_our_package(tiny_clip, tmp_path):
    wanted = {}
    for templates in (1, TEMPLATES):
        model, adapters, folder = copy.deepcopy(tiny_clip), random_adapters(), tmp_path / str(templates)
        zero_shot = adapted_logits(model, FeatureAdapters(16), templates, torch.float32)
        wanted[folder] = adapted_logits(model, adapters, templates, torch.float32)
        assert relative_error(wanted[folder], zero_shot) > 0.1
        assert merge_adapters(model, adapters, n_templates=templates) is model
        model.save_pretrained(folder)
        tokens = prompt_tokens(templates).view(CLASSES, templates, -1)
        inputs = {"pixel_values": random_batch(seed=1)["pixel_values"], "input_ids": tokens}
        save_file(inputs, folder / "inputs.safetensors")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, *map(str, wanted)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    for folder, want in wanted.items():
        got = load_file(folder / "logits.safetensors")["logits"]
        assert relative_error(got, want) < 1e-5, folder.name


@pytest.mark.parametrize("templates", [1, TEMPLATES])
def test_merging_is_exact_in_float64(tiny_clip, templates):
    model, adapters = tiny_clip.double(), random_adapters(dtype=torch.float64)
    want = adapted_logits(model, adapters, templates, torch.float64)
    merge_adapters(model, adapters, templates)
    # The same normalisation on both sides: identity adapters on the merged model.
    got = adapted_logits(model, FeatureAdapters(16, dtype=torch.float64), templates, torch.float64)
    assert relative_error(got, want) < 1e-13
    images, texts = raw_features(model, templates, torch.float64)
    a, b = (x / x.norm(dim=-1, keepdim=True) for x in (images, ensemble_features(texts)))
    # Without the 1e-6 in the norms they differ, and by no more than that explains.
    plain = model.logit_scale.exp() * a @ (b / b.norm(dim=-1, keepdim=True)).t()
    smallest = min(1.0, images.norm(dim=-1).min().item(), texts.norm(dim=-1).min().item())
    assert 1e-9 < relative_error(plain, want) < 4 * EPSILON / smallest


def test_merging_twice_adapts_twice(tiny_clip):
    # Why the fingerprints are needed: nothing else would tell.
    adapters = random_adapters()
    once = merge_adapters(copy.deepcopy(tiny_clip), adapters)
    twice = merge_adapters(copy.deepcopy(once), adapters)
    assert (once.text_projection.weight - twice.text_projection.weight).abs().max() > 1e-3


def test_only_the_projections_change_and_in_their_dtype(tiny_clip):
    model = tiny_clip.to(torch.bfloat16).requires_grad_(False)
    base, adapters = copy.deepcopy(model), random_adapters()
    before = dict(model.named_parameters())
    merge_adapters(nn.DataParallel(model), adapters)
    assert all(before[name] is value and not value.requires_grad for name, value in model.named_parameters())
    for name, value in model.state_dict().items():
        old = base.state_dict()[name]
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, old) == (name not in ("visual_projection.weight", "text_projection.weight")), name
    visual = adapters.image_matrix().double() @ base.visual_projection.weight.double()
    assert torch.equal(model.visual_projection.weight, visual.bfloat16())


def test_effective_projections_are_the_merged_ones_and_have_gradient(tiny_clip):
    model, adapters = tiny_clip.double(), random_adapters(dtype=torch.float64)
    visual, text = adapters.effective_projections(model).values()
    pairs = [(visual, adapters.image_adapter, model.visual_projection.weight, 0.2)]
    pairs += [(text, adapters.text_adapter, model.text_projection.weight, 0.5)]
    weights = [pair[2].detach().clone() for pair in pairs]
    for effective, matrix, weight, ratio in pairs:
        gradient = torch.randn(effective.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        to_matrix, to_weight = torch.autograd.grad(effective, [matrix, weight], gradient)
        torch.testing.assert_close(to_matrix, ratio * gradient @ weight.t())
        mixed = ratio * matrix + (1 - ratio) * torch.eye(16, dtype=torch.float64)
        torch.testing.assert_close(to_weight, mixed.t() @ gradient)
    assert torch.equal(model.visual_projection.weight, weights[0])
    merge_adapters(model, adapters)
    torch.testing.assert_close(model.visual_projection.weight, visual, rtol=0, atol=1e-14)
    torch.testing.assert_close(model.text_projection.weight, text, rtol=0, atol=1e-14)
    assert FeatureAdapters(16).effective_projections(model)["visual_projection.weight"].dtype == torch.float64


@pytest.mark.parametrize("fails", [False, True])
def test_exact_projections_come_and_go_to_the_bit(tiny_clip, fails):
    adapters, base = random_adapters(), weights_fingerprint(tiny_clip)
    want = weights_fingerprint(merge_adapters(copy.deepcopy(tiny_clip), adapters))
    parameters = [id(value) for value in tiny_clip.parameters()]
    try:
        with exchanged([*adapted_weights(tiny_clip, adapters).values()], [*adapters.effective_projections(tiny_clip, exact=True).values()]):
            assert weights_fingerprint(tiny_clip) == want != base
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert weights_fingerprint(tiny_clip) == base
    assert [id(value) for value in tiny_clip.parameters()] == parameters
    assert all(value.requires_grad for value in tiny_clip.parameters())


def test_after_the_ensemble_of_several_templates_cannot_be_merged(tiny_clip):
    adapters, base = random_adapters(text_adapter_order="after_ensemble"), weights_fingerprint(tiny_clip)
    with pytest.raises(ValueError, match="ensemble of 8 templates.*before_ensemble"):
        merge_adapters(tiny_clip, adapters, n_templates=8)
    with pytest.raises(ValueError, match="ensemble of 2 templates"):
        merge_adapters(tiny_clip, adapters, n_templates=2)
    assert weights_fingerprint(tiny_clip) == base
    want = adapted_logits(tiny_clip, adapters, 1, torch.float32)
    merge_adapters(tiny_clip, adapters, n_templates=1)
    assert relative_error(adapted_logits(tiny_clip, FeatureAdapters(16), 1, torch.float32), want) < 1e-5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_diverged_adapters_are_not_merged(tiny_clip, tmp_path, value):
    adapters, base = FeatureAdapters(16), weights_fingerprint(tiny_clip)
    with torch.no_grad():
        adapters.text_adapter[3, 4] = value
    with pytest.raises(ValueError, match="not finite"):
        merge_adapters(tiny_clip, adapters)
    with pytest.raises(ValueError, match="not finite"):
        adapters.save_pretrained(tmp_path, tiny_clip)
    assert weights_fingerprint(tiny_clip) == base and not list(tmp_path.iterdir())


def test_a_model_of_another_size_or_without_projections_is_refused(tiny_clip, tmp_path):
    adapters = FeatureAdapters(12)
    for use in (merge_adapters, FeatureAdapters.effective_projections, FeatureAdapters.save_pretrained):
        arguments = {
            merge_adapters: (tiny_clip, adapters),
            FeatureAdapters.effective_projections: (adapters, tiny_clip),
        }
        with pytest.raises(ValueError, match="size 16, but the adapters are for 12"):
            use(*arguments.get(use, (adapters, tmp_path, tiny_clip)))
    with pytest.raises(ValueError, match="CLIPVisionModel.*CLIPModel, MetaClip2Model"):
        merge_adapters(tiny_clip.vision_model, adapters)
    tiny_clip.text_projection = nn.Sequential(tiny_clip.text_projection, nn.GELU())
    with pytest.raises(ValueError, match="no linear `text_projection`"):
        merge_adapters(tiny_clip, FeatureAdapters(16))


@pytest.mark.parametrize("name", ["siglip", "siglip2"])
def test_of_siglip_the_head_of_texts_takes_the_adapter_in(tmp_path, name):
    """It has a bias; image features end in no linear map, and stay."""
    model, batch = family_model(name).double(), family_batch(name, n=6, dtype=torch.float64)
    with torch.no_grad():
        model.text_model.head.bias.normal_()
    encoder, adapters = DualEncoder.of(model), random_adapters(32, dtype=torch.float64, image_ratio=0.0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        images, texts = encoder.image_features(batch["pixel_values"]), encoder.text_features(batch["input_ids"])
        want = adapters.adapt_texts(texts)
        assert torch.equal(adapters.adapt_images(images), images)
        adapters.save_pretrained(tmp_path, model)
        merge_adapters(model, adapters)
        torch.testing.assert_close(encoder.text_features(batch["input_ids"]), want, rtol=1e-12, atol=1e-12)
        assert (want - texts).abs().max() > 0.1 and torch.equal(encoder.image_features(batch["pixel_values"]), images)
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {"text_model.head.weight", "text_model.head.bias"}
    loaded = load_adapters(model, tmp_path)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(loaded.text_adapter, adapters.text_adapter) and loaded.image_ratio == 0


def test_of_siglip_no_image_adapter_is_merged(tmp_path):
    model, adapters = family_model("siglip"), random_adapters(32, image_ratio=0.1)
    with pytest.raises(ValueError, match="SiglipModel.*adapters.safetensors.*adapter_image_ratio") as caught:
        merge_adapters(model, adapters)
    assert "\n" not in str(caught.value)
    adapters = random_adapters(32, image_ratio=0.0)
    adapters.save_pretrained(tmp_path, model)
    tensors = load_file(tmp_path / ADAPTERS_FILE)
    with safe_open(tmp_path / ADAPTERS_FILE, "pt") as file:
        facts = file.metadata()
    save_file({key: value for key, value in tensors.items() if key != "text_model.head.bias"}, tmp_path / ADAPTERS_FILE, facts)
    with pytest.raises(ValueError, match="has no text_model.head.bias"):
        load_adapters(model, tmp_path)


# ---- the file --------------------------------------------------------------------------------------------------------


def checkpoint(model, adapters, folder):
    """A finished run: the merged model with the adapters beside it. Returns the fingerprint before merging."""
    base = weights_fingerprint(model)
    adapters.save_pretrained(folder, model)
    assert weights_fingerprint(model) == base
    with exchanged([*adapted_weights(model, adapters).values()], [*adapters.effective_projections(model, exact=True).values()]):
        model.save_pretrained(folder)
    return base


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_saved_run_goes_on_from_its_unmerged_projections(tiny_clip, tmp_path, dtype):
    model, adapters = tiny_clip.to(dtype), random_adapters(image_ratio=0.1, text_ratio=1 / 3)
    base = checkpoint(model, adapters, tmp_path)
    loaded = CLIPModel.from_pretrained(tmp_path)
    merged = weights_fingerprint(loaded)
    assert loaded.dtype == dtype and merged != base
    got = load_adapters(loaded, tmp_path)
    assert weights_fingerprint(loaded) == base
    assert (got.image_ratio, got.text_ratio, got.text_adapter_order) == (0.1, 1 / 3, "before_ensemble")
    assert torch.equal(got.image_adapter, adapters.image_adapter)
    assert torch.equal(got.text_adapter, adapters.text_adapter)
    assert all(value.requires_grad for value in got.parameters())
    assert weights_fingerprint(merge_adapters(loaded, got)) == merged


def test_the_file_says_what_it_is(tiny_clip, tmp_path):
    base = checkpoint(tiny_clip, random_adapters(text_adapter_order="after_ensemble"), tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*dapters*")) == [ADAPTERS_FILE]
    with safe_open(tmp_path / ADAPTERS_FILE, framework="pt") as file:
        facts = file.metadata()
        assert set(file.keys()) == {"image_adapter", "text_adapter", "visual_projection", "text_projection"}
    assert facts["image_ratio"] == "0.2" and facts["text_adapter_order"] == "after_ensemble"
    assert facts["base_fingerprint"] == weights_fingerprint(tiny_clip, ["logit_scale"]) != base
    merged = CLIPModel.from_pretrained(tmp_path)
    assert facts["merged_fingerprint"] == weights_fingerprint(merged, ["logit_scale"])
    assert FeatureAdapters.from_pretrained(tmp_path).text_adapter_order == "after_ensemble"


def test_the_base_model_is_taken_as_well(tiny_clip, tmp_path):
    adapters = random_adapters()
    base = checkpoint(tiny_clip, adapters, tmp_path)
    got = load_adapters(tiny_clip, tmp_path)
    assert torch.equal(got.image_adapter, adapters.image_adapter) and weights_fingerprint(tiny_clip) == base


def test_a_folded_temperature_does_not_matter(tiny_clip, tmp_path):
    checkpoint(tiny_clip, random_adapters(), tmp_path)
    loaded = CLIPModel.from_pretrained(tmp_path)
    with torch.no_grad():
        loaded.logit_scale -= 0.5
    scale = loaded.logit_scale.item()
    load_adapters(loaded, tmp_path)
    assert loaded.logit_scale.item() == scale
    assert torch.equal(loaded.visual_projection.weight, tiny_clip.visual_projection.weight)


def merged_again(model, adapters):
    merge_adapters(model, adapters)


def other_tower(model, adapters):
    with torch.no_grad():
        model.vision_model.post_layernorm.bias[0] += 1e-3


def other_projection(model, adapters):
    with torch.no_grad():
        model.text_projection.weight[0, 0] += 1e-3


def other_dtype(model, adapters):
    model.double()


@pytest.mark.parametrize("change", [merged_again, other_tower, other_projection, other_dtype])
def test_other_weights_are_refused_and_left_alone(tiny_clip, tmp_path, change):
    adapters = random_adapters()
    checkpoint(tiny_clip, adapters, tmp_path)
    loaded = CLIPModel.from_pretrained(tmp_path)
    change(loaded, adapters)
    before = weights_fingerprint(loaded)
    with pytest.raises(ValueError, match="weights are neither.*same folder"):
        load_adapters(loaded, tmp_path)
    assert weights_fingerprint(loaded) == before


def rewritten(folder, change):
    """The adapters' file after `change(tensors, facts)`."""
    path = folder / ADAPTERS_FILE
    with safe_open(path, framework="pt") as file:
        tensors, facts = {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())
    change(tensors, facts)
    save_file(tensors, path, metadata=facts)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, facts: tensors["visual_projection"].add_(1e-3),
        lambda tensors, facts: tensors.update(text_projection=tensors["text_projection"][:, :5].contiguous()),
        lambda tensors, facts: facts.update(base_fingerprint="0" * 64),
    ],
)
def test_damaged_projections_are_refused_and_the_model_left_alone(tiny_clip, tmp_path, change):
    checkpoint(tiny_clip, random_adapters(), tmp_path)
    loaded = CLIPModel.from_pretrained(tmp_path)
    before = weights_fingerprint(loaded)
    rewritten(tmp_path, change)
    with pytest.raises(ValueError, match="do not give the model"):
        load_adapters(loaded, tmp_path)
    assert weights_fingerprint(loaded) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, facts: facts.pop("merged_fingerprint"), "has no merged_fingerprint"),
        (lambda tensors, facts: facts.update(adapters_format="2"), "has the format '2'"),
        (lambda tensors, facts: tensors.pop("text_adapter"), "has no text_adapter"),
        (lambda tensors, facts: tensors.update(text_adapter=torch.eye(3)), "not two square ones"),
        (lambda tensors, facts: facts.update(text_ratio="1.5"), "outside"),
        (lambda tensors, facts: facts.update(image_ratio="much"), "much"),
    ],
)
def test_a_foreign_or_damaged_file_is_refused(tiny_clip, tmp_path, change, message):
    random_adapters().save_pretrained(tmp_path, tiny_clip)
    rewritten(tmp_path, change)
    with pytest.raises(ValueError, match=message):
        FeatureAdapters.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_adapters(tiny_clip, tmp_path)


def test_no_file_or_half_a_file(tiny_clip, tmp_path):
    with pytest.raises(OSError, match=f"No {ADAPTERS_FILE} in"):
        load_adapters(tiny_clip, tmp_path)
    path = random_adapters().save_pretrained(tmp_path / "new" / "folder", tiny_clip)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged"):
        FeatureAdapters.from_pretrained(path.parent)
    path.write_text(json.dumps({"adapters": []}))
    with pytest.raises(ValueError, match="is damaged"):
        FeatureAdapters.from_pretrained(path.parent)


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embed_dim": 0}, "embed_dim=0"),
        ({"image_ratio": -0.1}, "image_ratio=-0.1"),
        ({"text_ratio": 1.01}, "text_ratio=1.01"),
        ({"text_ratio": float("nan")}, "text_ratio=nan"),
        ({"text_adapter_order": "after"}, "'after'.*before_ensemble, after_ensemble"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        FeatureAdapters(**{"embed_dim": 4, **settings})


@pytest.mark.parametrize("shape", [(3, 5), (4, 3), ()])
def test_features_of_another_size_are_refused(shape):
    adapters = FeatureAdapters(4)
    with pytest.raises(ValueError, match="image features have the shape.*size 4"):
        adapters.adapt_images(torch.ones(shape))
    with pytest.raises(ValueError, match="text features have the shape"):
        adapters.adapt_texts(torch.ones(shape))


@pytest.mark.parametrize("shape", [(3, 4), (3, 0, 4), (1, 3, 2, 4)])
def test_prompt_features_of_another_shape_are_refused(shape):
    for use in (ensemble_features, FeatureAdapters(4).adapt_class_features):
        with pytest.raises(ValueError, match=r"\(classes, templates, embed_dim\)"):
            use(torch.ones(shape))


def test_no_templates_cannot_be_merged(tiny_clip):
    with pytest.raises(ValueError, match="n_templates=0"):
        merge_adapters(tiny_clip, FeatureAdapters(16), n_templates=0)
