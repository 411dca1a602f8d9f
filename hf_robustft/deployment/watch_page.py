# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What was found of a stream on one page: the verdict, the evidence as it grew, and pictures of the most unusual images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from torch import Tensor

from ..data.thumbnails import thumbnail
from .watch_files import Watched
from .watching import FEW, QUIET, STATISTICS, Judgement, why

#: Pictures on the page.
_PICTURES = 12
#: Points of a line of the chart, and its size.
_POINTS, _WIDTH, _HEIGHT = 200, 400, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 8, 10, 24
#: Lines can be told apart without colours.
_LINES = {
    "score": ("#0b62a4", ""), "confidence": ("#b34700", "7 3"), "distance": ("#1a7a3c", "2 3"), "repeats": ("#7a3ca8", "9 3 2 3"),
}  # fmt: skip
#: Small digits.
_EXPONENTS = str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")
_NAMES = {"score": "Score", "confidence": "Confidence", "distance": "Embedding", "repeats": "Repeats"}
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 46rem; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.verdict { border-left: .5rem solid #1a7a3c; background: var(--soft); padding: .75rem 1rem; } .verdict.alarm { border-color: #c62828; }
.verdict.few { border-color: #888; } .verdict p { margin: .25rem 0 0; }
table { border-collapse: collapse; width: 100%; } th, td { padding: .3rem .4rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; } th, td { overflow-wrap: normal; } td { font-variant-numeric: tabular-nums; white-space: nowrap; } td:first-child { white-space: normal; } th { font-size: .85rem; vertical-align: bottom; }
svg { width: 100%; height: auto; display: block; } svg text { fill: currentColor; font-size: 7px; }
.key { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: .25rem 0; padding: 0; list-style: none; font-size: .9rem; }
.key svg { display: inline-block; width: 36px; vertical-align: middle; margin-right: .4rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: 1rem; padding: 0; margin: 0; list-style: none; }
.pictures img, .none { width: 7rem; height: 7rem; object-fit: contain; background: #fff; border: 1px solid var(--line); display: block; }
.none { display: grid; place-items: center; background: var(--soft); font-size: .8rem; }
.pictures li { font-size: .85rem; line-height: 1.35; } .note { font-size: .9rem; }
@media (max-width: 30rem) { svg text { font-size: 11px; } th, td { padding: .3rem .15rem; font-size: .8rem; } th { font-size: .75rem; } td { white-space: normal; } }
"""


def as_html(judgement: Judgement, watched: Watched, stream: Path) -> str:
    """
    The page, which needs no other file.

    Args:
        judgement ([`Judgement`]): What was found.
        watched ([`Watched`]): On which images.
        stream (`Path`): Their folder, from which the pictures are read.
    """
    report = judgement.report
    kind = "alarm" if report["alarm"] else "few" if report["verdict"] == FEW else ""
    of = {name: value for name, value in watched.record.items() if name in ("MODEL", "--reference", "--stream")}
    said = "; ".join(f"{name.removeprefix('--').lower()} {value}" for name, value in of.items())
    alarm = 10 ** report["log10_evidence_of_an_alarm"]
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src \'unsafe-inline\'">',
        f"<title>{escape(report['verdict'])}: hf-robustft watch</title><style>{_STYLE}</style></head><body>",
        f'<main><div class="verdict {kind}"><h1>{escape(_verdict(report))}</h1><p>{escape(why(report))}</p></div>',
        f'<p class="note">{escape(_shown(said))}; {report["images"]:,} images, {len(watched.broken):,} that cannot be read, against '
        f"{report['reference_images']:,} of the reference.</p>",
        f"<h2>Evidence that something has changed</h2>{_chart(judgement.money, report)}",
        f'<p class="note">Each line is the money of a gambler who bets on foreign images at fair odds, and begins with 1. That one of them ever '
        f"comes to {alarm:,.0f} has probability at most {report['level']:g} while nothing changes, however often one looks.</p>",
        _statistics(report),
        "<h2>What the model says</h2>",
        _said(report),
        '<p class="note">Estimated accuracy is the mean confidence, with its standard error. It is right where confidence is calibrated, as on the '
        "reference; after an alarm it is often far too high. Only labels tell.</p>",
        "<h2>The most unusual images</h2>",
        _pictures(judgement, watched, stream),
    ]
    if watched.broken:
        items = sorted(watched.broken.items())[:20]
        more = f"<li>and {len(watched.broken) - 20:,} more, in watch.json</li>" if len(watched.broken) > 20 else ""
        said = (facts["error"] if name in facts["error"] else f"{name}: {facts['error']}" for name, facts in items)
        listed = "".join(f"<li>{escape(_shown(text))}</li>" for text in said)
        parts.append(f'<h2>Images that cannot be read</h2><ul class="note">{listed}{more}</ul>')
    return "\n".join([*parts, "</main></body></html>\n"])


def _verdict(report: Mapping[str, Any]) -> str:
    word = report["verdict"]
    return f"Alarm: {word}" if report["alarm"] else word[:1].upper() + word[1:] if word in (QUIET, FEW) else word


def _shown(text: str) -> str:
    """A text that can be written and turns none around: escapes for bytes that are not UTF-8, and for marks of direction."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _chart(money: Mapping[str, Tensor], report: Mapping[str, Any]) -> str:
    images, limit = max(report["images"], 1), report["log10_evidence_of_an_alarm"]
    lines = {name: (values / math.log(10)).tolist() for name, values in money.items()}
    high = max([limit * 1.3, *(value for values in lines.values() for value in values)])
    low = min([-1.0, *(max(value, -3.0) for values in lines.values() for value in values)])
    across, up = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def y(value: float) -> float:
        return _TOP + up * (high - max(value, low)) / (high - low)

    drawn = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Evidence of each statistic after each image, on a logarithmic scale">']
    step = max(1, math.ceil((high - low) / 6))
    for tick in range(math.ceil(low), math.floor(high) + 1):
        if tick % step == 0:
            drawn.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="currentColor" stroke-opacity=".15"/>')
            text = f"10<tspan dy='-.4em' font-size='70%'>{str(tick).replace('-', '&#8722;')}</tspan>" if tick else "1"
            drawn.append(f'<text x="{_LEFT - 5}" y="{y(tick) + 4:.1f}" text-anchor="end">{text}</text>')
    drawn.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(limit):.1f}" y2="{y(limit):.1f}" stroke="#c62828" stroke-width="1.5"/>')
    drawn.append(f'<text x="{_WIDTH - _RIGHT}" y="{y(limit) - 4:.1f}" text-anchor="end">alarm</text>')
    for name, values in lines.items():
        each = images / len(values) if values else 1
        # Where there are many, the highest of neighbours: what raised the alarm is to be seen.
        bucket = math.ceil(len(values) / _POINTS) or 1
        points = [(0.0, 0.0)] + [(min(len(values), i + bucket) * each, max(values[i : i + bucket])) for i in range(0, len(values), bucket)]
        path = " ".join(f"{_LEFT + across * x / images:.1f},{y(value):.1f}" for x, value in points)
        colour, dash = _LINES[name]
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8" stroke-dasharray="{dash}"/>')
    drawn.append(f'<text x="{_LEFT}" y="{_HEIGHT - 7}">0</text>')
    drawn.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 7}" text-anchor="end">{images:,} images</text></svg>')
    keys = "".join(
        f'<li><svg viewBox="0 0 36 8" aria-hidden="true"><line x1="0" x2="36" y1="4" y2="4" stroke="{colour}" stroke-width="2.5" '
        f'stroke-dasharray="{dash}"/></svg>{_NAMES[name]}</li>'
        for name, (colour, dash) in _LINES.items()
    )
    return "".join(drawn) + f'<ul class="key">{keys}</ul>'


def _statistics(report: Mapping[str, Any]) -> str:
    rows = []
    for name, facts in report["statistics"].items():
        share = facts["more_foreign_than_reference"]
        rows.append((
            f"{_NAMES[name]}: {STATISTICS[name]}", _power(facts["log10_evidence"]), _power(facts["log10_highest"]), "" if facts["alarm_at_image"] is None else f"{facts['alarm_at_image']:,}",
            "" if share is None else f"{100 * share:.0f} %",
        ))  # fmt: skip
    heads = ("Test", "Evidence now", "Highest", "Alarm at image", "More foreign")
    return _table(heads, rows) + '<p class="note">More foreign: how likely an image of the stream is more so than one of the reference; 50 % if both are alike.</p>'


def _power(log10: float) -> str:
    """A number by its logarithm: a power of ten where it is large or small."""
    if -2 <= log10 < 4:
        return f"{10**log10:.3g}"
    return f"10{str(round(log10)).translate(_EXPONENTS)}"


def _said(report: Mapping[str, Any]) -> str:
    def percent(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.1f} %"

    def estimate(facts: Mapping[str, Any] | None) -> str:
        if facts is None:
            return ""
        error = facts["standard_error"]
        return f"{100 * facts['accuracy']:.1f}{'' if error is None else f' ± {100 * error:.1f}'} %"

    heads, rows = ("", "Reference", "Stream", "Latest 256"), []
    for title, facts in (("Accepted by the detector", report["accepted"]), ("Mean confidence", report["confidence"])):
        rows.append((title, *(percent(facts[name]) for name in ("reference", "stream", "latest"))))
    guesses = report["estimated_accuracy"]
    rows.append(("Estimated accuracy", "", estimate(guesses["all"]), estimate(guesses["latest"])))
    rows.append(("Of what is accepted", "", estimate(guesses["accepted"]), ""))
    return _table(heads, rows)


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _pictures(judgement: Judgement, watched: Watched, stream: Path) -> str:
    items = []
    for index in judgement.foreign[:_PICTURES]:
        of = watched.stream
        name, known = _shown(of.names[index]), of.known[index]
        name = name if len(name) <= 60 else f"{name[:40]}...{name[-17:]}"
        picture = _picture(stream / of.names[index])
        shown = '<span class="none">no longer there</span>' if picture is None else f'<img src="{picture}" alt="">'
        label = f"{_shown(of.labels[index])}, {100 * of.probability[index]:.0f} %"
        judged = "" if known is None else "; accepted" if known else "; unknown"
        items.append(f"<li>{shown}{escape(name)}<br>{escape(label)}{judged}</li>")
    return f'<ul class="pictures">{"".join(items)}</ul>' if items else "<p>There is none yet.</p>"


def _picture(path: Path) -> str | None:
    """A small picture as an address that holds it; `None` if it cannot be read (any more)."""
    try:
        return thumbnail(str(path), str(path))
    except OSError:
        return None
