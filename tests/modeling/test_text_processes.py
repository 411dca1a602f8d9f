# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Texts in two processes: captions of different numbers under DDP, and class prompts shared out."""

import sys

import pytest
import torch
import torch.distributed as dist
from helpers import CLASSES, TEMPLATES, random_batch, tiny_config, tiny_tokenizer
from helpers.forked import run_ranks
from safetensors.torch import load_file, save_file
from torch.nn.parallel import DistributedDataParallel
from transformers import CLIPModel

from hf_robustft import ZeroShotHead
from hf_robustft.modeling.features import encode
from hf_robustft.modeling.zero_shot import prompt_features
from hf_robustft.training.distributed import end_gloo

PROCESSES = 2
#: 15 prompts, which two processes cannot share evenly.
NAMES = (*CLASSES, "a long name")


def model_and_batch():
    torch.manual_seed(0)
    batch = random_batch(dtype=torch.float64)
    batch["input_ids"][:4] = batch["input_ids"][0]  # one caption in the first process, four in the second
    return CLIPModel(tiny_config()).double().eval(), batch, torch.arange(1.0, 9.0, dtype=torch.float64)


def shapes_seen(model):
    shapes = []
    model.text_model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return shapes


def work(folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model, batch, weights = model_and_batch()
    shapes = shapes_seen(model)
    own = slice(4 * rank, 4 * rank + 4)
    wrapped = DistributedDataParallel(model)
    for _ in range(2):
        wrapped.zero_grad()
        features = encode(wrapped, {name: value[own] for name, value in batch.items()})
        scores = (features.image_embeds * features.text_embeds).sum(1) * features.logit_scale
        (scores * weights[own]).mean().backward()
    results = {f"gradient.{name}": parameter.grad for name, parameter in model.named_parameters()}
    results["captions"] = torch.tensor([rows for rows, _ in shapes])
    shapes.clear()
    head = ZeroShotHead.from_model(wrapped, tiny_tokenizer(), NAMES, TEMPLATES, batch_size=4, sharded=True)
    results["head"], results["prompts"] = head.weight.detach(), torch.tensor([rows for rows, _ in shapes])
    results["one prompt"] = prompt_features(model, tiny_tokenizer(), ["cat"], ["{}"], sharded=True)
    if rank == 0:
        # Unasked, no process waits for another: this one is alone here.
        results["alone"] = ZeroShotHead.from_model(model, tiny_tokenizer(), NAMES, TEMPLATES).weight.detach()
    save_file(results, f"{folder}/{rank}.safetensors")
    end_gloo()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    run = run_ranks(PROCESSES, __file__, folder)
    assert run.returncode == 0, run.stderr[-8000:]
    return [load_file(folder / f"{rank}.safetensors") for rank in range(PROCESSES)]


def test_processes_may_differ_in_the_number_of_their_captions(results):
    model, batch, weights = model_and_batch()
    output = model(pixel_values=batch["pixel_values"], input_ids=batch["input_ids"])
    (output.logits_per_image.diagonal() * weights).mean().backward()
    for got, rows in zip(results, (1, 4), strict=True):
        assert got["captions"].tolist() == [rows, rows]
        for name, parameter in model.named_parameters():
            # The gradient of a key bias is 0 up to rounding.
            limit = 1e-12 * (1.0 if "k_proj.bias" in name else parameter.grad.abs().max().item())
            torch.testing.assert_close(got[f"gradient.{name}"], parameter.grad, rtol=0, atol=limit, msg=name)


@pytest.mark.same_bits("one process computes a share and hands it to all; against one process there is a tolerance")
def test_a_head_made_together_is_the_head_made_alone(results):
    model, _, _ = model_and_batch()
    shapes = shapes_seen(model)
    alone = ZeroShotHead.from_model(model, tiny_tokenizer(), NAMES, TEMPLATES, sharded=True).weight
    assert sum(rows for rows, _ in shapes) == 15, "without a process group there is nobody to share with"
    first, second = results
    for name in ("head", "one prompt"):
        assert torch.equal(first[name], second[name]), "every process has the same bits"
    # Eight each: to make them even, both encode the last.
    assert first["prompts"].tolist() == second["prompts"].tolist() == [4, 4]
    limit = 1e-12 * alone.abs().max().item()
    for got in (first["head"], first["alone"]):
        torch.testing.assert_close(got, alone, rtol=0, atol=limit)
    one = prompt_features(model, tiny_tokenizer(), ["cat"], ["{}"])
    torch.testing.assert_close(first["one prompt"], one, rtol=0, atol=1e-12)


if __name__ == "__main__":
    work(sys.argv[1])
