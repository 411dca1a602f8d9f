# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`hf-robustft verify`: what was measured holds, and each claim that was moved is found."""

import json
import re
import shutil

import pytest
import torch
from helpers import image_dataset
from helpers.claiming import SETS, made
from safetensors.torch import load_file, save_file

from hf_robustft.cli import main
from hf_robustft.cli import verify as verify_command
from hf_robustft.cli.verify import parser, verify
from hf_robustft.evaluation.report import load_reports
from hf_robustft.publishing.claims import FAILS, HOLDS, NOT_MEASURED
from hf_robustft.publishing.verification import Verification

QUIET = ["--use_cpu", "--disable_tqdm", "--batch_size", "16"]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    return made(tmp_path_factory.mktemp("verify"))


@pytest.fixture
def folder(desk, tmp_path):
    """A copy of the folder to change."""
    shutil.copytree(desk / "clip", tmp_path / "clip")
    return tmp_path / "clip"


def places(desk, **changes):
    chosen = {name: f"{name}.parquet" for name in SETS} | changes
    return [f"{name}={desk / file}" for name, file in chosen.items() if file is not None]


def run(folder, desk, *more, **changes) -> Verification:
    given = places(desk, **changes)
    return verify(*parser().parse([str(folder), *(["--data", *given] if given else []), *QUIET, *more]))


def of(found, verdict):
    return {f"{claim.of}: {claim.name}" for claim in found.claims if claim.verdict == verdict}


def test_what_was_measured_holds(desk, tmp_path, capsys):
    files = ["--output", str(tmp_path / "verification.json"), "--markdown", str(tmp_path / "verification.md")]
    assert main(["verify", str(desk / "clip"), "--data", *places(desk), *files, *QUIET]) == 0
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "verification.json").read_text())
    assert content["counts"] == {"holds": len(content["claims"]), "fails": 0, "not_measured": 0} and content["status"] == 0
    assert f"{len(content['claims'])} of {len(content['claims'])} claims hold" in printed
    names = {(claim["of"], claim["name"]) for claim in content["claims"]}
    for claim in (
        *(("photo", "accuracy"), ("sketch", "NLL"), ("unseen", "AUROC of energy"), ("unseen", "accepted of msp, sketch"), ("photo", "coverage")),
        *(("photo", "answers by class"), ("unseen", "thresholds of energy"), ("unseen", "unknown images accepted by the detector")),
        *(("held_out", "temperature"), ("held_out", "threshold for unknown"), ("held_out", "quantile of prediction sets")),
        *(("README.md", "Accuracy on photo"), ("README.md", "threshold for unknown"), ("README.md", "temperature")),
        *(("the weights", "logit scale, by the detector"), ("photo", "smallest singular value"), ("photo", "standard error of the accuracy")),
    ):
        assert claim in names, claim
    # The numbers are those of the report, and were measured anew.
    (report,) = load_reports(desk / "clip" / "evaluation.json")
    accuracy = next(claim for claim in content["claims"] if (claim["of"], claim["name"]) == ("photo", "accuracy"))
    assert accuracy["claimed"] == report.results["photo"].accuracy == accuracy["measured"] and accuracy["rule"] == "rounding"
    text = (tmp_path / "verification.md").read_text()
    assert "| photo | accuracy |" in text and "| photo" in printed or "photo" in printed
    # A second time these files are there.
    assert main(["verify", str(desk / "clip"), "--data", *places(desk), *files, *QUIET]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["verify", str(desk / "clip"), "--data", *places(desk), *files, *QUIET, "--overwrite"]) == 0
    assert json.loads((tmp_path / "verification.json").read_text()) == content


@pytest.mark.parametrize("option", ["output", "markdown"])
def test_a_file_that_another_command_has_written_meanwhile_stays(option, folder, desk, monkeypatch, capsys):
    file = folder.parent / f"found{'.json' if option == 'output' else '.md'}"

    def meanwhile(*given):
        file.write_text("of another model")
        return Verification("clip", [], {}, [], "energy")

    monkeypatch.setattr(verify_command, "verify", meanwhile)
    words = ["verify", str(folder), f"--{option}", str(file), *QUIET]
    assert main(words) == 2 and f"`--{option} {file}`" in capsys.readouterr().err
    assert file.read_text() == "of another model"
    assert main([*words, "--overwrite"]) == 0 and file.read_text() != "of another model"


def in_report(*path, by):
    def change(folder):
        file = folder / "evaluation.json"
        content = json.loads(file.read_text())
        at = content["reports"][-1]
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] += by
        file.write_text(json.dumps(content))

    return change


def in_report_text(change):
    def changed(folder):
        file = folder / "evaluation.json"
        content = json.loads(file.read_text())
        change(content["reports"][-1])
        file.write_text(json.dumps(content))

    return changed


def other_answers(report):
    """Five images are told to be taken for another class."""
    classes = report["error_analysis"]["photo"]["classes"]
    rows = {name: text.split() for name, text in classes.items()}
    spare = {name: int(row[2]) - int(row[1]) for name, row in rows.items()}
    one, *_, other = sorted(rows, key=spare.get)
    for name, by in ((one, 5), (other, -5)):
        rows[name][2] = str(int(rows[name][2]) + by)
        classes[name] = " ".join(rows[name])


def another_curve(report):
    """More known images are told to be refused at each threshold."""
    curve = report["open_set"]["unseen"]["threshold_curve"]
    for name in ("refusal", "refusal_low", "refusal_high"):
        values = curve[name].split()
        curve[name] = " ".join([*values[4:], *[values[-1]] * 4])


def in_list(*path, by):
    """The first number in a text of numbers, as lists are kept in the file."""

    def change(report):
        at = report
        for key in path[:-1]:
            at = at[key]
        first, *others = at[path[-1]].split()
        at[path[-1]] = " ".join([repr(type(by)(first) + by), *others])

    return change


def other_bins(report):
    """Five images are told to be right of the fullest bin, and five more to be wrong."""
    bins = report["results"]["sketch"]["reliability"]
    place = max(range(len(bins["count"])), key=bins["count"].__getitem__)
    bins["accuracy"][place] = abs(bins["accuracy"][place] - 10 / bins["count"][place])


def in_metadata(part, name, factor=1.0, by=0.0):
    def change(folder):
        file = folder / "robustft.json"
        content = json.loads(file.read_text())
        content[part][name] = content[part][name] * factor + by
        file.write_text(json.dumps(content))

    return change


def in_card(pattern, instead):
    def change(folder):
        text = (folder / "README.md").read_text()
        changed = re.sub(pattern, instead, text, count=1)
        assert changed != text
        (folder / "README.md").write_text(changed)

    return change


def weights(folder):
    tensors = load_file(folder / "model.safetensors")
    draw = torch.Generator().manual_seed(0)
    name = next(key for key in tensors if key.startswith("visual_projection"))
    tensors[name] = tensors[name] + 0.01 * torch.randn(tensors[name].shape, generator=draw)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


RESULTS, OPEN = ("results", "photo"), ("open_set", "unseen", "scores")
#: What is changed together, and all that fails of it.
TAMPERED = {
    "results": [
        (in_report(*RESULTS, "accuracy", by=0.02), {"photo: accuracy", "README.md: Accuracy on photo"}),
        (in_report(*RESULTS, "ece", by=0.05), {"photo: ECE", "README.md: Expected calibration error on photo"}),
        (in_report(*RESULTS, "nll", by=0.01), {"photo: NLL", "README.md: Negative log-likelihood on photo"}),
        (in_report("results", "sketch", "brier", by=-0.01), {"sketch: Brier score", "README.md: Brier score on sketch", "evaluation.json: brier of the mean over shifts"}),
        (in_report(*RESULTS, "accuracy_se", by=-0.02), {"photo: standard error of the accuracy"}),
        (in_report(*OPEN, "energy", "auroc", by=-0.1), {"unseen: AUROC of energy", "README.md: AUROC of energy on unseen"}),
        (in_report(*OPEN, "msp", "shifts", "sketch", "accepted", by=-0.2), {"unseen: accepted of msp, sketch"}),
        (in_report("prediction_sets", "sets", "photo", "coverage", by=0.05), {"photo: coverage", "photo: images whose set holds their class"}),
        (in_report_text(other_answers), {"photo: answers by class"}),
        (in_report_text(another_curve), {"unseen: thresholds of energy"}),
        (in_report("open_set", "unseen", "threshold_curve", "chosen", "refusal", "share", by=0.05), {"unseen: known images refused by the detector"}),
        (lambda folder: None, {f"unseen: refusal by the detector, {end} end of its interval" for end in ("low", "high")}),
        (in_report("spectrum", "smallest_singular_value", by=0.1), {"photo: smallest singular value"}),
        (in_report("spectrum", "largest_singular_value", by=0.1), {"photo: largest singular value"}),
        (in_report("shift_mean", "accuracy", by=0.05), {"evaluation.json: accuracy of the mean over shifts"}),
        (in_report_text(other_bins), {"sketch: bins of confidence"}),
        (in_report("error_analysis", "sketch", "confusions", 0, "n", by=3), {"sketch: classes taken for others"}),
        (in_report("error_analysis", "sketch", "worst", 0, "nll", by=0.5), {"sketch: worst mistakes"}),
        (in_report("error_analysis", "sketch", "most_confident", 1, "confidence", by=-0.1), {"sketch: most confident mistakes"}),
        (in_report("results", "sketch", "predictions", "share", by=-0.1), {"sketch: images of the most frequent answer"}),
        (in_report("prediction_sets", "sets", "sketch", "interval", 0, by=0.05), {"sketch: lower end of the interval of the coverage"}),
        (in_report_text(in_list("prediction_sets", "sets", "sketch", "class_held", by=-4)), {"sketch: sets by class"}),
        (lambda folder: None, {"sketch: images whose set holds their class", "sketch: upper end of the interval of the coverage"}),
        (in_report("open_set", "unseen", "threshold_curve", "chosen", "acceptance", "high", by=-0.1), {"unseen: acceptance by the detector, high end of its interval"}),
    ],
    "fits": [
        (in_metadata("detector", "threshold", by=0.3), {"held_out: threshold for unknown", "README.md: threshold for unknown"}),
        # Measured by that threshold.
        (lambda folder: None, {"unseen: known images refused by the detector", "unseen: thresholds of energy"}),
        (in_metadata("detector", "achieved_true_positive_rate", by=-0.02), {"held_out: known images accepted"}),
        (in_metadata("detector", "logit_scale", 1.1), {"the weights: logit scale, by the detector"}),
        (in_metadata("temperature", "nll_before", 1.01), {"held_out: NLL before the temperature"}),
    ],
    "a temperature": [
        (in_metadata("temperature", "temperature", 1.3), {"held_out: temperature", "held_out: NLL after the temperature", "README.md: temperature"}),
        (lambda folder: None, {"the weights: logit scale, by the prediction sets", "held_out: quantile of prediction sets"}),
    ],
    "the card": [
        (in_card(r"- type: accuracy\n      value: [\d.]+", "- type: accuracy\n      value: 0.99"), {"README.md: Accuracy on photo"}),
        (in_card(r"is below -?[\d.]+:", "is below 1.234:"), {"README.md: threshold for unknown"}),
    ],
}


@pytest.mark.parametrize("kind", TAMPERED)
def test_claims_that_were_moved_are_found_and_no_others(kind, folder, desk):
    wanted = set()
    for change, failing in TAMPERED[kind]:
        change(folder)
        wanted |= failing
    found = run(folder, desk)
    assert found.status == 1 and of(found, FAILS) == wanted
    assert all(claim.reason for claim in found.claims if claim.verdict == FAILS)


def test_a_number_that_the_card_has_twice_is_compared_twice(folder, desk):
    """The first is what a reader sees, and the last what a mapping keeps."""
    text = (folder / "README.md").read_text()
    (row,) = re.findall(r"    - type: accuracy\n      value: [\d.]+\n      name: Accuracy\n(?=(?:.(?!\n  - task))*)", text)[:1]
    (folder / "README.md").write_text(text.replace(row, re.sub(r"value: [\d.]+", "value: 0.99", row) + row, 1))
    found = run(folder, desk, **dict.fromkeys(SETS))
    assert [claim.verdict for claim in found.claims if claim.of == "README.md" and claim.name == "Accuracy on photo"] == [FAILS, HOLDS]


@pytest.mark.parametrize(("pattern", "instead"), [(r"(is below) -?[\d.]+:", r"\1 1,234:"), (r"(holds a temperature of) [\d.]+", r"\1 one")])
def test_what_is_no_number_in_the_text_of_a_card_is_none_that_holds(pattern, instead, folder, desk):
    in_card(pattern, instead)(folder)
    failing = of(run(folder, desk, **dict.fromkeys(SETS)), FAILS)
    assert len(failing) == 1 and failing <= {"README.md: threshold for unknown", "README.md: temperature"}


def test_every_list_of_the_curve_is_compared(folder, desk):
    for key in (("shifts", "sketch"), ("acceptance_low",)):
        shutil.copy(desk / "clip" / "evaluation.json", folder)

        def moved(report, key=key):
            at = report["open_set"]["unseen"]["threshold_curve"]
            for part in key[:-1]:
                at = at[part]
            at[key[-1]] = " ".join(repr(round(0.8 * float(value), 4)) for value in at[key[-1]].split())

        in_report_text(moved)(folder)
        assert of(run(folder, desk), FAILS) == {"unseen: thresholds of energy"}, key


def test_sets_of_another_quantile_hold_other_classes(folder, desk):
    in_metadata("prediction_sets", "quantile", by=0.3)(folder)
    assert {"held_out: quantile of prediction sets", "photo: classes in a set"} <= of(run(folder, desk), FAILS)


def test_other_weights_are_found_by_what_they_give(folder, desk):
    weights(folder)
    found = run(folder, desk)
    assert found.status == 1 and {"photo: NLL", "sketch: NLL", "held_out: NLL before the temperature"} <= of(found, FAILS)


def test_data_that_cannot_be_had_are_said_and_the_rest_is_measured(desk, capsys):
    assert main(["verify", str(desk / "clip"), *QUIET]) == 3
    printed = " ".join(capsys.readouterr().out.split())
    assert "--data photo=PLACE" in printed and "photo.parquet" in printed and printed.count("--data photo=PLACE") == 1
    found = run(desk / "clip", desk, held_out=None, sketch=None)
    assert found.status == 3 and not of(found, FAILS)
    absent = of(found, NOT_MEASURED)
    assert {"held_out: temperature", "sketch: accuracy", "unseen: accepted of energy, sketch"} <= absent
    assert {"photo: accuracy", "unseen: AUROC of energy"} <= of(found, HOLDS)
    # What is compared with images that are not there is not measured either.
    found = run(desk / "clip", desk, photo=None)
    assert {"unseen: AUROC of energy", "photo: smallest singular value"} <= of(found, NOT_MEASURED) and "sketch: accuracy" in of(found, HOLDS)


def test_other_images_are_two_samples(desk, folder):
    found = run(desk / "clip", desk, photo="other_photo.parquet")
    by_name = {(claim.of, claim.name): claim for claim in found.claims}
    assert not of(found, FAILS) and found.status == 3
    assert by_name["photo", "accuracy"].rule == "images" and by_name["photo", "accuracy"].p > 0.01 and by_name["sketch", "accuracy"].rule == "rounding"
    assert by_name["unseen", "AUROC of energy"].rule == "images" and by_name["unseen", "AUROC of energy, sketch"].rule == "rounding"
    assert any("images of photo are not those" in note for note in found.notes)
    in_report("results", "photo", "accuracy", by=-0.5)(folder)
    assert "photo: accuracy" in of(run(folder, desk, photo="other_photo.parquet"), FAILS)
    few = run(desk / "clip", desk, photo="few.parquet")
    assert "photo: accuracy" in of(few, NOT_MEASURED) and not of(few, FAILS)
    # A fit is not repeated on other images.
    assert "held_out: temperature" in of(run(desk / "clip", desk, held_out="other_photo.parquet"), NOT_MEASURED)


def test_a_fit_on_images_without_a_fingerprint_is_not_repeated_on_another_number_of_them(desk, folder):
    """They were taken for the same, and what they gave for what they should have given."""
    content = json.loads((folder / "robustft.json").read_text())
    content["image_hashes"] = [entry for entry in content["image_hashes"] if entry["role"] != "validation"]
    (folder / "robustft.json").write_text(json.dumps(content))
    others = run(folder, desk, held_out="other_photo.parquet")
    assert others.status == 3 and not of(others, FAILS) and "held_out: temperature" in of(others, NOT_MEASURED)
    assert run(folder, desk).status == 0


def test_other_versions_may_move_half_a_standard_error(desk, folder):
    change = json.loads((folder / "evaluation.json").read_text())
    change["reports"][-1]["settings"]["versions"]["pillow"] = "10.0"
    (folder / "evaluation.json").write_text(json.dumps(change))
    found = run(folder, desk)
    assert found.status == 0 and any("pillow 10.0 then" in note for note in found.notes)
    report = load_reports(folder / "evaluation.json")[-1]
    error = report.results["photo"].nll_se
    for share, verdict in ((0.4, HOLDS), (0.6, FAILS)):
        shutil.copy(desk / "clip" / "evaluation.json", folder)
        (folder / "evaluation.json").write_text(json.dumps(change))
        in_report("results", "photo", "nll", by=share * error)(folder)
        claim = next(claim for claim in run(folder, desk).claims if (claim.of, claim.name) == ("photo", "NLL"))
        assert (claim.rule, claim.verdict) == ("versions", verdict)


def test_a_temperature_that_was_folded_in_since_is_taken_out_first(desk, folder, capsys):
    assert main(["calibrate", str(folder), "--dataset", str(desk / "held_out.parquet"), *QUIET]) == 0
    assert load_reports(folder / "evaluation.json")[-1].settings["temperature_folded_since"] != 1
    found = run(folder, desk)
    assert not of(found, FAILS), of(found, FAILS)
    assert {"photo: NLL", "photo: ECE", "held_out: temperature", "held_out: NLL before the temperature"} <= of(found, HOLDS)
    # Measured again, all of it is of the folder as it is.
    capsys.readouterr()
    sets = [f"{desk}/photo.parquet", f"{desk}/sketch.parquet:shift", f"{desk}/unseen.parquet:open_set"]
    assert main(["calibrate", str(folder), "--dataset", str(desk / "held_out.parquet"), "--eval_datasets", *sets, *QUIET]) == 0
    found = run(folder, desk)
    assert found.status == 0, (of(found, FAILS), of(found, NOT_MEASURED))


def test_thresholds_and_quantiles_of_a_calibration_are_found_again(desk, folder):
    risk = f"--unknown {desk}/strangers.parquet --max_false_acceptance 0.6 --per_class_thresholds --coverage 0.6 --class_conditional"
    sets = f"--eval_datasets {desk}/photo.parquet {desk}/unseen.parquet:open_set"
    assert main(["calibrate", str(folder), "--dataset", f"{desk}/held_out.parquet", *risk.split(), *sets.split(), *QUIET]) == 0
    found = run(folder, desk, strangers="strangers.parquet", sketch=None)
    assert found.status == 0, (of(found, FAILS), of(found, NOT_MEASURED))
    wanted = {"held_out: threshold for unknown", "held_out: thresholds of single classes", "held_out: quantiles of single classes"}
    assert wanted | {"strangers: unknown images accepted"} <= of(found, HOLDS)
    # Without these images it cannot be chosen again, and what it accepts is counted all the same.
    found = run(folder, desk, sketch=None)
    assert found.status == 3 and "held_out: threshold for unknown" in of(found, NOT_MEASURED) and "held_out: known images accepted" in of(found, HOLDS)
    # As many others are not those images, which their fingerprint says.
    image_dataset(60, seed=6, classes=("ant", "fox")).to_parquet(desk / "as_many.parquet")
    found = run(folder, desk, strangers="as_many.parquet", sketch=None)
    assert found.status == 3 and "held_out: threshold for unknown" in of(found, NOT_MEASURED) and not any("by their number" in note for note in found.notes)
    content = json.loads((folder / "robustft.json").read_text())
    name = next(iter(content["detector"]["thresholds"]))
    content["detector"]["thresholds"][name] += 1.0
    quantiles = content["prediction_sets"]["class_quantiles"]
    quantiles[next(iter(quantiles))] = 0.123
    (folder / "robustft.json").write_text(json.dumps(content))
    assert {"held_out: thresholds of single classes", "held_out: quantiles of single classes"} <= of(run(folder, desk, strangers="strangers.parquet", sketch=None), FAILS)


#: Numbers that a card states of a fit, by where they stand in `robustft.json`.
STATED = {
    "held_out: ECE before the temperature": ("temperature", "ece_before"),
    "held_out: ECE after the temperature": ("temperature", "ece_after"),
    "robustft.json: accuracy on photo after the temperature": ("temperature", "sets", "photo", "accuracy"),
    "robustft.json: NLL on photo after the temperature": ("temperature", "sets", "photo", "nll", 1),
    "held_out: images of the detector's fit": ("detector", "n"),
    "held_out: upper bound of the stated error": ("detector", "risk", "bound"),
    "held_out: known images refused by the stated threshold, low": ("detector", "risk", "false_refusal", "low"),
    "held_out: unknown images accepted by the stated threshold, high": ("detector", "risk", "false_acceptance", "high"),
    "held_out: images of the prediction sets' fit": ("prediction_sets", "n"),
}


def test_what_a_card_states_of_a_fit_is_found_again(desk, folder):
    risk = f"--unknown {desk}/strangers.parquet --max_false_acceptance 0.6 --eval_datasets {desk}/photo.parquet"
    assert main(["calibrate", str(folder), "--dataset", f"{desk}/held_out.parquet", *risk.split(), *QUIET]) == 0
    given = {"strangers": "strangers.parquet", "sketch": None, "unseen": None}
    found = run(folder, desk, **given)
    assert found.status == 0 and set(STATED) <= of(found, HOLDS), (of(found, FAILS), set(STATED) - of(found, HOLDS))
    content = json.loads((folder / "robustft.json").read_text())
    for name, path in STATED.items():
        at = content
        for key in path[:-1]:
            at = at[key]
        before = at[path[-1]]
        at[path[-1]] = before + 5 if isinstance(before, int) else before + 0.1 if "ECE" in name else before * 0.8
    (folder / "robustft.json").write_text(json.dumps(content))
    assert of(run(folder, desk, **given), FAILS) == set(STATED)


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("--data somewhere={desk}/photo.parquet", "`--data somewhere=.*'photo'"),
        ("--data photo={desk}/unseen.parquet", "ant"),
        ("--data photo=emoji_shift", "sets"),
        ("--image_column image", "--data"),
        ("--output {clip}/evaluation.json --overwrite", "verification.json"),
    ],
)
def test_what_does_not_fit_the_claims_is_refused_before_weights_are_read(line, match, desk, folder, monkeypatch):
    from hf_robustft.modeling import checkpoint

    def read(*arguments, **options):
        raise AssertionError("the weights are read")

    monkeypatch.setattr(checkpoint, "_model", read)
    with pytest.raises(ValueError, match=match):
        verify(*parser().parse([str(folder), *line.format(desk=desk, clip=folder).split(), *QUIET]))


def test_without_prompts_nothing_can_be_measured_again(desk, folder, capsys):
    (folder / "robustft.json").unlink()
    found = run(folder, desk, photo=None, sketch=None, unseen=None, held_out=None)
    assert {"photo: accuracy", "unseen: AUROC of energy"} <= of(found, NOT_MEASURED)
    # The card's threshold is one of no detector.
    assert of(found, FAILS) == {"README.md: threshold for unknown", "README.md: temperature"}
    assert main(["verify", str(folder), "--data", f"photo={desk}/photo.parquet", *QUIET]) == 2
    assert "robustft.json" in capsys.readouterr().err


def test_a_model_without_results_claims_nothing(folder, capsys):
    (folder / "evaluation.json").unlink()
    assert main(["verify", str(folder), *QUIET]) == 2
    error = capsys.readouterr().err
    assert "evaluation.json" in error and error.count("\n") == 1


@pytest.mark.slow  # Half a minute, as the command of the guide to verifying: `python -m pytest -m slow tests/cli/test_verify.py`.
def test_the_packaged_model_holds_what_its_card_claims():
    found = verify(*parser().parse(["emoji_clip_carot", "--use_cpu", "--disable_tqdm"]))
    assert found.status == 0, (of(found, FAILS), of(found, NOT_MEASURED))
    names = {(claim.of, claim.name) for claim in found.claims}
    assert {("noto", "accuracy"), ("fluent-emoji", "ECE"), ("open_set", "AUROC of energy"), ("validation", "temperature")} <= names
    assert {claim.rule for claim in found.claims if claim.of == "noto"} == {"rounding"}
