# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`RobustTrainer`: sums and logs the named terms of its objectives, and names no method."""

from __future__ import annotations

import functools
import math
import time
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer_utils import TrainOutput

from ..data.bad_images import BadImages
from ..data.benchmarks import Benchmark
from ..data.examples import ClipCollator
from ..files import locked
from ..modeling.checkpoint import train_in_float32
from ..modeling.dual_encoder import LOGIT_BIAS, DualEncoder
from ..modeling.feature_cache import collate_features, feature_fingerprints, image_fingerprint
from ..modeling.spread_weights import is_sharded
from ..objectives.base import ObjectiveMixin
from ..objectives.papers import METHOD_FACTS, MethodFacts, Paper
from ..objectives.trained_parts import TrainedPartsMixin
from ..publishing.hub import Publication
from .agreement import Agreement
from .arguments import DEFAULT_LOGGING_STEPS, RunArguments
from .benchmark_evaluation import BenchmarkEvaluation, as_benchmarks
from .checkpoints import ExactCheckpoints, LossWindow
from .distributed import check_launcher, check_local_batch, check_world_size, gather_rows, same_start
from .examples import as_benchmark, check_captions, embed_images, training_examples
from .finished_folder import FinishedFolder
from .finite import check_skipped, refuse_loss
from .gradient_cache import CACHED_FEATURES_STAND_STILL, ChunkedEncoding
from .gradient_shares import GradientShares
from .hub_push import HubPusher
from .image_check import ImageCheck, check_images, training_hashes
from .interruption import StopSignals
from .kept_images import keeping_decoded
from .label_lists import check_label_lists
from .model_record import check_prepared
from .optimizers import CompleteOptimizer, check_given_optimizers
from .passes import TrainingPasses
from .settings import check_data_settings, check_declared, check_schedule, fit_default_batch, settle_settings
from .sharding import check_sharding, shard_run
from .usual_arguments import check_trainer_options


class RobustTrainer(
    FinishedFolder,
    BenchmarkEvaluation,
    ExactCheckpoints,
    CompleteOptimizer,
    TrainingPasses,
    ChunkedEncoding,
    TrainedPartsMixin,
    ObjectiveMixin,
    Trainer,
):
    """
    A [`~transformers.Trainer`] for dual encoders whose loss is the sum of the terms of its objective mixins.

    Each batch is encoded once; each term is logged as `loss/<name>` (weighted, averaged over the logging window and
    over processes). What the objectives add to a run (teacher, heads, counters, the open logging window) is in every
    checkpoint, so that a resumed run equals an uninterrupted one.

    Args:
        model ([`~transformers.PreTrainedModel`]): The model to fine-tune, as `load_dual_encoder` gives it; required.
        args ([`RobustTrainingArguments`]): Settings; required.
        train_dataset ([`Benchmark`], `datasets.Dataset` or `torch.utils.data.Dataset`, *optional*): A benchmark (also streamed),
            a `datasets.Dataset` with an `image` column and a `label` (`ClassLabel`) column, or any data set whose examples
            `data_collator` understands.
        eval_dataset ([`Benchmark`], list or dict of them, *optional*): What `evaluate` measures; metrics are
            `eval_<name>/accuracy` and so on. The keys of a dict are the names.
        processing_class ([`~transformers.CLIPProcessor`], *optional*): Tokenizer and image processor; needed for benchmarks,
            saved beside the weights.
        data_collator (`Callable`, *optional*): Makes a batch of examples. By default ours, which reads what a benchmark gives.
        bad_images ([`~hf_robustft.data.bad_images.BadImages`], *optional*): What is done about images of benchmarks that cannot be
            read. By default the first one is an error.
        kwargs (`Any`, *optional*): As for [`~transformers.Trainer`] and the mixins.

    Raises:
        ValueError: If the family of the model is not supported, the arguments are plain `TrainingArguments`, the
            objectives find the settings impossible, or several GPUs would run in one process.
    """

    # The terms are means, whether or not the batch carries labels: Trainer must always divide by the accumulation
    # steps. It would not where a model takes **kwargs and the batch has labels.
    loss_is_scaled_for_ga = False
    method = "robust"
    #: What readers are told: the method's name in tables, its papers, and what it does in a sentence or two. A method that
    #: `METHOD_FACTS` describes has them from there; what another class says of its method is put there, for cards.
    label: str = "robust"
    paper: tuple[Paper, ...] = ()
    summary: str = ""
    #: What is known of common images of the data sets; `train` finds it out where nobody has.
    image_check: ImageCheck | None = None
    is_resuming = False
    #: What the method takes where nobody says otherwise, and the paper's settings; both by field of the arguments.
    defaults: dict[str, Any] = {}
    paper_settings: dict[str, Any] = {}

    def __init__(
        self,
        model: PreTrainedModel | None = None,
        args: RunArguments | None = None,
        *,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        data_collator: Any = None,
        bad_images: BadImages | None = None,
        **kwargs,
    ):
        check_trainer_options(kwargs)
        # Refuses a model of another family.
        encoder = DualEncoder.of(model)
        if not isinstance(args, RunArguments):
            raise ValueError(
                f"{type(self).__name__} takes `RobustTrainingArguments`, which hold the objectives' settings, "
                f"got `{type(args).__name__}`."
            )
        settle_settings(type(self), args, encoder)
        self.idle_parameters = encoder.freeze_idle()
        train_in_float32(model)
        check_world_size(args.world_size)
        check_launcher(args)
        if "ddp_find_unused_parameters" not in {*args.given, *args.origins}:
            # Else every parameter that trains is used in each step; looking for unused ones would cost a pass over the graph.
            args.derive(ddp_find_unused_parameters=False)
        if args.device.type == "cpu":
            # Pinned memory serves transfers to an accelerator; without one torch warns at every loader.
            args.derive(dataloader_pin_memory=False)
        self.model = model
        self.optimizer_steps = 0
        self._saving_checkpoint = False
        self._run_started = time.time()
        self.hub_pusher = HubPusher(self, args)
        self._window = LossWindow()
        if self.trains_model:
            self.choose_what_trains(args)
        self.validate_arguments(args)
        if args.label_smoothing_factor and not self.smooths_labels:
            raise ValueError(
                f"`label_smoothing_factor={args.label_smoothing_factor}` is for a trained head (such as `--method ft`'s), which "
                f"{self.method!r} does not have; contrastive methods have `contrastive_label_smoothing`."
            )
        if args.load_best_model_at_end and args.save_only_model:
            raise ValueError(
                "`load_best_model_at_end` with `save_only_model` could bring back neither head nor teacher, which such "
                "checkpoints do not hold; switch one of the two off."
            )
        if eval_dataset is not None:
            benchmarks = as_benchmarks(eval_dataset)
            eval_dataset = {b.name: b for b in benchmarks} if isinstance(eval_dataset, Mapping) else eval_dataset
        self.train_benchmark = train_dataset if isinstance(train_dataset, Benchmark) else None
        train_dataset = self.training_images = as_benchmark(train_dataset)
        # A user's collator may not know uint8 levels.
        options = {"bad_images": bad_images, "levels": data_collator is None}
        train_dataset = training_examples(train_dataset, args, processing_class, **options)
        check_data_settings(train_dataset, args)
        of_labels = getattr(train_dataset, "several", 0), getattr(train_dataset, "captioned", False)
        self.multi_label = check_label_lists(type(self), args, encoder, *of_labels)
        fit_default_batch(train_dataset, args)
        if self._encodes_captions:
            check_captions(train_dataset, processing_class, model)
        self.bad_images = bad_images
        made_by = feature_fingerprints(train_dataset)
        if made_by and self.trains_model:
            raise ValueError(CACHED_FEATURES_STAND_STILL)
        if made_by and made_by != {image_fingerprint(model)}:
            raise ValueError(
                "The cached features were made by another model than the one to train; make them again with "
                "`cache_features` and this model."
            )
        if made_by:
            check_prepared(train_dataset, processing_class)
            data_collator = data_collator or collate_features
        elif data_collator is None and processing_class is not None:
            # A compiled text tower is compiled again for each length of captions; multiples of 8 are few.
            padding = 8 if args.torch_compile else None
            tokenizer = getattr(processing_class, "tokenizer", processing_class)
            data_collator = ClipCollator(tokenizer, pad_to_multiple_of=padding)
        check_given_optimizers(args, kwargs.get("optimizers") or (None, None), kwargs.get("optimizer_cls_and_kwargs"))
        super().__init__(
            model,
            args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        if not self.trains_model:
            model.requires_grad_(False)
        self._logit_scale_bound = math.log(max(100.0, self.encoder.check_logit_scale()))
        self._check_attention()
        self.gradient_shares = GradientShares(self)
        self.settle_choice()
        self.stop_signals = StopSignals(self)
        for callback in (_StepHooks(self), Agreement(self), self.stop_signals):
            self.add_callback(callback)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "label" in vars(cls):
            METHOD_FACTS[cls.method] = MethodFacts(cls.label, cls.summary, cls.paper)
        elif "method" in vars(cls):
            facts = METHOD_FACTS.get(cls.method) or MethodFacts(cls.method, "", ())
            cls.label, cls.summary, cls.paper = facts.label, facts.summary, facts.papers

    @classmethod
    def check_settings(cls, args: RunArguments) -> None:
        """
        Refuse settings that were given and that a run of this class would ignore.

        Args:
            args ([`RobustTrainingArguments`]): Settings of the run; nothing else is needed yet.

        Raises:
            ValueError: For settings of objectives that the class does not have, and settings that others make idle.
        """
        check_declared(cls, args)
        check_schedule(args)
        super().check_settings(args)

    def _check_attention(self) -> None:
        implementation = getattr(self.model.config, "_attn_implementation", None)
        if self.args.preset == "reference" and implementation not in (None, "sdpa"):
            warnings.warn(
                f"The reference preset expects SDPA attention, this model uses {implementation!r}: eager attention "
                "takes its softmax in float32 even in a float64 model. Load with `attn_implementation='sdpa'`.",
                stacklevel=3,
            )

    # ---- Training ----------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs) -> TrainOutput:
        """
        Train as [`~transformers.Trainer.train`] does; a checkpoint that this run cannot go on from is refused first.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): A folder; `True` or `"last"` for the last whole one in
                `output_dir`.
            kwargs (`Any`, *optional*): As for [`~transformers.Trainer.train`].

        Raises:
            OSError, ValueError: If the checkpoint is missing, damaged, or that of another run.
        """
        self._began, self._seconds_before = time.perf_counter(), 0.0
        self._run_started, self._is_finished = time.time(), False
        # A trained head, which decides on the scores there are, is younger than the first look.
        self.settle_choice()
        with locked(self.args.output_dir, f"{type(self).__name__}.train") if self.args.should_save else nullcontext():
            self.hub_pusher.begin()
            checkpoint = self.checkpoint_to_resume(resume_from_checkpoint)
            try:
                with self.stop_signals, keeping_decoded(getattr(self.train_dataset, "decoded", None), self.args):
                    result = super().train(resume_from_checkpoint=checkpoint, **kwargs)
            finally:
                self.close_stream()
            if checkpoint is not None and self.args.should_save:
                # After its last step nothing is saved, which is when old checkpoints go.
                self._rotate(self._get_output_dir(None))
        self._train_seconds = self.seconds_trained()
        self.hub_pusher.end()
        return result

    def set_initial_training_values(self, args, dataloader):
        values = super().set_initial_training_values(args, dataloader)
        max_steps = values[-1]
        if "logging_steps" not in args.given and "logging_steps" not in args.origins:
            # A run shorter than Transformers' 500 steps would end without a word of its losses.
            args.derive(logging_steps=min(DEFAULT_LOGGING_STEPS, max(1, math.ceil(max_steps / 20))))
        if "eval_steps" not in args.given and "eval_steps" not in args.origins and args.eval_steps:
            args.derive(eval_steps=min(args.eval_steps, max_steps))
        return values

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        self.optimizer_steps = self._skipped_steps = 0
        self._window = LossWindow()
        for module in self.trainable_modules().values():
            module.zero_grad()
        self.is_resuming = resume_from_checkpoint is not None
        self._check_images()
        check_launcher(self.args, self.trainable_modules())
        if not is_sharded(self.model):
            # Before objectives copy the model: processes that drew their own weights would have teachers of their own.
            same_start(self.model, *self.trainable_modules().values())
        self.prepare_training(max_steps)
        self.gradient_shares.begin(max_steps)
        trains = any(parameter.requires_grad for parameter in self.model.parameters())
        if self.args.fully_shard:
            check_sharding(self.args, sorted(self.trainable_modules()), trains)
            shard_run(self.model, self.frozen_models().values() if self.args.shard_teacher else (), self.args.device)
        elif trains:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        # DDP refuses a model without trainable parameters, and would wrap one that is spread. In evaluation mode Accelerate
        # places the model, and adds autocast, but does not wrap it; what trains beside it averages its own gradients.
        prepare_model = self.accelerator.prepare_model
        self.accelerator.prepare_model = functools.partial(prepare_model, evaluation_mode=True)
        try:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        finally:
            del self.accelerator.prepare_model

    # ---- Loss --------------------------------------------------------------------------------------------------

    @property
    def _encodes_captions(self) -> bool:
        return any(vars(cls).get("needs_captions", False) for cls in type(self).__mro__)

    def gather_rows(self, rows: Tensor) -> Tensor:
        """The rows of all processes in rank order, with gradient; `rows` itself in one process."""
        return gather_rows(rows)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        check_local_batch(inputs, self.args)
        features = self._encode_student(model, inputs)
        # Logits at CLIP's scale lose whole units of 1/64 in half precision; the towers keep autocast, losses do not.
        with torch.autocast(self.args.device.type, enabled=False):
            terms = self.loss_terms(features, inputs)
        if not terms:
            raise ValueError(
                f"{type(self).__name__} has no loss term: every weight is 0, or it has no objective mixin. "
                "Set a weight, or put a mixin such as `ContrastiveMixin` before `RobustTrainer`."
            )
        terms = self.weigh_micro_batch(terms, inputs)
        total = sum(terms.values())
        if not torch.isfinite(total):
            refuse_loss(terms, self.state.global_step)
        named = {"loss": total, **{f"loss/{name}": value for name, value in terms.items()}}
        self._window.add(named, self.current_gradient_accumulation_steps)
        self.gradient_shares.add(terms, self._encoding)
        return (total, features) if return_outputs else total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs.update(self._window.means(self._mean_over_processes))
            logs["logit_scale"] = float(self.encoder.scale.detach())
            if self.encoder.logit_bias is not None:
                logs[LOGIT_BIAS] = float(self.encoder.logit_bias.detach())
            logs.update(self.log_values())
        super().log(logs, start_time)

    def _mean_over_processes(self, values: Tensor) -> Tensor:
        return self.accelerator.reduce(values, "mean")

    # ---- Optimisation ------------------------------------------------------------------------------------------

    def _finish_step(self) -> None:
        self._window.finish_step()
        self.count_passes()
        self.gradient_shares.finish()
        # Trainer clears the gradients of the wrapped model only.
        for module in self.trainable_modules().values():
            module.zero_grad()
        if self.accelerator.optimizer_step_was_skipped:
            self._skipped_steps += 1
            check_skipped(self._skipped_steps, self.state.global_step)
            return
        self._skipped_steps = 0
        self.optimizer_steps += 1
        if self.args.bound_logit_scale and self.encoder.logit_scale.requires_grad:
            with torch.no_grad():
                self.encoder.logit_scale.clamp_(max=self._logit_scale_bound)
        self.after_optimizer_step()

    # ---- Data --------------------------------------------------------------------------------------------------

    def embed_training_images(self) -> tuple[Tensor, Tensor]:
        """Unit-norm embeddings and labels of all training images, without random crops; see [`embed_images`]."""
        return embed_images(self, self.training_images)

    def _check_images(self) -> None:
        """Say which evaluation sets hold training images."""
        if self.image_check is not None:
            return
        sets = [] if self.eval_dataset is None else as_benchmarks(self.eval_dataset)
        hashes = functools.partial(training_hashes, self.train_benchmark, self.train_dataset)
        self.image_check = check_images(hashes, sets, allow_overlap=True)
        for note in self.image_check.notes if self.args.should_log else ():
            warnings.warn(note, stacklevel=2)

    def floating_point_ops(self, inputs: Mapping[str, Tensor]) -> int:
        """Count 6 per weight and token for a step on `inputs`: both towers, no embeddings, repeated captions each time."""
        if not hasattr(self, "_tower_sizes"):
            self._tower_sizes = [
                sum(p.numel() for layer in layers for p in layer.parameters()) for layers in self.encoder.layers()
            ]
        vision, text = self._tower_sizes
        if "pixel_values" not in inputs:
            # Cached features: no tower runs.
            return 0
        operations = 6 * vision * self.encoder.image_tokens(inputs["pixel_values"])
        return operations + (6 * text * inputs["input_ids"].numel() if self._encodes_captions else 0)

    # ---- Hub ---------------------------------------------------------------------------------------------------

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository, before anything is trained. Raises OSError and ValueError as `create_repository`."""
        self.hub_pusher.create_repository(token, private)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Nothing: Trainer asks for it before the checkpoint is whole; `_save_checkpoint` pushes it when it is."""

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs,
    ) -> Publication | None:
        """
        Save the model into `output_dir`, unless `finish` has just completed that, and upload what belongs to it.

        Args:
            commit_message (`str`, *optional*): First line of the commit.
            blocking (`bool`, *optional*, defaults to `True`): Only `True`: a push that fails must be heard of.
            token (`str`, *optional*), revision (`str`, *optional*), private (`bool`, *optional*): By default as in the
                arguments.
            kwargs (`Any`, *optional*): See `create_model_card`.

        Returns:
            [`Publication`]: What was uploaded; `None` in all processes but the first.

        Raises:
            OSError: If it failed after repetitions. The folder is complete, and the error says how to upload it.
            ValueError: If a file is unfit to be published, or `blocking` is `False`.
        """
        if not blocking:
            raise ValueError("`blocking=False` could lose the last upload of a run without a word; leave it out.")
        return self.hub_pusher.push(commit_message, token, revision, private, **kwargs)


class _StepHooks(TrainerCallback):
    # `on_step_end` comes after the optimizer step and before logging, evaluation and saving, which must see the updated teacher;
    # Trainer has no method to override there. No `ExportableState`: a resumed Trainer would rebuild the callback without its trainer.
    def __init__(self, trainer: RobustTrainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer._finish_step()
