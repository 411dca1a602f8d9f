# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a page shows of one image: the answer of the pipeline, and the known images that are nearest to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch

from ..data.messages import one_line, printable
from ..evaluation.collect import classify as class_logits
from ..modeling.features import encode_images
from .nearest_images import NearestImages, Neighbour
from .new_images import prepared
from .pipeline import OpenSetImageClassificationPipeline

#: Classes that are shown by default, and nearest images.
TOP_K, NEIGHBOURS = 5, 6
#: Class names of a prediction set that a page lists.
_LISTED = 30
#: Stronger than the style that gradio has for texts.
_STYLE = """
.rft { --rft-good: #1a7a3c; --rft-bad: #b3261e; --rft-soft: color-mix(in srgb, currentColor 9%, transparent); }
.rft { font-size: 1rem; line-height: 1.45; overflow-wrap: anywhere; }
.rft h2, .rft .verdict h2 { font-size: 1.5rem; line-height: 1.2; margin: 0 !important; }
.rft h3 { font-size: 1rem; margin: 1.4rem 0 .5rem !important; } .rft p { margin: .25rem 0 0 !important; }
.rft ul, .rft li { list-style: none !important; margin: 0; padding: 0 !important; } .rft ul { margin: 0 !important; }
.rft .verdict { border-left: .4rem solid #888; background: var(--rft-soft); padding: .7rem .9rem; }
.rft .known { border-color: var(--rft-good); } .rft .unknown, .rft .error { border-color: var(--rft-bad); }
.rft .bars li { display: grid; grid-template-columns: minmax(0, 1fr) 4.2rem; align-items: baseline; margin: 0 0 .45rem !important; }
.rft .bars b { font-weight: 400; font-variant-numeric: tabular-nums; text-align: right; }
.rft .bars i { grid-column: 1 / -1; display: block; height: .4rem; border-radius: .2rem; overflow: hidden; }
.rft .bars i { background: var(--rft-soft); }
.rft .bars i::before { content: ""; display: block; height: 100%; width: var(--share); background: #0b62a4; }
.rft .set li { display: inline-block; border: 1px solid #8888; border-radius: 1rem; padding: .05rem .7rem !important; margin: 0 .35rem .35rem 0 !important; }
.rft .nearest { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .8rem; }
.rft .nearest img { width: 6.5rem; height: 6.5rem; object-fit: contain; background: #fff; border: 1px solid #8886; margin: 0 0 .2rem !important; }
.rft .nearest li, .rft .note { font-size: .875rem; line-height: 1.35; }
"""
#: What the page says before an image is there.
WAITING = f'<style>{_STYLE}</style><div class="rft"><p class="note">The answer will be here.</p></div>'


@dataclass(frozen=True)
class Answered:
    """
    What was found of one image.

    Attributes:
        answer (`dict[str, Any]`): As the pipeline gives it, with `classes`; with an `error` all else is `None`.
        nearest (`list[Neighbour]`): The nearest known images.
    """

    answer: dict[str, Any]
    nearest: list[Neighbour]


class Demo:
    """
    Answers single images, for a page.

    Args:
        classify ([`OpenSetImageClassificationPipeline`]): What `hf_robustft.pipeline` returned.
        name (`str`): What the model is called.
        nearest ([`NearestImages`], *optional*): Known images, encoded by the same model.
        top_k (`int`, *optional*, defaults to 5): Classes that are shown.

    Raises:
        ValueError: If the known images were encoded by a model of another size, or `top_k` is below 1.
    """

    def __init__(
        self, classify: OpenSetImageClassificationPipeline, name: str, nearest: NearestImages | None = None, top_k: int = TOP_K
    ):
        if top_k < 1:
            raise ValueError(f"`--top_k {top_k}` must be at least 1.")
        self.classify, self.name, self.nearest, self.top_k = classify, name, nearest, top_k
        if nearest is not None and nearest.embeds.shape[1] != classify.head.weight.shape[1]:
            other, size = nearest.embeds.shape[1], classify.head.weight.shape[1]
            raise ValueError(
                f"The nearest images have embeddings of {other} numbers, and the model makes {size}; write the Space again with this model."
            )

    def answer(self, path: str | Path) -> Answered:
        """
        Answer the image in the file `path`.

        Raises:
            OSError: If this machine cannot open files.
        """
        # Its name alone: where a server keeps what was sent to it concerns nobody.
        source = {"bytes": None, "path": str(path)}
        item = prepared(self.classify.transform, source, Path(path).name)
        model = self.classify.model
        with torch.no_grad():
            pixels = item["pixel_values"][None].to(self.classify.device, model.dtype)
            embeds = encode_images(model, pixels)
            logits = class_logits(self.classify.head, embeds)
        found = {"logits": logits, "image": item["image"], "error": item["error"]}
        answer = self.classify.postprocess(found, top_k=min(self.top_k, len(self.classify.head.class_names)))
        if self.nearest is None or item["error"] is not None:
            return Answered(answer, [])
        return Answered(answer, self.nearest.of(embeds[0], NEIGHBOURS))

    def html(self, path: str | Path | None) -> str:
        """What a page shows of the image in the file `path`; of `None` that it waits for one. Nothing that an image can do is an error."""
        if path is None:
            return WAITING
        try:
            found = self.answer(path)
        except OSError as error:
            found = Answered({"error": one_line(error).replace(str(path), Path(path).name)}, [])
        return self.as_html(found)

    def as_html(self, found: Answered) -> str:
        """The answer that was `found` as a piece of a page, with its style."""
        answer = found.answer
        if answer["error"] is not None:
            error = _shown(answer["error"].removesuffix("; mend or remove it"))
            return f'<style>{_STYLE}</style><div class="rft"><div class="verdict error"><p role="alert">{error}</p></div></div>'
        parts = [f'<style>{_STYLE}</style><div class="rft">', _verdict(answer), _classes(answer)]
        if "labels" in answer:
            names = [item["label"] for item in answer["labels"]]
            parts.append(f"<h3>Labels</h3>{_names(names, 'No class is above its threshold.')}")
        if "prediction_set" in answer:
            parts.append(self._set(answer))
        if found.nearest:
            parts.append(f"<h3>Nearest images of {_shown(self.nearest.source)}</h3>{_pictures(found.nearest)}")
        return "".join([*parts, "</div>"])

    def heading(self) -> str:
        """What stands above the page: what the model is called, and what it does."""
        classes = len(self.classify.head.class_names)
        unknown = "" if self.classify.detector is None else " Images of none of them are called unknown."
        words = f"Drop an image: which of {classes:,} classes is it?{unknown}"
        return f'<style>{_STYLE}</style><div class="rft"><h2>{_shown(self.name)}</h2><p>{words}</p></div>'

    def _set(self, answer: Mapping[str, Any]) -> str:
        if answer["is_known"] is False:
            return '<h3>Prediction set</h3><p class="note">None: of an unknown image no class is right.</p>'
        names, sets = answer["prediction_set"], self.classify.prediction_sets
        note = f'<p class="note">Of images such as those of validation, {100 * sets.coverage:.3g} % of such sets hold the class.</p>'
        return f"<h3>Prediction set</h3>{_names(names, 'It is empty: no class is likely enough.')}{note}"


def _verdict(answer: Mapping[str, Any]) -> str:
    known, name, share = answer["is_known"], _shown(answer["nearest_class"]), _percent(answer["probability"])
    if known is None:
        return f'<div class="verdict"><h2>{name}</h2><p>{share}; nothing says whether it is known</p></div>'
    if known:
        return f'<div class="verdict known"><h2>{name}</h2><p>{share}, known</p></div>'
    return f'<div class="verdict unknown"><h2>Unknown</h2><p>Most like {name} ({share}), and not like what the model knows</p></div>'


def _classes(answer: Mapping[str, Any]) -> str:
    items = "".join(
        f'<li><span>{_shown(item["label"])}</span><b>{_percent(item["score"])}</b><i style="--share: {100 * item["score"]:.2f}%"></i></li>'
        for item in answer["classes"]
    )
    return f'<h3>Probabilities</h3><ul class="bars">{items}</ul>'


def _names(names: Sequence[str], none: str) -> str:
    listed = [f"<li>{_shown(name)}</li>" for name in names[:_LISTED]]
    more = f"<li>and {len(names) - _LISTED:,} more</li>" if len(names) > _LISTED else ""
    return f'<ul class="set">{"".join(listed)}{more}</ul>' if listed else f"<p>{none}</p>"


def _pictures(nearest: Iterable[Neighbour]) -> str:
    items = []
    for item in nearest:
        said = f"{_shown(item.label)}<br>" if item.label else ""
        title = f' title="{_shown(item.name)}"' if item.name else ""
        items.append(f'<li{title}><img src="{escape(item.picture)}" alt="">{said}cosine {item.similarity:.2f}</li>')
    return f'<ul class="nearest">{"".join(items)}</ul>'


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _shown(text: str) -> str:
    return escape(printable(text))
