# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A room imports from its own and from rooms to its left, never from one to its right."""

import ast
from pathlib import Path

import pytest

PACKAGE = "hf_robustft"
ORDER = ("locks", "files", "data", "modeling", "objectives", "evaluation", "deployment", "publishing", "training", "comparison", "cli")
#: What the package root may give to a room: facts, not code of other rooms.
ROOT_NAMES = {"__version__"}


def room_of(parts: tuple[str, ...]) -> str:
    """The room of a module given by its path below the package, without suffix; '' for the package itself."""
    return "" if parts in ((), ("__init__",)) else parts[0]


def imported(tree: ast.AST, module: tuple[str, ...]) -> list[tuple[int, tuple[str, ...], list[str]]]:
    """`(line, path below the package, names)` of every import of the package, wherever in the module it stands."""
    found = []
    folder = module[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [(alias.name.split("."), []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            base = node.module.split(".") if node.module else []
            if node.level:
                climbed = folder[: len(folder) - node.level + 1]
                targets = [([PACKAGE, *climbed, *base], names)]
            else:
                targets = [(base, names)]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            text = node.args[0].value
            if called not in ("import_module", "__import__") or not isinstance(text, str):
                continue
            targets = [(text.split("."), [])]
        else:
            continue
        found += [(node.lineno, tuple(path[1:]), names) for path, names in targets if path[:1] == [PACKAGE]]
    return found


def violations(root: Path) -> list[str]:
    """Every import below `root` (the package folder) that runs to the right, and every room without a place."""
    wrong = []
    for file in sorted(root.rglob("*.py")):
        module = file.relative_to(root).with_suffix("").parts
        here = room_of(module)
        if not here:
            continue
        if here not in ORDER:
            wrong.append(f"{file.relative_to(root)}: the room {here!r} has no place in the order")
            continue
        for line, path, names in imported(ast.parse(file.read_text(encoding="utf-8")), module):
            # `from hf_robustft import x` takes a room, a fact of the root, or a lazily imported name of any room.
            rooms = [room_of(path)] if path else [name for name in names or [""] if name not in ROOT_NAMES]
            for room in rooms:
                if room not in ORDER:
                    wrong.append(f"{file.relative_to(root)}:{line} imports {room or 'all'} from the package root")
                elif ORDER.index(room) > ORDER.index(here):
                    wrong.append(f"{file.relative_to(root)}:{line} imports {room}, which lies to the right of {here}")
    return wrong


def test_the_package_keeps_the_direction(repository):
    assert violations(repository / PACKAGE) == []


def test_every_room_has_a_place_and_is_not_empty(repository):
    package = repository / PACKAGE
    rooms = {entry.name for entry in package.iterdir() if entry.is_dir() and any(entry.glob("*.py"))}
    rooms |= {entry.stem for entry in package.glob("*.py") if entry.stem != "__init__"}
    assert rooms <= set(ORDER)
    assert {"files", "data", "modeling", "objectives", "evaluation", "training"} <= rooms


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


ALLOWED = {
    "__init__.py": "from .training.trainer import RobustTrainer\n",
    "files.py": "import os\n",
    "data/prompts.py": "from ..files import write_whole\nimport json\nfrom pathlib import Path\nimport evaluation_of_others\n",
    "modeling/features.py": "from ..data.prompts import clean\nfrom .zero_shot import Head\nfrom . import zero_shot\n",
    "training/state.py": "from .. import __version__\nfrom hf_robustft import __version__ as v\nimport hf_robustft.data\n",
    "cli.py": "from .training.trainer import RobustTrainer\nfrom .data import prompts\n",
}


def test_the_checker_passes_what_is_allowed(tmp_path):
    assert violations(tree(tmp_path, ALLOWED)) == []


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("files.py", "from .data.prompts import clean\n"),
        ("data/bad.py", "from ..modeling.features import encode\n"),
        ("data/bad.py", "from hf_robustft.modeling import features\n"),
        ("modeling/bad.py", "import hf_robustft.training.trainer as trainer\n"),
        ("objectives/bad.py", "def late():\n    from ..training import trainer\n"),
        ("objectives/bad.py", "from .. import evaluation\n"),
        ("objectives/deep/bad.py", "from ...training.state import save\n"),
        ("evaluation/bad.py", "if False:\n    from ..training.arguments import X\n"),
        ("evaluation/bad.py", "from importlib import import_module\nimport_module('hf_robustft.training')\n"),
        ("modeling/bad.py", "from hf_robustft import CaRotTrainer\n"),
        ("modeling/bad.py", "import hf_robustft\n"),
        ("training/bad.py", "from ..cli import main\n"),
        ("training/bad.py", "from ..comparison.runs import read_runs\n"),
        ("comparison/bad.py", "from ..cli import main\n"),
        ("kitchen/bad.py", "import os\n"),
    ],
)
def test_the_checker_finds_a_planted_violation(tmp_path, file, text):
    found = violations(tree(tmp_path, {**ALLOWED, file: text}))
    assert len(found) == 1 and found[0].startswith(file)
