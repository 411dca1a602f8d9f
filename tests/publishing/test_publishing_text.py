# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What leaves the machine is public, and stays text."""

import pytest
from markdown_it import MarkdownIt

from hf_robustft.publishing.text import (
    code_block,
    duration,
    link_or_text,
    markdown_text,
    public_command,
    public_settings,
    public_text,
    public_value,
    shown_value,
)


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("read /home/me/data/x.parquet twice", "read x.parquet twice"),
        ("in ~/data/x and C:\\Users\\me\\y", "in x and y"),
        ("file:///home/me/x", "x"),
        ("(/srv/me/x)", "(x)"),
        ("https://example.org/a/b and/or 3/4 of runs/a/b", "https://example.org/a/b and/or 3/4 of runs/a/b"),
        ("~5 minutes", "~5 minutes"),
        ("key hf_" + "x1" * 17, "key [removed]"),
        ("hf_robustft and hf_transfer", "hf_robustft and hf_transfer"),
    ],
)
def test_public_text(text, public):
    assert public_text(text) == public


def test_a_value_that_is_a_path_is_cut_with_its_blanks():
    assert public_value("/home/me/my data/set one/") == "set one"
    assert public_value("/data") == "data"
    assert public_value("openai/clip") == "openai/clip"


def test_public_settings_keeps_what_describes_the_run():
    kept = {"learning_rate": 1e-5, "train_batch_size": 8, "optim": "adamw_torch", "save_steps": 5, "use_cache": False}
    dropped = {
        "output_dir": 1,
        "logging_dir": 1,
        "HUB_TOKEN": 1,
        "hub_strategy": 1,
        "project": 1,
        "trackio_space_id": 1,
    }
    assert public_settings({**kept, **dropped}) == kept


@pytest.mark.parametrize(
    ("command", "public"),
    [
        ("python a.py --token abc --lr 1", "python a.py --lr 1"),
        ("python a.py --token --lr 1", "python a.py --lr 1"),
        ("python a.py --api-key=abc", "python a.py"),
        ("WANDB_API_KEY=abc python a.py", "python a.py"),
        ("python a.py \\\n  --lr 1", "python a.py --lr 1"),
        ("python a.py --text 'a b'", "python a.py --text 'a b'"),
        ("python /srv/x/a.py --tokenizer=/srv/x/tok", "python '<your folder>/a.py' '--tokenizer=<your folder>/tok'"),
        (
            "a.py --train_dataset ../photos/train --eval_datasets data/x:shift",
            "a.py --train_dataset ../photos/train --eval_datasets data/x:shift",
        ),
        ("a.py --train_dataset imagenet-1k=/data/im", "a.py --train_dataset 'imagenet-1k=<your folder>/im'"),
    ],
)
def test_public_command(command, public):
    assert public_command(command) == public


def test_a_long_command_has_an_option_a_line():
    lines = public_command(f"python a.py --one {'x' * 50} --two {'y' * 50}").splitlines()
    assert lines == ["python a.py \\", f"    --one {'x' * 50} \\", f"    --two {'y' * 50}"]


@pytest.mark.parametrize(
    "text",
    [
        "# a",
        "- a",
        "+ a",
        "1. a",
        "2) a",
        "---",
        "===",
        "> a",
        "*a*",
        "_a_",
        "a_b",
        "__a__",
        "`a`",
        "[a](b)",
        "![a](b)",
    ]
    + ["<b>", "<!-- a", "<script a", "&amp;", "a\\", "~~a~~", "$a$", "<http://a.b>", "a|b", "0.1.0", "-5", "\\*a*"],
)
def test_markdown_shows_escaped_text_as_it_is(text):
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown_text(text))
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert "".join(child.content for child in tokens[1].children) == text
    assert {child.type for child in tokens[1].children} <= {"text", "text_special"}


def test_lines_and_control_characters_are_blanks():
    assert markdown_text("a\r\n\n# b\x00\x1b[c\u2028d") == r"a \# b \[c d"


def test_a_fence_is_longer_than_the_backticks_inside():
    tokens = MarkdownIt().parse(code_block("```\nx\n````", "python"))
    assert [token.type for token in tokens] == ["fence"] and tokens[0].content == "```\nx\n````\n"


def test_only_plain_web_addresses_become_links():
    assert link_or_text("https://example.org/a?b=c") == "<https://example.org/a?b=c>"
    assert link_or_text("https://a.b/>x") == "https://a.b/&gt;x"
    assert link_or_text("javascript:alert(1)") == "javascript:alert(1)"
    assert link_or_text("/home/me/data") == "data"


def test_values_and_durations_in_words():
    assert [shown_value(v) for v in (1e-5, 5.0, 0.1 + 0.2, True, None, [1, 0.5], {"a": 1})] == [
        "1e-05",
        "5",
        "0.30000000000000004",
        "True",
        "None",
        "1, 0.5",
        "a: 1",
    ]
    assert [duration(s) for s in (4.24, 59.9, 60, 733.2, 18120)] == [
        "4.2 s",
        "59.9 s",
        "1 min 0 s",
        "12 min 13 s",
        "5 h 2 min",
    ]
