# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What the scripts of this folder share: the styles, the templates, reading rendered artwork, and captions."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

# The shifted styles and the in-distribution style are never trained on by pretrain.py.
PRETRAINING_STYLES = ("noto-v1", "emojione", "emojione-v1", "emojione-monotone", "fxemoji", "streamline-emojis")
ID_STYLE = "noto"
SHIFT_STYLES = ("twemoji", "openmoji", "fluent-emoji", "fluent-emoji-high-contrast")
DOWNSTREAM_STYLES = (ID_STYLE, *SHIFT_STYLES)
ALL_STYLES = (*PRETRAINING_STYLES, *DOWNSTREAM_STYLES)

TEMPLATES = (
    "a {} emoji.",
    "an emoji of a {}.",
    "an icon of a {}.",
    "a drawing of a {}.",
    "a small picture of a {}.",
    "a cartoon {}.",
    "a sticker of a {}.",
    "a simple drawing of the {}.",
)

# Phrases for two words or phrases about one picture.
PAIR_PHRASES = (
    "a {}, {}.",
    "an emoji of a {}: {}.",
    "an icon of a {} ({}).",
    "a {} emoji, {}.",
    "{} and {}.",
)


def load_concepts(artwork: Path) -> dict[str, dict]:
    """Reads `concepts.json` of an artwork folder.

    Args:
        artwork: folder written by `build_artwork.py`.

    Returns:
        code point -> {"name", "tags", "lib", "subgroup", "group", ...}, in Unicode order.

    Raises:
        OSError: the folder holds no `concepts.json`.
    """
    path = Path(artwork) / "concepts.json"
    if not path.is_file():
        raise OSError(f"{path} does not exist; run build_artwork.py first or pass its output folder.")
    return json.loads(path.read_text(encoding="utf-8"))


def load_style(artwork: Path, style: str) -> list[dict]:
    """Reads the drawings of one style.

    Args:
        artwork: folder written by `build_artwork.py`.
        style: one of `ALL_STYLES`.

    Returns:
        Rows {"image": uint8 array (64, 64, 3), "code_point", "variant", "name", "subgroup", "group"}.

    Raises:
        OSError: the style's parquet file is missing.
    """
    path = Path(artwork) / f"{style}.parquet"
    if not path.is_file():
        raise OSError(f"{path} does not exist; run build_artwork.py with --styles {style}.")
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        row["image"] = np.asarray(Image.open(io.BytesIO(row["image"])).convert("RGB"))
    return rows


def first_drawings(rows: list[dict]) -> dict[str, np.ndarray]:
    """Keeps one drawing a concept: the plain one, or the first variant where a set has only variants."""
    drawings: dict[str, np.ndarray] = {}
    for row in sorted(rows, key=lambda row: row["variant"]):
        drawings.setdefault(row["code_point"], row["image"])
    return drawings


def keywords(concept: dict) -> list[str]:
    """Keywords of a concept, lower case, without emoticons, the longest forms of each kept once."""
    words = {}
    for word in [*concept["tags"], *concept["lib"]]:
        word = word.replace("_", " ").replace("’", "'").lower().strip()
        if any(letter.isalpha() for letter in word) and 2 < len(word) < 30:
            words[word] = None
    return list(words)


def caption(concept: dict, rng: random.Random, name_only: float = 0.5) -> str:
    """Draws one caption: the name in a template (with probability `name_only`), else with or as a keyword.

    Args:
        concept: entry of `concepts.json`.
        rng: source of the draw.
        name_only: probability of a caption that holds the plain name and nothing more.

    Returns:
        The caption.
    """
    name = concept["name"].replace("’", "'")
    draw = rng.random()
    if draw < name_only:
        return rng.choice(TEMPLATES).format(name)
    words = keywords(concept) or [name]
    word = rng.choice(words)
    if draw < name_only + 0.6 * (1.0 - name_only):
        second = word if rng.random() < 0.8 else concept["subgroup"].replace("-", " ")
        pair = (name, second) if rng.random() < 0.7 else (second, name)
        return rng.choice(PAIR_PHRASES).format(*pair)
    return rng.choice(TEMPLATES).format(word)
