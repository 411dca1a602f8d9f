# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Groups of suites: what each run takes of the settings, what all of them cannot share, and the table of all."""

import pytest
from helpers.reports import report

from hf_robustft.cli.each import of_suite, suites_of, summary, summary_table, write_summary
from hf_robustft.cli.train import train
from hf_robustft.cli.train_arguments import check, parse
from hf_robustft.training.given import Suggested


def test_a_group_stands_for_its_suites():
    assert suites_of("pacs") == ["pacs-art_painting", "pacs-cartoon", "pacs-photo", "pacs-sketch"]
    assert suites_of("vlcs=/data/VLCS")[-1] == "vlcs-sun=/data/VLCS"
    assert len(suites_of("few-shot")) == 10
    assert suites_of("pacs-sketch") == suites_of("my_images") == suites_of("dtd") == []
    with pytest.raises(ValueError, match="few-shot=/data"):
        suites_of("few-shot=/data")


def test_settings_of_one_suite():
    values = {"train_dataset": "vlcs=V", "output_dir": "out", "eval_datasets": Suggested(["{suite}", "dtd:open_set"], "recipe"),
              "templates": "croft-{suite}", "seed": 3}  # fmt: skip
    own = of_suite(values, "vlcs-sun=V")
    assert own["train_dataset"] == "vlcs-sun=V" and own["output_dir"] == "out/vlcs-sun"
    assert own["eval_datasets"] == Suggested(["vlcs-sun=V", "dtd:open_set"], "recipe")
    assert own["templates"] == "croft-vlcs-sun" and own["seed"] == 3


def test_a_recipe_of_a_group_gives_each_run_its_data_and_the_settings_of_the_paper():
    model_args, data_args, args = parse(["--recipe", "pacs/croft", "--seed", "2"], "pacs-sketch")
    assert data_args.train_dataset == "pacs-sketch" and data_args.eval_datasets[0] == "pacs-sketch"
    assert args.output_dir == "outputs/croft/pacs-sketch"
    assert (args.energy_gradient_weight, args.energy_gradient_reduction) == (1000.0, "mean")
    assert args.origins["num_train_epochs"] == "paper of croft" and args.seed == 2
    assert args.origins["energy_gradient_weight"] == "recipe pacs/croft"


@pytest.mark.parametrize("option", ["--push_to_hub", "--resume_from_checkpoint=checkpoint-5"])
def test_what_several_runs_cannot_share_is_refused_before_the_first(tmp_path, option):
    with pytest.raises(ValueError, match=option.split("=")[0]):
        train(["--recipe", "pacs/croft", "--output_dir", str(tmp_path / "out"), "--report_to", "none", option])
    assert not (tmp_path / "out").exists()


def test_one_job_refuses_a_group_by_name(tmp_path):
    parts = parse(["--recipe", "pacs/croft", "--output_dir", str(tmp_path / "out")])
    with pytest.raises(ValueError, match="pacs-photo"):
        check(*parts)


def test_the_table_of_all(tmp_path):
    scores = {"energy": {"auroc": 0.75, "fpr95": 0.5, "shifts": {}}}
    unseen = {"unseen": {"n": 5, "id": "photo", "scores": scores}}
    rows = summary({"a": report(open_set=unseen), "b": report(shifts=[("sketch", 0.75)])})
    assert [row["suite"] for row in rows] == ["a", "b", "mean"]
    for key in ("id_accuracy", "id_ece", "shift_accuracy", "shift_nll"):
        assert rows[2][key] == pytest.approx((rows[0][key] + rows[1][key]) / 2)
    # Only one of them has this open set: there is no mean over both.
    assert "auroc_unseen" in rows[0] and "auroc_unseen" not in rows[1] | rows[2]
    lines = summary_table(rows).splitlines()
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1 and lines[2].rstrip().endswith("-")
    assert write_summary(tmp_path, rows).read_text().splitlines()[0].startswith("suite,id_accuracy")
