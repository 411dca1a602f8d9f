# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The recipes of Emoji Shift say by which declared rule each learning rate was chosen, or that none was asked."""

import re
from pathlib import Path

import pytest

from hf_robustft.comparison.selection import RULES

RECIPES = sorted((Path(__file__).resolve().parents[2] / "hf_robustft" / "recipes" / "emoji_shift").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_each_learning_rate_names_its_rule(recipe):
    (line,) = re.findall(r"^learning_rate: .*", recipe.read_text(encoding="utf-8"), re.MULTILINE) or [None]
    if line is None:
        assert "nothing is trained" in recipe.read_text(encoding="utf-8")
        return
    found = re.fullmatch(r"learning_rate: (\S+)  # (?:no rule: .+|rule ([\w:-]+), of (.+) \((\S+)\))", line)
    assert found, line
    rate, rule, rates, page = found.groups()
    if rule:
        assert rule.partition(":")[0] in RULES and rule != "oracle" and rate in rates.split(", ")
        assert (RECIPES[0].parents[3] / page).is_file()
