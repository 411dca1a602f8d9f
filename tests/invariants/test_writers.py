# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What writes a file goes through `hf_robustft/files.py`: into a half that is renamed, or a stage whose files change together."""

import ast
from pathlib import Path

import pytest
from test_import_direction import tree

PACKAGE = "hf_robustft"
ROOM = "files.py"
#: Calls that write, by the name that is called.
WRITES = {
    *("write_text", "write_bytes", "savefig", "print_png", "save_file", "write_table", "to_parquet", "to_csv", "save_to_disk", "dump"),
    *("rename", "renames", "replace", "move", "copy", "copy2", "copyfile", "copytree", "link", "symlink", "symlink_to"),
}
#: Of them, names that other things have too, with the modules that they write as a part of.
SHARED = {"rename": {"os"}, "replace": {"os"}, "copy": {"shutil"}, "dump": {"json", "yaml", "pickle"}, "link": {"os"}, "symlink": {"os"}}
#: Where a half or a stage is written.
BESIDE = {"half", "stage"}
#: The others: into folders that are beside their places themselves.
ELSEWHERE = {
    # A checkpoint that is built beside, synced and renamed as a whole.
    ("training/checkpoint_files.py", "save_state"),
    # Former checkpoints, as wholes.
    ("publishing/run_folder.py", "set_aside"),
    ("publishing/run_folder.py", "put_back"),
    # Copies for an upload, which count for nothing here.
    ("training/hub_push.py", "link"),
    ("training/hub_push.py", "linked_copy"),
    # Bytes of a half.
    ("modeling/tensor_files.py", "_sort_metadata"),
    # Scratch of one run, which no other run reads: each reader appends to a file of its own.
    ("data/decoded_images.py", "begin"),
    ("data/decoded_images.py", "_index"),
    ("data/decoded_images.py", "_new_file"),
    # The log of a child, which it appends to.
    ("comparison/schedule.py", "_locked"),
}


def writes(call: ast.Call) -> bool:
    """Whether a call may write a file, by its name and, of `open`, its mode."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if name == "open":
        given = [*call.args, *(item.value for item in call.keywords)]
        modes = [item.value for item in given if isinstance(item, ast.Constant) and isinstance(item.value, str)]
        return any(len(mode) <= 3 and set(mode) & set("wax+") for mode in modes)
    module = getattr(getattr(call.func, "value", None), "id", "")
    return name in WRITES and (name not in SHARED or module in SHARED[name])


def violations(root: Path) -> list[str]:
    """Each call below `root` (the package folder) that writes past the room."""
    wrong = []
    for file in sorted(root.rglob("*.py")):
        place = file.relative_to(root).as_posix()
        if place == ROOM:
            continue
        module = ast.parse(file.read_text(encoding="utf-8"))
        within = {}
        for function in ast.walk(module):
            if isinstance(function, ast.FunctionDef):
                # The innermost one comes last.
                within |= {node: function.name for node in ast.walk(function)}
        for call in ast.walk(module):
            if not isinstance(call, ast.Call) or not writes(call) or (place, within.get(call)) in ELSEWHERE:
                continue
            names = {node.id for node in ast.walk(call) if isinstance(node, ast.Name)}
            if not names & BESIDE:
                wrong.append(f"{place}:{call.lineno} writes past {ROOM}")
    return wrong


def test_the_package_writes_through_one_room(repository):
    assert violations(repository / PACKAGE) == []


def test_no_exception_is_left_over(repository):
    for place, name in ELSEWHERE:
        module = ast.parse((repository / PACKAGE / place).read_text(encoding="utf-8"))
        functions = [node for node in ast.walk(module) if isinstance(node, ast.FunctionDef) and node.name == name]
        assert any(isinstance(node, ast.Call) and writes(node) for function in functions for node in ast.walk(function)), (place, name)


ALLOWED = {
    "files.py": "import os\nos.replace(a, b)\n",
    "data/a.py": "name.replace('a', 'b')\nopen(path)\nopen(path, 'rb')\nPath(p).open(encoding='utf-8')\nmodel.copy()\nreplace(x, y=1)\n",
    "evaluation/a.py": "with whole_file(path) as half, open(half, 'w', newline='') as file:\n    half.write_text('')\n",
    "publishing/a.py": "shutil.move(logits, stage / 'logits')\njson.dumps({})\n",
}


def test_the_checker_passes_what_is_allowed(tmp_path):
    assert violations(tree(tmp_path, ALLOWED)) == []


@pytest.mark.parametrize(
    "text",
    [
        "path.write_text('')\n",
        "with open(path, 'w') as file: pass\n",
        "open(path, mode='ab')\n",
        "path.open('r+b')\n",
        "os.replace(a, b)\n",
        "shutil.copy(a, b)\n",
        "save_file(tensors, folder / 'model.safetensors')\n",
        "figure.savefig(path)\n",
        "canvas.print_png(path)\n",
        "json.dump(facts, file)\n",
        "def f():\n    def g():\n        path.write_bytes(b'')\n",
    ],
)
def test_the_checker_finds_a_planted_violation(tmp_path, text):
    found = violations(tree(tmp_path, {**ALLOWED, "publishing/bad.py": text}))
    assert len(found) == 1 and found[0].startswith("publishing/bad.py:")
