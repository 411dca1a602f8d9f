# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints that hold all of a run, so that a resumed run equals an uninterrupted one."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints

from ..data.messages import one_line
from ..files import put_in_place
from ..modeling.checkpoint_check import check_weights_of, load_converted
from ..modeling.metadata import METADATA_FILE
from ..modeling.spread_weights import full_values, is_sharded
from ..modeling.tensor_files import read_json_object
from ..objectives.base import take, take_module
from ..publishing.run_folder import (
    BUILDING,
    LAST,
    drop_former,
    former_checkpoints,
    put_back,
    replacing,
    set_aside,
    settle_checkpoints,
    step_folders,
)
from .agreement import check_agreement
from .checkpoint_files import (
    is_unwritten,
    load_state,
    read_seconds,
    record_files,
    save_state,
    whole_state,
    write_seconds,
)
from .finite import check_weights
from .run_record import check_same_run, run_record


class LossWindow:
    """
    Sums of named losses over the optimizer steps since the last log entry, on the device, without a host sync.

    Trainer's own sum starts at zero in a resumed run, so that the first entry after a resume would differ from the
    uninterrupted run's; this one is saved and restored.
    """

    def __init__(self):
        self.sums: dict[str, Tensor] = {}
        self.steps = 0

    def add(self, losses: Mapping[str, Tensor], micro_batches: int) -> None:
        """Add the losses of one of `micro_batches` micro-batches of an optimizer step."""
        for name, value in losses.items():
            # MPS has no float64.
            dtype = torch.float32 if value.device.type == "mps" else torch.float64
            share = value.detach().to(dtype) / micro_batches
            self.sums[name] = self.sums[name] + share if name in self.sums else share

    def finish_step(self) -> None:
        """Count an optimizer step."""
        self.steps += 1

    def means(self, mean_over_processes: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The mean of each loss over the window's steps and over processes; the window starts again."""
        if not self.sums:
            return {}
        values = mean_over_processes(torch.stack(list(self.sums.values()))) / self.steps
        means = dict(zip(self.sums, values.tolist(), strict=True))
        self.__init__()
        return means

    def state(self, mean_over_processes: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """What `load_state` needs to continue the window, averaged over processes, which the window then is itself."""
        state: dict[str, Any] = {"window_steps": self.steps, "window_names": list(self.sums)}
        if self.sums:
            values = state["window_sums"] = mean_over_processes(torch.stack(list(self.sums.values())))
            # A resumed run adds to the average; to log the same bits, the run that goes on must do so too.
            self.sums = dict(zip(self.sums, values.clone().unbind(), strict=True))
        return state

    def load_state(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continue a saved window. Raises ValueError if the state holds none."""
        self.steps = take(state, "window_steps")
        names = take(state, "window_names")
        values = take(state, "window_sums").to(device).unbind() if names else ()
        self.sums = dict(zip(names, values, strict=True))


def check_method(state: Mapping[str, Any], method: str) -> None:
    """Raises ValueError if the state of a checkpoint is that of another method."""
    if take(state, "method") != method:
        raise ValueError(
            f"The checkpoint was written by method {state['method']!r}, this run is {method!r}; "
            "resume with the same method, or start a new run from its weights."
        )


class ExactCheckpoints:
    """
    The part of `RobustTrainer` that saves and restores what the objectives add to a run.

    Stands before `ObjectiveMixin` and `Trainer` in the order of base classes.
    """

    #: Checkpoints of another run in `output_dir`, which go when this one saves its first.
    _former: Sequence[Path] = ()
    #: Where Trainer writes a checkpoint that is not in its place yet.
    _building: str | None = None
    #: What was written into a folder before this is of another run.
    _run_started: float = 0.0
    #: The fingerprint of the weights that the run began with, where whoever made the Trainer measures these too.
    began_with: str | None = None
    #: When training began in this process (`time.perf_counter`), and how many seconds it had taken before the checkpoint that
    #: it goes on from was saved.
    _began: float | None = None
    _seconds_before: float = 0.0

    def seconds_trained(self) -> float:
        """How long training has taken, with what was trained before the checkpoint that it went on from."""
        return self._seconds_before + (0.0 if self._began is None else time.perf_counter() - self._began)

    def extra_state(self) -> dict[str, Any]:
        state = super().extra_state()
        state["method"] = self.method
        state["optimizer_steps"] = self.optimizer_steps
        state["logit_scale_bound"] = self._logit_scale_bound
        state["run"] = run_record(self, self.state.max_steps)
        state |= {} if self.began_with is None else {"began_with": self.began_with}
        # Checkpoints of older versions have no list of their files.
        state["lists_files"] = True
        state.update(self._window.state(self._mean_over_processes))
        for name, module in self.trainable_modules().items():
            state.update({f"module.{name}.{key}": value for key, value in module.state_dict().items()})
        return state

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        super().load_extra_state(state)
        self.optimizer_steps = take(state, "optimizer_steps")
        self._window.load_state(state, self.args.device)
        self._logit_scale_bound = take(state, "logit_scale_bound")
        self.began_with = state.get("began_with", self.began_with)
        for name, module in self.trainable_modules().items():
            take_module(state, f"module.{name}", module)

    # Trainer calls this pair at the right places: before trainer_state.json, push and rotation, and after the
    # weights are loaded; `on_save` comes too late for a push.
    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if is_sharded(self.model) and not self.args.should_save:
            # The process that writes calls this too, and gathers from all.
            self.optimizer.state_dict()
        super()._save_optimizer_and_scheduler(output_dir)
        state = full_values(self.extra_state())
        if self.args.should_save:
            save_state(output_dir, state)
            write_seconds(output_dir, self.seconds_trained())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        state = None if checkpoint is None else load_state(checkpoint)
        # Before the optimizer is loaded, whose groups differ between methods.
        if state is not None:
            check_method(state, self.method)
            check_same_run(state.get("run"), self, self.state.max_steps)
        super()._load_optimizer_and_scheduler(checkpoint)
        if state is not None:
            self.load_extra_state(state)
            self._seconds_before = read_seconds(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        # Trainer loads what is there, leaves the rest as it is, and warns.
        check_weights_of(resume_from_checkpoint, self.model)
        if not load_converted(resume_from_checkpoint, self.model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def find_best(self, checkpoint: str | os.PathLike) -> None:
        """
        Look for the best checkpoint of a resumed run beside the `checkpoint` that it goes on from: its folder may have been moved since.
        Where it is gone and is to be loaded at the end, the best of those to come is chosen, and not one that none of them may beat.
        """
        state = self.state
        # The best step need not have been saved.
        if read_json_object(Path(checkpoint) / TRAINER_STATE_NAME).get("best_model_checkpoint") is None:
            return
        best = Path(checkpoint).resolve().parent / f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
        # All processes choose alike, whatever each of them sees.
        found = [state.best_model_checkpoint or (str(best) if best.is_dir() else None)]
        state.best_model_checkpoint = broadcast_object_list(found)[0]
        if state.best_model_checkpoint is not None or not self.args.load_best_model_at_end:
            return
        if self.args.should_log:
            warnings.warn(
                f"The best checkpoint of the run, of step {state.best_global_step}, is gone: from here on the best of those to come is chosen. "
                f"Put {best} back before you resume to choose among all.",
                stacklevel=2,
            )
        state.best_metric = state.best_global_step = None

    def _load_best_model(self) -> None:
        whole_state(self.state.best_model_checkpoint)
        check_weights_of(self.state.best_model_checkpoint, self.model)
        if not load_converted(self.state.best_model_checkpoint, self.model):
            super()._load_best_model()
        # Head and teacher belong to the weights of the same checkpoint.
        self.load_extra_state(load_state(self.state.best_model_checkpoint))

    # ---- Which checkpoint to resume from -----------------------------------------------------------------------

    def check_checkpoint(self, folder: str | os.PathLike) -> None:
        """
        Refuse a folder that this run cannot be resumed from.

        Raises:
            OSError: If there is no such folder, or it lacks the state of teacher and counters or another of its files.
            ValueError: If it was written by another method, or with settings that make it another run, or one of its files
                is not the one that it was saved with.
        """
        if not os.path.isdir(folder):
            raise OSError(
                f"There is no checkpoint folder {str(folder)!r}; name one that holds model.safetensors and "
                "robustft_state.safetensors, such as <output_dir>/checkpoint-500."
            )
        self._check_is_ours(folder, whole_state(folder))

    def _check_is_ours(self, folder: str | os.PathLike, state: Mapping[str, Any]) -> None:
        check_method(state, self.method)
        if "run" in state:
            check_same_run(state["run"], self)
        if self.began_with is not None and state.get("began_with", self.began_with) != self.began_with:
            raise ValueError(
                f"The run that wrote {folder} began with other weights than those of --model, whose numbers would be stated as those before "
                "training; give the model that it began with."
            )
        check_weights_of(folder, self.model)

    def checkpoint_to_resume(self, chosen: str | os.PathLike | bool | None) -> str | os.PathLike | bool | None:
        """
        The checkpoint that `train` is to go on from, looked at before an hour of loading and skipping.

        Args:
            chosen (`str` or `bool`, *optional*): Its folder; `True` or `"last"` for the last whole one in `output_dir`.

        Raises:
            OSError, ValueError: If there is none, and as [`~ExactCheckpoints.check_checkpoint`].
        """
        if self.args.should_save:
            settle_checkpoints(self.args.output_dir)
        self.accelerator.wait_for_everyone()
        if chosen is True or chosen == LAST and not os.path.isdir(LAST):
            # All processes go on from the same one, even if one of them cannot read the newest.
            found = [self._last_whole() if self.is_world_process_zero() else None]
            chosen = broadcast_object_list(found)[0]
            self._check_is_ours(chosen, load_state(chosen))
        elif isinstance(chosen, (str, os.PathLike)):
            self.check_checkpoint(chosen)
        self._former = former_checkpoints(self.args.output_dir, chosen)
        return chosen

    def _last_whole(self) -> str:
        """The last whole checkpoint in `output_dir`; those behind it that are not are named in a warning."""
        torn = []
        for folder in reversed(step_folders(self.args.output_dir)):
            try:
                whole_state(folder)
            except (OSError, ValueError) as error:
                torn.append(str(error))
                continue
            if torn:
                warnings.warn(f"The run goes on from {folder}, before what is not whole: {' '.join(torn)}", stacklevel=4)
            return str(folder)
        if torn:
            raise OSError(f"No checkpoint in {self.args.output_dir!r} is whole: {' '.join(torn)}")
        raise OSError(
            f"There is no checkpoint in {self.args.output_dir!r} to resume from; name its folder, or start a new run."
        )

    # ---- Saving ------------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial) -> str:
        # Trainer writes a checkpoint into a folder beside its place.
        return self._building or super()._get_output_dir(trial)

    def _save_checkpoint(self, model, trial):
        check_agreement(self)
        step, run_dir = self.state.global_step, self._get_output_dir(trial)
        folder = os.path.join(run_dir, f"{PREFIX_CHECKPOINT_DIR}-{step}")
        best = os.path.join(run_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}")
        self._saving_checkpoint, self._building = True, os.path.join(run_dir, BUILDING)
        try:
            super()._save_checkpoint(model, trial)
            if best == folder or os.path.isdir(best):
                # Trainer looked for it where it wrote.
                self.state.best_model_checkpoint = best
            # Each process writes the state of its own random numbers.
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self._put_in_place(Path(self._building, os.path.basename(folder)), Path(folder))
            self.accelerator.wait_for_everyone()
        except BaseException as error:
            if self.args.should_save:
                shutil.rmtree(self._building, ignore_errors=True)
            if is_unwritten(error):
                raise OSError(self._unwritten(folder, error)) from error
            raise
        finally:
            self._saving_checkpoint, self._building = False, None
        if self.args.push_to_hub:
            self.hub_pusher.push_checkpoint(folder)
        if self.args.should_save:
            self._rotate(run_dir)

    def _rotate(self, run_dir: str) -> None:
        """Remove the oldest checkpoints, as Trainer does, but each as a whole: what a kill leaves of them is not called one."""
        found, limit = sort_checkpoints(run_dir), self.args.save_total_limit or 0
        # A resumed run may know the best one by another path to the same folder.
        best = os.path.realpath(self.state.best_model_checkpoint or os.devnull)
        kept = {*found[-1:], *(path for path in found if os.path.realpath(path) == best)}
        more = len(found) - max(limit, len(kept)) if limit > 0 else 0
        set_aside([Path(path) for path in found if path not in kept][: max(more, 0)])
        drop_former(run_dir)

    def _put_in_place(self, built: Path, folder: Path) -> None:
        if self.stop_signals.stopping:
            # It is this process that ends, and not the run.
            self.state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"] = False
        self.state.save_to_json(built / TRAINER_STATE_NAME)
        if not self.args.save_only_model:
            record_files(built, self.state.global_step)
        self._former = [*self._former, folder]
        # Until this run has something to put in their place the checkpoints of a former run are not lost.
        with self._instead_of_former():
            put_in_place(built, folder)
        built.parent.rmdir()

    def _unwritten(self, folder: str, error: BaseException) -> str:
        before = [path for path in step_folders(os.path.dirname(folder)) if path not in self._former]
        way_on = "make room, then start again"
        if before:
            way_on = f"{before[-1]} is whole: make room, then go on with --resume_from_checkpoint {before[-1]}"
        return f"{folder} was not written, and the run ends ({one_line(error)}); {way_on}."

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = self.args.output_dir if output_dir is None else output_dir
        if not self._saving_checkpoint:
            self._export(folder)
            return
        if is_sharded(self.model):
            state_dict = full_values(self.model.state_dict())
        extras = (module.state_dict() for module in self.trainable_modules().values())
        for tensors in (self.model.state_dict() if state_dict is None else state_dict, *extras):
            check_weights(tensors, self.state.global_step, self.args.output_dir)
        super()._save(folder, state_dict)
        if self.args.should_save:
            with self.plain_model():
                self.save_extras(folder)

    def _export(self, folder: str) -> None:
        """The model takes the place of another one in the folder as a whole; results of this run stay."""
        chosen = getattr(self.args, "export_weights", "student")
        if chosen not in ("student", *self.frozen_models()):
            raise ValueError(f"There is no {chosen} to export before training; call `train()` first.")
        if not self.args.should_save:
            # Spread weights are gathered from all processes.
            with self.exported_weights():
                return
        with replacing(folder, since=self._run_started) as stage:
            with self.exported_weights() as model:
                check_weights(model.state_dict(), self.state.global_step, folder)
                super()._save(str(stage), model.state_dict())
            with self.plain_model():
                self.save_extras(str(stage))
            metadata = Path(folder) / METADATA_FILE
            if not metadata.is_file() or metadata.stat().st_mtime < self._run_started:
                self._write_metadata(stage)
        if Path(folder).resolve() == Path(self.args.output_dir).resolve():
            self.drop_former_checkpoints()

    def drop_former_checkpoints(self) -> None:
        """Remove the checkpoints of a former run from `output_dir`; its own first checkpoint, or `save_model`, does so."""
        with self._instead_of_former():
            pass

    @contextmanager
    def _instead_of_former(self):
        former, self._former = self._former, []
        if not self.args.should_save:
            yield
            return
        set_aside(former)
        try:
            yield
        except BaseException:
            put_back(former)
            raise
        drop_former(self.args.output_dir)
