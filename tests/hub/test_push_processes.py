# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Pushes of a run in two processes: saved by all, sent by the first."""

import json

import pytest

RUNS = {
    "ddp": {"method": "croft", "hub_strategy": "all_checkpoints"},
    "fsdp": {"fully_shard": True, "eval_strategy": "steps", "eval_steps": 1},
}


# Slow: two processes that import torch, beside a Hub, on two cores.
@pytest.mark.slow
@pytest.mark.parametrize("name", list(RUNS))
def test_two_processes_push_once(name, hub, run_with_hub, tmp_path):
    out = tmp_path / name
    run = {"output_dir": str(out), "hub_model_id": f"alice/{name}", "per_device_train_batch_size": 4, **RUNS[name]}
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2, "-m", "hub.push_worker"]
    run_with_hub([*launch, json.dumps([run])], hub, GLOO_SOCKET_IFNAME="lo")
    titles = [commit.title for commit in reversed(hub.repositories["model", f"alice/{name}"].history())]
    pushes = [title for title in titles if not title.endswith("checkpoint")]
    assert pushes[1:] == ["Training in progress, step 1", "Training in progress, step 2", "End of training"]
    assert len(titles) == len(pushes) + (2 if name == "ddp" else 0)
    files = {path: content for path, content in hub.files("model", f"alice/{name}").items() if "/" not in path}
    assert {"README.md", "robustft.json", "model.safetensors"} <= set(files)
    assert all((out / path).read_bytes() == content for path, content in files.items())
