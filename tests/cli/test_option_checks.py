# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Nothing on the command line is ignored in silence: what has no use is refused before anything is loaded."""

import json
import sys

import pytest

from hf_robustft.cli.description import FLAGS_FILE, transformers_hash
from hf_robustft.cli.first_look import first_look
from hf_robustft.cli.merging import MERGES
from hf_robustft.cli.option_rules import MERGE_OPTIONS, check_sources
from hf_robustft.cli.train_arguments import CHOICES, check_options
from hf_robustft.training.given import MERGING
from hf_robustft.training.methods import METHODS

#: A Transformers with other flags is described anew for each look, which takes seconds.
DESCRIBED = json.loads(FLAGS_FILE.read_text(encoding="utf-8"))["transformers_hash"] == transformers_hash()
ALL = (*METHODS, *MERGES, "zero_shot")


def checked(script, *flags):
    parts = script.parse(["--use_cpu", *map(str, flags)])
    check_options(*parts)
    return parts


@pytest.mark.parametrize("method", ALL)
def test_recipes_pass_as_they_are(script, method):
    _, _, args = checked(script, "--method", method)
    assert args.given == {"use_cpu"}
    assert (args.learning_rate != 1e-5) == (method != "zero_shot")


@pytest.mark.parametrize("method", ALL)
def test_ones_own_data_pass_without_settings(script, method):
    checked(script, "--method", method, "--train_dataset", "my/images", "--eval_datasets", "my/tests")


@pytest.mark.parametrize(
    ("flags", "message"),
    [("--shots 0", "--shots 0` must be 1 or more"), ("--feature_views -1 --method croft", "--feature_views -1` must be 0 or more")],
)
def test_numbers_are_checked_for_python_as_for_the_command(script, flags, message):
    with pytest.raises(ValueError, match=message):
        script.parse(["--use_cpu", *flags.split()])


OWN = ("--train_dataset", "my/images")
REFUSED = [
    ("--alpha 0.3 --method ft", "--alpha 0.3.*wise_ft, not ft"),
    ("--finetuned_model x --method carot", "--finetuned_model x.*wise_ft"),
    ("--finetuned_model x y --method carot", "--finetuned_model x y.*wise_ft, model_stock, lines, not carot"),
    ("--merged_head rebuilt --method ft", "--merged_head rebuilt.*wise_ft, model_stock, lines, not ft"),
    ("--lines_alpha 0.3 --method wise_ft", "--lines_alpha 0.3.*lines, not wise_ft"),
    ("--finetune_with carot --method flyp", "--finetune_with carot.*wise_ft, lines, not flyp"),
    ("--alpha_sweep 0 1 --method model_stock", "--alpha_sweep 0.0 1.0.*wise_ft, lines, not model_stock"),
    ("--select_alpha --method model_stock", "--select_alpha.*wise_ft, lines, not model_stock"),
    ("--method wise_ft --finetune_with carot --energy_gradient_weight 3", "energy_gradient_weight=3.0.*carot.*does not"),
    ("--detector none --true_positive_rate 0.9", "--true_positive_rate 0.9.*fits no detector"),
    ("--feature_views 2 --method flyp", "--feature_views.*use --method croft"),
    ("--feature_views 2 --method carot+croft", "--feature_views.*use --method croft"),
    ("--feature_cache x --method croft --train_dataset my/images", "--feature_cache.*--feature_views"),
    ("--cache_images uint8 --streaming", "cache_images uint8.*stream"),
    ("--feature_views 2 --method croft --cache_images uint8", "cache_images uint8.*feature_views"),
    ("--feature_views 0 --method croft --train_crop croft", "train_crop.*evaluation transform"),
    *(
        (
            f"--caption_column text --method {name} --train_dataset my/images",
            f"--caption_column.*--method {name}.*flyp",
        )
        for name in ("ft", "croft", "wise_ft", "zero_shot")
    ),
    ("--caption_column text --shots 4 --train_dataset my/images", "--shots 4.*no classes"),
    ("--skip_baseline --train_dataset my/images", "--skip_baseline.*--eval_datasets"),
    ("--save_logits --train_dataset my/images", "--save_logits.*--eval_datasets"),
    ("--skip_baseline --method zero_shot", "--skip_baseline"),
    ("--shots 4 --method zero_shot", "--shots 4.*nothing is trained"),
    ("--bad_images error --bad_images_threshold 0.5", "--bad_images_threshold 0.5"),
    ("--method zero_shot --learning_rate 1e-3", "--learning_rate 0.001.*zero_shot trains nothing"),
    ("--method zero_shot --per_device_train_batch_size 8", "--per_device_train_batch_size 8"),
    ("--method zero_shot --resume_from_checkpoint x", "--resume_from_checkpoint x"),
    ("--method zero_shot --distillation_weight 1", "--distillation_weight 1.0"),
    ("--method wise_ft --finetuned_model x --num_train_epochs 3", "--num_train_epochs 3.*trained already"),
    ("--method wise_ft --distillation_weight 1", "distillation_weight=1.0.*'ft' does not use it"),
    ("--method ft --contrastive_label_smoothing 0.1", "contrastive_label_smoothing.*carot, tracer, flyp, carot.croft, covariance_anchor"),
    ("--method croft --preset reference", "preset=reference.*carot, tracer, flyp"),
    ("--method flyp --energy_gradient_weight 3", "energy_gradient_weight=3.0.*croft, carot.croft"),
    ("--method croft --warmup_steps 5", r"warmup_steps=5.*recipe emoji_shift/croft"),
    ("--method carot --min_lr 1e-6", "min_lr=1e-06.*lr_schedule='reference'"),
    ("--method carot --distillation_weight 0 --ema_update_every 5", "ema_update_every=5.*makes no teacher"),
    ("--method tracer --ema_update_every 5", "ema_update_every=5.*other kind of teacher; set --teacher ema"),
    ("--method carot --trajectory_beta 0.2", "trajectory_beta=0.2.*other kind of teacher; set --teacher trajectory"),
    ("--method carot+croft --paper_settings", "--paper_settings.*no paper.*carot, tracer, flyp, ft, croft"),
    ("--train_dataset x --eval_strategy epoch", "`--eval_strategy epoch` would do nothing.*--eval_datasets"),
    ("--train_dataset x --skip_baseline", "`--skip_baseline` would do nothing.*--eval_datasets"),
    ("--method zero_shot --paper_settings", "--paper_settings.*no paper"),
    ("--method model_stock --finetuned_model x y --paper_settings", "--paper_settings.*no paper"),
    ("--method lp --lora_rank 2", "lora_rank=2.*'lp' does not use it.*method that does: .*ft, .*wise_ft, lines"),
]


def refusal(check, *arguments):
    """What `check` says against the arguments; `None` if nothing."""
    try:
        check(*arguments)
    except ValueError as error:
        return str(error)
    return None


def all_checks(script, line):
    command = script.parse(line)
    check_sources(command.model_args)
    check_options(*command)


#: A method of each kind; the others are asked for with `-m slow`.
USUAL = ("carot", "ft", "croft", "tip_adapter", "wise_ft", "model_stock", "zero_shot")
#: What objectives and schedules say of each other's settings, or a paper of its own, once Transformers is imported.
LATER = ("--warmup_steps", "--min_lr", "--ema_update_every", "--trajectory_beta", "--paper_settings", "--train_dataset x")


@pytest.mark.parametrize(("flags", "message"), REFUSED, ids=[flags for flags, _ in REFUSED])
def test_what_would_be_ignored_is_refused(script, flags, message, monkeypatch):
    with pytest.raises(ValueError, match=message) as caught:
        checked(script, *flags.split())
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(sys.modules[first_look.__module__], "_check_paths", lambda *given: None)
    line, late = ["--use_cpu", *flags.split()], any(word in flags for word in LATER)
    if DESCRIBED:
        assert refusal(first_look, "train", line) == (None if late else refusal(all_checks, script, line))


@pytest.mark.skipif(not DESCRIBED, reason="flags.json describes other flags of Transformers")
@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=() if name in USUAL else pytest.mark.slow) for name in CHOICES],
)
def test_the_first_look_refuses_what_the_trainers_refuse_and_nothing_else(script, method, monkeypatch):
    monkeypatch.setattr(sys.modules[first_look.__module__], "_check_paths", lambda *given: None)
    found = {}
    for flags in (
        "--distillation_weight 1", "--energy_gradient_weight 1", "--head_start zeros", "--lora_rank 2", "--train image",
        "--lora_rank 2 --lora_keep_adapter", "--preset reference", "--bound_logit_scale false", "--tip_alpha 1",
        "--train_crop croft", "--learning_rate 1e-3", "--report_to none", "--report_to tensorboard", "--eval_strategy epoch",
        "--caption_column text", "--feature_views 0", "--feature_views 0 --train_crop croft", "--feature_cache x", "--shots 2",
        "--skip_baseline", "--train_dataset my/images --skip_baseline", "--leave_out_classes 0.2",
        "--cache_images uint8", "--cache_images uint8 --streaming",
        "--leave_out_classes 0.2 --detector none", "--leave_out_fold 1", "--hold_out 0.1", "--alpha 0.3", "--finetuned_model a",
        "--finetuned_model a b", "--finetuned_model a a", "--finetune_with carot", "--select_alpha", "--lines_whole_projections",
        "--finetune_with carot --distillation_weight 1", "--fold_temperature", "--model_revision main", "--save_strategy no",
    ):  # fmt: skip
        line = ["--use_cpu", "--method", method, *flags.split()]
        found[flags] = refusal(all_checks, script, line), refusal(first_look, "train", line)
    assert {flags: early for flags, (_, early) in found.items()} == {flags: late for flags, (late, _) in found.items()}
    assert None in {early for early, _ in found.values()} != {None}


@pytest.mark.parametrize(
    "flags",
    [
        "--method zero_shot --report_to none --save_strategy no --seed 3 --per_device_eval_batch_size 4",
        "--method zero_shot --push_to_hub --hub_model_id a/b --skip_baseline false",
        "--method wise_ft --alpha 0.3 --learning_rate 1e-3",
        "--method lines --finetune_with carot --distillation_weight 1",
        "--method wise_ft --train image --lora_rank 2",
        "--method lines --train_last_layers 1",
        "--method croft --train_crop croft",
        "--detector none",
        "--preset reference --max_grad_norm 1 --train_sampling_strategy sequential",
        "--method ft --contrastive_chunk_size 4 --label_smoothing_factor 0.1",
    ],
)
def test_what_has_a_use_passes(script, flags):
    checked(script, *flags.split())


def test_merges_that_train_are_those_that_refusals_name():
    assert MERGE_OPTIONS["finetune_with"] == MERGING


@pytest.mark.parametrize("method", [name for name, trainer in METHODS.items() if trainer.paper_settings])
def test_paper_settings_from_the_command_line(script, monkeypatch, method):
    paper = METHODS[method].paper_settings
    _, data, args = checked(script, "--method", method, "--paper_settings", "--weight_decay", "0.3")
    for name, value in paper.items():
        expected = 0.3 if name == "weight_decay" else value
        assert getattr(args, name) == expected, name
        assert args.origins.get(name) == (None if name == "weight_decay" else f"paper of {method}")
    assert data.feature_views is None and args.save_strategy != "no", "the recipe stands aside"
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="3 processes cannot share the paper's batch"):
        checked(script, "--method", method, "--paper_settings")


def test_paper_settings_share_the_batch(script, monkeypatch):
    monkeypatch.setattr("hf_robustft.cli.train_arguments.os.environ", {"WORLD_SIZE": "4"})
    from hf_robustft.cli.train_arguments import paper_settings

    assert paper_settings("flyp")["per_device_train_batch_size"] == 128
    assert paper_settings("wise_ft") == paper_settings("ft")
    assert paper_settings("wise_ft", "carot") == paper_settings("carot")


def test_the_origin_of_settings_is_printed(script):
    _, _, args = checked(script, "--method", "croft", "--train_dataset", "my/images")
    args.take_defaults(METHODS["croft"].defaults, "default of croft")
    assert "default of croft: learning_rate=0.003, per_device_train_batch_size=32" in args.described_origins()
