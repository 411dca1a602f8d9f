# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""One voice: the docstring dialect of Hugging Face, one import style, and none of the turns of phrase to lose."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch.nn import Module
from transformers import Trainer, TrainerCallback

PACKAGE = "hf_robustft"
#: A method of one of these names overrides one that the library describes.
LIBRARY = {name for base in (Module, Trainer, TrainerCallback) for name in dir(base)}
#: In docstrings, comments and messages.
TURNS = {
    "is not a": r"(?<!there )(?<!, )\b(?:is|are|was|were) no (?!longer\b|more\b|less\b|better\b|worse\b|later\b)",
    "per image": r"\b(?:one|number|score|row|line|option|entry|dictionary) an? (?:image|line|row|class|set|step)\b",
    "again": r"\banew\b",
    "does not exist": r"\bcannot be had\b",
    "your own": r"\bof one's own\b",
    "should": r"\bshall\b",
    "more confident": r"\bsurer\b",
}
#: A message that begins with one of these begins with a small letter, and not with a name.
SMALL = re.compile(r"(?:the|a|an|no|there|this|that|it|if|in|on|of|only|give|cannot)\b")


def public(tree: ast.Module) -> Iterator[tuple[str, ast.AST, bool]]:
    """`(name, definition, whether it stands at the top)` of every public function, class and method."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            if any(ast.unparse(item) == "overload" for item in node.decorator_list):
                # The definition that follows says what it does.
                continue
            yield node.name, node, True
            for item in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
                    yield f"{node.name}.{item.name}", item, False


def parameters(node: ast.FunctionDef) -> list[str]:
    given = node.args
    extra = [item for item in (given.vararg, given.kwarg) if item is not None]
    names = [item.arg for item in (*given.posonlyargs, *given.args, *given.kwonlyargs, *extra)]
    return [name for name in names if name not in ("self", "cls")]


def own_raises(node: ast.FunctionDef) -> set[str]:
    """The errors that the body of a function raises by name, those of functions inside it excepted."""
    found, stack = set(), list(node.body)
    while stack:
        item = stack.pop()
        if isinstance(item, (ast.FunctionDef, ast.Lambda, ast.ClassDef)):
            continue
        if isinstance(item, ast.Raise) and isinstance(item.exc, ast.Call) and isinstance(item.exc.func, ast.Name):
            found.add(item.exc.func.id)
        stack += ast.iter_child_nodes(item)
    return found - {"AttributeError", "AssertionError", "NotImplementedError", "StopIteration"}


def untyped(doc: str) -> list[str]:
    """The entries of `Args` without a type in backticks."""
    section = re.search(r"^(?P<indent> *)Args:\n(?P<body>.*?)(?=^(?P=indent)\S|\Z)", doc, re.S | re.M)
    if section is None:
        return []
    indent = len(section["indent"]) + 4
    entries = re.split(rf"^ {{{indent}}}(?=\S)", section["body"], flags=re.M)[1:]
    heads = [" ".join(entry.split()) for entry in entries]
    return [head.split(":")[0][:40] for head in heads if not re.match(r"[\w*]+(, [\w*]+)* \([^:]*`", head)]


def texts(tree: ast.Module, source: str) -> Iterator[tuple[int, str]]:
    """Docstrings, comments and messages, by line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, " ".join(node.value.split())
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def beginning(error: ast.Call) -> str:
    """How the message of an error begins, as far as it is a literal."""
    first = error.args[0] if error.args else None
    if isinstance(first, ast.JoinedStr) and first.values:
        first = first.values[0]
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""


def faults(root: Path) -> list[str]:
    """Every fault below `root` (the package folder)."""
    found = []
    sources = {file: file.read_text(encoding="utf-8") for file in sorted(root.rglob("*.py"))}
    trees = {file: ast.parse(source) for file, source in sources.items()}
    methods = [entry for tree in trees.values() for entry in public(tree) if not entry[2]]
    described = LIBRARY | {node.name for _, node, _ in methods if ast.get_docstring(node)}
    for file, tree in trees.items():
        place, source = file.relative_to(root), sources[file]
        for name, node, top in public(tree):
            doc = ast.get_docstring(node)
            where = f"{place}:{node.lineno} {name}"
            if not doc:
                if top or node.name not in described:
                    found.append(f"{where} has no docstring")
                continue
            found += [f"{where}: {entry!r} has no type in backticks" for entry in untyped(doc)]
            if isinstance(node, ast.ClassDef):
                continue
            missing = [item for item in parameters(node) if not re.search(rf"\b{item}\b", doc)] if top else []
            found += [f"{where}: the docstring does not name {item}" for item in missing]
            if own_raises(node) and "Raises" not in doc:
                found.append(f"{where}: no Raises for {', '.join(sorted(own_raises(node)))}")
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == PACKAGE:
                found.append(f"{place}:{node.lineno} imports {node.module} absolutely")
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and SMALL.match(beginning(node.exc)):
                found.append(f"{place}:{node.lineno}: {beginning(node.exc)[:40]!r} begins with a small letter")
        for line, text in texts(tree, source):
            for better, turn in TURNS.items():
                match = re.search(turn, text, re.I)
                if match:
                    found.append(f"{place}:{line}: {match.group()!r}; say {better!r}")
    return found


@pytest.fixture(scope="module")
def found(repository):
    return faults(repository / PACKAGE)


def test_the_package_speaks_with_one_voice(found):
    assert found == []


GOOD = '''"""A room."""
from ..data import rows


def measure(values, n_bins=15, **options):
    """
    Measure what is given.

    Args:
        values (`torch.Tensor` of shape `(n,)`): Numbers; there is no limit.
        n_bins (`int`, *optional*, defaults to 15), options (*optional*): Bins, and more.

    Raises:
        ValueError: If a value is not finite.
    """
    if not values:
        raise ValueError(f"{values} is empty; give one number per image.")


class Box:
    """A box."""

    def open(self, key):
        """Open the box with a `key`."""
'''


def checked(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "file.py").write_text(text, encoding="utf-8")
    return faults(tmp_path)


def test_the_checker_passes_what_is_good(tmp_path):
    assert checked(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("        values (`torch.Tensor` of shape `(n,)`): Numbers; there is no limit.\n", "", "does not name values"),
        ("(`torch.Tensor` of shape `(n,)`)", "(tensor)", "'values (tensor)' has no type"),
        (" (`torch.Tensor` of shape `(n,)`)", "", "'values' has no type"),
        ("    Raises:\n        ValueError: If a value is not finite.\n", "", "no Raises for ValueError"),
        ('        """Open the box with a `key`."""\n', "        pass\n", "Box.open has no docstring"),
        ("from ..data import rows", f"from {PACKAGE}.data import rows", "absolutely"),
        ('f"{values} is empty', 'f"the values are empty', "small letter"),
        ("is not finite", "is no number", "'is no '"),
        ("one number per image", "one number an image", "'number an image'"),
        ('"""A box."""', '"""A box."""\n    # Opened anew.', "'anew'"),
        ("Open the box", "Shall open the box", "'Shall'"),
    ],
)
def test_the_checker_finds_a_planted_fault(tmp_path, old, new, named):
    assert old in GOOD
    found = checked(tmp_path, GOOD.replace(old, new))
    assert len(found) == 1 and named in found[0]
