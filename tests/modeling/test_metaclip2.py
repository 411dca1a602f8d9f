# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""MetaCLIP 2, which has CLIP's parts and another tokenizer, does all that CLIP does."""

import json
import string

import pytest
import torch
from helpers import CLASSES, TEMPLATES, image_dataset, tiny_config
from safetensors.torch import load_file
from transformers import (
    CLIPImageProcessorPil,
    CLIPProcessor,
    CLIPSegConfig,
    CLIPSegModel,
    MetaClip2Config,
    MetaClip2Model,
    XLMRobertaTokenizer,
)
from transformers import pipeline as transformers_pipeline

from hf_robustft import (
    Benchmark,
    Evaluator,
    ZeroShotHead,
    cli,
    load_adapters,
    load_checkpoint,
    load_dual_encoder,
    pipeline,
)
from hf_robustft.data.prompts import class_prompts
from hf_robustft.modeling.captions import distinct_captions
from hf_robustft.modeling.dual_encoder import DualEncoder
from hf_robustft.modeling.families import FAMILIES
from hf_robustft.modeling.features import encode
from hf_robustft.modeling.zero_shot import prompt_features

END, PAD = 2, 1


def tokenizer() -> XLMRobertaTokenizer:
    """A real tokenizer of XLM-R over letters; its end of text is 2, below every letter, and its padding 1."""
    pieces = ["\u2581", *string.ascii_lowercase, ".", "\u2581a", "\u2581photo", "\u2581of", "\u2581the"]
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocab = [(piece, 0.0) for piece in special] + [(piece, -float(30 - 5 * len(piece))) for piece in pieces]
    made = XLMRobertaTokenizer(vocab=[*vocab, ("<mask>", 0.0)], model_max_length=16)
    assert (made.eos_token_id, made.pad_token_id) == (END, PAD)
    return made


def processor() -> CLIPProcessor:
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return CLIPProcessor(image_processor=images, tokenizer=tokenizer())


@pytest.fixture
def model() -> MetaClip2Model:
    """A random model of the sizes of `tiny_clip`."""
    text, vision = tiny_config().text_config.to_dict(), tiny_config().vision_config.to_dict()
    text |= {"bos_token_id": 0, "pad_token_id": PAD, "eos_token_id": END, "model_type": "metaclip_2_text_model"}
    vision |= {"model_type": "metaclip_2_vision_model"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MetaClip2Model(MetaClip2Config(text_config=text, vision_config=vision, projection_dim=16)).eval()


@pytest.fixture
def base(model, tmp_path):
    """A checkpoint folder of it."""
    model.save_pretrained(tmp_path / "base")
    processor().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


# ---- The numbers ---------------------------------------------------------------------------------------------------


CAPTIONS = ["a photo of the zebra", "a zoo", "a zoo", "zz a", "zz b", "the cat and the dog", "a"]


@pytest.mark.parametrize("wrapped", [False, True])
@torch.no_grad()
def test_features_and_logits_are_those_of_transformers(model, wrapped):
    model.double()
    inputs = tokenizer()(CAPTIONS, padding=True, return_tensors="pt")
    images = torch.randn(len(CAPTIONS), 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = {"rtol": 0, "atol": 1e-12}
    # Theirs with an attention mask, ours without one.
    plain = model(pixel_values=images, **inputs)
    batch = {"pixel_values": images, "input_ids": inputs["input_ids"]}
    ours = encode(torch.nn.DataParallel(model) if wrapped else model, batch)
    torch.testing.assert_close(ours.image_features, model.get_image_features(images).pooler_output, **exact)
    torch.testing.assert_close(ours.text_features, model.get_text_features(**inputs).pooler_output, **exact)
    torch.testing.assert_close(ours.logits_per_image, plain.logits_per_image, **exact)
    torch.testing.assert_close(ours.image_embeds, plain.image_embeds, **exact)
    torch.testing.assert_close(ours.text_embeds, plain.text_embeds, **exact)
    torch.testing.assert_close(DualEncoder.of(model).image_features(images), ours.image_features, **exact)
    features = prompt_features(model, processor(), CLASSES, TEMPLATES)
    prompts = tokenizer()(class_prompts(CLASSES, TEMPLATES), padding=True, return_tensors="pt")
    expected = model.get_text_features(**prompts).pooler_output.view(len(CLASSES), len(TEMPLATES), -1)
    torch.testing.assert_close(features, expected, **exact)


def test_captions_are_read_at_their_end_and_not_at_the_highest_id(model):
    """With the rule of old conversions of CLIP, which have the same `eos_token_id`, these two would be one."""
    ids = tokenizer()(["zz c", "zz b"], return_tensors="pt")["input_ids"]
    rules = DualEncoder.of(model).caption_rules
    assert rules.end_positions(ids).tolist() == [ids.shape[1] - 1] * 2 and (ids[:, -1] == END).all()
    assert len(distinct_captions(ids, rules).input_ids) == 2
    old = FAMILIES["clip"].caption_rules(model.config)
    assert old.at_highest_id and len(distinct_captions(ids, old).input_ids) == 1


def test_the_view_names_the_same_parts(model):
    encoder = DualEncoder.of(torch.nn.DataParallel(model))
    assert encoder.core is model and encoder.family is FAMILIES["metaclip_2"] and encoder.embed_dim == 16
    assert encoder.visual_projection is model.visual_projection.weight
    assert encoder.text_projection is model.text_projection.weight
    assert encoder.logit_scale is model.logit_scale and encoder.logit_bias is None and encoder.similarity == "softmax"
    assert [len(layers) for layers in encoder.layers()] == [2, 2]
    before = model.logit_scale.exp().item()
    encoder.fold(2.0)
    assert model.logit_scale.exp().item() == pytest.approx(before / 2, rel=1e-6)


# ---- Loading -------------------------------------------------------------------------------------------------------


def test_the_folder_is_loaded_whole(model, base):
    assert load_checkpoint is load_dual_encoder
    loaded, made = load_dual_encoder(base)
    assert type(loaded) is MetaClip2Model and type(made) is CLIPProcessor and not loaded.training
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert made.tokenizer(CAPTIONS)["input_ids"] == tokenizer()(CAPTIONS)["input_ids"]


def test_a_tokenizer_that_cuts_the_end_off_is_refused(base, monkeypatch):
    """Without its end a caption is read at its first token, the same for all."""
    whole = XLMRobertaTokenizer.__call__

    def cut(self, text, max_length=None, **options):
        return {"input_ids": whole(self, text, **options)["input_ids"][:max_length]}

    monkeypatch.setattr(XLMRobertaTokenizer, "__call__", cut)
    with pytest.raises(ValueError, match="eos_token_id") as caught:
        load_dual_encoder(base)
    assert "\n" not in str(caught.value) and str(base) in str(caught.value)


def test_other_families_are_refused_in_one_line_that_names_those_there_are(base, tmp_path):
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPSegConfig(
        text_config={**tower, "vocab_size": 9}, vision_config={**tower, "image_size": 32, "patch_size": 16}
    )
    other = CLIPSegModel(config)
    other.save_pretrained(tmp_path / "other")
    processor().save_pretrained(tmp_path / "other")
    data = Benchmark.from_dataset(image_dataset(4), name="test", role="id", templates=TEMPLATES)
    evaluator = Evaluator([data], processor(), progress=False)
    for refuse in (
        lambda: load_dual_encoder(tmp_path / "other"),
        lambda: encode(other, {"pixel_values": torch.zeros(1, 3, 32, 32), "input_ids": torch.zeros(1, 2).long()}),
        lambda: evaluator.evaluate(other),
        lambda: ZeroShotHead.from_model(other, processor(), CLASSES, TEMPLATES),
    ):
        with pytest.raises(ValueError, match="(?i)clipseg.*CLIPModel, MetaClip2Model.*SiglipModel") as caught:
            refuse()
        assert "\n" not in str(caught.value)


# ---- The commands --------------------------------------------------------------------------------------------------


QUIET = ["--use_cpu", "--disable_tqdm", "true", "--report_to", "none"]


@pytest.fixture
def images(tmp_path):
    """Two folders of class folders: train and test."""
    for split, n, seed in (("train", 16, 0), ("test", 12, 1)):
        for i, row in enumerate(image_dataset(n, seed=seed)):
            folder = tmp_path / "images" / split / CLASSES[row["label"]]
            folder.mkdir(parents=True, exist_ok=True)
            row["image"].save(folder / f"{i}.png")
    return tmp_path / "images"


def job(base, images, output, *more) -> list[str]:
    flags = {"--model": base, "--train_dataset": images / "train", "--eval_datasets": images / "test"}
    flags |= {"--output_dir": output, "--per_device_train_batch_size": 4, "--max_steps": 3, "--learning_rate": 1e-3}
    return [*(str(item) for pair in flags.items() for item in pair), *QUIET, "--save_strategy", "no", *more]


def train(command: list[str]) -> None:
    assert cli.main(["train", *command]) == 0


#: A method for each way of reading captions; the others: `python -m pytest -m slow tests/modeling/test_metaclip2.py`.
@pytest.mark.parametrize(
    "method", ["carot", "croft", "ft", *(pytest.param(name, marks=pytest.mark.slow) for name in ("carot+croft", "flyp", "wise_ft"))]
)
def test_every_method_trains_and_every_command_takes_what_it_left(base, images, tmp_path, method, capsys):
    output = tmp_path / "out"
    train(job(base, images, output, "--method", method))
    before, after = load_file(base / "model.safetensors"), load_file(output / "model.safetensors")
    assert before.keys() == after.keys()
    assert not torch.equal(before["visual_projection.weight"], after["visual_projection.weight"])
    assert json.loads((output / "config.json").read_text())["architectures"] == ["MetaClip2Model"]
    measured = json.loads((output / "evaluation.json").read_text())["reports"][-1]["results"]["test"]
    # The folder as it is: Transformers' own model, loaded plainly, gives what was reported.
    trained, made = load_dual_encoder(output)
    head = ZeroShotHead.from_pretrained(output) if method == "ft" else None
    if "croft" in method:
        load_adapters(MetaClip2Model.from_pretrained(output), output)

    capsys.readouterr()
    again = tmp_path / "again"
    command = ["evaluate", str(output), "--eval_datasets", str(images / "test"), "--output_dir", str(again)]
    assert cli.main([*command, *QUIET[:3]]) == 0, capsys.readouterr().err
    results = json.loads((again / "evaluation.json").read_text())["reports"][-1]["results"]["test"]
    assert results["accuracy"] == measured["accuracy"] and results["nll"] == pytest.approx(measured["nll"], rel=1e-5)

    photos = sorted(str(path) for path in (images / "test").rglob("*.png"))
    found = pipeline(output, require_detector=False)(photos)
    inputs = made(images=[image_of(photo) for photo in photos], return_tensors="pt")
    with torch.no_grad():
        if head is None:
            head = ZeroShotHead.from_model(trained, made, sorted(CLASSES), ["a photo of a {}."])
        embeds = trained.get_image_features(inputs["pixel_values"]).pooler_output
        best = head(embeds / embeds.norm(dim=-1, keepdim=True)).argmax(1)
    assert [item["nearest_class"] for item in found] == [head.class_names[i] for i in best]

    assert cli.main(["publish", str(output), "--repo_id", "user/metaclip", "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert "nothing was uploaded" in printed and "model.safetensors" in printed and "tokenizer.json" in printed


def image_of(path):
    from PIL import Image

    return Image.open(path).convert("RGB")


def test_a_temperature_is_folded_and_transformers_own_pipeline_has_it(base, images, tmp_path, capsys):
    output = tmp_path / "out"
    train(job(base, images, output, "--method", "flyp"))
    before = load_file(output / "model.safetensors")
    command = ["calibrate", str(output), "--dataset", str(images / "test"), "--allow_test_set", "--disable_tqdm"]
    assert cli.main(command) == 0, capsys.readouterr().err
    after = load_file(output / "model.safetensors")
    temperature = json.loads((output / "robustft.json").read_text())["temperature"]["folded"]
    assert (before["logit_scale"] - after["logit_scale"]).exp().item() == pytest.approx(temperature, rel=1e-5)
    assert temperature != 1 and [name for name in before if not torch.equal(before[name], after[name])] == [
        "logit_scale"
    ]
    photo = next(iter(sorted((images / "test").rglob("*.png"))))
    theirs = transformers_pipeline("zero-shot-image-classification", model=str(output))
    guess = theirs(image_of(photo), candidate_labels=sorted(CLASSES), hypothesis_template="a photo of a {}.")[0]
    ours = pipeline(output, require_detector=False)(str(photo))
    assert ours["nearest_class"] == guess["label"] and ours["probability"] == pytest.approx(guess["score"], rel=1e-4)


def test_a_resumed_run_ends_as_the_whole_one(base, images, tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    saving = ["--save_strategy", "steps", "--save_steps", "2"]
    more = ["--method", "carot", "--ema_update_every", "1"]
    train([*job(base, images, whole, *more), *saving])
    train([*job(base, images, resumed, *more), *saving, "--resume_from_checkpoint", str(whole / "checkpoint-2")])
    one, two = (load_file(folder / "model.safetensors") for folder in (whole, resumed))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
