# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Builds the Emoji Shift benchmark: chooses the classes and stores random views of their drawings as parquet.

Every view is a pure function of (seed, split, code point, view index). The five test styles share the split name
`test`, so view k of a concept has the same position, colour change and blur in every style: only the artist differs.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
from common import (
    DOWNSTREAM_STYLES,
    ID_STYLE,
    PRETRAINING_STYLES,
    SHIFT_STYLES,
    TEMPLATES,
    first_drawings,
    load_concepts,
    load_style,
)
from PIL import Image, ImageFilter

# Faces and persons differ in details that 48 pixels do not show; symbols (letters, arrows, signs) are laid down by
# the standard, so that artists hardly differ. Clock faces and moon phases of one style are told apart by one hand.
EXCLUDED_GROUPS = ("people-body", "smileys-emotion", "symbols")
NEAR_DUPLICATE = 0.9

VIEW_PARAMETERS = {
    "size": 64,
    "rotation_degrees": 20.0,
    "scale": [0.6, 1.1],
    "shear_degrees": 8.0,
    "translation": 0.15,
    "hue": 0.04,
    "saturation": [0.6, 1.4],
    "contrast": [0.7, 1.2],
    "brightness": [0.8, 1.15],
    "background_probability": 0.5,
    "background_depth": 0.25,
    "blur_probability": 0.5,
    "blur_radius": [0.3, 2.0],
    "occlusion_probability": 0.75,
    "occlusion_side": [0.15, 0.45],
    "webp_quality": 85,
}


def view_generator(seed: int, split: str, code_point: str, index: int) -> np.random.Generator:
    """The random numbers of one view: they depend on the four arguments and on nothing else."""
    digest = hashlib.sha256(f"{seed}|{split}|{code_point}|{index}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def hue_matrix(turn: float) -> np.ndarray:
    """Rotation of RGB about the grey axis by `turn` (1.0 is a full circle), shape (3, 3)."""
    angle = 2.0 * math.pi * turn
    cos, sin = math.cos(angle), math.sin(angle)
    off, root = (1.0 - cos) / 3.0, sin / math.sqrt(3.0)
    return np.array(
        [[cos + off, off - root, off + root], [off + root, cos + off, off - root], [off - root, off + root, cos + off]]
    )


def render_view(drawing: np.ndarray, seed: int, split: str, code_point: str, index: int) -> Image.Image:
    """Draws one random view: affine, colour change, paper colour, a patch that hides a part, blur.

    Args:
        drawing: uint8 array (64, 64, 3), artwork on white.
        seed: seed of the benchmark.
        split: name of the split ("train", "validation", "test", "open_set").
        code_point: the concept.
        index: number of the view.

    Returns:
        RGB image of `VIEW_PARAMETERS["size"]` pixels a side.
    """
    p = VIEW_PARAMETERS
    rng = view_generator(seed, split, code_point, index)
    angle = math.radians(rng.uniform(-p["rotation_degrees"], p["rotation_degrees"]))
    shear = math.tan(math.radians(rng.uniform(-p["shear_degrees"], p["shear_degrees"])))
    scale = rng.uniform(*p["scale"])
    shift = rng.uniform(-p["translation"], p["translation"], 2)
    turn = rng.uniform(-p["hue"], p["hue"])
    saturation, contrast, brightness = (rng.uniform(*p[key]) for key in ("saturation", "contrast", "brightness"))
    has_background, has_blur = rng.random(2) < (p["background_probability"], p["blur_probability"])
    background = 1.0 - p["background_depth"] * rng.random(3)
    radius = rng.uniform(*p["blur_radius"])
    has_patch = rng.random() < p["occlusion_probability"]
    patch_sides, patch_place, patch_colour = rng.uniform(*p["occlusion_side"], 2), rng.random(2), rng.random(3)

    side, size = drawing.shape[0], p["size"]
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    matrix = np.array([[cos, sin + cos * shear], [-sin, cos - sin * shear]]) * (side / size)
    origin = side / 2.0 - matrix @ (size / 2.0 + shift * size)
    coefficients = (*matrix[0], origin[0], *matrix[1], origin[1])
    canvas = Image.fromarray(drawing).transform(
        (size, size), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC, fillcolor=(255, 255, 255)
    )
    pixels = np.asarray(canvas, dtype=np.float64) / 255.0
    # Changes act on the darkness (1 - colour): the white around a drawing stays white until the paper is tinted.
    ink = (1.0 - pixels) @ hue_matrix(turn).T
    grey = ink.mean(axis=-1, keepdims=True)
    ink = (grey + saturation * (ink - grey)) * contrast
    pixels = np.clip(1.0 - ink, 0.0, 1.0)
    if has_background:
        pixels = pixels * background
    pixels = np.clip(pixels * min(brightness, 1.0) + max(brightness - 1.0, 0.0) * (1.0 - pixels), 0.0, 1.0)
    if has_patch:
        # Without it fine-tuning solves new views of the drawings it has seen to 100 %, and in-distribution calibration
        # could not be read.
        height, width = np.round(patch_sides * size).astype(int)
        top, left = np.round(patch_place * (size - np.array([height, width]))).astype(int)
        pixels[top : top + height, left : left + width] = patch_colour
    view = Image.fromarray(np.round(pixels * 255.0).astype(np.uint8))
    return view.filter(ImageFilter.GaussianBlur(radius)) if has_blur else view


def encode(view: Image.Image) -> bytes:
    """WebP bytes of a view."""
    buffer = io.BytesIO()
    view.save(buffer, format="WEBP", quality=VIEW_PARAMETERS["webp_quality"], method=6)
    return buffer.getvalue()


def signature(drawing: np.ndarray) -> np.ndarray:
    """Centred, unit-length RGB pixels at 32 px: the product of two of them is the Pearson correlation."""
    small = np.asarray(Image.fromarray(drawing).resize((32, 32), Image.Resampling.BOX), dtype=np.float32).ravel()
    small = small - small.mean()
    return small / max(float(np.linalg.norm(small)), 1e-6)


def words(name: str) -> frozenset[str]:
    """The words of a name, plural endings off."""
    return frozenset(word.rstrip("s") for word in name.replace("-", " ").split())


def choose_concepts(artwork: Path, seed: int, n_classes: int, n_open_set: int) -> tuple[list, list, dict]:
    """Picks the classes and the open-set concepts.

    Concepts drawn by every downstream style and at least three pretraining styles; those with a near duplicate are
    dropped, and those whose name holds, or is held in, a name already taken ("cat" and "cat face"), since the open
    set could then hold a class in all but name; the first `n_classes + n_open_set`, by number of pretraining styles
    (ties in random order), are shuffled and cut in two.

    Args:
        artwork: folder written by `build_artwork.py`.
        seed: seed of ties and of the cut.
        n_classes: number of classes.
        n_open_set: number of further concepts.

    Returns:
        Code points of the classes, of the open set, and the counts of each step.

    Raises:
        ValueError: too few concepts are left.
    """
    concepts = load_concepts(artwork)
    pretraining = {style: load_style(artwork, style) for style in PRETRAINING_STYLES}
    downstream = {style: first_drawings(load_style(artwork, style)) for style in DOWNSTREAM_STYLES}
    styles_of = Counter(code for rows in pretraining.values() for code in {row["code_point"] for row in rows})
    drawn = [code for code in concepts if all(code in drawings for drawings in downstream.values())]
    kept = [code for code in drawn if concepts[code]["group"] not in EXCLUDED_GROUPS]
    enough = [code for code in kept if styles_of[code] >= 3]
    names = Counter(concepts[code]["name"] for code in enough)
    unique = [code for code in enough if names[concepts[code]["name"]] == 1]
    counts = {
        "drawn_by_all_downstream_styles": len(drawn),
        "after_leaving_out_faces_persons_symbols": len(kept),
        "with_three_pretraining_styles": len(enough),
        "with_unique_name": len(unique),
    }

    seen = np.stack([signature(row["image"]) for rows in pretraining.values() for row in rows])
    duplicates: set[str] = set()
    by_style = {}
    for style, drawings in downstream.items():
        closest = (np.stack([signature(drawings[code]) for code in unique]) @ seen.T).max(axis=1)
        found = {code for code, value in zip(unique, closest, strict=True) if value > NEAR_DUPLICATE}
        by_style[style] = len(found)
        duplicates |= found
    counts["near_duplicates_of_pretraining_by_style"] = by_style
    counts["near_duplicates_of_pretraining"] = len(duplicates)

    rng = np.random.default_rng(seed)
    left = [code for code in unique if code not in duplicates]
    order = sorted((left[i] for i in rng.permutation(len(left))), key=lambda code: -styles_of[code])
    pool: list[str] = []
    twins = contained = 0
    for code in order:
        if len(pool) == n_classes + n_open_set:
            break
        mine_words = words(concepts[code]["name"])
        if any(mine_words <= words(concepts[c]["name"]) or mine_words >= words(concepts[c]["name"]) for c in pool):
            contained += 1
            continue
        mine = signature(downstream[ID_STYLE][code])
        if pool and max(float(mine @ signature(downstream[ID_STYLE][other])) for other in pool) > NEAR_DUPLICATE:
            twins += 1
        else:
            pool.append(code)
    if len(pool) < n_classes + n_open_set:
        raise ValueError(
            f"only {len(pool)} concepts are left, {n_classes + n_open_set} were asked for; ask for fewer."
        )
    counts["left_after_near_duplicates"] = len(left)
    counts["near_duplicates_of_another_concept_skipped"] = twins
    counts["names_contained_in_another_skipped"] = contained
    counts["pretraining_styles_of_the_chosen"] = {str(k): v for k, v in Counter(styles_of[c] for c in pool).items()}
    rank = {code: i for i, code in enumerate(concepts)}
    cut = [pool[i] for i in rng.permutation(len(pool))]
    return sorted(cut[:n_classes], key=rank.get), sorted(cut[n_classes:], key=rank.get), counts


def write_views(path: Path, drawings: dict, codes: list, names: list, seed: int, split: str, views: int) -> None:
    """Writes the views of one style as parquet with `datasets` features (Image, ClassLabel)."""
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=names),
            "code_point": datasets.Value("string"),
            "view": datasets.Value("int32"),
        }
    )
    columns: dict[str, list] = {"image": [], "label": [], "code_point": [], "view": []}
    for label, code in enumerate(codes):
        for view in range(views):
            columns["image"].append(
                {"bytes": encode(render_view(drawings[code], seed, split, code, view)), "path": None}
            )
            columns["label"].append(label)
            columns["code_point"].append(code)
            columns["view"].append(view)
    datasets.Dataset.from_dict(columns, features=features).to_parquet(path)
    print(f"{path.name}: {len(columns['view'])} images, {path.stat().st_size / 1e6:.2f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artwork", type=Path, required=True, help="folder written by build_artwork.py")
    parser.add_argument("--output", type=Path, required=True, help="folder for the parquet files and classes.json")
    parser.add_argument("--seed", type=int, default=2026, help="seed of class choice and of every view (2026)")
    parser.add_argument("--classes", type=int, default=200, help="number of classes (200)")
    parser.add_argument("--open-set", type=int, default=150, help="number of open-set concepts (150)")
    parser.add_argument("--train-views", type=int, default=16, help="views a class in train (16)")
    parser.add_argument("--validation-views", type=int, default=5, help="views a class in validation (5)")
    parser.add_argument("--test-views", type=int, default=10, help="views a class in each test set (10)")
    parser.add_argument("--open-set-views", type=int, default=14, help="views a concept in the open set (14)")
    args = parser.parse_args()

    args.output.mkdir(parents=True, exist_ok=True)
    codes, open_codes, counts = choose_concepts(args.artwork, args.seed, args.classes, args.open_set)
    concepts = load_concepts(args.artwork)
    names, open_names = ([concepts[code]["name"].replace("’", "'") for code in group] for group in (codes, open_codes))
    card = {
        "classes": names,
        "code_points": codes,
        "open_set_classes": open_names,
        "open_set_code_points": open_codes,
        "templates": list(TEMPLATES),
        "seed": args.seed,
        "views": VIEW_PARAMETERS,
        "counts": counts,
    }
    (args.output / "classes.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(counts))
    noto = first_drawings(load_style(args.artwork, ID_STYLE))
    write_views(args.output / "train.parquet", noto, codes, names, args.seed, "train", args.train_views)
    write_views(args.output / "validation.parquet", noto, codes, names, args.seed, "validation", args.validation_views)
    for style in (ID_STYLE, *SHIFT_STYLES):
        drawings = first_drawings(load_style(args.artwork, style))
        write_views(args.output / f"{style}.parquet", drawings, codes, names, args.seed, "test", args.test_views)
    write_views(
        args.output / "open_set.parquet", noto, open_codes, open_names, args.seed, "open_set", args.open_set_views
    )


if __name__ == "__main__":
    main()
