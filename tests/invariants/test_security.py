# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Each promise of SECURITY.md has tests that exist, and the source holds nothing that would break the first of them."""

import ast
import re

import pytest

#: What runs what it is given: calls by their last names.
RUNS = {
    *("eval", "exec", "compile", "__import__", "system", "popen", "spawn", "getoutput", "unsafe_load", "full_load"),
    *("get_class_from_dynamic_module", "run_path", "run_module", "exec_module", "load_module"),
}
#: Modules that build objects from bytes, or start shells.
UNPICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "pty"}
#: Classes of ours, which read safetensors and JSON alone.
OURS = {"OpenSetDetector", "ConformalClassifier", "ZeroShotHead", "FeatureAdapters", "cls", "ClipAdapterHead", "MultiLabelClipAdapterHead", "MultiLabelHead", "TipAdapterHead"}


def test_each_promise_names_tests_that_exist(repository):
    text = (repository / ".github" / "SECURITY.md").read_text(encoding="utf-8")
    promises = re.split(r"^- \*\*", text.split("## Reporting")[0], flags=re.MULTILINE)[1:]
    assert len(promises) == 7
    for promise in promises:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", promise)
        assert named, promise[:60]
        for file, name in named:
            tree = ast.parse((repository / file).read_text(encoding="utf-8"))
            assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"


def is_off(value: ast.expr | None) -> bool:
    """Whether what stands for `trust_remote_code` is nothing, or `False` as a word."""
    return value is None or isinstance(value, ast.Constant) and value.value is False


def faults(source: str) -> list[str]:
    """What in a source runs or unpickles, with its line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [item.name for item in node.names]
            found += [f"{node.lineno}: {name}" for name in names if name.split(".")[0] in UNPICKLES]
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            found += [f"{node.lineno}: {key.value}" for key, value in pairs if getattr(key, "value", "") == "trust_remote_code" and not is_off(value)]
        if isinstance(node, ast.Assign) and any(getattr(target, "attr", "") == "trust_remote_code" for target in node.targets):
            found.append(f"{node.lineno}: trust_remote_code")
        if not isinstance(node, ast.Call):
            continue
        owner = node.func.value if isinstance(node.func, ast.Attribute) else None
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        given = {item.arg: item.value for item in node.keywords}
        of = getattr(owner, "id", "")
        if name in RUNS and not (name in ("eval", "compile") and owner is not None):
            found.append(f"{node.lineno}: {name}")
        if of == "torch" and name == "load" or of == "yaml" and name == "load":
            found.append(f"{node.lineno}: {of}.{name}")
        if "shell" in given or not is_off(given.get("trust_remote_code")):
            found.append(f"{node.lineno}: {name}")
        if name == "from_pretrained" and of not in OURS:
            if given.get("trust_remote_code") is None or not is_off(given["trust_remote_code"]):
                found.append(f"{node.lineno}: from_pretrained without trust_remote_code=False")
    return found


def test_nothing_in_the_package_can_run_what_it_reads(repository):
    found = {}
    for file in sorted((repository / "hf_robustft").rglob("*.py")):
        if wrong := faults(file.read_text(encoding="utf-8")):
            found[file.name] = wrong
    assert not found


@pytest.mark.parametrize(
    "line",
    [
        *("eval('1')", "import pickle", "from dill import loads", "os.system('ls')", "torch.load(path)", "yaml.load(text)"),
        *("subprocess.run(words, shell=True)", "AutoModel.from_pretrained(path)", "exec(code)"),
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
        "AutoModel.from_pretrained(path, trust_remote_code=given)",
        "load_dataset(path, trust_remote_code=args.trust)",
        "options = {'trust_remote_code': True}",
        "args.trust_remote_code = True",
        "AutoModel.from_config(config, trust_remote_code=1)",
        "get_class_from_dynamic_module('a.B', path)",
    ],
)
def test_each_of_these_would_be_found(line):
    assert faults(line)
    assert not faults("model.eval()\nre.compile('x')\nAutoModel.from_pretrained(path, trust_remote_code=False)")
