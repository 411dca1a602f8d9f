# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The folder of a Hugging Face Space that shows a demo: its page, the model and the code that it runs by, and nothing of this machine."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import yaml

from .. import __version__
from ..data.messages import printable
from ..data.packaged import ASSETS
from ..files import changing, settle, write_whole
from ..modeling.tensor_files import read_json_object
from .extras import SPACE_FILE, SPACE_FORMAT, check_space_folder
from .nearest_images import NearestImages
from .pipeline import OpenSetImageClassificationPipeline

PAGE, APP, REQUIREMENTS = "README.md", "app.py", "requirements.txt"
MODEL_FOLDER, NEAREST_FILE, CODE = "model", "nearest.safetensors", "hf_robustft"
#: The version of gradio that a Space gets, with which the page was looked at.
GRADIO = "6.31.0"
_PACKAGE = Path(__file__).resolve().parents[1]
_APP = '''\
"""The page of this Space; written by hf-robustft demo --space."""

from pathlib import Path

from hf_robustft.deployment.demo_page import open_space, serve, wait

demo = open_space(Path(__file__).resolve().parent)

if __name__ == "__main__":
    wait(serve(demo))
'''


def space_facts(facts: Mapping[str, Any], where: str | Path) -> dict[str, Any]:
    """
    Check what `space.json` says.

    Args:
        facts (`Mapping[str, Any]`): Its content.
        where (`str` or `Path`): Its folder, for the message.

    Raises:
        ValueError: If another program wrote it, or it is damaged.
    """
    words = {name: facts.get(name) for name in ("class_names", "templates")}
    lists = all(
        value is None or isinstance(value, list) and value and all(isinstance(word, str) for word in value) for value in words.values()
    )
    texts = all(isinstance(facts.get(name), (str, type(None))) for name in ("model", "revision"))
    top_k = facts.get("top_k")
    is_number = isinstance(top_k, int) and not isinstance(top_k, bool) and top_k > 0
    rest = isinstance(facts.get("name"), str) and isinstance(facts.get("nearest"), bool)
    if facts.get("format") != SPACE_FORMAT or not (lists and texts and is_number and rest):
        raise ValueError(f"{SPACE_FILE} in {where} is not as hf-robustft demo --space writes it; write the Space again.")
    return dict(facts)


def write_space(
    folder: str | Path,
    classify: OpenSetImageClassificationPipeline,
    name: str,
    *,
    top_k: int,
    nearest: NearestImages | None = None,
    hub_id: str | None = None,
    revision: str | None = None,
    class_names: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
    check: Callable[[Mapping[str, Path]], None] = lambda files: None,
) -> list[str]:
    """
    Write the folder of a Space: all files or none.

    Args:
        folder (`str` or `Path`): The folder; what `hf-robustft demo --space` wrote there before is replaced, and other files stay.
        classify ([`OpenSetImageClassificationPipeline`]): The model.
        name (`str`): What it is called.
        top_k (`int`): Classes that are shown.
        nearest ([`NearestImages`], *optional*): Known images, which become a part of the Space.
        hub_id (`str`, *optional*), revision (`str`, *optional*): Where the Space finds the model on the Hub; without them it is copied.
        class_names (`Sequence[str]`, *optional*), templates (`Sequence[str]`, *optional*): As for [`pipeline`], with a `hub_id`.
        check (`Callable`, *optional*): Is given the files, by name, that hold what a user wrote, and refuses them by raising.

    Returns:
        `list[str]`: The names of the files.

    Raises:
        ValueError: If the folder holds other things.
        OSError: If it cannot be written.
    """
    folder = Path(folder).expanduser()
    settle(folder)
    check_space_folder(folder)
    facts = {
        **{"format": SPACE_FORMAT, "hf_robustft": __version__, "name": name, "model": hub_id, "revision": revision},
        **{"class_names": _listed(class_names if hub_id else None), "templates": _listed(templates if hub_id else None)},
        **{"top_k": top_k, "nearest": nearest is not None},
    }
    before = _written_before(folder)
    with changing(folder, lambda comes: before, "hf-robustft demo") as stage:
        if hub_id is None:
            classify.save_pretrained(stage / MODEL_FOLDER)
            for path in sorted(classify.directory.glob("LICENSE*")):
                if path.is_file():
                    shutil.copyfile(path, stage / MODEL_FOLDER / path.name)
        if nearest is not None:
            # What files are called here concerns nobody.
            replace(nearest, names=[None] * len(nearest.names)).save(stage / NEAREST_FILE)
        theirs = _files_in(stage)
        for path in sorted(_PACKAGE.rglob("*")):
            if path.is_file() and not path.is_relative_to(ASSETS) and "__pycache__" not in path.parts:
                name_here = path.relative_to(_PACKAGE)
                (stage / CODE / name_here).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, stage / CODE / name_here)
        write_whole(stage / APP, _APP)
        write_whole(stage / REQUIREMENTS, _requirements())
        write_whole(stage / PAGE, _page(classify, name, hub_id, nearest))
        files = sorted([*_files_in(stage), SPACE_FILE])
        write_whole(stage / SPACE_FILE, json.dumps({**facts, "files": files}, indent=1, ensure_ascii=False) + "\n")
        check({item: stage / item for item in (*theirs, SPACE_FILE, PAGE)})
    return files


def _listed(words: Sequence[str] | None) -> list[str] | None:
    return None if words is None else list(words)


def _files_in(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]


def _written_before(folder: Path) -> list[str]:
    """The files that an earlier command wrote into a folder, as it says itself."""
    path = folder / SPACE_FILE
    names = read_json_object(path).get("files") if path.is_file() else []
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _requirements() -> str:
    """What the code needs, by the package's own metadata, with the readers of SigLIP's vocabularies."""
    try:
        lines = [line.replace('"', "'").partition(";") for line in requires("hf_robustft") or ()]
    except PackageNotFoundError:
        raise ValueError("`--space` lists what hf_robustft needs, which its installation says, and it is not installed; install it.") from None
    needed = [name.strip() for name, _, marker in lines if not marker or "extra == 'sentencepiece'" in marker]
    first = ["# torch without CUDA; leave the next line out on a Space with a GPU.", "--extra-index-url https://download.pytorch.org/whl/cpu"]
    return "\n".join([*first, f"gradio=={GRADIO}", *sorted(needed, key=str.lower), ""])


def _page(classify: OpenSetImageClassificationPipeline, name: str, hub_id: str | None, nearest: NearestImages | None) -> str:
    facts = {
        **{"title": printable(name)[:80], "emoji": "🔎", "colorFrom": "blue", "colorTo": "green"},
        **{"sdk": "gradio", "sdk_version": GRADIO, "python_version": "3.11", "app_file": APP, "pinned": False},
        **({"models": [hub_id]} if hub_id else {}),
    }
    licence = classify.facts.get("card", {}).get("licence", "apache-2.0" if "card" in classify.facts else None)
    if isinstance(licence, str) and re.fullmatch(r"[a-z0-9.-]{1,40}", licence):
        facts["license"] = licence
    head = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)
    lines = ["Drop an image on the page: it says which class it is, how probable that is, what else it may be, and whether it is known."]
    if nearest is not None:
        lines += ["", f"`{NEAREST_FILE}` holds small pictures of {len(nearest.names):,} images, which everybody can see who sees this Space."]
    where = f"The model is in `{MODEL_FOLDER}`" if hub_id is None else "The model comes from the Hub, at the commit in `space.json`"
    lines += ["", f"{where}, the code that runs it, hf_robustft {__version__}, in `{CODE}`. Written by `hf-robustft demo --space`."]
    return f"---\n{head}---\n\n" + "\n".join(lines) + "\n"
