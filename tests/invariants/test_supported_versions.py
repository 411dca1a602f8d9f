# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What `pyproject.toml` declares is what `.ci/matrix` runs the suite with."""

import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

#: Of the Hugging Face stack: both ends are tested.
STACK = {"transformers", "accelerate", "datasets", "torch", "evaluate", "safetensors", "huggingface-hub"}


@pytest.fixture(scope="module")
def project(repository) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def declared(project) -> dict[str, Requirement]:
    requirements = map(Requirement, project["dependencies"])
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def pinned(file) -> dict[str, Version]:
    lines = file.read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def test_the_oldest_versions_are_the_lower_bounds(repository, declared):
    bounds = {
        name: [Version(part.version) for part in requirement.specifier if part.operator == ">="]
        for name, requirement in declared.items()
    }
    oldest = pinned(repository / ".ci" / "constraints-oldest.txt")
    assert {name: [version] for name, version in oldest.items()} == bounds


def test_the_newest_and_the_usual_versions_are_allowed_and_no_older(repository, declared):
    oldest = pinned(repository / ".ci" / "constraints-oldest.txt")
    usual = pinned(repository / "constraints.txt")
    newest = pinned(repository / ".ci" / "constraints-newest.txt")
    assert set(newest) == STACK <= set(declared) <= set(usual)
    for name, requirement in declared.items():
        ordered = [oldest[name], usual[name], newest.get(name, usual[name])]
        assert ordered == sorted(ordered), name
        assert all(requirement.specifier.contains(version) for version in ordered), name


def test_each_declared_python_is_run(repository, project):
    declared = [line.rsplit(" ", 1)[1] for line in project["classifiers"] if re.search(r"Python :: 3\.\d+$", line)]
    assert project["requires-python"] == f">={declared[0]}"
    matrix = (repository / ".ci" / "matrix").read_text(encoding="utf-8")
    assert re.search(r"PYTHONS:-(.*?)}", matrix)[1].split() == declared
    workflow = yaml.safe_load((repository / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == declared
