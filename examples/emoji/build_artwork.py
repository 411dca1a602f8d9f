# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Renders emoji artwork from npm packages: one parquet file a style (64 px PNG on white) and `concepts.json`.

The drawings come from `@iconify-json/<style>`, names and subgroups from `emojibase-data`, keywords from `emojilib`,
fetched with `npm pack` at the versions below. Skin tones and flags are left out. Code points are read from the set's
`chars.json` where it has one, and otherwise found by name. Needs npm on the path and the package `resvg-py`.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import ALL_STYLES
from PIL import Image

VERSIONS = {
    "@iconify-json/noto": "1.2.9",
    "@iconify-json/noto-v1": "1.2.5",
    "@iconify-json/twemoji": "1.2.5",
    "@iconify-json/openmoji": "1.2.29",
    "@iconify-json/emojione": "1.2.3",
    "@iconify-json/emojione-v1": "1.2.3",
    "@iconify-json/emojione-monotone": "1.2.1",
    "@iconify-json/fluent-emoji": "1.2.7",
    "@iconify-json/fluent-emoji-high-contrast": "1.2.6",
    "@iconify-json/fxemoji": "1.2.2",
    "@iconify-json/streamline-emojis": "1.2.4",
    "emojibase-data": "17.0.0",
    "emojilib": "4.0.3",
}
# The reference of what exists: a concept is kept when this style draws it.
REFERENCE = "noto"
SIZE = 64
# resvg leaves jagged edges where filters and clips are used; this set uses them throughout, so it is drawn at twice
# the size and halved. The others come out clean at once.
SUPERSAMPLED = ("fluent-emoji",)
# Where a set has no code points of its own, those of its twin, whose icons have the same names.
CODE_POINTS_OF = {"fluent-emoji": "fluent-emoji-high-contrast"}
# Names that letters and digits alone do not tell apart.
KEYCAPS = {"keycap": "0023-20e3", "keycappound": "0023-20e3", "keycapasterisk": "002a-20e3"}


def fetch(package: str, cache: Path) -> Path:
    """Unpacks an npm package of the pinned version into the cache and returns its folder."""
    version = VERSIONS[package]
    folder = cache / f"{package.replace('@', '').replace('/', '-')}-{version}"
    if folder.is_dir():
        return folder
    if shutil.which("npm") is None:
        raise OSError(f"npm is not on the path, so {package} cannot be fetched; install Node.js or fill {cache}.")
    cache.mkdir(parents=True, exist_ok=True)
    command = ["npm", "pack", f"{package}@{version}", "--silent"]
    done = subprocess.run(command, cwd=cache, capture_output=True, text=True)  # noqa: S603 (words, no shell)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)} failed: {done.stderr.strip() or done.stdout.strip()}")
    archive = cache / done.stdout.strip().splitlines()[-1]
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            # npm archives hold everything under package/.
            member.name = member.name.partition("/")[2]
            if member.isfile() and member.name:
                tar.extract(member, folder, filter="data")
    archive.unlink()
    return folder


def read_json(path: Path) -> dict | list:
    """A JSON file, or an empty dict where it is missing (a set without aliases or code points)."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def plain(code_point: str) -> str:
    """A code point sequence in lower case without variation selectors."""
    return "-".join(part for part in code_point.lower().split("-") if part != "fe0f")


def squeeze(name: str) -> str:
    """Letters and digits of a name, for comparison: sets differ in hyphens, apostrophes and capitals."""
    return re.sub(r"[^\w]|_", "", name.lower())


def build_concepts(cache: Path) -> tuple[dict[str, dict], list[dict[str, str]]]:
    """Concepts in Unicode order, and tables from squeezed names to code points, the surest table first."""
    base = fetch("emojibase-data", cache)
    groups = read_json(base / "meta" / "groups.json")
    library = read_json(fetch("emojilib", cache) / "dist" / "emoji-en-US.json")
    drawn = {plain(code) for code in read_json(fetch(f"@iconify-json/{REFERENCE}", cache) / "chars.json")}
    concepts: dict[str, dict] = {}
    for entry in sorted(read_json(base / "en" / "data.json"), key=lambda entry: entry.get("order", 10**6)):
        code = plain(entry["hexcode"])
        group = groups["groups"].get(str(entry.get("group")), "")
        if group in ("", "flags", "component") or code not in drawn:
            continue
        concepts[code] = {
            "cp": code,
            "emoji": entry["emoji"],
            "name": entry["label"].lower(),
            "tags": entry.get("tags", []),
            "lib": [word.replace("_", " ") for word in library.get(entry["emoji"], [])],
            "subgroup": groups["subgroups"][str(entry["subgroup"])],
            "group": group,
        }
    labels = {squeeze(c["name"]): code for code, c in concepts.items() if c["name"][-1] not in "#*"}
    codes = {plain(code): squeeze(name) for code, name in read_json(base / "meta" / "unicode-names.json").items()}
    unicode_names = {name: code for code, name in codes.items() if code in concepts}
    faces = {
        name.removesuffix("face"): code
        for names in (labels, unicode_names)
        for name, code in names.items()
        if name.endswith("face")
    }
    return concepts, [labels, unicode_names, faces, KEYCAPS]


def match_icons(folder: Path, characters: dict, concepts: dict, tables: list[dict]) -> list[tuple[str, str, str]]:
    """Which icon draws which concept: (code point, variant, icon), each pair of the first two once.

    Code points from `characters` (a `chars.json`) where there are any, else names and aliases, the surest table first; a number at the
    end marks further drawings of one concept ("bird-1", "bird-2").
    """
    data = read_json(folder / "icons.json")
    aliases = {alias: target["parent"] for alias, target in data.get("aliases", {}).items()}
    found: dict[tuple[str, str], str] = {}
    for code, icon in characters.items():
        if plain(code) in concepts:
            found.setdefault((plain(code), ""), icon)
    for names in () if found else (list(data["icons"]), list(aliases)):
        for table in tables:
            for icon in list(names):
                numbered = re.fullmatch(r"(.+)-(\d)", icon)
                name, variant = (numbered[1], numbered[2]) if numbered and squeeze(icon) not in table else (icon, "")
                if squeeze(name) in table:
                    found.setdefault((table[squeeze(name)], variant), icon)
                    names.remove(icon)
    rows = []
    for (code, variant), icon in found.items():
        while icon in aliases:
            icon = aliases[icon]
        if icon in data["icons"]:
            rows.append((code, variant, icon))
    return sorted(rows, key=lambda row: (row[2], row[1]))


def render(body: str, box: tuple[float, float, float, float], pixels: int) -> bytes | None:
    """PNG bytes of an icon, 64 px on white, or None where the drawing is blank.

    Args:
        body: what stands inside the svg element.
        box: left, top, width, height of the drawing in its own units.
        pixels: side to render at before reduction to 64.
    """
    import resvg_py

    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{" ".join(map(str, box))}" '
        f'width="{pixels}" height="{pixels}" color="black">{body.replace("currentColor", "black")}</svg>'
    )
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, background="white", width=pixels, height=pixels))
    image = Image.open(io.BytesIO(png)).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX)
    if np.asarray(image).min() > 240:
        return None
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def build_style(style: str, cache: Path, output: Path, concepts: dict, tables: list[dict]) -> int:
    """Writes `<style>.parquet` and returns the number of drawings."""
    folder = fetch(f"@iconify-json/{style}", cache)
    data = read_json(folder / "icons.json")
    named = fetch(f"@iconify-json/{CODE_POINTS_OF.get(style, style)}", cache)
    rows = []
    for code, variant, icon in match_icons(folder, read_json(named / "chars.json"), concepts, tables):
        drawing = data["icons"][icon]
        defaults = {"left": 0, "top": 0, "width": 16, "height": 16}
        box = tuple(drawing.get(key, data.get(key, default)) for key, default in defaults.items())
        png = render(drawing["body"], box, 2 * SIZE if style in SUPERSAMPLED else SIZE)
        if png is not None:
            about = {key: concepts[code][key] for key in ("name", "subgroup", "group")}
            rows.append({"image": png, "code_point": code, "variant": variant, "icon": icon, **about})
    if not rows:
        raise ValueError(f"no icon of {style} matches a concept; the package's layout may have changed.")
    pq.write_table(pa.Table.from_pylist(rows), output / f"{style}.parquet")
    return len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the parquet files and concepts.json")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the unpacked npm packages")
    parser.add_argument("--styles", nargs="+", default=list(ALL_STYLES), choices=ALL_STYLES, help="styles (all)")
    args = parser.parse_args()
    try:
        import resvg_py  # noqa: F401
    except ImportError as error:
        raise SystemExit("resvg-py is not installed; run: pip install -r requirements.txt") from error
    args.output.mkdir(parents=True, exist_ok=True)
    concepts, tables = build_concepts(args.cache)
    text = json.dumps(concepts, ensure_ascii=False, indent=1)
    (args.output / "concepts.json").write_text(text + "\n", encoding="utf-8")
    print(f"concepts.json: {len(concepts)} concepts", flush=True)
    for style in args.styles:
        print(f"{style}: {build_style(style, args.cache, args.output, concepts, tables)} drawings", flush=True)


if __name__ == "__main__":
    main()
