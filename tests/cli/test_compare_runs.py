# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`hf-robustft compare` that trains: which runs there are, what each is given, and what is said before and after them."""

import json
import shlex
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from helpers import CLASSES, image_dataset
from helpers.families import save_family
from PIL import Image

from hf_robustft import cli
from hf_robustft.cli import compare_plan, compare_runs
from hf_robustft.cli.compare import parser
from hf_robustft.cli.compare_length import STEPS, equal_batches
from hf_robustft.cli.compare_plan import DEFAULT, plan
from hf_robustft.cli.compare_runs import model_bytes, size_in_words, slots
from hf_robustft.cli.config_file import read_recipe
from hf_robustft.cli.passed_on import parted
from hf_robustft.cli.train_arguments import check_options, parse, train_parser
from hf_robustft.comparison.schedule import Outcome, Run, finished_runs
from hf_robustft.data.packaged import asset_path
from hf_robustft.training.methods import METHODS


def planned(output, command: str, methods=(), **options):
    """The plan of a comparison whose runs are passed a command line."""
    _, passed = parted(shlex.split(command), parser(), train_parser())
    return plan(methods, options.get("rates", ()), options.get("seeds", (0,)), output, passed, options.get("finetune_with"), options.get("twins", False))


def words_of(made, name):
    return next(list(run.arguments) for run in made.runs if run.name == name)


def value(words, flag):
    return words[words.index(flag) + 1]


def test_methods_that_a_model_cannot_serve_are_left_out_or_refused(own, tmp_path):
    save_family("siglip", tmp_path / "siglip")
    passed = f"--train_dataset {own / 'photo'} --model {tmp_path / 'siglip'}"
    made = planned(tmp_path / "out", passed)
    left_out = [note for note in made.notes if " is left out: " in note and "covariance_anchor" in note]
    assert [note.partition(" ")[0] for note in left_out] == ["carot", "carot+croft"]
    names = {run.method for run in made.runs}
    assert {"flyp", "tracer", "covariance_anchor", "ft", "croft"} <= names and not {"carot", "carot+croft"} & names
    # It names method and model, and not first a setting that nobody gave.
    with pytest.raises(ValueError, match=f"^`--methods carot` .*`--model {tmp_path / 'siglip'}`; leave carot out.*--method covariance_anchor") as caught:
        planned(tmp_path / "out", passed, ["flyp", "carot"])
    assert "\n" not in str(caught.value)


def test_own_images_alone_are_enough(own, tmp_path):
    made = planned(tmp_path, f"--train_dataset {own / 'photo'}", ["carot", "wise_ft", "croft"], seeds=(0, 1))
    assert made.roles == {"held-out": "id", "cartoon": "shift", "sketch": "shift", "validation": "validation"}
    assert [run.name for run in made.runs][0] == "zero_shot" and len(made.runs) == 1 + 2 * (3 + 3 + 3 + 3)
    told = "\n".join(made.notes)
    assert "sketch" in told and "20 %" in told and "ft is trained too" in told and f"{STEPS} steps" in told
    # 80 images, 16 held out twice: 48 are trained on, in one batch of the usual 64.
    assert "150 passes over the 48 training images" in told and "150 steps of 48 images (ft, carot), 300 steps of up to 32 images (croft)" in told
    for name in ("zero_shot", "carot-1e-3-1", "wise_ft-1e-3-1"):
        words = words_of(made, name)
        assert value(words, "--hold_out") == "0.2"
        at = words.index("--eval_datasets")
        assert words[at + 1 : at + 3] == [f"{own / style}:shift" for style in ("cartoon", "sketch")]
    carot, wise, croft = (words_of(made, name) for name in ("carot-1e-3-1", "wise_ft-1e-3-1", "croft-2e-3-0"))
    assert value(carot, "--num_train_epochs") == "150" and value(carot, "--seed") == "1"
    assert value(wise, "--finetuned_model") == str(tmp_path / "runs" / "ft-1e-3-1") and "--num_train_epochs" not in wise
    assert next(run.needs for run in made.runs if run.name == "wise_ft-1e-3-1") == ("ft-1e-3-1",)
    # Frozen features are computed once for all rates.
    assert value(croft, "--feature_views") == "4" and value(croft, "--feature_cache") == str(tmp_path / "features")


def test_car_ft_is_left_out_where_there_is_one_prompt(own, tmp_path):
    photo, more = f"--train_dataset {own / 'photo'} --max_steps 5", tmp_path / "prompts.txt"
    more.write_text("a photo of a {}.\na sketch of a {}.\n")
    made = planned(tmp_path, photo)
    assert not [run for run in made.runs if run.method == "car_ft"] and "car_ft" not in made.rates
    assert [note for note in made.notes if note.startswith("car_ft is left out") and "--templates" in note]
    made = planned(tmp_path, f"{photo} --templates {more}")
    assert [run for run in made.runs if run.method == "car_ft"] and not [note for note in made.notes if "left out: " in note]
    for methods, options in ((["ft", "car_ft"], {}), (["wise_ft"], {"finetune_with": "car_ft"})):
        flag = "--finetune_with" if options else "--methods"
        with pytest.raises(ValueError, match=f"^`{flag} car_ft` .*--templates"):
            planned(tmp_path, photo, methods, **options)


def test_what_every_run_is_given_its_own_parser_takes(own, tmp_path):
    given = f"--train_dataset {own / 'photo'} --alpha 0.3 --weight_decay 0.2 --num_train_epochs 2 --templates imagenet-80"
    made = planned(tmp_path, given, [*DEFAULT, "model_stock"], seeds=(0, 1))
    assert {run.method for run in made.runs} == {*DEFAULT, "model_stock", "zero_shot"}
    assert {run.method for run in planned(tmp_path, given).runs} == {*DEFAULT, "zero_shot"}
    for run in made.runs:
        model_args, data_args, args = parse([*run.arguments, "--output_dir", str(tmp_path / "x")])
        assert model_args.method == run.method
        if run.method in METHODS:
            assert args.weight_decay == 0.2 and args.num_train_epochs == 2 and "weight_decay" in args.given
            assert run.settings["learning_rate"] == args.learning_rate and run.settings["seed"] == args.seed
        elif run.method in ("wise_ft", "lines"):
            assert "weight_decay" not in args.given and (run.method != "wise_ft" or model_args.alpha == 0.3)
        elif run.method == "model_stock":
            assert model_args.finetuned_model == [str(tmp_path / "runs" / name) for name in run.needs] and len(run.needs) == 2
    assert any("`--alpha 0.3` is for wise_ft" in note for note in made.notes)
    assert len({run.name for run in made.runs}) == len(made.runs)


def test_rates_are_those_of_the_recipe_and_below_or_around_those_of_the_paper(own, tmp_path):
    made = planned(tmp_path, "", ["carot", "lp"])
    # Its recipes say how long to train, too.
    assert "--num_train_epochs" not in words_of(made, "carot-1e-3-0") and not made.notes
    on_suite, recipe = made.rates, read_recipe(train_parser(), "emoji_shift/lp")["learning_rate"]
    assert on_suite == {"carot": [1e-4, 3e-4, 1e-3], "lp": pytest.approx([recipe / 10, recipe / 3, recipe], rel=0.2)}
    # The packaged checkpoint has its own, on any data, unless the paper's are asked for.
    train = f"--train_dataset {own / 'photo'}"
    assert planned(tmp_path, train, ["carot"]).rates == {"carot": on_suite["carot"]}
    paper = planned(tmp_path, f"{train} --paper_settings --per_device_train_batch_size 8", ["carot", "ft"]).rates
    assert paper == {"carot": [3e-6, 1e-5, 3e-5], "ft": [1e-5, 3e-5, 1e-4]}
    assert planned(tmp_path, train, ["carot", "lp"], rates=[1e-3, 1e-4]).rates == {"carot": [1e-4, 1e-3], "lp": [1e-4, 1e-3]}


def test_the_length_is_left_to_whoever_says_one(own, tmp_path):
    train = f"--train_dataset {own / 'photo'}"
    for given in ("--max_steps 3", "--paper_settings"):
        made = planned(tmp_path, f"{train} {given}", ["flyp"])
        assert not any("training images" in note and "times" in note for note in made.notes)


def test_all_methods_make_the_same_steps_where_batches_would_leave_images_over(own, tmp_path):
    """The contrastive methods drop an incomplete batch: of 112 images they would see 64 a pass, and fine-tuning all."""
    for seed, (name, n) in enumerate((("train", 112), ("validation", 8), ("test", 8))):
        image_dataset(n, seed).to_parquet(tmp_path / f"{name}.parquet")
    given = f"--train_dataset {tmp_path}/train.parquet --eval_datasets {tmp_path}/validation.parquet:validation {tmp_path}/test.parquet"
    methods = ["carot", "ft", "lp", "croft", "wise_ft"]
    made = planned(tmp_path / "out", given, methods, rates=[1e-3], twins=True)
    for suffix, batch in (("", 56), ("-left-out", 84)):
        for name in ("carot", "ft") if suffix else ("carot", "ft", "lp"):
            _, _, args = parse([*words_of(made, f"{name}-1e-3-0{suffix}"), "--output_dir", str(tmp_path / "x")])
            assert (args.per_device_train_batch_size, args.dataloader_drop_last, args.num_train_epochs) == (batch, True, 75), name
    for name in ("croft-1e-3-0", "wise_ft-1e-3-0", "wise_ft-1e-3-0-left-out"):
        assert "--per_device_train_batch_size" not in words_of(made, name)
    told = "\n".join(made.notes)
    assert "75 passes over the 112 training images" in told and "150 steps of 56 images (carot, ft, lp), 300 steps of up to 32 images (croft)" in told
    assert "usually take 64 images a step take 56" in told
    # Nothing is decided for whoever decides.
    for more in ("--per_device_train_batch_size 16", "--dataloader_drop_last"):
        made = planned(tmp_path / "out", f"{given} {more}", ["carot", "ft"], rates=[1e-3])
        assert words_of(made, "ft-1e-3-0").count("--per_device_train_batch_size") == ("batch" in more) and "usually take" not in "".join(made.notes)


@pytest.mark.parametrize(("origins", "batch"), [({}, 8), ({"per_device_train_batch_size": "default of ft"}, 64)])
def test_equal_batches_are_near_the_usual_one_and_leave_next_to_nothing_over(origins, batch):
    usual = SimpleNamespace(given=frozenset(), origins=origins, per_device_train_batch_size=batch)
    for images in range(2, 3000, 7):
        found = equal_batches({"carot": usual, "ft": usual, "croft": usual}, images)
        assert set(found) == (set() if images < 64 or images % 64 == 0 else {"carot", "ft"}), images
        if found:
            assert 43 <= found["ft"] == found["carot"] <= 95 and images % found["ft"] <= images // 40, (images, found)
    # A recipe's batch is kept near, whatever it is; that of a paper is kept.
    recipe, paper = (SimpleNamespace(given=frozenset(), origins={"per_device_train_batch_size": of}, per_device_train_batch_size=128) for of in ("recipe x", "paper"))
    assert equal_batches({"flyp": recipe, "ft": paper}, 200) == {"flyp": 100} and not equal_batches({"flyp": recipe}, 3200)
    assert equal_batches({"flyp": recipe}, 100) == {"flyp": 100}
    given = SimpleNamespace(given=frozenset(["per_device_train_batch_size"]), origins={}, per_device_train_batch_size=16)
    assert equal_batches({"lp": given}, 200) == {}


def test_a_file_of_settings_is_passed_on_below_the_flags(own, tmp_path):
    config = tmp_path / "more.yaml"
    config.write_text(f"train_dataset: {own / 'photo'}\nweight_decay: 0.3\nmax_steps: 5\nadam_beta2: 0.9\n")
    made = planned(tmp_path, f"--config {config} --weight_decay 0.2", ["flyp"], rates=[1e-3])
    _, _, args = parse([*words_of(made, "flyp-1e-3-0"), "--output_dir", str(tmp_path / "x")])
    assert (args.weight_decay, args.max_steps, args.adam_beta2) == (0.2, 5, 0.9)
    for line, named in (("seed: 3", "--seeds"), ("hub_token: secret", "publish"), ("output_dir: x", "output_dir")):
        config.write_text(line)
        with pytest.raises(ValueError, match=named):
            planned(tmp_path, f"--config {config}", ["flyp"])


def test_the_settings_of_a_run_tell_its_data_but_not_where_they_lie(own, tmp_path):
    def settings(root, command=""):
        made = planned(tmp_path, f"--train_dataset {root / 'photo'} {command}", ["flyp"], rates=[1e-3])
        return next(run.settings for run in made.runs if run.method == "flyp")

    other = shutil.copytree(own, tmp_path / "elsewhere" / "my")
    assert settings(other) == settings(own)
    (other / "photo" / CLASSES[0] / "0.png").unlink()
    before, after = settings(own), settings(other)
    assert {name for name in before if before[name] != after[name]} >= {"the train data train"}
    # A mistake in the labels is mended: the images are the same.
    other = shutil.copytree(own, tmp_path / "relabelled" / "my")
    one, two = (sorted((other / "sketch" / CLASSES[place]).iterdir())[0] for place in (0, 1))
    content = one.read_bytes(), two.read_bytes()
    one.write_bytes(content[1]), two.write_bytes(content[0])
    relabelled = settings(other)
    assert {name for name in before if before[name] != relabelled[name]} == {"the labels of the shift data sketch"}
    changed = settings(own, "--weight_decay 0.3 --num_train_epochs 150")
    assert {name for name in changed if changed.get(name) != before.get(name)} == {"weight_decay"}


def test_the_settings_of_a_run_tell_the_files_of_the_model_and_what_it_is_trained_on(own, tmp_path):
    """Also where the model was trained before, on a set of the same name."""
    folder = shutil.copytree(asset_path("emoji_clip_carot"), tmp_path / "mine")

    def settings(root):
        made = planned(tmp_path / "out", f"--train_dataset {root / 'photo'} --model {folder}", ["flyp"], rates=[1e-3])
        return next(run.settings for run in made.runs if run.method == "flyp")

    content = json.loads((folder / "robustft.json").read_text())
    for entry in content["image_hashes"]:
        entry["name"] = "train" if entry["role"] == "train" else entry["name"]
    (folder / "robustft.json").write_text(json.dumps(content))
    before, other = settings(own), shutil.copytree(own, tmp_path / "elsewhere" / "my")
    (other / "photo" / CLASSES[0] / "0.png").unlink()
    assert settings(other)["the train data train"] != before["the train data train"]
    (folder / "generation_config.json").write_text("{}")
    after = settings(own)
    assert {name for name in before if before[name] != after[name]} == {"the files of the model"}


def test_records_without_labels_or_files_of_the_model_are_those_of_before(tmp_path):
    settings = {"weight_decay": 0.1, "the labels of the train data train": "(1)", "the files of the model": "(2)"}
    (tmp_path / "flyp").mkdir()
    for name, refused in ((None, False), *((name, True) for name in settings)):
        before = {"weight_decay": 0.1} if name is None else settings | {name: "another"}
        (tmp_path / "flyp" / "run.json").write_text(json.dumps({"settings": before}))
        with pytest.raises(ValueError, match=name) if refused else nullcontext():
            finished_runs(tmp_path, [Run("flyp", "flyp", settings=settings)])


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("--train_dataset {own}", "--train_dataset {own}/cartoon"),
        ("--train_dataset={own}/photo --eval_datasets={own}/sketch:shift --hold_out 0.3", "hold_out"),
        ("--seed 3", "--seeds"),
        ("--learning_rate 1e-3", "--learning_rates"),
        ("--method carot", "--methods"),
        ("--mthods carot", "did you mean --methods?"),
        ("--methods crott", "did you mean croft"),
        ("--push_to_hub", "hf-robustft publish"),
        ("--hub_token secret", "hf-robustft publish"),
        ("--resume_from_checkpoint last", "the same command"),
        ("--num_train_epochs three", "must be a number"),
        ("--learning_rates fast", "must be a number"),
        ("--methods carot --alpha 0.3", "none of --methods carot"),
        ("--methods carot --finetune_with flyp", "none of --methods merges"),
        ("--methods model_stock --seeds 0", "--seeds 0 1"),
        ("--methods carot --caption_column text --shots 3", "shots"),
        ("--jobs 0", "at least 1"),
        ("outputs/carot --methods carot", "is finished"),
        ("outputs/carot --weight_decay 0.1", "is finished"),
        ("{own}/photo", "--train_dataset {own}/photo"),
        ("{own} --methods carot", "--train_dataset {own}"),
        ("--train_dataset {own}/phoot", "{own}/phoot"),
        ("--train_dataset photo/one", "photo/one"),
        ("--learning_rates 1e-3 -1", "--learning_rates -1"),
        ("--learning_rates 0", "--learning_rates 0"),
        ("--learning_rates 1.0001e-3 1.0002e-3", "--learning_rates 0.0010001"),
        ("--seeds 0 -1", "--seeds -1"),
        ("--lr 3e-4", "did you mean --learning_rates?"),
        ("--model_name_or_path emoji_clip_carot", "did you mean --model?"),
        ("--leave_out_classes 0.2", "hf-robustft train"),
        ("--rule oracel", "oracle"),
        ("--rule shift:nothere --train_dataset {own}/photo", "cartoon, sketch"),
        ("--rule shift --train_dataset {own}/photo", "shift:cartoon"),
        ("--train_dataset pacs", "pacs-"),
        ("--rule concepts --methods flyp --load_best_model_at_end --eval_strategy epoch --save_strategy epoch", "--load_best_model_at_end"),
        ("--rule concepts --methods lp --train_dataset {own}/photo", "--methods lp"),
        ("--rule concepts --methods flyp --caption_column text --train_dataset {own}/photo", "captions"),
    ],
)
def test_what_no_run_can_do_is_one_line_before_the_first(own, tmp_path, capsys, command, named):
    words = shlex.split(command.format(own=own))
    assert cli.main(["compare", *words, "--output_dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert named.format(own=own) in error and error.startswith("error: ") and error.count("\n") == 1
    assert not list((tmp_path / "out").glob("runs/*"))


def test_who_gives_the_folder_of_several_runs_is_told_to_give_theirs(tmp_path, capsys):
    run = tmp_path / "runs" / "carot-1e-3-0"
    run.mkdir(parents=True)
    (run / "robustft.json").touch()
    Image.new("RGB", (8, 8)).save(run / "reliability.png")
    for folder in (tmp_path, run.parent):
        assert cli.main(["compare", str(folder), "--output_dir", str(tmp_path / "out")]) == 2
        assert f"{run.parent}/*/" in capsys.readouterr().err


def test_predictions_may_be_asked_for_since_each_run_saves_them(own, tmp_path, capsys):
    config = tmp_path / "more.yaml"
    config.write_text(f"save_predictions: true\ntrain_dataset: {own / 'photo'}\nmax_steps: 5\n")
    without = planned(tmp_path, f"--train_dataset {own / 'photo'} --max_steps 5", ["flyp"], rates=[1e-3])
    for given in ("--save_predictions", "--save_predictions=yes", "--save-predictions true"):
        made = planned(tmp_path, f"--train_dataset {own / 'photo'} --max_steps 5 {given}", ["flyp"], rates=[1e-3])
        assert made.runs == without.runs and words_of(made, "flyp-1e-3-0").count("--save_predictions") == 1
    assert planned(tmp_path, f"--config {config}", ["flyp"], rates=[1e-3]).runs == without.runs
    for given in ("--save_predictions false", "--save_predictions=0"):
        assert cli.main(["train", "--method", "auto", *given.split(), "--output_dir", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert "save_predictions" in error and "look at the predictions" in error and error.count("\n") == 1


def test_who_gives_a_folder_of_comparisons_is_told_where_the_runs_lie(own, tmp_path, capsys):
    out = tmp_path / "out"
    for place in ("one/runs", "two/runs", "auto/comparison/runs"):
        (out / place / "carot-1e-3-0").mkdir(parents=True)
        (out / place / "carot-1e-3-0" / "robustft.json").touch()
    shutil.copytree(own / "photo", out / "photo")
    shutil.copytree(own / "photo", out / "pictures")
    assert cli.main(["compare", str(out), "--output_dir", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert all(f"{out / place}/*/" in error for place in ("one/runs", "two/runs", "auto/comparison/runs")) and "--train_dataset" not in error
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "comparison.json").write_text("{}")
    for folder in (tmp_path / "tables", tmp_path):
        assert cli.main(["compare", str(folder), "--output_dir", str(tmp_path / "new")]) == 2
        assert "tables holds a comparison" in capsys.readouterr().err
        shutil.rmtree(out, ignore_errors=True)


def test_one_folder_beside_is_a_shift(own, tmp_path):
    for style in ("photo", "sketch"):
        shutil.copytree(own / style, tmp_path / style)
    made = planned(tmp_path / "out", f"--train_dataset {tmp_path / 'photo'} --max_steps 5", ["carot"], rates=[1e-3])
    assert any("lies a folder" in note and "as a shift." in note for note in made.notes)
    assert any("There are no images to validate on or to test on" in note for note in made.notes)


def test_a_comparison_with_nothing_left_to_do_says_neither_time_nor_disk(tmp_path):
    schedule = SimpleNamespace(outcome=Outcome({"ft": 3.0}), folder=tmp_path)
    assert compare_runs.announce(compare_plan.Plan(["ft"], {}, [0], {}), schedule, 2) == ["1 run, all of them finished; seed 0"]


def test_a_dry_run_prints_the_commands(own, tmp_path, capsys):
    words = ["--train_dataset", str(own / "photo"), "--methods", "flyp", "--seeds", "3", "--learning_rates", "1e-3"]
    assert cli.main(["compare", *words, "--dry_run", "--rule", "id_within", "--output_dir", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    # What was decided is said beside them.
    assert "sketch" in err and all(line.startswith("Note: ") for line in err.splitlines())
    assert [shlex.split(line)[:4] for line in lines] == [["hf-robustft", "train", "--method", name] for name in ("zero_shot", "flyp")]
    assert "--learning_rate 1e-3 --seed 3" in lines[1] and lines[1].endswith(f"--output_dir {tmp_path}/out/runs/flyp-1e-3-3")
    assert not (tmp_path / "out").exists()


def test_the_rule_concepts_trains_a_twin_of_each_run_that_can_be_asked_for_other_classes(own, tmp_path):
    given = f"--train_dataset {own / 'photo'} --max_steps 5 --detector msp --fold_temperature"
    methods = ["lp", "carot", "wise_ft", "model_stock"]
    made = planned(tmp_path, given, methods, rates=[1e-3, 1e-4], seeds=(3, 4), twins=True)
    twins = [run for run in made.runs if run.name.endswith("-left-out")]
    assert [run.name for run in twins] == [f"{name}-{rate}-3-left-out" for name in ("ft", "carot", "wise_ft") for rate in ("1e-4", "1e-3")]
    assert made.roles["left_out_classes"] == "concepts" and made.runs[-6:] == twins
    without = planned(tmp_path, given, methods, rates=[1e-3, 1e-4], seeds=(3, 4))
    assert [run for run in made.runs if run not in twins] == without.runs and "left_out_classes" not in without.roles
    (note,) = [note for note in made.notes if "--rule concepts" in note]
    assert "ft, carot, wise_ft" in note and "seed 3" in note and "lp (a head" in note and "model_stock (it merges several seeds" in note
    for run in twins[:4]:
        model_args, data_args, args = parse([*run.arguments, "--output_dir", str(tmp_path / "x")])
        check_options(model_args, data_args, args)
        assert (data_args.leave_out_classes, data_args.leave_out_fold, args.seed, args.max_steps) == (0.2, 0, 3, 5)
        assert data_args.eval_datasets == [] and data_args.hold_out == 0.2 and data_args.skip_baseline == (run is not twins[0])
        original = next(item for item in made.runs if item.name == run.name.removesuffix("-left-out"))
        assert run.method == original.method and run.settings["learning_rate"] == args.learning_rate
        differing = {name for name in {**run.settings, **original.settings} if run.settings.get(name) != original.settings.get(name)}
        assert differing == {"leave_out_classes", "detector", "fold_temperature"}
    # That of a merge is the same merge of the twin of what is merged.
    for run, rate in zip(twins[4:], ("1e-4", "1e-3"), strict=True):
        model_args, data_args, args = parse([*run.arguments, "--output_dir", str(tmp_path / "x")])
        check_options(model_args, data_args, args)
        assert run.needs == (f"ft-{rate}-3-left-out",) and model_args.finetuned_model == [str(tmp_path / "runs" / run.needs[0])]
        assert (data_args.leave_out_classes, data_args.leave_out_fold, args.seed, model_args.alpha_sweep) == (0.2, 0, 3, [])
        original = next(item for item in made.runs if item.name == run.name.removesuffix("-left-out"))
        differing = {name for name in {**run.settings, **original.settings} if run.settings.get(name) != original.settings.get(name)}
        assert differing == {"leave_out_classes", "detector", "fold_temperature", "alpha_sweep", "finetuned_model"}
    chosen = planned(tmp_path, f"{given} --alpha_sweep 0.2 0.4 --select_alpha", ["wise_ft", "lines"], rates=[1e-3], twins=True, finetune_with="carot")
    assert [run.name for run in chosen.runs if "left-out" in run.name] == ["carot-1e-3-0-left-out"]
    assert any("wise_ft, lines (" in note and "alpha" in note for note in chosen.notes)
    # Of sets to measure on the twins are given those to validate on.
    given = f"--train_dataset {own / 'photo'} --max_steps 5 --hold_out 0.2 --eval_datasets {own / 'sketch'}:validation {own / 'cartoon'}:shift"
    made = planned(tmp_path, given, ["carot"], rates=[1e-3], twins=True)
    words = words_of(made, "carot-1e-3-0-left-out")
    at = words.index("--eval_datasets")
    assert words[at + 1] == f"{own / 'sketch'}:validation" and words[at + 2].startswith("--")
    (own / "two").mkdir()
    for name in CLASSES[:2]:
        shutil.copytree(own / "photo" / name, own / "two" / name)
    try:
        with pytest.raises(ValueError, match="two at least"):
            planned(tmp_path, f"--train_dataset {own / 'two'} --max_steps 5", ["carot"], twins=True)
    finally:
        shutil.rmtree(own / "two")


def test_concepts_is_the_rule_where_it_can_choose(own, tmp_path, capsys, monkeypatch):
    made = planned(tmp_path, "", ["carot", "lp"], rates=[1e-4, 1e-3], twins=None)
    assert made.roles["left_out_classes"] == "concepts" and len(made.runs) == 1 + 4 + 2
    (note,) = [note for note in made.notes if "--rule concepts" in note]
    assert "2 runs more" in note and "--rule id_within" in note
    photo = f"--train_dataset {own / 'photo'} --max_steps 5"
    fewest = compare_plan.FEWEST_CLASSES
    for classes, command, methods, rates, said in (
        (fewest, photo, ["carot"], [1e-4, 1e-3], "Of 4 classes"),
        (4, photo, ["carot"], [1e-3], "only carot at one rate"),
        (4, photo, ["lp"], [1e-4, 1e-3], "--methods lp know no others"),
        (4, f"{photo} --streaming", ["carot"], [1e-4, 1e-3], "stream"),
    ):
        monkeypatch.setattr(compare_plan, "FEWEST_CLASSES", classes)
        made = planned(tmp_path, command, methods, rates=rates, twins=None)
        (note,) = [note for note in made.notes if "--rule concepts" in note]
        assert said in note and "left_out_classes" not in made.roles, note
        assert made.runs == planned(tmp_path, command, methods, rates=rates, twins=False).runs
    assert "left_out_classes" in planned(tmp_path, photo, ["carot"], rates=[1e-4, 1e-3], twins=None).roles
    # A twin has no validation images to be measured on while it trains.
    made = planned(tmp_path, f"{photo} --eval_strategy epoch", ["carot"], rates=[1e-4, 1e-3], twins=None)
    assert ["--eval_strategy" in run.arguments for run in made.runs if run.method == "carot"] == [True, True, False, False]
    # The command line decides by the rule alone.
    for flags, twins in (([], 2), (["--rule", "id_within"], 0), (["--rule", "concepts"], 2)):
        words = ["--methods", "carot", "--learning_rates", "1e-4", "1e-3", "--seeds", "0", "--dry_run", *flags]
        assert cli.main(["compare", *words, *photo.split(), "--output_dir", str(tmp_path / "out")]) == 0
        out, err = capsys.readouterr()
        assert out.count("--leave_out_classes") == twins and ("2 runs more" in err) == bool(twins)


def test_a_twin_holds_out_the_groups_that_its_run_holds_out(tmp_path):
    rows = image_dataset(48, 0)
    rows.add_column("person", [f"{label}, {index // 8}" for index, label in enumerate(rows["label"])]).to_parquet(tmp_path / "own.parquet")
    made = planned(tmp_path, f"--train_dataset {tmp_path / 'own.parquet'} --max_steps 5 --group_column person", ["carot"], rates=[1e-3], twins=True)
    for name in ("carot-1e-3-0", "carot-1e-3-0-left-out"):
        assert value(words_of(made, name), "--group_column") == "person" and "--hold_out" in words_of(made, name)


@pytest.mark.parametrize(
    ("kind", "variable"),
    [("cuda", "CUDA_VISIBLE_DEVICES"), ("xpu", "ZE_AFFINITY_MASK"), ("npu", "ASCEND_RT_VISIBLE_DEVICES"), ("mlu", "MLU_VISIBLE_DEVICES")],
)
def test_each_run_sees_one_accelerator_of_those_that_accelerate_finds(monkeypatch, kind, variable):
    monkeypatch.setattr(compare_runs, "PartialState", lambda: SimpleNamespace(device=SimpleNamespace(type=kind)))
    monkeypatch.setattr(torch, kind, SimpleNamespace(device_count=lambda: 2), raising=False)
    monkeypatch.delenv(variable, raising=False)
    assert slots(None) == [{variable: "0"}, {variable: "1"}] and slots(3) == [{variable: "0"}, {variable: "1"}, {variable: "0"}]
    monkeypatch.setenv(variable, "3, 5")
    assert [slot[variable] for slot in slots(None)] == ["3", "5"] and "OMP_NUM_THREADS" in slots(1, use_cpu=True)[0]


def test_an_accelerator_that_has_no_number_is_one(monkeypatch):
    monkeypatch.setattr(compare_runs, "PartialState", lambda: SimpleNamespace(device=SimpleNamespace(type="mps")))
    assert slots(None) == [{}] and slots(2) == [{}, {}]


def test_as_many_runs_at_once_as_cores_and_memory_where_there_is_no_accelerator(monkeypatch):
    monkeypatch.setattr(compare_runs.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(compare_runs, "_free_memory", lambda: 10 * 10**9)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert slots(None, use_cpu=True) == [{"OMP_NUM_THREADS": "1"}] * 8
    # A model of 600 MB in float32 takes ten times that, beside what is imported.
    assert slots(None, use_cpu=True, weights=600 * 10**6) == [{"OMP_NUM_THREADS": "8"}]
    assert slots(4, use_cpu=True, weights=600 * 10**6) == [{"OMP_NUM_THREADS": "2"}] * 4
    assert model_bytes("emoji_clip") == pytest.approx(6e6, rel=0.1) and model_bytes("openai/clip-vit-base-patch16") is None
    assert [size_in_words(size) for size in (10, 6.1e6, 1.44e9)] == ["1 MB", "6 MB", "1.4 GB"]
