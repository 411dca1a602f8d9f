# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Methods that merge, as commands: what they save is the function of the weights that they say, head included."""

import csv
import json
import shutil

import pytest
import torch
from helpers import CLASSES, assert_rounded, image_dataset, tiny_config, tiny_processor
from helpers.families import save_family
from helpers.forked import run_ranks
from PIL import Image
from transformers import CLIPModel

from hf_robustft import ZeroShotHead, cli, interpolate_weights, lines, load_dual_encoder, model_stock
from hf_robustft.cli.train import load_data, train
from hf_robustft.cli.train_arguments import parse
from hf_robustft.evaluation.report import load_reports
from hf_robustft.modeling.features import encode_images
from hf_robustft.modeling.metadata import load_robustft_json

QUIET = ["--use_cpu", "--disable_tqdm", "true", "--detector", "none"]
STEPS = ["--per_device_train_batch_size", "4", "--max_steps", "3", "--report_to", "none", "--save_strategy", "no"]
STEPS += ["--learning_rate", "1e-3"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base, images in three sets, and runs from it: ft twice, carot once."""
    place = tmp_path_factory.mktemp("merging")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(tiny_config()).save_pretrained(place / "base")
    tiny_processor().save_pretrained(place / "base")
    for seed, (split, n) in enumerate((("train", 16), ("test", 12), ("shifted", 12), ("validation", 12))):
        for i, row in enumerate(image_dataset(n, seed=seed)):
            folder = place / split / CLASSES[row["label"]]
            folder.mkdir(parents=True, exist_ok=True)
            row["image"].save(folder / f"{i}.png")
    for name, method, seed in (("ft-0", "ft", 0), ("ft-1", "ft", 1), ("carot-0", "carot", 0)):
        run(place, name, "--method", method, *STEPS, "--seed", str(seed), measured=name == "ft-0")
    return place


def run(place, name, *flags, measured=False):
    arguments = ["--model", str(place / "base"), "--train_dataset", str(place / "train"), *QUIET, *flags]
    if measured:
        sets = f"{place / 'shifted'}:shift", f"{place / 'validation'}:validation"
        arguments += ["--eval_datasets", str(place / "test"), *sets]
    return train([*arguments, "--output_dir", str(place / name)])


def weights(folder):
    return load_dual_encoder(folder)[0]


def assert_equal(folder, expected):
    for name, value in weights(folder).state_dict().items():
        assert torch.equal(value, expected[name]), name


def logits(folder, head=None):
    """Of the images of the test set, as a user of the folder computes them."""
    model, processor = load_dual_encoder(folder)
    head = ZeroShotHead.from_pretrained(folder) if head is None else head
    images = [Image.open(path) for path in sorted((folder.parent / "test").glob("*/*.png"))]
    with torch.no_grad():
        return head(encode_images(model, processor(images=images, return_tensors="pt")["pixel_values"]))


def zero_shot_head(place, facts):
    return ZeroShotHead.from_model(weights(place / "base"), tiny_processor(), facts["class_names"], facts["templates"])


# ---- WiSE-FT -----------------------------------------------------------------------------------------------------


def test_the_ends_of_wise_ft_are_the_two_models_head_included(place):
    start = logits(place / "base", zero_shot_head(place, load_robustft_json(place / "ft-0")))
    for alpha, end in ((0, start), (1, logits(place / "ft-0"))):
        folder = place / f"wise-{alpha}"
        run(place, folder.name, "--method", "wise_ft", "--finetuned_model", str(place / "ft-0"), "--alpha", str(alpha))
        assert torch.equal(logits(folder), end), alpha
        facts = load_robustft_json(folder)
        assert facts["head"] == "trained linear head" and facts["merge"]["fine_tuned"] == ["ft-0"]
    assert (start - end).abs().max() > 1e-3


def test_the_head_is_interpolated_with_the_one_it_started_from_or_rebuilt(place):
    start, tuned = weights(place / "base"), weights(place / "ft-0")
    more = ["--method", "wise_ft", "--finetuned_model", str(place / "ft-0"), "--alpha", "0.3"]
    run(place, "wise", *more)
    run(place, "wise-rebuilt", *more, "--merged_head", "rebuilt")
    for name in ("wise", "wise-rebuilt"):
        assert_equal(place / name, interpolate_weights(start, tuned, 0.3))
    trained, facts = ZeroShotHead.from_pretrained(place / "ft-0"), load_robustft_json(place / "wise")
    zero_shot = zero_shot_head(place, facts)
    found = ZeroShotHead.from_pretrained(place / "wise")
    assert found.class_names == trained.class_names
    torch.testing.assert_close(found.weight, 0.7 * zero_shot.weight + 0.3 * trained.weight)
    torch.testing.assert_close(found.bias, 0.3 * trained.bias)
    assert trained.bias.abs().max() > 0
    assert not (place / "wise-rebuilt" / "head.safetensors").exists()
    assert load_robustft_json(place / "wise-rebuilt")["merge"]["head"] == "rebuilt"


def test_what_is_trained_in_the_run_is_merged_as_what_is_given(place):
    for method, folder in (("ft", "ft-0"), ("carot", "carot-0")):
        output = place / f"trained-{method}"
        run(place, output.name, "--method", "wise_ft", "--finetune_with", method, "--alpha", "0.4", *STEPS, "--seed", "0")
        assert_equal(output, interpolate_weights(weights(place / "base"), weights(place / folder), 0.4))
        assert (output / "head.safetensors").exists() == (method == "ft")
        facts = load_robustft_json(output)
        assert facts["method"] == "wise_ft" and facts["alpha"] == 0.4 and facts["merge"]["trained_with"] == method


@pytest.fixture(scope="module")
def folded(place):
    """`ft-0` with a temperature folded in."""
    flags = ["--method", "ft", *STEPS, "--seed", "0", "--fold_temperature"]
    run(place, "ft-folded", *flags, measured=True)
    assert abs(load_robustft_json(place / "ft-folded")["temperature"]["folded"] - 1) > 0.01
    return str(place / "ft-folded")


def assert_near(folder, model, head):
    for found, wanted in ((weights(folder), model), (ZeroShotHead.from_pretrained(folder), head)):
        for name, value in found.state_dict().items():
            torch.testing.assert_close(value, wanted[name], rtol=0, atol=1e-6, msg=name)


def test_a_folded_temperature_is_taken_out_before_models_are_merged(place, folded, capsys):
    start, names = weights(place / "base"), ("ft-0", "ft-1")
    tuned, heads = zip(*((weights(place / name), ZeroShotHead.from_pretrained(place / name)) for name in names), strict=True)
    zero_shot = zero_shot_head(place, load_robustft_json(folded))
    told = f"{folded} is merged as it was trained: the temperature "
    run(place, "half", "--method", "wise_ft", "--alpha", "0.5", "--finetuned_model", folded)
    assert told in capsys.readouterr().out
    assert_near(place / "half", *(interpolate_weights(*pair, 0.5) for pair in ((start, tuned[0]), (zero_shot, heads[0]))))
    run(place, "both", "--method", "model_stock", "--finetuned_model", folded, str(place / "ft-1"))
    assert told in capsys.readouterr().out
    assert_near(place / "both", model_stock(start, tuned), model_stock(zero_shot, heads))


def test_what_a_run_does_not_start_from_is_said(place, folded, capsys):
    for model, told in ((folded, 2), (str(place / "carot-0"), 0), (str(place / "base"), 0)):
        load_data(parse(["--model", model, "--train_dataset", str(place / "train"), *QUIET]))
        notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"Note: `--model {model}`")]
        assert len(notes) == told
    load_data(parse(["--model", folded, "--train_dataset", str(place / "train"), *QUIET]))
    printed = capsys.readouterr().out
    assert "has a trained linear head, which is left out" in printed and "in its logit scale" in printed


# ---- The sweep ---------------------------------------------------------------------------------------------------


def test_a_sweep_is_written_and_chooses_on_validation(place, capsys):
    flags = ["--method", "wise_ft", "--finetuned_model", str(place / "ft-0"), "--alpha_sweep", "0", "0.5", "1"]
    run(place, "sweep", *flags, "--select_alpha", measured=True)
    folder = place / "sweep"
    with open(folder / "alpha_sweep.csv", newline="") as file:
        rows = {float(row["alpha"]): row for row in csv.DictReader(file)}
    assert list(rows) == [0, 0.5, 1]
    accuracies = {alpha: float(row["validation/accuracy"]) for alpha, row in rows.items()}
    best = max(accuracies, key=accuracies.get)
    zero_shot, saved = load_reports(folder / "evaluation.json")
    for alpha, report in ((0, zero_shot), (best, saved), (1, load_reports(place / "ft-0" / "evaluation.json")[-1])):
        for key, value in report.metrics().items():
            assert float(rows[alpha][key]) == value, (alpha, key)
    facts = load_robustft_json(folder)
    assert facts["alpha"] == facts["merge"]["alpha"] == best
    assert facts["merge"]["alpha_rule"] == "best validation accuracy of 0, 0.5, 1"
    card = (folder / "README.md").read_text()
    assert "](alpha_sweep.png)" in card and "best validation accuracy of 0, 0.5, 1" in card
    assert (folder / "alpha_sweep.png").is_file() and f"* {best:g}" in capsys.readouterr().out
    # A temperature that is folded in later is not in the table, which says so.
    assert {row["temperature"] for row in rows.values()} == {"1.0"}
    table = (folder / "alpha_sweep.csv").read_bytes()
    assert cli.main(["calibrate", str(folder), "--dataset", str(place / "validation"), "--use_cpu", "--disable_tqdm"]) == 0
    assert "alpha_sweep.csv" in capsys.readouterr().out and (folder / "alpha_sweep.csv").read_bytes() == table
    # Nothing of it stays when another model takes the place.
    run(place, "sweep", *flags[:4])
    assert load_robustft_json(folder)["alpha"] == 0.5 and not list(folder.glob("alpha_sweep*"))


def test_two_processes_merge_as_one_does(place):
    flags = ["--method", "wise_ft", "--finetuned_model", str(place / "ft-0"), "--alpha_sweep", "0", "1", "--select_alpha"]
    flags += ["--skip_baseline", "--eval_datasets", f"{place / 'validation'}:validation"]
    run(place, "alone", *flags)
    command = ["--model", place / "base", "--train_dataset", place / "train", *QUIET, *flags]
    ended = run_ranks(2, "-m", "hf_robustft.cli", "train", *command, "--output_dir", place / "together")
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert_equal(place / "together", weights(place / "alone").state_dict())
    # Two processes make the prompts of the zero-shot head by halves.
    torch.testing.assert_close(logits(place / "together"), logits(place / "alone"), rtol=1e-5, atol=1e-5)
    found, wanted = (load_robustft_json(place / name) for name in ("together", "alone"))
    assert found["merge"] == wanted["merge"] and found["alpha"] == wanted["alpha"]
    for got, want in zip(*(load_reports(place / name / "evaluation.json") for name in ("together", "alone")), strict=True):
        assert_rounded(got.metrics(), want.metrics())
    assert ended.stdout.count("alpha  ") == 1, "one process prints"


# ---- Model Stock and LiNeS ---------------------------------------------------------------------------------------


def test_model_stock_of_two_runs(place):
    runs = [place / "ft-0", place / "ft-1"]
    run(place, "stock", "--method", "model_stock", "--finetuned_model", *map(str, runs))
    start = weights(place / "base")
    assert_equal(place / "stock", model_stock(start, [weights(folder) for folder in runs]))
    facts = load_robustft_json(place / "stock")
    expected = model_stock(zero_shot_head(place, facts), [ZeroShotHead.from_pretrained(folder) for folder in runs])
    torch.testing.assert_close(ZeroShotHead.from_pretrained(place / "stock").state_dict(), expected)
    assert facts["merge"] == {"fine_tuned": ["ft-0", "ft-1"], "head": "interpolated"}


@pytest.mark.parametrize("whole", [False, True])
def test_lines_of_a_run(place, whole):
    flags = ["--method", "lines", "--finetuned_model", str(place / "carot-0"), "--lines_alpha", "0.2"]
    run(place, "lines", *flags, *(["--lines_whole_projections"] if whole else []))
    expected = lines(weights(place / "base"), weights(place / "carot-0"), 0.2, whole_projections=whole)
    assert_equal(place / "lines", expected)
    facts = load_robustft_json(place / "lines")
    assert facts["merge"]["alpha"] == 0.2 and facts["merge"]["whole_projections"] == whole and "alpha" not in facts


# ---- What is refused, before any weights are read ----------------------------------------------------------------


def changed(place, name, of="ft-0", **parts):
    """A copy of a run of which `robustft.json` says something else."""
    shutil.copytree(place / of, place / name)
    content = json.loads((place / name / "robustft.json").read_text())
    (place / name / "robustft.json").write_text(json.dumps({**content, **parts}))
    return str(place / name)


def test_what_cannot_be_merged_is_refused_by_name(place, monkeypatch):
    ft, stock = str(place / "ft-0"), ["--method", "model_stock", "--finetuned_model"]
    facts = load_robustft_json(place / "ft-0")
    based = changed(place, "other-base", card={**facts["card"], "base_model": "another"})
    images = [{**entry, "blake2b_48": "AAAAAAAB"} for entry in facts["image_hashes"] if entry["role"] == "train"]
    seen = changed(place, "other-images", image_hashes=images)
    other = changed(place, "other-classes", class_names=["a", "b", "c", "d"], label_names=list("abcd"))
    adapter = changed(place, "adapter", head="trained CLIP-Adapter")
    bare = str(place / "carot-0")
    refused = [
        ([*stock[:2]], "--method model_stock.*there is none"),
        ([*stock, ft], "--method model_stock.*there is one"),
        ([*stock, ft, ft], "names a run twice"),
        ([*stock, ft, f"{ft}/../ft-0"], "names a run twice"),
        ([*stock, ft, based], "other-base has another base than .*ft-0.*'another' and 'base'"),
        ([*stock, ft, seen], "other-images was trained on none of the images"),
        ([*stock, ft, other], "other-classes has another classes"),
        ([*stock, ft, bare], "carot-0` has no trained head.*--merged_head rebuilt"),
        (["--method", "wise_ft", "--finetuned_model", adapter], "adapter` is a model with a trained CLIP-Adapter"),
        (["--method", "wise_ft", "--finetuned_model", ft, str(place / "ft-1")], "takes one.*model_stock"),
        (["--method", "wise_ft", "--finetuned_model", ft, "--finetune_with", "carot"], "--finetune_with carot.*trained already"),
        (["--method", "wise_ft", "--finetuned_model", bare, "--merged_head", "interpolated"], "no trained head"),
        (["--method", "lines", "--finetune_with", "carot", "--merged_head", "interpolated"], "carot has no trained head"),
        (["--method", "wise_ft", "--select_alpha"], "--select_alpha.*--alpha_sweep"),
        (["--method", "wise_ft", "--alpha_sweep", "0", "1.5"], "alpha_sweep=1.5"),
        (["--method", "lines", "--lines_alpha", "-1"], "lines_alpha=-1"),
    ]
    monkeypatch.setattr("hf_robustft.cli.train.load_data", lambda *_: pytest.fail("data were read"))
    for flags, message in refused:
        with pytest.raises(ValueError, match=message) as caught:
            run(place, "refused", *flags)
        assert "\n" not in str(caught.value)
    assert not (place / "refused").exists()


@pytest.mark.parametrize("more", [[], ["--finetune_with", "flyp"], ["--finetuned_model"]], ids=["ft", "flyp", "merged"])
def test_whole_projections_of_a_model_without_any_are_refused_before_data_are_read(place, tmp_path, monkeypatch, more):
    save_family("siglip", tmp_path / "base")
    more = [*more, str(tmp_path / "base")] if more == ["--finetuned_model"] else more
    monkeypatch.setattr("hf_robustft.cli.train.train_benchmark", lambda *_: pytest.fail("data were read"))
    with pytest.raises(ValueError, match="`--lines_whole_projections`.*SiglipModel.*leave it out") as caught:
        run(place, "refused", "--method", "lines", "--lines_whole_projections", "--model", str(tmp_path / "base"), *more)
    assert "\n" not in str(caught.value)


def test_a_model_that_was_not_fine_tuned_is_refused_and_another_base_is_told(place, capsys):
    def merged(name, source, *more):
        return run(place, name, "--method", "wise_ft", "--finetuned_model", str(place / source), *more)

    with pytest.raises(ValueError, match="nothing to merge.*--model"):
        merged("same", "base")
    merged("of-base", "ft-0")
    assert "was fine-tuned from" not in capsys.readouterr().out
    merged("of-another", "ft-0", "--model", str(place / "carot-0"))
    assert f"{place / 'ft-0'} was fine-tuned from base" in capsys.readouterr().out


def test_a_head_of_other_classes_and_a_model_with_other_layers_are_refused(place):
    config = tiny_config()
    config.vision_config.num_hidden_layers = 3
    CLIPModel(config).save_pretrained(place / "deeper")
    tiny_processor().save_pretrained(place / "deeper")
    with pytest.raises(ValueError, match="--finetuned_model .*deeper. is not .*base fine-tuned: .*different tensors"):
        run(place, "refused", "--method", "lines", "--finetuned_model", str(place / "deeper"))
    with pytest.raises(ValueError, match="head for 4 classes.*--merged_head rebuilt"):
        names = place / "names.txt"
        names.write_text("".join(f"{name}\ta {name}\n" for name in sorted(CLASSES)))
        flags = ["--method", "wise_ft", "--finetuned_model", str(place / "ft-0"), "--class_names", str(names)]
        run(place, "refused", *flags)
    assert not (place / "refused" / "model.safetensors").exists()
