# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Public names are there, and cost nothing until they are used."""

import ast
import os
import subprocess
import sys

import pytest

import hf_robustft
from hf_robustft.modeling.heads import KINDS

NAMES = [
    "RobustTrainer",
    "RobustTrainingArguments",
    "CaRotTrainer",
    "FLYPTrainer",
    "FineTuneTrainer",
    "LinearProbeTrainer",
    "LPFTTrainer",
    "L2SPTrainer",
    "CARFTTrainer",
    "LipsumFTTrainer",
    "ContrastiveMixin",
    "CrossEntropyMixin",
    "SingularValueMixin",
    "SelfDistillationMixin",
    "Benchmark",
    "load_benchmark",
    "ZeroShotHead",
    "Evaluator",
    "EvaluationReport",
    "interpolate_weights",
    "write_model_card",
]


def python(code: str, repository) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)


@pytest.mark.parametrize("name", NAMES)
def test_name_is_public_and_resolves(name):
    assert name in hf_robustft.__all__ and name in dir(hf_robustft)
    value = getattr(hf_robustft, name)
    assert value.__name__ == name
    assert value.__module__.startswith("hf_robustft.")
    assert value.__doc__ and value.__doc__.strip()


@pytest.mark.parametrize("name", hf_robustft.__all__)
def test_all_resolves(name):
    assert getattr(hf_robustft, name) is not None


def test_every_kind_of_head_that_a_checkpoint_may_have_is_public():
    assert len(KINDS) > 4 and {head.__name__ for head in KINDS.values()} <= set(hf_robustft.__all__)


def test_editors_and_type_checkers_see_the_same_names(repository):
    tree = ast.parse((repository / "hf_robustft" / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {alias.asname: f"{node.module}.{alias.name}" for node in block.body for alias in node.names}
    assert seen == {name: f"{room}.{name}" for name, room in hf_robustft._HOME.items()}


def test_all_has_no_duplicates():
    assert len(hf_robustft.__all__) == len(set(hf_robustft.__all__))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'CaRotTrainr'"):
        hf_robustft.CaRotTrainr  # noqa: B018
    with pytest.raises(ImportError):
        from hf_robustft import CaRotTrainr  # noqa: F401


def test_importing_the_package_is_light(repository):
    heavy = "('torch', 'transformers', 'datasets', 'numpy', 'PIL', 'sklearn', 'matplotlib')"
    code = f"import hf_robustft, sys; print([m for m in {heavy} if m in sys.modules], hf_robustft.__version__)"
    result = python(code, repository)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == f"[] {hf_robustft.__version__}"
