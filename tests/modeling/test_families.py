# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Every family gives what Transformers' own model gives, and its traps are known."""

import io
import json

import numpy as np
import pytest
import sentencepiece
import torch
import torch.nn.functional as F
import transformers
from helpers import CLASSES, TEMPLATES
from helpers.families import (
    FAMILY_NAMES,
    IMAGE,
    PATCHES,
    TOWER,
    bert_tokenizer,
    family_config,
    family_images,
    family_model,
    family_processor,
    plain_images,
    save_family,
)
from PIL import Image

from hf_robustft import ZeroShotHead, load_dual_encoder
from hf_robustft.data.prompts import class_prompts
from hf_robustft.data.transforms import ImageTransform
from hf_robustft.modeling.captions import CaptionMemory, distinct_captions
from hf_robustft.modeling.checkpoint import load_processor, outline
from hf_robustft.modeling.dual_encoder import DualEncoder
from hf_robustft.modeling.families import FAMILIES
from hf_robustft.modeling.features import encode
from hf_robustft.modeling.zero_shot import prompt_features

CAPTIONS = ["a photo of the zebra", "a zoo", "a zoo", "zz a", "the cat and the dog", "a"]
EXACT = {"rtol": 0, "atol": 1e-12}


def test_there_is_a_tiny_model_of_every_family():
    assert set(FAMILY_NAMES) == set(FAMILIES)


def tokenized(name, captions, **options):
    """As Transformers' zero-shot pipeline asks for it; AIMv2's tower is causal only where something is padded."""
    tokenizer = family_processor(name).tokenizer
    padding = {"padding": "max_length", "max_length": 64} if "siglip" in name else {"padding": True}
    if name == "aimv2":
        padding = {"padding": "max_length", "max_length": 16}
    return tokenizer(captions, truncation=True, return_tensors="pt", **{**padding, **options})


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_features_and_logits_are_those_of_transformers(name, wrapped):
    model = family_model(name).double()
    inputs = tokenized(name, CAPTIONS)
    images = plain_images(name, 6, dtype=torch.float64)
    batch = {"pixel_values": family_images(name, 6, dtype=torch.float64), "input_ids": inputs["input_ids"]}
    plain = model(**images, **inputs)
    ours = encode(torch.nn.DataParallel(model) if wrapped else model, batch)
    theirs = model.get_image_features(**images).pooler_output, model.get_text_features(**inputs).pooler_output
    for mine, of_model in zip((ours.image_features, ours.text_features), theirs, strict=True):
        torch.testing.assert_close(mine, of_model, **EXACT)
        assert mine.std(dim=0).mean() > 1e-3, "a model to which all inputs are one shows nothing"
    logits = ours.logit_scale * ours.image_embeds @ ours.text_embeds.t()
    bias = DualEncoder.of(model).logit_bias
    torch.testing.assert_close(logits if bias is None else logits + bias, plain.logits_per_image, **EXACT)
    # And so the gradient of all weights.
    weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
    target = torch.randn_like(plain.logits_per_image)
    mine, of_model = (
        torch.autograd.grad((value * target).sum(), list(weights.values()), retain_graph=True, allow_unused=True)
        for value in (logits if bias is None else logits + bias, plain.logits_per_image)
    )
    for weight, one, two in zip(weights, mine, of_model, strict=True):
        assert (one is None) == (two is None), weight
        if one is not None:
            # AIMv2 normalises in float32, whatever it is in.
            atol = (1e-6 if name == "aimv2" else 1e-12) * max(two.abs().max().item(), 1)
            torch.testing.assert_close(one, two, rtol=0, atol=atol, msg=weight)


@pytest.mark.parametrize("name", FAMILY_NAMES)
@torch.no_grad()
def test_a_feature_depends_on_its_own_caption_alone(name):
    """Not on padding nor on what is encoded beside it: so repeated captions are encoded once, and are cut."""
    model = family_model(name).double()
    encoder = DualEncoder.of(model)
    rules, tokenizer = encoder.caption_rules, family_processor(name).tokenizer
    together = encoder.text_features(tokenized(name, CAPTIONS)["input_ids"])
    for row, caption in enumerate(CAPTIONS):
        alone = tokenizer([caption], truncation=True, return_tensors="pt")["input_ids"]
        wide = F.pad(alone, (0, min(3, rules.max_length - alone.shape[1])), value=rules.padding)
        for ids in (alone, wide):
            torch.testing.assert_close(encoder.text_features(ids)[0], together[row], **EXACT)
    distinct = distinct_captions(tokenized(name, CAPTIONS)["input_ids"], rules)
    assert len(distinct.input_ids) == len(set(CAPTIONS))
    assert distinct.input_ids.shape[1] <= max(len(ids) for ids in tokenizer(CAPTIONS, truncation=True)["input_ids"])
    torch.testing.assert_close(distinct.spread(encoder.text_features(distinct.input_ids)), together, **EXACT)
    memory = CaptionMemory(10)
    for _ in range(2):
        found = memory.features(tokenized(name, CAPTIONS)["input_ids"], rules, encoder.text_features)
        torch.testing.assert_close(found, together, **EXACT)


@pytest.mark.parametrize("name", FAMILY_NAMES)
@torch.no_grad()
def test_the_zero_shot_head_is_that_of_transformers(name):
    model = family_model(name).double()
    prompts = tokenized(name, class_prompts(CLASSES, TEMPLATES))
    features = model.get_text_features(**prompts).pooler_output.view(len(CLASSES), len(TEMPLATES), -1)
    torch.testing.assert_close(prompt_features(model, family_processor(name), CLASSES, TEMPLATES, 5), features, **EXACT)
    weight = F.normalize(F.normalize(features, dim=-1).mean(1), dim=-1) * DualEncoder.of(model).scale
    head = ZeroShotHead.from_model(model, family_processor(name), CLASSES, TEMPLATES)
    torch.testing.assert_close(head.weight.detach(), weight, **EXACT)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_a_folder_is_loaded_whole_and_saved_again(name, tmp_path):
    model = save_family(name, tmp_path / "one")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (57, 91, 3), dtype=np.uint8))
    texts = tokenized(name, CAPTIONS)["input_ids"]
    loaded, processor = load_dual_encoder(tmp_path / "one")
    loaded.save_pretrained(tmp_path / "two")
    processor.save_pretrained(tmp_path / "two")
    for folder in ("one", "two"):
        loaded, processor = load_dual_encoder(tmp_path / folder)
        loaded_view = DualEncoder.of(loaded)
        assert type(loaded) is FAMILIES[name].model_class and not loaded.training
        assert type(processor) is type(load_processor(tmp_path / folder)) is FAMILIES[name].processor_class
        state = loaded.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        theirs = processor.image_processor(picture, return_tensors="pt")
        ours = loaded_view._image_inputs(ImageTransform.from_processor(processor, train=False)(picture)[None])
        assert ours.keys() <= theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
        padding = {"padding": "max_length"} if "siglip" in name else {"padding": True}
        tokens = processor.tokenizer(CAPTIONS, truncation=True, return_tensors="pt", **padding)
        width = tokens["input_ids"].shape[1]
        assert torch.equal(tokens["input_ids"], texts[:, :width]) and processor.tokenizer.padding_side == "right"
        rules = loaded_view.caption_rules
        rules.check_tokenizer(processor.tokenizer)
        assert processor.tokenizer.model_max_length <= rules.max_length


@pytest.mark.parametrize("name", FAMILY_NAMES)
@torch.no_grad()
def test_the_view_of_a_family(name):
    model = family_model(name)
    encoder = DualEncoder.of(torch.nn.DataParallel(model))
    image, text = encoder.image_side(), encoder.text_side()
    sides = {id(p) for side in (image, text) for p in side.parameters()}
    assert sides == {id(p) for n, p in model.named_parameters() if not n.startswith("logit_")}
    assert [len(layers) for layers in encoder.layers()] == [2, 2] and len(encoder.depths()) > 30
    images = family_images(name, 6)
    assert encoder.embed_dim == encoder.image_features(images).shape[1]
    linear = (encoder.visual_projection is None, encoder.text_projection is None)
    assert linear == ((True, True) if "siglip" in name else (False, False))
    assert encoder.similarity == ("sigmoid" if "siglip" in name else "softmax")
    assert encoder.image_tokens(images) == 6 * (PATCHES + 1 if name == "siglip2" else 17)
    # A temperature divides all logits.
    model.logit_scale.fill_(2.0)
    inputs = {**plain_images(name, 6), **tokenized(name, CAPTIONS)}
    before = model(**inputs).logits_per_image
    encoder.fold(1.7)
    after = model(**inputs).logits_per_image
    torch.testing.assert_close(after, before / 1.7, rtol=1e-5, atol=1e-5)


# ---- Traps ---------------------------------------------------------------------------------------------------------


def test_aimv2_is_causal_whatever_is_beside_a_caption():
    """Transformers' tower looks at later tokens where nothing in the batch is padded (5.23, SDPA)."""
    model = family_model("aimv2").double()
    ids = torch.tensor([[62, 3, 4, 63], [62, 5, 6, 63]])
    encoder = DualEncoder.of(model)
    with torch.no_grad():
        ours = encoder.text_features(ids)
        later = encoder.text_features(torch.cat([ids, torch.tensor([[7, 8], [9, 1]])], dim=1))
        padded, mask = F.pad(ids, (0, 1), value=63), torch.tensor([[1, 1, 1, 1, 0]] * 2)
        causal = model.get_text_features(padded, attention_mask=mask).pooler_output
        model.config._attn_implementation = model.text_model.config._attn_implementation = "eager"
        eager = encoder.text_features(ids)
    for other in (later, causal):
        torch.testing.assert_close(ours, other, **EXACT)
    # Its eager attention takes the softmax in float32.
    torch.testing.assert_close(ours, eager, rtol=0, atol=1e-5)


def test_aimv2_clamps_its_scale_and_takes_no_temperature_beyond():
    model = family_model("aimv2")
    encoder = DualEncoder.of(model)
    for stored, scale in ((-1.0, 1.0), (2.0, np.exp(2.0)), (9.0, 100.0)):
        model.logit_scale.data.fill_(stored)
        assert encoder.scale.item() == pytest.approx(scale, rel=1e-6) == encoder.check_logit_scale()
    encoder.fold(2.0)
    assert encoder.scale.item() == pytest.approx(50.0, rel=1e-5), "from where the model stops, not from where it is stored"
    for temperature in (100.0, 0.1):
        before = model.logit_scale.item()
        with pytest.raises(ValueError, match="Aimv2Model keeps its scale between 1 and 100"):
            encoder.fold(temperature)
        assert model.logit_scale.item() == before


def changed_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("name", ["siglip", "siglip2"])
def test_siglip_is_padded_by_the_tokenizers_token_to_its_full_width_without_a_mask(name, tmp_path):
    """As published: the configuration has a `pad_token_id` that is another token, and some tokenizers make a mask."""
    model = save_family(name, tmp_path)
    changed_json(tmp_path / "tokenizer_config.json", model_input_names=["input_ids", "attention_mask"])
    loaded, processor = load_dual_encoder(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["text_config"]["pad_token_id"] == 1
    assert loaded.config.text_config.pad_token_id == processor.tokenizer.pad_token_id == 0
    assert "attention_mask" not in processor.tokenizer("a zoo", padding="max_length")
    with torch.no_grad():
        ours = DualEncoder.of(loaded).text_features(processor.tokenizer(["a zoo"], return_tensors="pt")["input_ids"])
        theirs = model.get_text_features(tokenized(name, ["a zoo"])["input_ids"]).pooler_output
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="65 tokens.*reads 64.*max_length=64"):
        DualEncoder.of(loaded).text_features(torch.zeros(1, 65, dtype=torch.long))


@pytest.mark.parametrize("name", [name for name in FAMILY_NAMES if name != "siglip"])
def test_a_tokenizer_that_pads_on_the_left_is_refused(name, tmp_path):
    save_family(name, tmp_path)
    changed_json(tmp_path / "tokenizer_config.json", padding_side="left")
    for load in (load_dual_encoder, load_processor):
        with pytest.raises(ValueError, match="padding_side 'left'.*tokenizer_config.json") as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["chinese_clip", "altclip", "blip", "vision-text-dual-encoder"])
def test_another_padding_token_than_the_models_is_refused(name, tmp_path):
    """Padding is told by its token: of another, the tower would read it."""
    model = save_family(name, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["pad_token_id"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    for load in (load_dual_encoder, load_processor):
        with pytest.raises(ValueError, match="pads with the token [01].*knows 3.*pad_token_id"):
            load(tmp_path)
    model.config.text_config.pad_token_id = 3
    with pytest.raises(ValueError, match="pad_token_id 3.*load_dual_encoder"):
        ZeroShotHead.from_model(model, family_processor(name), CLASSES, TEMPLATES)


def dual_encoder_of(vision, text, folder, processor="ViTImageProcessorPil", **options):
    """A checkpoint of two towers of any kind."""
    sizes = {"vocab_size": len(bert_tokenizer()), "max_position_embeddings": 32}
    config = transformers.VisionTextDualEncoderConfig(
        vision_config={**IMAGE, **vision}, text_config={**TOWER, **sizes, **text}, projection_dim=16
    )
    torch.manual_seed(0)
    transformers.VisionTextDualEncoderModel(config).save_pretrained(folder)
    options = options or {"size": {"height": 32, "width": 32}}
    image_processor = getattr(transformers, processor)(**options)
    transformers.VisionTextDualEncoderProcessor(image_processor, bert_tokenizer()).save_pretrained(folder)
    return folder


def test_towers_of_any_kind(tmp_path):
    """DINOv2, whose configuration has another size than its processor's images; and a causal text tower of CLIP's."""
    crop = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
    dino = {"model_type": "dinov2", "image_size": 48}
    text = {"model_type": "clip_text_model", "eos_token_id": 3, "pad_token_id": 0, "bos_token_id": 2}
    model, processor = load_dual_encoder(dual_encoder_of(dino, text, tmp_path, "BitImageProcessorPil", **crop))
    encoder = DualEncoder.of(model)
    assert encoder.caption_rules.reads == "end" and encoder.caption_rules.end_of_text == 3
    ids = processor.tokenizer(CAPTIONS, padding=True, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        features = encoder.image_features(torch.randn(2, 3, 32, 32)), encoder.text_features(ids)
        theirs = model.get_text_features(ids).pooler_output
    assert features[0].shape == (2, 16)
    torch.testing.assert_close(features[1], theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "vision, text",
    [
        ({"model_type": "vit"}, {"model_type": "distilbert", "dim": 32, "n_heads": 2, "hidden_dim": 64, "n_layers": 1}),
        ({"model_type": "vit", "image_size": 48}, {"model_type": "bert"}),
    ],
    ids=["a text tower without a pooled output", "images of another size"],
)
def test_towers_that_do_not_give_one_feature_each_are_refused(vision, text, tmp_path):
    with pytest.raises(ValueError, match="towers of .*pooled output.*processor") as caught:
        load_dual_encoder(dual_encoder_of(vision, text, tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["swin", "hiera"])
def test_towers_with_layers_of_several_sizes_are_refused(kind, tmp_path):
    folder = dual_encoder_of({"model_type": "vit"}, {"model_type": "bert"}, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"] = {"model_type": kind}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"tower of the type '{kind}'.*not supported.*ViT") as caught:
        load_processor(folder)
    assert "\n" not in str(caught.value)


def test_names_in_a_script_that_the_tokenizer_reads_and_in_one_that_it_does_not():
    """What it does not know is one token for all names: the model could not tell them apart."""
    model, german = family_model("metaclip_2"), ["ein {}.", "{}"]
    head = ZeroShotHead.from_model(model, family_processor("metaclip_2"), ["猫", "狗"], ["一只{}的照片"])
    assert head.class_names == ("猫", "狗") and not torch.allclose(head.weight[0], head.weight[1])
    with pytest.warns(UserWarning, match="1 of 2 class names.*does not know.*'犬'.*'<unk>'.*take a model"):
        ZeroShotHead.from_model(model, family_processor("metaclip_2"), ["猫", "犬"], ["{}"])
    with pytest.warns(UserWarning, match="1 of 3 templates.*'ä .'"):
        ZeroShotHead.from_model(model, family_processor("metaclip_2"), CLASSES, ["ä {}.", *german])
    with pytest.raises(ValueError, match="'犬' and '鳥'.*knows neither"):
        ZeroShotHead.from_model(model, family_processor("metaclip_2"), ["犬", "鳥"], german)


@pytest.mark.parametrize("name, setting", [("siglip", "vision_use_head"), ("siglip2", "vision_use_head"), ("aimv2", "use_head")])
def test_an_image_tower_without_its_pooling_head_is_refused_on_loading(name, setting, tmp_path):
    save_family(name, tmp_path)
    config = family_config(name)
    setattr(config.vision_config, setting, False)
    FAMILIES[name].model_class(config).save_pretrained(tmp_path)
    for load in (load_dual_encoder, load_processor, outline):
        with pytest.raises(ValueError, match=f"image tower without a pooling head .`{setting}` is false in its config.json") as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_processor_of_another_family_is_refused(tmp_path):
    save_family("siglip", tmp_path)
    family_processor("clip").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="CLIPProcessor.*SiglipModel takes SiglipProcessor"):
        load_dual_encoder(tmp_path)


@torch.no_grad()
def test_a_grid_of_patches_is_alone_whatever_is_beside_it():
    """Padding of patches changes nothing, nor do other aspect ratios in the batch."""
    encoder = DualEncoder.of(family_model("siglip2").double())
    images = family_images("siglip2", 8, dtype=torch.float64)
    together = encoder.image_features(images)
    wide = torch.cat([images[:, :-1], torch.zeros(8, 5, images.shape[2]), images[:, -1:]], dim=1)
    torch.testing.assert_close(encoder.image_features(wide), together, **EXACT)
    mask = encoder._image_inputs(images)["pixel_attention_mask"]
    assert 0 < (mask == 0).sum() and len(encoder._image_inputs(images)["spatial_shapes"].unique(dim=0)) > 4
    padding = F.pad(mask == 0, (0, 1))
    for row in range(8):
        images[row, padding[row]] = 7.0
        torch.testing.assert_close(encoder.image_features(images[row : row + 1])[0], together[row], **EXACT)
    # The model would not look at the shapes, nor miss the patches that a grid leaves out.
    inputs = encoder._image_inputs(images)
    for wrong in (
        torch.randn(2, 3, 32, 32),
        inputs["pixel_values"],
        images[..., :-1],
        images[:, :-1],
        torch.zeros_like(images),
        images + 0.5,
    ):
        with pytest.raises(ValueError, match="packed patches of 8 x 8 pixels.*ImageTransform.from_processor") as caught:
            encoder.image_features(wrong)
        assert "\n" not in str(caught.value)


def test_patches_of_another_size_and_images_of_one_size_are_refused_on_loading(tmp_path):
    save_family("siglip2", tmp_path)
    processor = json.loads((tmp_path / "processor_config.json").read_text())
    given = processor["image_processor"]
    for changes, message in (
        ({"patch_size": 16}, "gives patches of 16 pixels.*takes 8; set patch_size"),
        ({"do_resize": False}, "does not resize.*set do_resize"),
        ({"patch_size": 1}, "patch_size is 1 .*at least 2"),
        ({"image_processor_type": "SiglipImageProcessor", "size": {"height": 32, "width": 32}}, "gives images of one size, and a Siglip2Model takes patches"),
    ):
        (tmp_path / "processor_config.json").write_text(json.dumps({**processor, "image_processor": {**given, **changes}}))
        for load in (load_dual_encoder, load_processor):
            with pytest.raises(ValueError, match=message) as caught:
                load(tmp_path)
            assert "\n" not in str(caught.value)


def spiece_folder(folder):
    """A checkpoint of SigLIP as the first ones were published: its vocabulary is SentencePiece's, and it has no tokenizer.json."""
    model = io.BytesIO()
    texts = ["a photo of the cat", "a dog and a zebra in the zoo", "pack my box with five dozen quick jugs"] * 9
    options = {"vocab_size": 50, "hard_vocab_limit": False, "bos_id": -1, "eos_id": 1, "unk_id": 2, "pad_id": 0}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(texts), model_writer=model, minloglevel=2, **options)
    folder.mkdir()
    (folder / "spiece.model").write_bytes(model.getvalue())
    tokenizer = transformers.SiglipTokenizer(str(folder / "spiece.model"), model_max_length=64)
    config = family_config("siglip")
    config.text_config.vocab_size = len(tokenizer)
    made = transformers.SiglipModel(config)
    made.logit_scale.data.fill_(2.0)
    made.save_pretrained(folder)
    transformers.SiglipProcessor(family_processor("siglip").image_processor, tokenizer).save_pretrained(folder)
    assert not (folder / "tokenizer.json").exists()
    return folder


def test_siglips_own_tokenizer_without_a_mask_though_it_makes_one(tmp_path):
    model, processor = load_dual_encoder(spiece_folder(tmp_path / "m"))
    assert type(processor.tokenizer) is transformers.SiglipTokenizer
    whole = processor.tokenizer(["A photo of the cat!", "a zoo"], padding="max_length", return_tensors="pt")
    assert list(whole) == ["input_ids"] and whole["input_ids"].shape == (2, 64)
    # The token that ends a text is the one that pads it.
    short = processor.tokenizer(["a photo of the cat"], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        one, two = DualEncoder.of(model).text_features(short), model.get_text_features(whole["input_ids"]).pooler_output
    torch.testing.assert_close(one[0], two[0], rtol=0, atol=1e-5)


def test_without_sentencepiece_the_extra_is_named(tmp_path, monkeypatch, repository):
    folder = spiece_folder(tmp_path / "m")

    def missing(*args, **options):
        raise ImportError("SiglipTokenizer requires the SentencePiece library but it was not found. Check out the page.")

    monkeypatch.setattr(transformers.SiglipProcessor, "from_pretrained", missing)
    with pytest.raises(ValueError, match=r"not found\).*hf_robustft\[sentencepiece\].*tokenizer.json") as caught:
        load_processor(folder)
    assert "\n" not in str(caught.value) and '\nsentencepiece = ["sentencepiece' in (repository / "pyproject.toml").read_text()


@pytest.mark.parametrize("cls", ["BertModel", "SiglipTextModel", "SiglipVisionModel"])
def test_a_part_of_a_model_is_refused_with_the_list(cls, tmp_path):
    config = {
        "BertModel": lambda: transformers.BertConfig(**TOWER, vocab_size=9),
        "SiglipTextModel": lambda: family_config("siglip").text_config,
        "SiglipVisionModel": lambda: family_config("siglip").vision_config,
    }[cls]()
    getattr(transformers, cls)(config).save_pretrained(tmp_path)
    for load in (load_dual_encoder, load_processor):
        with pytest.raises(ValueError, match="type.*CLIPModel.*SiglipModel.*VisionTextDualEncoderModel") as caught:
            load(tmp_path)
        assert "\n" not in str(caught.value)
