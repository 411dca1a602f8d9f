# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Builds Emoji Shift with each artist in turn as the one that is trained on.

The classes, the unseen concepts and every view are those of `build_views.py`; its test sets serve all rotations (they come
with the package), so that train, validation and open set are all that an artist needs. Noto's are those of the package.

    hf-robustft train --recipe emoji_shift/carot --train_dataset rotations/twemoji/train.parquet \\
        --templates rotations/templates.txt --eval_datasets emoji_shift/twemoji:id emoji_shift/noto:shift \\
        emoji_shift/openmoji emoji_shift/fluent-emoji emoji_shift/fluent-emoji-high-contrast \\
        rotations/twemoji/validation.parquet:validation rotations/twemoji/open_set.parquet:open_set

Several methods and rates, with the twins that the rule `concepts` asks for: `hf-robustft compare` with the same data and
`--methods flyp tracer ft wise_ft --learning_rates 1e-4 3e-4 1e-3 --seeds 0 --num_train_epochs 10 --rule concepts`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from build_views import choose_concepts, write_views
from common import DOWNSTREAM_STYLES, TEMPLATES, first_drawings, load_concepts, load_style


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artwork", type=Path, required=True, help="folder written by build_artwork.py")
    parser.add_argument("--output", type=Path, required=True, help="folder for a folder of each artist")
    parser.add_argument("--styles", nargs="+", default=DOWNSTREAM_STYLES, choices=DOWNSTREAM_STYLES, help="artists (all)")
    parser.add_argument("--seed", type=int, default=2026, help="as for build_views.py (2026)")
    args = parser.parse_args()

    codes, open_codes, _ = choose_concepts(args.artwork, args.seed, 200, 150)
    concepts = load_concepts(args.artwork)
    names, open_names = ([concepts[code]["name"].replace("’", "'") for code in group] for group in (codes, open_codes))
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "templates.txt").write_text("\n".join(TEMPLATES) + "\n", encoding="utf-8")
    for style in args.styles:
        drawings = first_drawings(load_style(args.artwork, style))
        for split, of, called, views in (
            ("train", codes, names, 16),
            ("validation", codes, names, 5),
            ("open_set", open_codes, open_names, 14),
        ):
            folder = args.output / style
            folder.mkdir(exist_ok=True)
            write_views(folder / f"{split}.parquet", drawings, of, called, args.seed, split, views)


if __name__ == "__main__":
    main()
