# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Every argument of Transformers' Trainer works or is refused by name; a new one has to be put into one of the lists."""

import inspect
from dataclasses import fields

import pytest
from helpers import CLASSES, TEMPLATES, arguments, random_batch, rows, stack, tiny_processor
from transformers import Trainer, TrainingArguments

from hf_robustft.training.methods import METHODS
from hf_robustft.training.usual_arguments import REFUSED, REFUSED_OF_TRAINER

#: As Transformers documents them.
WORK = """
    output_dir per_device_train_batch_size num_train_epochs max_steps learning_rate lr_scheduler_type warmup_steps optim
    optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon gradient_accumulation_steps max_grad_norm bf16 fp16 tf32
    activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing gradient_checkpointing_kwargs
    torch_compile torch_compile_backend torch_compile_mode torch_empty_cache_steps logging_strategy logging_steps
    logging_first_step log_on_each_node log_level log_level_replica disable_tqdm report_to run_name project
    trackio_space_id trackio_bucket_id trackio_static_space_id eval_strategy eval_steps eval_delay
    per_device_eval_batch_size eval_on_start save_only_model save_strategy save_steps save_on_each_node save_total_limit
    enable_jit_checkpoint push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision
    load_best_model_at_end metric_for_best_model greater_is_better ignore_data_skip
    restore_callback_states_from_checkpoint full_determinism seed data_seed use_cpu dataloader_num_workers
    dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context
    ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend
    ddp_timeout debug skip_memory_metrics
""".split()
#: Flags for scripts, which Trainer itself never reads, and what a launcher sets.
OF_SCRIPTS = "do_train do_eval resume_from_checkpoint local_rank".split()
#: Some values are refused, by the tests that are named.
PARTLY = {
    "auto_find_batch_size": "test_arguments.py::test_auto_find_batch_size_is_refused",
    "accelerator_config": "test_distributed.py",
    "deepspeed": "test_distributed.py",
    "fsdp": "test_distributed.py",
    "fsdp_config": "test_distributed.py",
    "dataloader_drop_last": "test_incomplete_batches_cannot_be_asked_of_contrastive_methods",
    "label_smoothing_factor": "test_label_smoothing_is_of_the_head",
    "lr_scheduler_kwargs": "test_what_serves_another_setting_is_refused",
    "optim_target_modules": "test_what_serves_another_setting_is_refused",
    "train_sampling_strategy": "test_trainer.py::test_other_orders_are_refused",
}
#: A value of each refused field that is not its default.
OTHER = {
    "average_tokens_across_devices": False,
    "dataloader_in_order": False,
    "eval_accumulation_steps": 2,
    "eval_do_concat_batches": False,
    "include_for_metrics": ["loss"],
    "include_num_input_tokens_seen": True,
    "label_names": ["labels"],
    "length_column_name": "size",
    "liger_kernel_config": {"rope": True},
    "neftune_noise_alpha": 5.0,
}
TRAINER_WORKS = "model args data_collator train_dataset eval_dataset processing_class callbacks".split()
TRAINER_WORKS += ["optimizers", "optimizer_cls_and_kwargs"]


def test_every_field_is_in_one_list():
    lists = [*WORK, *OF_SCRIPTS, *PARTLY, *REFUSED]
    assert sorted(lists) == sorted(field.name for field in fields(TrainingArguments))


def test_every_argument_of_the_trainer_is_in_one_list():
    parameters = list(inspect.signature(Trainer.__init__).parameters)[1:]
    assert sorted([*TRAINER_WORKS, *REFUSED_OF_TRAINER]) == sorted(parameters)


@pytest.mark.parametrize("name", [name for name in REFUSED if name != "parallelism_config"])
def test_a_field_that_would_do_nothing_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=f"`{name}=.*(leave it out|use |names|classify)") as caught:
        arguments(tmp_path, **{name: OTHER.get(name, True)})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "say"),
    [
        ({"optim_target_modules": ["attn"]}, "optim_target_modules.*GaLore"),
        (
            {"lr_schedule": "reference", "lr_scheduler_type": "linear"},
            "lr_schedule='reference'.*lr_scheduler_type=linear",
        ),
        (
            {"lr_schedule": "epoch_cosine", "lr_scheduler_kwargs": {"num_cycles": 2}, "num_train_epochs": 2},
            "lr_schedule='epoch_cosine'.*lr_scheduler_kwargs",
        ),
        ({"lr_scheduler_kwargs": 3}, "lr_scheduler_kwargs=3.*mapping"),
        (
            {"lr_scheduler_type": "constant", "lr_scheduler_kwargs": {"num_cycles": 2}},
            "lr_scheduler_kwargs=.*lr_scheduler_type=constant",
        ),
        ({"gradient_checkpointing_kwargs": {"use_reentrant": False}}, "activation_checkpointing_kwargs=.*nothing without"),
        ({"fsdp_config": "fsdp.json"}, "fsdp_config=fsdp.json.*fully_shard"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "'cosine_with_min_lr'.*lr_scheduler_kwargs '{\"min_lr_rate\": 0.1}'"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "'warmup_stable_decay'.*lr_scheduler_kwargs .*num_decay_steps"),
        (
            {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": "low"}},
            "'cosine_with_min_lr'.*lr_scheduler_kwargs={'min_lr_rate': 'low'}",
        ),
        ({"lr_scheduler_kwargs": {"min_lr_rat": 1}}, "lr_scheduler_kwargs={'min_lr_rat': 1}"),
        ({"load_best_model_at_end": True, "save_strategy": "steps"}, "load_best_model_at_end.*--eval_strategy steps"),
        (
            {"load_best_model_at_end": True, "save_strategy": "steps", "eval_strategy": "epoch"},
            "load_best_model_at_end.*--save_strategy epoch",
        ),
        (
            {"load_best_model_at_end": True, "save_strategy": "no"},
            "load_best_model_at_end.*--eval_strategy epoch --save_strategy epoch",
        ),
        ({"min_lr": 1e-6}, "min_lr=1e-06.*lr_schedule='reference'"),
        ({"report_to": "wandbb"}, "report_to='wandbb'.*did you mean 'wandb'"),
    ],
)
def test_what_serves_another_setting_is_refused(tmp_path, settings, say):
    with pytest.raises(ValueError, match=say) as caught:
        arguments(tmp_path, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "package"), [("comet_ml", "comet-ml"), ("clearml", "clearml"), ("neptune", "neptune")]
)
def test_a_tracker_that_is_not_installed_is_refused_with_its_package(tmp_path, monkeypatch, name, package):
    module = "hf_robustft.training.usual_arguments.get_available_reporting_integrations"
    monkeypatch.setattr(module, lambda: ["tensorboard"])
    with pytest.raises(ValueError, match=f"report_to='{name}'.*pip install {package}`") as caught:
        arguments(tmp_path, report_to=["tensorboard", name])
    assert "\n" not in str(caught.value)


def trainer_of(method, model, tmp_path, options=(), **settings):
    return METHODS[method](
        model,
        arguments(tmp_path, **settings),
        train_dataset=rows(random_batch(16)),
        data_collator=stack,
        class_names=CLASSES,
        templates=TEMPLATES,
        processing_class=tiny_processor(),
        **dict(options),
    )


@pytest.mark.parametrize("name", REFUSED_OF_TRAINER)
def test_an_argument_of_the_trainer_that_would_do_nothing_is_refused(tiny_clip, tmp_path, name):
    with pytest.raises(ValueError, match=f"`{name}` is not called.*; ") as caught:
        trainer_of("ft", tiny_clip, tmp_path, {name: lambda *args: 0})
    assert "\n" not in str(caught.value)


def test_a_model_of_model_init_is_refused_by_name(tiny_clip, tmp_path):
    with pytest.raises(ValueError, match="`model_init` is not called.*model="):
        METHODS["carot"](model_init=lambda: tiny_clip, args=arguments(tmp_path))
    trainer = METHODS["flyp"](tiny_clip, arguments(tmp_path), processing_class=tiny_processor())
    with pytest.raises(ValueError, match="`hyperparameter_search`.*a Trainer for each trial"):
        trainer.hyperparameter_search(direction="maximize")


@pytest.mark.parametrize("method", METHODS)
def test_label_smoothing_is_of_the_head(tiny_clip, tmp_path, method):
    names = {"class_names": CLASSES, "templates": TEMPLATES} if METHODS[method].needs_labels else {}

    def make():
        args = arguments(tmp_path, label_smoothing_factor=0.1)
        data = {"train_dataset": rows(random_batch(8)), "data_collator": stack}
        return METHODS[method](tiny_clip, args, processing_class=tiny_processor(), **names, **data)

    if METHODS[method].smooths_labels:
        make()
        assert method in ("ft", "lp", "lp_ft", "l2_sp", "car_ft", "lipsum_ft", "clip_adapter", "tip_adapter_f")
        return
    with pytest.raises(ValueError, match="label_smoothing_factor=0.1.*ft.*contrastive_label_smoothing"):
        make()


@pytest.mark.parametrize("method", ["flyp", "carot", "carot+croft"])
def test_incomplete_batches_cannot_be_asked_of_contrastive_methods(tiny_clip, tmp_path, method):
    options = {"class_names": CLASSES, "templates": TEMPLATES} if "croft" in method else {}

    def make(args):
        return METHODS[method](tiny_clip, args, processing_class=tiny_processor(), **options)

    with pytest.raises(ValueError, match="dataloader_drop_last=False.*negatives"):
        make(arguments(tmp_path, dataloader_drop_last=False))
    args = arguments(tmp_path)
    make(args)
    # What a Trainer set is nobody's choice: the arguments can be used again.
    make(args)
    assert args.dataloader_drop_last and "dataloader_drop_last" not in args.given
