# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The launch files of examples/accelerate start what they say; on CPU here, with fewer processes."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from launching import launch
from safetensors.torch import load_file

WORKER = Path(__file__).with_name("train_worker.py")
#: Files that a test below starts; the others must say that they were not run.
STARTED = {"multi_gpu", "multi_node", "fsdp2"}


@pytest.fixture(scope="module")
def folder(repository) -> Path:
    return repository / "examples" / "accelerate"


def start(file: Path, output: Path, *options, **settings):
    job = {"name": "run", "method": "carot", "settings": {"max_steps": 2, **settings}}
    command = [
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        file,
        "--num_processes",
        2,
        "--mixed_precision",
        "no",
    ]
    # Two tiny processes: the launcher's own rendezvous and environment, on loopback.
    run = launch([*command, *options, WORKER, output, 2, json.dumps([job])])
    return run


@pytest.mark.timeout(1000)
@pytest.mark.parametrize("name", ["multi_gpu", "fsdp2"])
def test_one_machine(folder, tmp_path, name):
    if torch.accelerator.is_available():
        pytest.skip("the files' GPU processes are replaced by CPU processes only where there is no accelerator")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = folder / f"{name}.yaml"
    run = start(file, tmp_path, "--main_process_port", port, **({"fully_shard": True} if name == "fsdp2" else {}))
    assert run.returncode == 0, run.stderr[-8000:]
    assert any(key.startswith("teacher.") for key in load_file(tmp_path / "run" / "end.safetensors"))


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_two_machines(folder, tmp_path):
    """Twenty seconds of two cores: `python -m pytest -m slow tests/distributed/test_launch_files.py`."""
    if torch.accelerator.is_available():
        pytest.skip("the files' GPU processes are replaced by CPU processes only where there is no accelerator")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def machine(rank: int):
        address = ["--main_process_ip", "127.0.0.1", "--main_process_port", port, "--machine_rank", rank]
        return start(folder / "multi_node.yaml", tmp_path, *address)

    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(machine, range(2)))
    for run in runs:
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
    run = start(file, tmp_path)
    assert run.returncode != 0 and "FSDP plugin cannot spread" in run.stderr, run.stderr[-3000:]
