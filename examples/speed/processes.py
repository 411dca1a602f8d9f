# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Item h: the same global batch in two processes (gloo, one thread each) and in one of two threads."""

from __future__ import annotations

from steps import ours
from table import Row
from turns import Contender, interleave, median_ratio


def measure(options, progress) -> list[Row]:
    """One row; both sides have the same cores and the same global batch."""
    one = {"method": "carot", "model": options.model, "batch": options.batch}
    two = {**one, "batch": options.batch // 2}
    single = Contender("1 process", ours, one, options.threads)
    several = Contender("2 processes", ours, two, max(1, options.threads // 2), processes=2)
    interleave([several, single], max(2, options.rounds // 2), options.warm, progress)
    return [
        Row(
            "h",
            "CaRot step in 2 processes over 1",
            several.median,
            single.median,
            "s",
            median_ratio(several, single),
            note=f"as many pairs in all; {several.threads} and {single.threads} threads a process; gloo",
            details={"rounds": [list(pair) for pair in zip(several.seconds, single.seconds, strict=True)]},
        )
    ]
