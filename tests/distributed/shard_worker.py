# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""In two processes: spread weights are seen, copied and set whole; penalties act on the whole projection."""

import copy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist
from helpers import random_batch, tiny_config
from transformers import CLIPModel

from hf_robustft.modeling.features import encode
from hf_robustft.modeling.spread_weights import (
    full_tensor,
    full_values,
    is_sharded,
    is_spread,
    placed_like,
    whole_copy,
)
from hf_robustft.objectives.singular_value import cross_frobenius_penalty, orthogonality_penalty
from hf_robustft.objectives.teacher import update_teacher
from hf_robustft.training.distributed import end_gloo, same_start
from hf_robustft.training.sharding import shard_model


def tiny(seed: int) -> CLIPModel:
    torch.manual_seed(seed)
    return CLIPModel(tiny_config()).double()


def check(condition: bool, what: str) -> None:
    if not condition:
        raise RuntimeError(f"rank {dist.get_rank()}: {what}")


def close(one, other, what: str) -> None:
    check(bool((full_tensor(one) - other).abs().max() <= 1e-12 * other.abs().max()), what)


def penalties(model: CLIPModel) -> torch.Tensor:
    visual, text = model.visual_projection.weight, model.text_projection.weight
    return orthogonality_penalty(visual) + cross_frobenius_penalty(visual, text)


def whole_projections() -> None:
    plain, spread = tiny(0), shard_model(tiny(0), "cpu")
    check(spread.visual_projection.weight.to_local().shape[0] == 8, "each process must hold half of the rows")
    check(not is_spread(spread.logit_scale), "the scalar stays whole")
    # At once (from spread weights), and after a forward pass (which leaves the root's weights gathered).
    for forward in (False, True):
        for model in (plain, spread):
            model.zero_grad()
            extra = encode(model, random_batch(4, dtype=torch.float64)).image_embeds.sum() if forward else 0.0
            (penalties(model) + extra).backward()
        close(penalties(spread).detach(), penalties(plain).detach(), "penalties differ")
        for name in ("visual_projection", "text_projection"):
            got, want = spread.get_submodule(name).weight.grad, plain.get_submodule(name).weight.grad
            check(is_spread(got), "a spread weight has a spread gradient")
            close(got, want, f"gradient of {name} differs (forward={forward})")


def copies_and_updates() -> None:
    # Different weights in each process: the first one's count.
    spread, plain = shard_model(tiny(dist.get_rank()), "cpu"), tiny(0)
    plain.text_model.requires_grad_(False)
    spread.text_model.requires_grad_(False)
    spread.vision_model.encoder.layers[0].self_attn.dropout = 0.25
    copied = whole_copy(spread)
    check(type(copied) is CLIPModel and not is_sharded(copied), "a copy is plain")
    check(copied.vision_model.encoder.layers[0].self_attn.dropout == 0.25, "changed dropout is copied")
    for name, value in plain.state_dict().items():
        check(torch.equal(copied.state_dict()[name], value), f"{name} differs in the copy")
    for name, parameter in plain.named_parameters():
        check(copied.get_parameter(name).requires_grad == parameter.requires_grad, f"{name} is frozen in one only")
    batch = random_batch(4, dtype=torch.float64)
    copied.eval()
    close(encode(copied, batch).image_embeds.detach(), encode(plain, batch).image_embeds.detach(), "features differ")

    wanted = tiny(7)
    update_teacher(wanted, plain, 0.3)
    for teacher in (tiny(7), shard_model(tiny(7), "cpu", reshard_after_forward=True)):
        with torch.no_grad():
            encode(teacher, batch)
        update_teacher(teacher, spread, 0.3)
        for name, value in full_values(teacher.state_dict()).items():
            close(value, wanted.state_dict()[name], f"{name} of the teacher differs")


def placing() -> None:
    spread = shard_model(tiny(0), "cpu").visual_projection.weight.detach()
    values = torch.randn(spread.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    placed = placed_like(values, spread)
    check(is_spread(placed) and torch.equal(placed.full_tensor(), values), "placing keeps the values")
    check(placed_like(placed, spread) is placed and torch.equal(placed_like(placed, values), values), "and goes back")
    check(placed_like(values, values) is values and full_tensor(3) == 3, "plain values stay as they are")


def starting() -> None:
    layer = torch.nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.fill_(dist.get_rank())
    same_start(layer)
    check(bool((layer.weight == 0).all()), "all processes start from the first one's weights")
    model = shard_model(tiny(0), "cpu")
    for refused in (lambda: shard_model(model, "cpu"), lambda: copy.deepcopy(model)):
        try:
            refused()
        except (ValueError, AssertionError):
            continue
        raise RuntimeError("a spread model must not be spread again, nor copied in parts")


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for work in (whole_projections, copies_and_updates, placing, starting):
        work()
        dist.barrier()
    end_gloo()
