# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The launch files of examples/accelerate start what they say; on CPU here, with fewer processes."""

import json
import socket
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from launched import start
from safetensors.torch import load_file

WORKER = Path(__file__).with_name("train_worker.py")
#: Files that a test below starts; the others must say that they were not run.
STARTED = {"multi_gpu", "multi_node", "fsdp2"}


@pytest.fixture(scope="module")
def folder(repository) -> Path:
    return repository / "examples" / "accelerate"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def train(file: Path, output: Path, *machines, **settings):
    """A run of two tiny processes; `machines` are the options of the launcher on each, of which there may be one."""
    if torch.accelerator.is_available():
        pytest.skip("the files' GPU processes are replaced by CPU processes only where there is no accelerator")
    job = {"name": "run", "method": "carot", "settings": {"max_steps": 2, **settings}}
    options = ["--config_file", file, "--num_processes", 2, "--mixed_precision", "no"]
    (output / "launch").mkdir()
    launchers = [[*options, *machine] for machine in machines or ([],)]
    return start(launchers, 2, WORKER, [output, 2, json.dumps([job])], output / "launch")


@pytest.mark.timeout(1000)
@pytest.mark.parametrize("name", ["multi_gpu", "fsdp2"])
def test_one_machine(folder, tmp_path, name):
    port = ["--main_process_port", free_port()]
    run = train(folder / f"{name}.yaml", tmp_path, port, **({"fully_shard": True} if name == "fsdp2" else {}))
    assert run.returncode == 0, run.stderr[-8000:]
    assert any(key.startswith("teacher.") for key in load_file(tmp_path / "run" / "end.safetensors"))


@pytest.mark.timeout(1000)
def test_two_machines(folder, tmp_path):
    address = ["--main_process_ip", "127.0.0.1", "--main_process_port", free_port(), "--machine_rank"]
    run = train(folder / "multi_node.yaml", tmp_path, [*address, 0], [*address, 1])
    assert run.returncode == 0, run.stderr[-8000:]
    assert (tmp_path / "run" / "end.safetensors").is_file()


def test_every_file_is_started_or_marked(folder):
    files = sorted(folder.glob("*.yaml"))
    assert {file.stem for file in files} >= STARTED
    table = (folder / "README.md").read_text()
    for file in files:
        text = file.read_text()
        assert ("NOT RUN" in text) == (file.stem not in STARTED), file.name
        assert file.name in table
        config = load_config_from_file(str(file))
        assert config.num_processes % config.num_machines == 0
        assert not yaml.safe_load(text).get("fsdp_config"), "Accelerate's plugin is refused"


@pytest.mark.timeout(1000)
def test_accelerates_fsdp_plugin_is_refused_at_start(folder, tmp_path):
    text = (folder / "fsdp2.yaml").read_text().replace("distributed_type: MULTI_GPU", "distributed_type: FSDP")
    file = tmp_path / "plugin.yaml"
    file.write_text(text + "fsdp_config:\n  fsdp_version: 2\n")
    run = train(file, tmp_path)
    assert run.returncode != 0 and "FSDP plugin cannot spread" in run.stderr, run.stderr[-3000:]
