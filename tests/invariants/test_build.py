# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The wheel and the source archive hold what they must, are of the stated size, and work where they are installed."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import hf_robustft

#: MB. Most of both is the packaged checkpoints and pictures; the source archive has the golden numbers too.
WHEEL, SOURCES = (14, 20), (17, 24)
#: Written by other tests, and by Python.
LEFT_OUT = {"__pycache__", ".pytest_cache", ".ruff_cache"}
USE = """
import hf_robustft, sys
from hf_robustft.data.benchmarks import load_benchmark
from hf_robustft.modeling.checkpoint import load_checkpoint
assert not hf_robustft.__file__.startswith(sys.argv[1]), hf_robustft.__file__
model, processor = load_checkpoint("emoji_clip")
load_checkpoint("emoji_clip_carot")
print(hf_robustft.__version__, type(model).__name__, len(load_benchmark("emoji_shift")["validation"].load()))
"""


def run(*command, **environment) -> str:
    environment = {**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, **environment}
    ended = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=1500)
    assert ended.returncode == 0, f"{command}\n{ended.stdout[-2000:]}\n{ended.stderr[-3000:]}"
    return ended.stdout


@pytest.fixture(scope="module")
def built(repository, tmp_path_factory) -> dict[str, Path]:
    """Both archives; the wheel is built from the source archive, as `python -m build` does it."""
    folder = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, repository)
    return {"wheel": next(folder.glob("*.whl")), "sources": next(folder.glob("*.tar.gz"))}


def files_of(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not LEFT_OUT & set(path.parts) and path.suffix != ".pyc"
    }


def test_the_wheel_holds_the_package_and_nothing_else(built, repository):
    with zipfile.ZipFile(built["wheel"]) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
        notes = {name.split("/", 1)[1] for name in wheel.namelist() if ".dist-info/" in name}
    assert held == {f"hf_robustft/{name}" for name in files_of(repository / "hf_robustft")}
    assert {"METADATA", "entry_points.txt", "licenses/LICENSE"} <= notes
    assert "licenses/hf_robustft/assets/emoji_shift/LICENSES.md" in notes
    assert WHEEL[0] < built["wheel"].stat().st_size / 1e6 < WHEEL[1]


def test_the_source_archive_holds_what_a_clone_does(built, repository):
    with tarfile.open(built["sources"]) as sources:
        held = {member.name.split("/", 1)[1] for member in sources.getmembers() if member.isfile()}
    for folder in ("hf_robustft", "tests", "examples", "model_cards", ".ci", ".github"):
        assert {f"{folder}/{name}" for name in files_of(repository / folder)} <= held, folder
    papers = {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "constraints.txt", "pyproject.toml", "PKG-INFO"}
    assert papers <= held
    assert SOURCES[0] < built["sources"].stat().st_size / 1e6 < SOURCES[1]


#: The wheel is built from the source archive: what the archive lacks, the wheel lacks.
SOURCES_TOO = pytest.param("sources", marks=pytest.mark.slow)


@pytest.mark.parametrize("archive", ["wheel", SOURCES_TOO])
def test_each_works_in_an_environment_of_its_own(built, archive, repository, tmp_path):
    """
    Only hf_robustft is in the new environment; the packages that it needs are this one's, without its own copy.

    The source archive: `python -m pytest tests/invariants/test_build.py -m slow -k environment_of_its_own`.
    """
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-build-isolation", built[archive],
        PYTHONPATH=sysconfig.get_path("purelib"))  # fmt: skip
    # On PYTHONPATH the links of an editable installation are not followed.
    needed = {"PYTHONPATH": sysconfig.get_path("purelib"), "HF_HUB_OFFLINE": "1"}
    version, model, images = run(python, "-P", "-c", USE, repository, **needed).split()
    assert (version, model, int(images) > 0) == (hf_robustft.__version__, "CLIPModel", True)
    command = python.with_name("hf-robustft")
    assert run(command, "--version", **needed).split()[-1] == hf_robustft.__version__
    assert "--eval_datasets" in run(command, "evaluate", "--help", **needed)


@pytest.mark.slow
@pytest.mark.parametrize("archive", ["wheel", "sources"])
def test_each_installs_with_all_it_needs_in_an_empty_environment(built, archive, repository, tmp_path):
    """Downloads every dependency: `python -m pytest tests/invariants/test_build.py -m slow`."""
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    run(python, "-m", "pip", "install", "-c", repository / "constraints.txt", built[archive])
    run(python, "-m", "pip", "check")
    assert run(python, "-P", "-c", USE, repository, HF_HUB_OFFLINE="1").startswith(hf_robustft.__version__)


def test_the_papers_agree_on_the_version(repository):
    citation = yaml.safe_load((repository / "CITATION.cff").read_text(encoding="utf-8"))
    changes = (repository / "CHANGELOG.md").read_text(encoding="utf-8")
    assert citation["version"] == hf_robustft.__version__
    assert re.search(r"^## (\S+)", changes, re.MULTILINE)[1] == hf_robustft.__version__


def test_the_workflow_calls_what_a_fresh_machine_runs(repository):
    workflow = yaml.safe_load((repository / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert any(".ci/run" in step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"])
    pinned = (repository / "constraints.txt").read_text(encoding="utf-8")
    hooks = yaml.safe_load((repository / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert f"ruff=={hooks['repos'][0]['rev'].removeprefix('v')}\n" in pinned
