# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`hf-robustft compare DIR DIR ...` writes what it prints, and the frontier shows what the summary holds."""

import json

import pytest
from helpers.finished import finished
from PIL import Image

from hf_robustft import load_comparison
from hf_robustft.cli import main
from hf_robustft.comparison import pictures
from hf_robustft.comparison.output import write_comparison


@pytest.fixture
def folders(tmp_path):
    rows = [("carot", 1e-3, 0.5), ("carot", 3e-4, 0.6), ("flyp", 1e-3, 0.4), ("wise_ft", None, 0.55)]
    made = [
        finished(tmp_path / f"{method}-{rate}", method, rate, 0, (0.9, accuracy, 0.4))
        for method, rate, accuracy in rows
    ]
    return [*made, finished(tmp_path / "zero_shot", "zero_shot", None, accuracies=(0.7, 0.5, 0.45))]


def test_the_command_prints_and_writes_the_same(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    out = tmp_path / "out"
    assert main(["compare", *map(str, folders), "--output_dir", str(out)]) == 0
    printed = capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["comparison.html", "comparison.json", "comparison.md", "frontier.png"]
    summary = load_comparison(out)
    words = " ".join(summary["winner"]["words"].split())
    assert words in " ".join(printed.split()) and "CaRot, 3e-4" in printed and "comparison.json" in printed
    assert max(map(len, printed.splitlines()[:-1])) <= 120
    assert "(frontier.png)" in (out / "comparison.md").read_text()
    assert "hf-robustft compare" in summary["command"] and str(tmp_path) not in summary["command"]
    with Image.open(out / "frontier.png") as picture:
        assert picture.size == (1050, 750)
    # Without a shift there is no frontier, and none of an earlier comparison stays.
    summary["candidates"][0]["shift_mean"] = None
    write_comparison(summary, out)
    assert not (out / "frontier.png").exists() and "frontier" not in (out / "comparison.md").read_text()


def test_the_frontier_shows_each_method_as_a_line(folders, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(pictures, "save_figure", lambda figure, path, dpi: drawn.append(figure) or path)
    main(["compare", *map(str, folders), "--output_dir", str(tmp_path / "out")])
    axes = drawn[0].axes[0]
    lines = {container.get_label(): container[0].get_xydata().tolist() for container in axes.containers}
    assert lines == {
        "CaRot": [[90.0, pytest.approx(50.0)], [90.0, pytest.approx(45.0)]],
        "FLYP": [[90.0, pytest.approx(40.0)]],
        "WiSE-FT": [[90.0, pytest.approx(47.5)]],
    }
    assert [text.get_text() for text in axes.texts] == ["3e-4", "1e-3"]
    assert "zero-shot" in [line.get_label() for line in axes.lines]


def test_with_an_open_set_of_plain_pictures_the_same_command_can_be_given_again(tmp_path, capsys):
    energy = {"aupr_in": 0.8, "aupr_out": 0.8, "auroc": 0.8, "fpr95": 0.5, "fpr95_nearest_recall": 0.5, "fpr95_percentile": 0.5}
    energy |= {"correct_only": {"auroc": 0.9, "fpr95_percentile": 0.4}, "shifts": {"sketch": {"auroc": 0.7, "fpr95": 0.6, "accepted": 0.9}}}
    run = finished(tmp_path / "carot", "carot", 1e-3, open_set={"new": {"n": 300, "id": "photo", "scores": {"energy": energy}}})
    facts = json.loads((run / "robustft.json").read_text())
    facts["card"]["sets"] = [*facts["card"].get("sets", ()), {"name": "new", "role": "open_set", "images": 300, "n_classes": 0}]
    (run / "robustft.json").write_text(json.dumps(facts))
    out = tmp_path / "out"
    assert [main(["compare", str(run), "--output_dir", str(out)]) for _ in range(2)] == [0, 0], capsys.readouterr().err
    summary = load_comparison(out)
    assert {row["name"]: row["n_classes"] for row in summary["data"]["sets"]}["new"] is None
    # As it was written before.
    summary["data"]["sets"][-1]["n_classes"] = 0
    (out / "comparison.json").write_text(json.dumps(summary))
    assert main(["compare", str(run), "--output_dir", str(out)]) == 0, capsys.readouterr().err


def test_what_cannot_be_compared_is_one_line(folders, tmp_path, capsys):
    for arguments, said in (
        ([str(folders[0]), str(tmp_path / "nowhere")], "nowhere"),
        ([str(folders[-1])], "zero_shot"),
        ([str(folders[0]), "--output_dir", str(folders[0] / "robustft.json")], "--output_dir"),
    ):
        assert main(["compare", *arguments]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    content = json.loads((folders[0] / "robustft.json").read_text())
    (folders[0] / "robustft.json").write_text(json.dumps({**content, "format": 0}))
    assert main(["compare", str(folders[0])]) == 2 and "format 0" in capsys.readouterr().err
