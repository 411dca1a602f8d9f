# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Several processes with a part of the batch each, by DDP or FSDP2, are one process with the whole batch."""

import json
from pathlib import Path

import pytest
import torch
from helpers.families import family_model
from launching import run_in
from safetensors.torch import load_file

from hf_robustft.training.methods import METHODS

WORKER = Path(__file__).with_name("train_worker.py")
#: What is compared, its precision, and the largest error that rounding may leave.
LIMITS = {"float32": 1e-5, "float64": 1e-12, "end": 1e-9}
#: Of methods that are `ft` and a term, a start or a head of its own the end of a run says it all.
OF_FT = ("lp", "lp_ft", "l2_sp", "car_ft", "lipsum_ft", "clip_adapter", "tip_adapter_f")
#: Four processes show what two do not, uneven shares of a step; how a method gathers its rows, two show.
BY_FOUR = ("carot", "flyp", "ft", "croft", "carot+croft")
#: Of them; the others: `python -m pytest -m slow tests/distributed/test_equal_to_one.py`, two minutes.
OFTEN_BY_FOUR = ("carot-end", "carot+croft-end", "accumulated-end")
JOBS = [
    {
        "name": f"{method}-{what}",
        "method": method,
        "dtype": "float64" if what == "end" else what,
        "gradients": what != "end",
    }
    for method in METHODS
    for what in (["end"] if method in OF_FT else LIMITS)
]
#: Three micro-batches an epoch, so that every second step has but one.
JOBS.append({"name": "accumulated-end", "method": "carot", "settings": {"gradient_accumulation_steps": 2}})
JOBS.append({"name": "frozen-end", "method": "carot", "frozen": "text_model"})
#: Parts of the model, all of a tower frozen, and of the other the first layer.
OF_PARTS = {"train": "text,projections", "train_last_layers": 1}
JOBS.append({"name": "parts-end", "method": "carot", "settings": OF_PARTS})
JOBS.append({"name": "lora-end", "method": "carot", "settings": {"lora_rank": 2}})
JOBS.append({"name": "spd-end", "method": "flyp", "settings": {"optim": "spd"}})
JOBS.append({"name": "chunked-parts-end", "method": "carot", "settings": {**OF_PARTS, "contrastive_chunk_size": 1}})
#: SigLIP, whose bias trains too, by the objectives that have a form for it and by one that has not; CLIP's kin by the plainest.
OF_SIGLIP = ("flyp", "tracer", "covariance_anchor", "ft")
KIN = ("altclip", "blip", "vision-text-dual-encoder", "chinese_clip", "aimv2", "metaclip_2")
#: By two processes, now and then: what differs from CLIP's FLYP in its model alone, from FT in a term alone, or from another of these in
#: its precision alone.
SELDOM = {f"{kin}-end" for kin in KIN} | {f"{method}-float32" for method in METHODS if method not in (*OF_FT, "carot")}
SELDOM |= {f"{method}-end" for method in OF_FT if method not in ("lp", "l2_sp")}
JOBS += [{"name": f"siglip-{method}-end", "method": method, "family": "siglip"} for method in OF_SIGLIP]
JOBS += [{"name": f"{kin}-end", "method": "flyp", "family": kin, "settings": {"max_steps": 2}} for kin in KIN]
#: An image adapter that no weight can take in.
JOBS.append({"name": "siglip-croft-end", "method": "croft", "family": "siglip", "settings": {"adapter_image_ratio": 0.2}})
#: It stretches its positions in float32, whatever it is in.
JOBS.append({"name": "siglip2-float32", "method": "flyp", "family": "siglip2", "dtype": "float32", "gradients": True})
#: Lists of labels; the bias of CLIP's head is fitted to the training images that all processes encode together.
OF_LISTS = (("flyp", "siglip"), ("ft", "clip"))
JOBS += [{"name": f"lists-{family}-end", "method": method, "family": family, "lists": True} for method, family in OF_LISTS]
# With chunks, where some parameters have no gradient.
OF_CHUNKS = {"max_steps": 2, "contrastive_chunk_size": 1}
JOBS.append({"name": "chunked-blip-end", "method": "flyp", "family": "blip", "settings": OF_CHUNKS})


def jobs_of(processes: int) -> list[dict]:
    """Four processes round as two do in float32: of them one method says it all."""
    if processes < 4:
        return JOBS
    return [job for job in JOBS if job["method"] in BY_FOUR and "family" not in job and (job.get("dtype") != "float32" or job["method"] == "carot")]


#: The same by FSDP2, and three variants of it that must not matter.
SHARDED = [job for job in JOBS if job["method"] in ("carot", "flyp") and "family" not in job]
SHARDED += [job for job in JOBS if job["name"] in ("tracer-end", "siglip-covariance_anchor-end", "siglip2-float32")]
SHARDED = [job for job in SHARDED if not {"contrastive_chunk_size", "lora_rank"} & job.get("settings", {}).keys()]
SHARDED.append({"name": "whole-teacher", "method": "carot", "settings": {"shard_teacher": False}})
SHARDED.append({"name": "checkpointed", "method": "carot", "settings": {"activation_checkpointing": True}})
SHARDED = [{**job, "settings": {**job.get("settings", {}), "fully_shard": True}} for job in SHARDED]
#: The others now and then.
OFTEN_SHARDED = ("carot-float64", "carot-end", "flyp-end", "accumulated-end", "frozen-end", "siglip2-float32", "whole-teacher", "checkpointed")


def often(processes: int, name: str, sharded: bool) -> bool:
    """Whether the default suite has it, and not only the slow tests."""
    if sharded:
        return name in OFTEN_SHARDED
    return name in OFTEN_BY_FOUR if processes == 4 else name not in SELDOM


def seldom(processes: int, name: str, sharded: bool = False):
    """The marks of its test."""
    return () if often(processes, name, sharded) else pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """`trained(processes, job, sharded=False)` -> `(tensors, logs)`; all jobs of a kind run at the first call for one of them."""
    folders = {}

    def result(processes: int, name: str, sharded: bool = False) -> tuple[dict, list[dict]]:
        kind = processes, sharded, often(processes, name, sharded)
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp(f"processes{processes}{'sharded' * sharded}")
            jobs = SHARDED if sharded else jobs_of(processes)
            jobs = [job for job in jobs if often(processes, job["name"], sharded) == kind[2]]
            run_in(processes, WORKER, folders[kind], processes, json.dumps(jobs))
        folder = folders[kind] / name
        return load_file(folder / "end.safetensors"), json.loads((folder / "logs.json").read_text())

    return result


def assert_equal(got: dict, want: dict, limit: float) -> None:
    """`max|got - want| <= limit * max|want|` for each tensor; absolutely for key biases, whose gradient is rounding."""
    assert got.keys() == want.keys()
    for name, value in want.items():
        error, size = (got[name] - value).abs().max().item(), value.abs().max().item()
        assert value.isfinite().all() and got[name].isfinite().all(), name
        if name.endswith("k_proj.bias"):
            assert error <= limit, f"{name} is off by {error:.3g}"
        else:
            assert error <= limit * size, f"{name} is off by {error:.3g}, its largest value is {size:.3g}"


def assert_same_logs(got: list[dict], want: list[dict], limit: float) -> None:
    assert len(got) == len(want) >= 1
    for one, other in zip(got, want, strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            # A distance of a model from itself is 0 but for the last bits of its unit vectors.
            assert one[name] == pytest.approx(value, rel=limit, abs=1e-15), name


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("processes", "name"),
    [
        pytest.param(processes, job["name"], marks=seldom(processes, job["name"]))
        for processes in (2, 4)
        for job in jobs_of(processes)
    ],
)
def test_several_processes_equal_one(trained, processes, name):
    limit = LIMITS[name.rsplit("-")[-1]]
    (want, logs), (got, got_logs) = trained(1, name), trained(processes, name)
    assert_equal(got, want, limit)
    assert_same_logs(got_logs, logs, limit)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [pytest.param(job["name"], marks=seldom(2, job["name"], True)) for job in SHARDED])
def test_fsdp2_equals_one_process(trained, name):
    plain = name if any(job["name"] == name for job in JOBS) else "carot-end"
    limit = LIMITS[plain.rsplit("-")[-1]]
    (want, logs), (got, got_logs) = trained(1, plain), trained(2, name, sharded=True)
    # Of spread weights no term has a gradient by itself.
    logs = [entry for entry in logs if "loss" in entry]
    assert_equal(got, want, limit)
    assert_same_logs(got_logs, logs, limit)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("now_and_then", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_is_compared_is_all_there(trained, now_and_then):
    for method in (method for method in METHODS if (f"{method}-end" in SELDOM) == now_and_then):
        end, end_logs = trained(1, f"{method}-end")
        gradients, logs = ({}, end_logs) if method in OF_FT else trained(1, f"{method}-float64")
        terms = set().union(*(entry.keys() for entry in logs))
        distils = "carot" in method or method == "covariance_anchor"
        assert ("loss/self_distillation" in terms) == distils, "the teacher has left the student"
        assert ("loss/covariance_anchor" in terms) == (method == "covariance_anchor")
        assert ("loss/energy_gradient" in terms) == ("croft" in method)
        assert ("loss/feature_distillation" in terms) == (method == "tracer")
        assert ("logit_scale" in gradients) == (method in ("carot", "tracer", "flyp", "carot+croft", "covariance_anchor"))
        assert any(name.startswith("teacher.") for name in end) == (distils or method == "tracer")
        # Beside the entries of the five steps, one of each measurement of the gradients.
        assert len(end_logs) == 5 + 2
        assert len([entry for entry in end_logs if any(key.startswith("gradient_share/") for key in entry)]) == 2
        for name, term in {"l2_sp": "l2_sp", "car_ft": "context", "lipsum_ft": "random_text"}.items():
            assert (f"loss/{term}" in terms) == (method == name)
        # A gradient of nothing would equal anything's. A key's bias moves no softmax.
        assert all(
            value.abs().max() > 1e-9 for name, value in gradients.items() if not name.endswith("k_proj.bias")
        ), method
    for method in OF_SIGLIP:
        end, logs = trained(1, f"siglip-{method}-end")
        terms, distils = set().union(*(entry.keys() for entry in logs)), method in ("tracer", "covariance_anchor")
        assert ("loss/batch_distillation" in terms) == ("loss/feature_distillation" in terms) == (method == "tracer")
        assert ("loss/self_distillation" in terms) == ("loss/covariance_anchor" in terms) == (method == "covariance_anchor")
        assert "loss/cross_frobenius" not in terms and ("teacher.logit_bias" in end) == distils
        start = family_model("siglip").logit_bias.item()
        assert (end["student.logit_bias"].item() == start) == (method == "ft"), "a bias that a head does not read is frozen"
        assert not distils or end["teacher.logit_bias"].item() not in (start, end["student.logit_bias"].item())
    kept, _ = trained(1, "siglip-croft-end")
    assert not torch.equal(kept["adapters.image_adapter"], torch.eye(32, dtype=torch.float64)), "it trains"
    # The frozen tower is still what it was at the start: the teacher's too, but nothing else.
    frozen, _ = trained(1, "frozen-end")
    free, _ = trained(1, "carot-end")
    name = "student.text_model.encoder.layers.0.mlp.fc1.weight"
    # m * x + (1 - m) * x is x but for rounding, which a fused multiply-add may leave out.
    assert (frozen[name] - frozen[name.replace("student", "teacher")]).abs().max() < 1e-15
    assert (frozen[name] - free[name]).abs().max() > 1e-6
