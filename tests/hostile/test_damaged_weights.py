# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Weights and configurations that are damaged or lie: refused in one line, before any work, soon and in bounded memory."""

import json
import resource
import shutil
import time

import pytest
import torch
from helpers import CLASSES, TEMPLATES, image_dataset, tiny_config, tiny_processor
from safetensors.torch import load_file, save, save_file
from transformers import CLIPModel

from hf_robustft import load_checkpoint, pipeline
from hf_robustft.cli import main
from hf_robustft.modeling.checkpoint import load_processor
from hf_robustft.publishing.metadata import write_robustft_json

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "clip"
    torch.manual_seed(0)
    CLIPModel(tiny_config()).save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    write_robustft_json(folder, method="flyp", class_names=CLASSES, templates=TEMPLATES, settings={})
    return folder


def parts_of(folder):
    content = (folder / WEIGHTS).read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def put_together(folder, header, data, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)


def entry(**changes):
    """The header says something else of one tensor."""

    def spoil(folder):
        header, data = parts_of(folder)
        header["visual_projection.weight"] |= changes
        put_together(folder, header, data)

    return spoil


def header_of(length):
    return lambda folder: put_together(folder, *parts_of(folder), length=length)


def cut(share):
    def spoil(folder):
        content = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(content[: int(share * len(content))])

    return spoil


def huge_header(folder):
    header, data = parts_of(folder)
    more = {f"x{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(20_000)}
    put_together(folder, header | more, data)


def cast(kind):
    def spoil(folder):
        found = {name: value.to(kind) for name, value in load_file(folder / WEIGHTS).items()}
        save_file(found, folder / WEIGHTS, {"format": "pt"})

    return spoil


def sharded(then=lambda folder, index: None):
    def spoil(folder):
        torch.manual_seed(0)
        (folder / WEIGHTS).unlink()
        CLIPModel(tiny_config()).save_pretrained(folder, max_shard_size="50KB")
        index = json.loads((folder / INDEX).read_text())
        then(folder, index)
        (folder / INDEX).write_text(json.dumps(index))

    return spoil


def shard_of_another(folder, index):
    """Of a checkpoint that was cut elsewhere: a tensor is in two files."""
    first, second = sorted(set(index["weight_map"].values()))[:2]
    mixed = load_file(folder / second)
    mixed |= dict([next(iter(load_file(folder / first).items()))])
    save_file(mixed, folder / second, {"format": "pt"})


def names_a_shard(name):
    return lambda folder, index: index["weight_map"].update(logit_scale=name)


def lost_shard(folder, index):
    (folder / index["weight_map"]["logit_scale"]).unlink()


def elsewhere(folder, index):
    """The index says another file than the one that holds the tensor."""
    shards = sorted(set(index["weight_map"].values()))
    index["weight_map"]["logit_scale"] = next(name for name in shards if name != index["weight_map"]["logit_scale"])


def configured(part, **changes):
    def spoil(folder):
        content = json.loads((folder / CONFIG).read_text())
        (content if part is None else content[part]).update(changes)
        (folder / CONFIG).write_text(json.dumps(content))

    return spoil


FAMILIES = {
    "cut in the header": (cut(0.01), WEIGHTS),
    "cut in the tensors": (cut(0.9), WEIGHTS),
    "a byte short": (cut(0.999999), WEIGHTS),
    "longer than it says": (lambda folder: (folder / WEIGHTS).open("ab").write(b"\0" * 64), WEIGHTS),
    "nothing but a length": (lambda folder: (folder / WEIGHTS).write_bytes(b"\xff" * 8), WEIGHTS),
    "header of no bytes": (header_of(0), WEIGHTS),
    "header of 2^63 bytes": (header_of(2**63), "header of 9,223,372,036,854,775,808 bytes"),
    "header longer than the file": (header_of(9_000_000), WEIGHTS),
    "header of 20,000 empty tensors": (huge_header, "unexpected"),
    "header that is not JSON": (lambda folder: put_together(folder, b"[" * 100_000, b""), WEIGHTS),
    "shape that lies": (entry(shape=[2**40, 2**20]), WEIGHTS),
    "shape that overflows": (entry(shape=[2**63, 2**63]), WEIGHTS),
    "shape that is negative": (entry(shape=[-1, 16]), WEIGHTS),
    "other shape, same bytes": (entry(shape=[1, 512]), "visual_projection.weight"),
    "offsets that overlap": (entry(data_offsets=[0, 2048]), WEIGHTS),
    "offsets behind the end": (entry(data_offsets=[2**40, 2**40 + 2048]), WEIGHTS),
    "a kind that there is not": (entry(dtype="F31"), WEIGHTS),
    "a kind of another size": (entry(dtype="F64"), WEIGHTS),
    "whole numbers": (cast(torch.int32), "floating-point"),
    "complex numbers": (cast(torch.complex64), "floating-point"),
    "not a number": (lambda folder: save_file({name: value * float("nan") for name, value in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS, {"format": "pt"}), "not finite"),
    "no tensors": (lambda folder: (folder / WEIGHTS).write_bytes(save({})), "missing"),
    "a pickle by its name": (lambda folder: torch.save({"a": torch.ones(2)}, folder / WEIGHTS), WEIGHTS),
    "index names a folder above": (sharded(names_a_shard("../../x.safetensors")), "outside its folder"),
    "index names a path": (sharded(names_a_shard("/etc/passwd")), "outside its folder"),
    "index names a number": (sharded(names_a_shard(5)), INDEX),
    "index names a name too long": (sharded(names_a_shard("x" * 10_000)), INDEX),
    "index without a map": (sharded(lambda folder, index: index.pop("weight_map")), INDEX),
    "a shard is missing": (sharded(lost_shard), "lacks"),
    "a shard of another checkpoint": (sharded(shard_of_another), "two checkpoints"),
    "index and shards disagree": (sharded(elsewhere), "two checkpoints"),
    "configuration of a wider model": (configured("vision_config", hidden_size=64), "of another shape"),
    "configuration of a deeper model": (configured("text_config", num_hidden_layers=7), "missing"),
    "hidden_size of 10^9": (configured("text_config", hidden_size=10**9), "hidden_size"),
    "layers without end": (configured("vision_config", num_hidden_layers=10**9), "num_hidden_layers"),
    "layers below zero": (configured("text_config", num_hidden_layers=-1), "num_hidden_layers"),
    "a vocabulary of 10^15": (configured("text_config", vocab_size=10**15), CONFIG[:4]),
    "dropout of 5": (configured("text_config", attention_dropout=5.0), "attention_dropout"),
    "heads below zero": (configured("text_config", num_attention_heads=-1), "num_attention_heads"),
    "heads that do not divide": (configured("vision_config", num_attention_heads=7), CONFIG),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_damaged_weights_are_one_line_soon_and_small(whole, tmp_path, family):
    spoil, named = FAMILIES[family]
    folder = shutil.copytree(whole, tmp_path / "clip")
    spoil(folder)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    for load in (load_checkpoint, load_processor):
        if load is load_processor and family == "not a number":
            continue
        with pytest.raises((OSError, ValueError)) as error:
            load(folder)
        text = str(error.value)
        assert "\n" not in text and named in text and str(folder) in text and len(text) < 700
    assert time.process_time() - started < 5 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000, "kilobytes"


def test_shards_that_belong_together_are_read(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "clip")
    sharded()(folder)
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    found = load_checkpoint(folder)[0].state_dict()
    assert all(value.equal(load_file(whole / WEIGHTS)[name]) for name, value in found.items())


@pytest.mark.parametrize("family", ["cut in the tensors", "shape that lies", "layers without end", "a shard of another checkpoint"])
def test_every_command_refuses_them_before_it_works(whole, tmp_path, family, capsys):
    spoil, named = FAMILIES[family]
    folder = shutil.copytree(whole, tmp_path / "clip")
    spoil(folder)
    image_dataset(8).to_parquet(tmp_path / "train.parquet")
    (folder / "README.md").write_text("A model.\n")
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    data, out = str(tmp_path / "train.parquet"), ["--output_dir", str(tmp_path / "out"), "--use_cpu"]
    for command in (
        ["train", "--model", str(folder), "--train_dataset", data, "--max_steps", "1", *out],
        ["evaluate", str(folder), "--eval_datasets", data, *out],
        ["calibrate", str(folder), "--dataset", data, "--use_cpu"],
        ["export", str(folder), "--class_names", str(tmp_path / "names.txt"), *out],
        ["publish", str(folder), "--repo_id", "me/clip", "--dry_run"],
    ):
        assert main(command) == 2, command[0]
        lines = capsys.readouterr().err.splitlines()
        assert lines[-1].startswith("error: ") and named in lines[-1], (command[0], lines[-1])
    with pytest.raises((OSError, ValueError), match=named):
        pipeline(folder, require_detector=False)
    assert not (tmp_path / "out").exists() and {path.name: path.read_bytes() for path in folder.iterdir()} == before
