# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Passes over the training data: stored, streamed, or iterated without a known length.

A pass of unknown length ends with an optimizer step of the micro-batches that are left, as a pass of known length does,
and a checkpoint holds how far it had come. Transformers finds the last step of a pass by its length. Without one, the gradients of an incomplete window would stay
and be added to those of the next pass, and a resumed run would count all its steps as of the first pass.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from transformers.trainer_utils import has_length

from ..data.readers import reading_context
from ..data.streams.examples import StreamingExamples
from ..modeling.features import normalised
from ..objectives.base import take
from .checkpoint_files import load_state
from .distributed import check_global_batches, rank, world_size
from .schedules import EpochSampler
from .streaming import StreamLoader
from .unreadable_images import UnreadableImages


class _NoBatch(dict):
    """Stands for a micro-batch that an incomplete window lacks: nothing is computed of it."""


class _FullBatches:
    """Stands for a loader where its batches are counted: of the full ones alone there are fewer than it says."""

    def __init__(self, loader: Any, count: int):
        self.dataset, self._count = loader.dataset, count

    def __len__(self) -> int:
        return self._count


def _rows(batch: Mapping[str, Any]) -> float:
    rows = [len(batch[name]) for name in ("pixel_values", "image_features", "labels") if name in batch]
    return min(rows, default=math.inf)


class TrainingPasses(UnreadableImages):
    """
    The part of `RobustTrainer` that takes batches from the training data, pass by pass, in an order that a resumed run
    continues.

    Stands before `ObjectiveMixin` and `Trainer` in the order of base classes.
    """

    _epoch_sampler: EpochSampler | None = None
    _stream: StreamLoader | None = None
    _pass = 0
    _pass_batches = 0
    _pass_is_over = False
    _passes_planned = 0
    _window_batches = 0
    _window_rows: Sequence[float] = ()

    # ---- Batches -----------------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset=None):
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if not hasattr(dataset, "__len__"):
            return super()._get_train_sampler(dataset)
        if self.args.train_sampling_strategy not in ("random", "sequential"):
            raise ValueError(
                f"`train_sampling_strategy={self.args.train_sampling_strategy!r}` is not available for image-text "
                "pairs; use 'random' or 'sequential'."
            )
        check_global_batches(len(dataset), self.args)
        global_batch = self.args.train_batch_size * world_size()
        if self.args.dataloader_drop_last and len(dataset) < global_batch:
            raise ValueError(
                f"The training set has {len(dataset)} examples, fewer than one global batch of {global_batch}, and "
                f"incomplete batches are dropped; give more images, or set --per_device_train_batch_size to "
                f"{max(1, len(dataset) // world_size())} or less."
            )
        self._epoch_sampler = EpochSampler(
            len(dataset),
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            shuffle=self.args.train_sampling_strategy == "random",
            keyed=getattr(dataset, "keyed", False),
        )
        return self._epoch_sampler

    def get_train_dataloader(self):
        self._stream = self._epoch_sampler = None
        if not isinstance(self.train_dataset, StreamingExamples):
            loader = super().get_train_dataloader()
            # Of Accelerate's loaders this one starts the workers.
            base = getattr(loader, "base_dataloader", loader)
            base.multiprocessing_context = base.multiprocessing_context or reading_context(base.num_workers)
            return loader
        options: dict[str, Any] = {"pin_memory": self.args.dataloader_pin_memory}
        if workers := self.args.dataloader_num_workers:
            options["prefetch_factor"] = self.args.dataloader_prefetch_factor
            options["multiprocessing_context"] = self.args.dataloader_multiprocessing_context or reading_context(workers)
        self._stream = StreamLoader(
            self.train_dataset,
            self.data_collator,
            self.args.train_batch_size,
            process=rank(),
            processes=world_size(),
            workers=self.args.dataloader_num_workers,
            accumulation=self.args.gradient_accumulation_steps,
            **options,
        )
        return self._stream

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        # Counted when it is trained on, not when it was read ahead.
        counter = getattr(self.train_dataset, "bad_images", None)
        if counter is not None:
            inputs = counter.take(inputs)
        inputs = super()._prepare_inputs(inputs)
        if inputs.get("pixel_values") is not None:
            transform = getattr(self.train_dataset, "transform", None)
            inputs = {**inputs, "pixel_values": normalised(inputs["pixel_values"], transform)}
        return inputs

    # ---- Passes of unknown length ------------------------------------------------------------------------------

    @property
    def _is_uncounted(self) -> bool:
        return self._stream is None and self.train_dataset is not None and not has_length(self.train_dataset)

    def set_initial_training_values(self, args, dataloader):
        # The loader of an iterable data set counts the incomplete batch that is left out below: its steps would be missing
        # at the end of the run, and a resumed run would take its place in a pass for another.
        iterated = self._stream is None and isinstance(self.train_dataset, IterableDataset) and has_length(self.train_dataset)
        if iterated and args.dataloader_drop_last:
            full = len(self.train_dataset) // (args.per_device_train_batch_size * world_size())
            dataloader = _FullBatches(dataloader, min(full, len(dataloader))) if full else dataloader
        values = super().set_initial_training_values(args, dataloader)
        self._passes_planned = values[0]
        return values

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device):
        batches, items = [], None
        while len(batches) < num_batches:
            try:
                got, items = super().get_batch_samples(epoch_iterator, num_batches - len(batches), device)
            except ValueError as error:
                # Accelerate's words for a pass without a batch.
                if "does not contain any data" not in str(error):
                    raise
                got, items = [], None
            if not got:
                break
            # Transformers keeps the incomplete batches of iterable data sets, whatever `dataloader_drop_last` says.
            if self.args.dataloader_drop_last and isinstance(self.train_dataset, IterableDataset):
                got = [batch for batch in got if _rows(batch) >= self.args.per_device_train_batch_size]
            batches += got
        self._pass_batches += len(batches)
        self._window_rows = [_rows(batch) for batch in batches]
        if len(batches) == num_batches:
            return batches, items
        self._pass_is_over = True
        if not batches:
            # Transformers would go on asking until the steps of the run are through.
            self.control.should_epoch_stop = True
            return batches, items
        # A step is made where the window is full, so what it lacks comes first, and is nothing.
        self._window_batches = len(batches)
        return [*(_NoBatch() for _ in range(num_batches - len(batches))), *batches], items

    def weigh_micro_batch(self, terms: dict[str, Tensor], inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """
        Let each image of an optimizer step count the same, where its micro-batches have different numbers of them.

        Args:
            terms (`dict[str, torch.Tensor]`): Means over the images of one of them, by name.
            inputs (`Mapping[str, Any]`): The micro-batch.

        Returns:
            `dict[str, torch.Tensor]`: The terms, of which the mean over the micro-batches is that over all images.
        """
        rows = self._window_rows
        if len(set(rows)) < 2 or not math.isfinite(sum(rows)):
            return terms
        weight = _rows(inputs) * len(rows) / sum(rows)
        return {name: weight * value for name, value in terms.items()}

    def training_step(self, model: nn.Module, inputs: Mapping[str, Any], num_items_in_batch=None) -> Tensor:
        if isinstance(inputs, _NoBatch):
            self.current_gradient_accumulation_steps = self._window_batches
            return torch.zeros((), device=self.args.device)
        return super().training_step(model, inputs, num_items_in_batch)

    # ---- Passes ------------------------------------------------------------------------------------------------

    def _run_epoch(self, **kwargs):
        if self.state.global_step >= self.state.max_steps:
            # Resumed after the last step: Trainer would look only once it has made another.
            self.control.should_training_stop = True
            return
        epoch, skipped = kwargs["epoch"], 0
        # Accelerate forwards the epoch through some of its wrappers, not through all (a resumed, sharded loader).
        if self._epoch_sampler is not None:
            self._epoch_sampler.set_epoch(epoch)
            if len(self.train_dataset) != self._epoch_sampler.size:
                warnings.warn(
                    f"The training set had {self._epoch_sampler.size} examples when training began and has {len(self.train_dataset)} in pass "
                    f"{epoch + 1}: the order, the steps and the schedule are still of the former. Keep its length, or give an `IterableDataset` "
                    "without one and --max_steps.",
                    stacklevel=2,
                )
        if kwargs["resume_from_checkpoint"] is not None and epoch == kwargs["epochs_trained"]:
            skipped = 0 if self.args.ignore_data_skip else kwargs["steps_trained_in_current_epoch"]
            if self._stream is not None:
                # The loader is at its place already; Trainer has only to count the steps of the pass that are left.
                left = kwargs["num_update_steps_per_epoch"]
                left -= self.state.global_step % left
                kwargs |= {"steps_trained_in_current_epoch": 0, "num_update_steps_per_epoch": left}
        self._pass, self._pass_batches, self._pass_is_over = epoch, skipped, False
        super()._run_epoch(**kwargs)
        done, wanted = self.state.global_step, self.state.max_steps
        stopped = self.control.should_training_stop or not self._pass_batches
        if self._pass_is_over and epoch + 1 == self._passes_planned and done < wanted and not stopped:
            warnings.warn(
                f"Training ends after {done} of {wanted} steps, before its schedule does: a pass gives fewer batches than the length of "
                "the training data promises. Let its `__len__` say how many examples come, or leave it out and give --max_steps.",
                stacklevel=2,
            )
        if self._pass_is_over and not self._pass_batches:
            if not done:
                raise ValueError(
                    "The training data give not a single batch; look at the data set's `__iter__`, and at the batch size "
                    "if incomplete batches are dropped."
                )
            warnings.warn(
                f"The training data give no batch in pass {self._pass + 1}, so training ends after {done} of {wanted} steps, "
                "before its schedule does; an iterable data set must start again at each `iter()`.",
                stacklevel=2,
            )

    def _init_training_state(
        self, max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
    ) -> tuple[int, int]:
        epochs, batches = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        if resume_from_checkpoint is not None:
            self.find_best(resume_from_checkpoint)
        if resume_from_checkpoint is None or not self._is_uncounted:
            return epochs, batches
        state = load_state(resume_from_checkpoint)
        return take(state, "pass.number"), 0 if self.args.ignore_data_skip else take(state, "pass.batches")

    def count_passes(self) -> None:
        """Let `state.epoch` be the passes seen of a stream, of which Trainer counts whole optimizer steps."""
        if self._stream is not None:
            size, seen = self.train_dataset.size, self.state.global_step * self.args.gradient_accumulation_steps
            seen *= self._stream.batch_size * self._stream.processes
            self.state.epoch = float(self._stream.passes()) if size is None else seen / size

    def close_stream(self) -> None:
        """Let the workers of a stream go."""
        if self._stream is not None:
            self._stream.close()

    # ---- Checkpoints -------------------------------------------------------------------------------------------

    def extra_state(self) -> dict[str, Any]:
        state = super().extra_state()
        if self._is_uncounted:
            over = self._pass_is_over
            state["pass.number"] = self._pass + over
            state["pass.batches"] = 0 if over else self._pass_batches
        if self._stream is not None:
            positions = torch.tensor(self._stream.positions, dtype=torch.int64, device=self.args.device)
            state["stream.positions"] = self.accelerator.gather(positions[None])
            state["stream.batches"] = self._stream.batches
            state["stream.settings"] = self._stream.settings()
        return state

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        super().load_extra_state(state)
        if self._stream is not None:
            self._stream.load_state(state)
        elif "stream.settings" in state and self.train_dataset is not None:
            raise ValueError(
                "The checkpoint was written by a run that streamed its data, this run does not, and would go on in "
                "another order; stream them again (--streaming), or start a new run from its weights."
            )
