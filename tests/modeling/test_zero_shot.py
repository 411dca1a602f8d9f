# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The zero-shot head: prompt ensemble, learned scale, its file, and agreement with the reference."""

import pytest
import torch
from helpers import CLASSES, TEMPLATES, assert_golden, golden_model, tiny_processor, tiny_tokenizer, tolerance
from safetensors.torch import save_file

from hf_robustft import ZeroShotHead
from hf_robustft.data.prompts import class_prompts
from hf_robustft.modeling import zero_shot
from hf_robustft.modeling.dual_encoder import DualEncoder
from hf_robustft.modeling.features import encode_images, encode_texts
from hf_robustft.modeling.zero_shot import class_embeddings, prompt_features

pytestmark = pytest.mark.numbers


class Numbered:
    """A tokenizer whose prompts 'template t of class c' have given tokens."""

    def __init__(self, tokens):
        self.tokens = tokens

    def __call__(self, prompts, **kwargs):
        numbers = [[int(word) for word in prompt.split() if word.isdigit()] for prompt in prompts]
        return {"input_ids": torch.stack([self.tokens[c, t] for t, c in numbers])}


def test_class_embeddings_equal_a_slow_loop():
    prompts = torch.randn(3, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 10
    got = class_embeddings(prompts)
    for c in range(3):
        units = [prompts[c, t] / sum(x * x for x in prompts[c, t]) ** 0.5 for t in range(5)]
        mean = sum(units) / 5
        torch.testing.assert_close(got[c], mean / mean.norm(), rtol=0, atol=1e-14)


def test_class_embeddings_by_hand():
    # Without the first normalisation the long prompt would win: the result would be close to (1, 0).
    prompts = torch.tensor([[[100.0, 0.0], [0.0, 1.0]]])
    torch.testing.assert_close(class_embeddings(prompts), torch.full((1, 2), 0.5**0.5))


def test_golden_embeddings(golden):
    data, limits = golden("h_zeroshot_wise"), golden.manifest("h_zeroshot_wise")["tolerance"]
    for dtype, tag in ((torch.float64, "f64"), (torch.float32, "f32")):
        weight = data["emb/log_scale"].to(dtype).exp() * class_embeddings(data["emb/prompt_embeddings"].to(dtype))
        images = data["emb/image_features"].to(dtype)
        logits = ZeroShotHead(weight, [f"c{i}" for i in range(5)])(images / images.norm(dim=1, keepdim=True))
        # The reference stores both in float32 whatever it computed in, so its last digit is float32's.
        assert_golden(weight.float(), data[f"emb/head_{tag}"], tolerance(limits["f32"]), f"head {tag}")
        assert_golden(logits.float(), data[f"emb/logits_{tag}"], tolerance(limits["f32"]), f"logits {tag}")
    double = data["emb/log_scale"].double().exp() * class_embeddings(data["emb/prompt_embeddings"].double())
    assert_golden(double.float(), data["emb/head_f64"], (1.2e-7, 0.0), "head rounded once")


def test_golden_model(golden_dir, golden):
    data = golden("h_zeroshot_wise")
    limits = tolerance(golden.manifest("h_zeroshot_wise")["tolerance"]["f32"])
    model = golden_model(golden_dir, golden)
    templates = [f"{t} {{}}" for t in range(4)]
    names = [str(c) for c in range(5)]
    head = ZeroShotHead.from_model(model, Numbered(data["model/prompt_tokens"]), names, templates, batch_size=3)
    assert_golden(head.weight, data["model/head_f32"], limits, "head")
    with torch.no_grad():
        logits = head(encode_images(model, golden("e_carot_traj")["images"][0]))
    assert_golden(logits, data["model/logits_f32"], limits, "logits")


@torch.no_grad()
def test_head_is_learned_scale_times_ensemble(tiny_clip):
    tokenizer = tiny_tokenizer()
    tiny_clip.logit_scale.fill_(torch.tensor(7.5).log())
    head = ZeroShotHead.from_model(tiny_clip, tokenizer, CLASSES, TEMPLATES)
    assert head.class_names == CLASSES
    torch.testing.assert_close(head.weight.norm(dim=1), torch.full((4,), 7.5))
    assert torch.equal(head.bias, torch.zeros(4))
    for c, name in enumerate(CLASSES):
        tokens = [tokenizer(t.replace("{}", name), return_tensors="pt")["input_ids"] for t in TEMPLATES]
        mean = sum(encode_texts(tiny_clip, ids)[0] for ids in tokens)
        torch.testing.assert_close(head.weight[c], 7.5 * mean / mean.norm())


@torch.no_grad()
def test_one_prompt_a_class_gives_the_models_own_logits(tiny_clip):
    tokenizer = tiny_tokenizer()
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ids = tokenizer(class_prompts(CLASSES, TEMPLATES[:1]), padding=True, return_tensors="pt")["input_ids"]
    own = tiny_clip(pixel_values=images, input_ids=ids).logits_per_image
    head = ZeroShotHead.from_model(tiny_clip, tokenizer, CLASSES, TEMPLATES[:1])
    torch.testing.assert_close(head(encode_images(tiny_clip, images)), own, rtol=1e-5, atol=1e-5)


def test_size_of_batches_changes_nothing(tiny_clip):
    model = tiny_clip.double()
    heads = [ZeroShotHead.from_model(model, tiny_tokenizer(), CLASSES, TEMPLATES, batch_size=n) for n in (1, 5, 256)]
    assert heads[0].weight.dtype == torch.float64
    for head in heads[1:]:
        torch.testing.assert_close(head.weight, heads[0].weight, rtol=0, atol=1e-12)


@torch.no_grad()
def test_prompts_are_encoded_by_length_and_equal_ones_once(tiny_clip):
    tokenizer, model = tiny_tokenizer(), tiny_clip.double()
    names = ("cat", "a very long name", "owl", "hippopotami", "bee")
    templates = ("{}.", "a photo of {}.", "A {}.", "a {}.", "the {}")
    shapes = []
    model.text_model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    features = prompt_features(model, tokenizer, names, templates, batch_size=6)
    # CLIP's tokenizer has no capitals: two of the templates are one.
    assert sum(rows for rows, _ in shapes) == 20 and max(rows for rows, _ in shapes) <= 6
    lengths = [length for _, length in shapes]
    assert lengths == sorted(lengths, reverse=True) and lengths[-1] < lengths[0]
    for c, name in enumerate(names):
        for t, template in enumerate(templates):
            ids = tokenizer(template.replace("{}", name), truncation=True, return_tensors="pt")["input_ids"]
            torch.testing.assert_close(features[c, t], DualEncoder.of(model).text_features(ids)[0], rtol=0, atol=1e-12)
    assert torch.equal(features[:, 2], features[:, 3])


def test_prompts_are_tokenized_in_parts(tiny_clip, monkeypatch):
    whole = prompt_features(tiny_clip.double(), tiny_tokenizer(), CLASSES, TEMPLATES)
    calls = []

    def counted(prompts, **kwargs):
        calls.append(len(prompts))
        return tiny_tokenizer()(prompts, **kwargs)

    monkeypatch.setattr(zero_shot, "_TOKENIZED_AT_ONCE", 5)
    parts = prompt_features(tiny_clip, counted, CLASSES, TEMPLATES)
    # The first look is at one template of every class.
    assert calls == [4, 5, 5, 2]
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_without_prompts_is_refused(tiny_clip, size):
    with pytest.raises(ValueError, match=f"batch_size {size}"):
        ZeroShotHead.from_model(tiny_clip, tiny_tokenizer(), CLASSES, TEMPLATES, batch_size=size)


@pytest.mark.same_bits("the same prompts in the same batches")
def test_a_processor_serves_as_tokenizer(tiny_clip):
    heads = [ZeroShotHead.from_model(tiny_clip, t, CLASSES, TEMPLATES) for t in (tiny_processor(), tiny_tokenizer())]
    assert torch.equal(heads[0].weight, heads[1].weight)


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_restored(tiny_clip, training):
    tiny_clip.train(training)
    ZeroShotHead.from_model(tiny_clip, tiny_tokenizer(), CLASSES, TEMPLATES)
    assert tiny_clip.training is training and tiny_clip.text_model.training is training

    def broken(prompts, **kwargs):
        raise RuntimeError("no tokens today")

    with pytest.raises(RuntimeError, match="no tokens today"):
        ZeroShotHead.from_model(tiny_clip, broken, CLASSES, TEMPLATES)
    assert tiny_clip.training is training


@pytest.mark.same_bits("the same prompts in the same batches")
def test_dropout_is_off_while_the_head_is_built(tiny_clip):
    for module in tiny_clip.modules():
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.5
    tiny_clip.train()
    heads = [ZeroShotHead.from_model(tiny_clip, tiny_tokenizer(), CLASSES, TEMPLATES) for _ in range(2)]
    assert torch.equal(heads[0].weight, heads[1].weight)


def test_save_and_load_round_trip(tmp_path):
    names = ("golden retriever", "café", 'say "hi"')
    head = ZeroShotHead(torch.randn(3, 4), names, bias=torch.tensor([0.1, -2.0, 3.0]))
    assert head.save_pretrained(tmp_path / "new" / "folder").name == "head.safetensors"
    loaded = ZeroShotHead.from_pretrained(tmp_path / "new" / "folder")
    assert loaded.class_names == names
    assert torch.equal(loaded.weight, head.weight) and torch.equal(loaded.bias, head.bias)
    assert loaded.weight.requires_grad


def test_a_folder_without_head_is_an_error(tmp_path):
    with pytest.raises(OSError, match="No head.safetensors in"):
        ZeroShotHead.from_pretrained(tmp_path)


def test_a_foreign_file_is_an_error(tmp_path):
    save_file({"weight": torch.ones(2, 2), "bias": torch.ones(2)}, tmp_path / "head.safetensors")
    with pytest.raises(ValueError, match="no class names.*save_pretrained"):
        ZeroShotHead.from_pretrained(tmp_path)


@pytest.mark.parametrize("twin", ["cat", "CAT", "cat ", "_cat"])
def test_duplicate_class_names_are_refused(tiny_clip, twin):
    with pytest.raises(ValueError, match="appears twice"):
        ZeroShotHead.from_model(tiny_clip, tiny_tokenizer(), ["cat", "dog", twin], TEMPLATES)
    with pytest.raises(ValueError, match="appears twice"):
        ZeroShotHead(torch.zeros(3, 4), ["cat", "dog", twin])


@pytest.mark.parametrize(
    ("weight", "bias"), [((2, 4), None), ((3, 4, 1), None), ((3, 4), (4,)), ((3, 4), (3, 1)), ((3,), None)]
)
def test_wrong_shapes_are_refused(weight, bias):
    with pytest.raises(ValueError, match="3 classes needs"):
        ZeroShotHead(torch.zeros(weight), ["a", "b", "c"], bias=None if bias is None else torch.zeros(bias))


def test_a_template_without_gap_is_refused(tiny_clip):
    with pytest.raises(ValueError, match=r"\{\}"):
        ZeroShotHead.from_model(tiny_clip, tiny_tokenizer(), CLASSES, ["a photo"])
