# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A checkpoint is loaded whole or refused in one line, by whatever reads it; nothing is filled in at random."""

import copy
import json
import shutil
import time
import warnings

import pytest
import torch
import transformers
from helpers import CLASSES, TEMPLATES, arguments, image_dataset, tiny_config, tiny_processor
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPForImageClassification,
    CLIPModel,
    CLIPTextModel,
    CLIPVisionModelWithProjection,
)

from hf_robustft import Benchmark, FeatureAdapters, FLYPTrainer, ZeroShotHead, load_checkpoint, pipeline, publish
from hf_robustft.cli import main
from hf_robustft.deployment.pipeline import TASK
from hf_robustft.publishing.metadata import write_robustft_json
from hf_robustft.publishing.recalibrate import recalibrate
from hf_robustft.training.checkpoint_files import VALUES, load_state

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 605157884\n"


@pytest.fixture
def checkpoint(tmp_path, tiny_clip):
    """A finished folder of the tiny model."""
    folder = tmp_path / "my-clip"
    tiny_clip.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    write_robustft_json(folder, method="flyp", class_names=CLASSES, templates=TEMPLATES, settings={})
    return folder


# ---- What is broken ------------------------------------------------------------------------------------------------


def weights(change):
    def apply(folder):
        path = folder / "model.safetensors"
        save_file({k: v.contiguous() for k, v in change(load_file(path)).items()}, path, metadata={"format": "pt"})

    return apply


def without(*names):
    return weights(lambda found: {name: value for name, value in found.items() if name not in names})


def prefixed(prefix):
    return weights(lambda found: {prefix + name: value for name, value in found.items()})


def replaced(name, value):
    return weights(lambda found: {**found, name: value})


def removed(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def written(name, text):
    return lambda folder: (folder / name).write_text(text)


def changed(name, *keys, value):
    def apply(folder):
        content = part = json.loads((folder / name).read_text())
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = value
        (folder / name).write_text(json.dumps(content))

    return apply


def saved(model_class):
    def apply(folder):
        config = tiny_config()
        if model_class is not CLIPForImageClassification:
            config = config.text_config if model_class is CLIPTextModel else config.vision_config
        model_class(config).save_pretrained(folder)

    return apply


def truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def lost_part(folder):
    found = load_file(folder / "model.safetensors")
    first = {name: value for name, value in found.items() if name.startswith("text")}
    save_file(first, folder / "model-00001-of-00002.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").unlink()
    names = {name: f"model-0000{1 + (name not in first)}-of-00002.safetensors" for name in found}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def adapters(folder):
    removed("model.safetensors", "config.json")(folder)
    written("adapter_config.json", "{}")(folder)


def other_words(folder):
    # As many tokens, and none of a letter.
    content = json.loads((folder / "tokenizer.json").read_text())
    special = {token["content"] for token in content["added_tokens"]}
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = {name if name in special else f"<{n}>": n for name, n in vocabulary.items()}
    content["model"]["merges"] = []
    (folder / "tokenizer.json").write_text(json.dumps(content))


NAN = torch.full((16, 32), float("nan"))
#: What is done to the folder, and what the one line names.
BROKEN = {
    "image classification": (saved(CLIPForImageClassification), ["CLIPForImageClassification", "CLIPModel"]),
    "vision tower": (saved(CLIPVisionModelWithProjection), ["clip_vision_model"]),
    "text tower": (saved(CLIPTextModel), ["clip_text_model"]),
    "other type": (changed("config.json", "model_type", value="flava"), ["'flava'", "CLIPModel, MetaClip2Model"]),
    "type of another class": (changed("config.json", "model_type", value="metaclip_2"), ["CLIPModel", "MetaClip2Model"]),
    "no type": (written("config.json", "{}"), ["type None"]),
    "wrong type of value": (changed("config.json", "projection_dim", value="many"), ["config.json"]),
    "sizes of another model": (changed("config.json", "projection_dim", value=24), ["2 of another shape", "[16, 32]"]),
    "deeper model": (changed("config.json", "text_config", "num_hidden_layers", value=3), ["16 missing"]),
    "shallower model": (changed("config.json", "text_config", "num_hidden_layers", value=1), ["16 unexpected"]),
    "quantized": (changed("config.json", "quantization_config", value={"quant_method": "x"}), ["quantized"]),
    "integers": (replaced("text_projection.weight", torch.zeros(16, 32, dtype=torch.int8)), ["text_projection"]),
    "some missing": (without("logit_scale", "text_projection.weight"), ["2 missing", "logit_scale, text_projection"]),
    "one too many": (replaced("classifier.weight", torch.zeros(2, 16)), ["1 unexpected", "classifier.weight"]),
    "another shape": (replaced("text_projection.weight", torch.zeros(17, 32)), ["[17, 32] instead of [16, 32]"]),
    "prefix of DDP": (prefixed("module."), ["78 missing", "'module.'", "DistributedDataParallel"]),
    "prefix of compile": (prefixed("_orig_mod."), ["'_orig_mod.'", "torch.compile"]),
    "prefix of PEFT": (prefixed("base_model.model."), ["'base_model.model.'", "PEFT"]),
    "any prefix": (prefixed("model."), ["'model.'", "save_pretrained"]),
    "not finite": (replaced("visual_projection.weight", NAN), ["visual_projection.weight", "not finite"]),
    "truncated": (truncated, ["model.safetensors", "damaged"]),
    "empty weights": (written("model.safetensors", ""), ["model.safetensors is empty"]),
    "lfs weights": (written("model.safetensors", POINTER), ["model.safetensors", "git lfs pull"]),
    "lfs config": (written("config.json", POINTER), ["config.json", "git lfs pull"]),
    "lfs tokenizer": (written("tokenizer.json", POINTER), ["tokenizer.json", "git lfs pull"]),
    "lfs image processor": (written("processor_config.json", POINTER), ["processor_config.json", "git lfs pull"]),
    "no weights": (removed("model.safetensors"), ["no model.safetensors"]),
    "pickled": (pickled, ["pytorch_model.bin", "use_safetensors=False"]),
    "part lost": (lost_part, ["model-00002-of-00002.safetensors", "index"]),
    "broken index": (lambda f: [removed("model.safetensors")(f), written("model.safetensors.index.json", "[]")(f)],
                     ["model.safetensors.index.json"]),
    "index leaves the folder": (
        lambda f: [removed("model.safetensors")(f),
                   written("model.safetensors.index.json", '{"weight_map": {"a": "../a.safetensors"}}')(f)],
        ["outside its folder"],
    ),
    "no config": (removed("config.json"), ["no config.json"]),
    "broken config": (written("config.json", "{"), ["config.json is not JSON"]),
    "adapters": (adapters, ["adapter_config.json", "merge_and_unload"]),
    "no processor": (removed("processor_config.json", "tokenizer.json", "tokenizer_config.json"), ["no tokenizer"]),
    "no image processor": (removed("processor_config.json"), ["no image processor", "preprocessor_config.json"]),
    "no tokenizer": (removed("tokenizer.json"), ["no tokenizer", "save_pretrained"]),
    "vocabulary without merges": (
        lambda f: [removed("tokenizer.json")(f), written("vocab.json", '{"a": 1}')(f)],
        ["no tokenizer", "merges.txt"],
    ),
    "broken tokenizer": (written("tokenizer.json", '{"model": 3}'), ["processor", "save it again"]),
    "tokenizer without words": (other_words, ["knows none of the words"]),
    "tokenizer of a larger model": (changed("config.json", "text_config", "vocab_size", value=60), ["another shape"]),
    "end of text elsewhere": (changed("config.json", "text_config", "eos_token_id", value=5), ["eos_token_id"]),
    "end of text in no form": (changed("config.json", "text_config", "eos_token_id", value=None),
                               ["config.json", "eos_token_id"]),
    "no layer can be made": (changed("config.json", "vision_config", "patch_size", value=-1), ["config.json", "negative"]),
    "images of another size": (changed("processor_config.json", "image_processor", "crop_size",
                                       value={"height": 16, "width": 16}), ["16 pixels", "32"]),
    **{
        f"{name} {value}": (changed("processor_config.json", "image_processor", name, value=value), [name, said])
        for name, value, said in (
            *(("rescale_factor", value, "above 0") for value in (0, -1, float("nan"), float("inf"), None)),
            ("rescale_factor", 1e-60, "same number"),
            *(("image_std", [0.5, 0.5, value], "above 0") for value in (0, float("nan"), float("inf"), None)),
            ("image_std", [0.5, 0.5, 1e-60], "same number"),
            *(("image_mean", value, "three numbers") for value in ([0.5], [0.5] * 4, [0.5, 0.5, None], 0.5)),
            ("size", {"shortest_edge": 31}, "black borders"),
            ("size", {"height": 40, "width": 24}, "black borders"),
        )
    },
    "no crop": (changed("processor_config.json", "image_processor", "do_center_crop", value=False),
                ["image processor", "square"]),
}  # fmt: skip


def by_function(folder, tmp_path, script):
    load_checkpoint(folder)


def by_the_script(folder, tmp_path, script):
    image_dataset(8).to_parquet(tmp_path / "train.parquet")
    flags = {"--model": folder, "--train_dataset": tmp_path / "train.parquet", "--output_dir": tmp_path / "out"}
    script.main([str(item) for pair in flags.items() for item in pair] + ["--use_cpu", "--max_steps", "1"])


def by_the_pipeline(folder, tmp_path, script):
    pipeline(folder, require_detector=False)


def by_calibrate(folder, tmp_path, script):
    data = Benchmark.from_dataset(
        image_dataset(8), name="validation", role="validation", class_names=CLASSES, templates=TEMPLATES
    )
    recalibrate(folder, data, progress=False)


CONSUMERS = [by_function, by_the_script, by_the_pipeline, by_calibrate]


@pytest.mark.parametrize("fault", BROKEN)
def test_every_broken_folder_is_refused_by_whatever_reads_it(checkpoint, tmp_path, script, fault, capsys):
    spoil, named = BROKEN[fault]
    spoil(checkpoint)
    for consumer in CONSUMERS:
        with pytest.raises((OSError, ValueError)) as error:
            consumer(checkpoint, tmp_path, script)
        text = str(error.value)
        assert "\n" not in text and all(part in text for part in named), (consumer.__name__, text)
        assert str(checkpoint) in text and not (tmp_path / "out").exists()
    image_dataset(8).to_parquet(tmp_path / "test.parquet")
    capsys.readouterr()
    command = ["evaluate", str(checkpoint), "--eval_datasets", str(tmp_path / "test.parquet"), "--use_cpu"]
    assert main([*command, "--output_dir", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err.splitlines()
    assert printed[-1].startswith("error: ") and all(part in printed[-1] for part in named)
    assert not any("LOAD REPORT" in line for line in printed)


def test_the_pipeline_of_transformers_refuses_what_it_would_fill_at_random(checkpoint):
    without("logit_scale")(checkpoint)
    with pytest.raises(ValueError, match="1 missing .logit_scale"):
        transformers.pipeline(TASK, model=str(checkpoint))


@pytest.mark.parametrize(
    "fault",
    [
        "some missing",
        "prefix of DDP",
        "image classification",
        "no tokenizer",
        "lfs weights",
        "image_std [0.5, 0.5, None]",
    ],
)
def test_it_is_not_published(checkpoint, fault):
    (checkpoint / "README.md").write_text("A model.\n")
    publish(checkpoint, "me/clip", dry_run=True)
    spoil, named = BROKEN[fault]
    spoil(checkpoint)
    with pytest.raises((OSError, ValueError)) as error:
        publish(checkpoint, "me/clip", dry_run=True)
    assert fault == "no tokenizer" or all(part in str(error.value) for part in named)


RESUMED = [
    "some missing",
    "one too many",
    "another shape",
    "prefix of DDP",
    "image classification",
    "truncated",
    "pickled",
]


@pytest.mark.parametrize("last", [False, True])
def test_a_run_is_not_resumed_from_weights_that_do_not_fit(tiny_clip, tmp_path, last):
    def trainer(**settings):
        # One checkpoint: of several, the one before what cannot be read would be gone on from.
        args = arguments(tmp_path / "run", max_steps=2, save_strategy="steps", save_steps=2, **settings)
        data = Benchmark.from_dataset(image_dataset(16), name="train", role="train", templates=TEMPLATES)
        return FLYPTrainer(copy.deepcopy(tiny_clip), args, train_dataset=data, processing_class=tiny_processor())

    trainer().train()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    # As of an older version, which wrote no list of the files: with one, a file that was changed is refused by that.
    values = json.loads((checkpoint / VALUES).read_text())
    del values["values"]["lists_files"]
    (checkpoint / VALUES).write_text(json.dumps(values))
    (checkpoint / "robustft_files.json").unlink()
    for fault in RESUMED:
        copied = tmp_path / "copy" if not last else checkpoint
        shutil.copytree(checkpoint, tmp_path / fault)
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(tmp_path / fault, copied)
        spoil, named = BROKEN[fault]
        spoil(copied)
        resumed = trainer()
        with pytest.raises((OSError, ValueError)) as error:
            resumed.train(resume_from_checkpoint=True if last else str(copied))
        assert resumed.state.global_step == 0
        assert fault == "image classification" or any(part in str(error.value) for part in named), str(error.value)
        shutil.rmtree(copied)
        shutil.copytree(tmp_path / fault, checkpoint, dirs_exist_ok=True)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_a_half_precision_model_is_trained_in_float32(tiny_clip, tmp_path, kind):
    data = Benchmark.from_dataset(image_dataset(16), name="train", role="train", templates=TEMPLATES)
    model = copy.deepcopy(tiny_clip).to(kind)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        FLYPTrainer(model, arguments(tmp_path), train_dataset=data, processing_class=tiny_processor())
    said = [str(item.message) for item in caught if "float32" in str(item.message)]
    if kind == torch.float64:
        assert not said and model.dtype == torch.float64
        return
    assert len(said) == 1 and str(kind).removeprefix("torch.") in said[0]
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    torch.testing.assert_close(model.logit_scale, tiny_clip.logit_scale.to(kind).float(), rtol=0, atol=0)


# ---- What is whole -------------------------------------------------------------------------------------------------


def position_ids(folder):
    weights(lambda found: {**found, "text_model.embeddings.position_ids": torch.arange(16)[None]})(folder)


def sharded(folder):
    (folder / "model.safetensors").unlink()
    CLIPModel(tiny_config()).save_pretrained(folder, max_shard_size="50KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1


def old_tokenizer_files(folder):
    content = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(content["vocab"]))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in content["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    (folder / "tokenizer.json").unlink()


def old_image_processor_file(folder):
    content = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").unlink()
    (folder / "preprocessor_config.json").write_text(json.dumps(content["image_processor"]))


WHOLE = {
    "as saved": lambda folder: None,
    "old buffers": position_ids,
    "several files": sharded,
    "vocabulary and merges": old_tokenizer_files,
    "preprocessor_config": old_image_processor_file,
    "prefix that Transformers takes off": prefixed("clip."),
    "no word on the class": changed("config.json", "architectures", value=None),
    "hostile code": changed("config.json", "auto_map", value={"AutoModel": "evil.Model"}),
}


@pytest.mark.parametrize("what", WHOLE)
def test_a_whole_checkpoint_loads(checkpoint, tiny_clip, what):
    WHOLE[what](checkpoint)
    model, processor = load_checkpoint(checkpoint)
    assert type(model) is CLIPModel and not model.training and model.dtype == torch.float32
    assert processor.tokenizer("a cat.")["input_ids"] == tiny_processor().tokenizer("a cat.")["input_ids"]
    if what != "several files":
        torch.testing.assert_close(model.state_dict(), tiny_clip.state_dict(), rtol=0, atol=0)


def test_nobody_is_asked_to_trust_code(checkpoint, monkeypatch):
    def asked(*_):
        raise AssertionError("somebody was asked")

    monkeypatch.setattr("builtins.input", asked)
    code = {
        "AutoConfig": "evil.A",
        "AutoModel": "evil.B",
        "AutoTokenizer": ["evil.C", "evil.D"],
        "AutoProcessor": "evil.E",
    }
    for name in ("config.json", "tokenizer_config.json", "processor_config.json"):
        changed(name, "auto_map", value=code)(checkpoint)
    changed("config.json", "custom_pipelines", value={TASK: {"impl": "evil.F"}})(checkpoint)
    (checkpoint / "evil.py").write_text("raise SystemExit('code of the checkpoint was run')")
    load_checkpoint(checkpoint)
    pipeline(checkpoint, require_detector=False)


@pytest.mark.parametrize("name", ["head.safetensors", "adapters.safetensors", "robustft_state.safetensors"])
@pytest.mark.parametrize("content", ["torn", "empty", "pointer", "foreign"])
def test_files_beside_the_weights_are_refused_in_one_line(tmp_path, name, content):
    if content in ("torn", "foreign"):
        save_file({"x": torch.zeros(3)}, tmp_path / name)
    if content != "foreign":
        whole = (tmp_path / name).read_bytes()[:-2] if content == "torn" else b""
        (tmp_path / name).write_bytes(POINTER.encode() if content == "pointer" else whole)
    (tmp_path / "robustft_state.json").write_text('{"format": 1}')
    load = {"head": ZeroShotHead.from_pretrained, "adapters": FeatureAdapters.from_pretrained}.get(
        name.split(".")[0], load_state
    )
    with pytest.raises((OSError, ValueError)) as error:
        load(tmp_path)
    assert "\n" not in str(error.value) and name in str(error.value)


def test_captions_are_cut_to_the_positions_of_the_model(checkpoint):
    changed("tokenizer_config.json", "model_max_length", value=77)(checkpoint)
    assert load_checkpoint(checkpoint)[1].tokenizer.model_max_length == 16
    (checkpoint / "tokenizer_config.json").unlink()
    assert load_checkpoint(checkpoint)[1].tokenizer.model_max_length == 16


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_half_precision_becomes_float32_and_says_so(checkpoint, tiny_clip, kind):
    tiny_clip.to(kind).save_pretrained(checkpoint)
    half = kind != torch.float64
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert load_checkpoint(checkpoint)[0].dtype == torch.float32
    assert [str(kind).removeprefix("torch.") in str(item.message) for item in caught] == [True] * half
    assert load_checkpoint(checkpoint, dtype=None)[0].dtype == kind


def test_the_old_way_to_say_the_end_of_text_is_known(checkpoint):
    changed("config.json", "text_config", "eos_token_id", value=2)(checkpoint)
    load_checkpoint(checkpoint)


# ---- Names that are no checkpoint ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("./outputs/crot", "outputs/crot"),
        ("~/nowhere/clip", "nowhere"),
        ("a/b/c", "a/b/c"),
        ("outputs/crot", "'outputs'"),
        ("weights/model.safetensors", "model.safetensors"),
        ("clip", "owner/name"),
        ("some body/clip", "owner/name"),
    ],
)
def test_what_looks_like_a_path_is_never_asked_of_the_hub(tmp_path, monkeypatch, name, named):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("hf_robustft.modeling.checkpoint_file.get_hf_file_metadata", None)
    monkeypatch.setattr("hf_robustft.modeling.checkpoint_file.hf_hub_download", None)
    (tmp_path / "outputs" / "carot").mkdir(parents=True)
    for load in (load_checkpoint, pipeline):
        with pytest.raises(FileNotFoundError, match=named):
            load(name)


def test_a_file_is_not_a_checkpoint(checkpoint):
    with pytest.raises(OSError, match="is a file"):
        load_checkpoint(checkpoint / "model.safetensors")


def test_a_home_folder_is_found(checkpoint, monkeypatch):
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    load_checkpoint("~/my-clip")
    pipeline("~/my-clip", require_detector=False)


def test_without_a_network_a_hub_id_is_refused_within_seconds(monkeypatch):
    # Nothing listens on the discard port of this machine.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(OSError, match="somebody/nothing.*Hub cannot be reached"):
        load_checkpoint("somebody/nothing", option="--model")
    assert time.monotonic() - started < 10


def test_the_option_is_named(tmp_path):
    with pytest.raises(OSError, match="`--model .*nowhere`"):
        load_checkpoint(tmp_path / "nowhere", option="--model")


def test_a_folder_named_as_the_packaged_checkpoint_is_not_taken_unsaid(checkpoint, monkeypatch):
    checkpoint.rename(checkpoint.with_name("emoji_clip"))
    monkeypatch.chdir(checkpoint.parent)
    with pytest.warns(UserWarning, match="give ./emoji_clip") as caught:
        assert load_checkpoint("emoji_clip")[0].config.projection_dim == 96
    assert len(caught) == 1
    assert load_checkpoint("./emoji_clip")[0].config.projection_dim == 16
