# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Ctrl-C and SIGTERM during training: the step ends, a checkpoint is written, and the run says where it stopped."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, SaveStrategy

if TYPE_CHECKING:
    from .trainer import RobustTrainer

#: Optimizer steps between looks at what other processes were told, on accelerators, where a look waits for the device.
STEPS_BETWEEN_LOOKS = 10
#: A terminal and a launcher may both pass the same Ctrl-C on.
SAME_SIGNAL_SECONDS = 1.0


class Interrupted(KeyboardInterrupt):
    """
    Training was stopped by a signal, at the end of a step.

    Attributes:
        checkpoint (`str`, *optional*): The checkpoint that was written for it.
        signal (`int`): Which signal.
        alone (`bool`): Whether the other processes of the run need not have been told.
    """

    def __init__(self, message: str, checkpoint: str | None = None, signal: int = signal.SIGINT, alone: bool = False):
        super().__init__(message)
        self.checkpoint, self.signal, self.alone = checkpoint, signal, alone


class StopSignals(TrainerCallback):
    """
    Listens for SIGINT and SIGTERM while training runs (`with stop_signals: ...`).

    After the first, the optimizer step ends, a checkpoint is written (with `save_on_interrupt`, unless
    `save_strategy="no"`), and [`Interrupted`] leaves the training loop; a run that is resumed from there is the run that was
    not interrupted. The second stops at once. Of several processes it is enough that one is told: all stop after the same
    step.
    """

    def __init__(self, trainer: RobustTrainer):
        self.trainer = trainer
        self._replaced: dict[int, Any] = {}
        self._reset()

    def _reset(self) -> None:
        self.received: int | None = None
        self._received_at = 0.0
        #: Whether the checkpoint that is written now is that of an interruption.
        self.stopping = False
        self._saved_at: int | None = None

    # ---- Signals -----------------------------------------------------------------------------------------------

    def __enter__(self) -> StopSignals:
        self._reset()
        self._owner = os.getpid()
        if threading.current_thread() is threading.main_thread():
            # Transformers has a handler of its own for SIGTERM, on request.
            jit = getattr(self.trainer.args, "enable_jit_checkpoint", False)
            for number in (signal.SIGINT,) if jit else (signal.SIGINT, signal.SIGTERM):
                usual = signal.getsignal(number)
                if usual in (signal.SIG_DFL, signal.default_int_handler) or hasattr(usual, "after_training"):
                    self._replaced[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind, error, traceback) -> None:
        ended = f"Interrupted after training had ended at step {self.trainer.state.global_step}."
        for number, handler in self._replaced.items():
            signal.signal(number, handler)
            if error is None and hasattr(handler, "after_training"):
                # A command is told: what it has to say of a signal from now on.
                handler.after_training = ended
        self._replaced = {}
        if error is None and self._told():
            # Too late for a step, and before anything that was promised to be stopped.
            raise Interrupted(ended, signal=signal.SIGINT if self.received is None else self.received)
        if self.received is not None and isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
            # The signal reached the processes that read images too, so the step has no data to end with.
            raise Interrupted("Interrupted within a step.", signal=self.received, alone=True) from None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            # A forked process that reads images: it is needed until the step ends, and stopped with SIGTERM.
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if self.received is None:
            self.received, self._received_at = number, time.monotonic()
            if self.trainer.is_world_process_zero():
                state, saved = self.trainer.state, ", with a checkpoint" if self._saves else ""
                when = f"after this step{saved}" if state.global_step < state.max_steps else "at the end of training"
                # `print` may not be entered a second time from a handler.
                os.write(2, f"\nStopping {when}; once more stops at once.\n".encode())
        elif time.monotonic() - self._received_at > SAME_SIGNAL_SECONDS:
            raise Interrupted("Interrupted within a step.", signal=number, alone=True)

    @property
    def _saves(self) -> bool:
        return self.trainer.args.save_on_interrupt and self.trainer.args.save_strategy != SaveStrategy.NO

    # ---- Training loop -----------------------------------------------------------------------------------------

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps or not self._told(state.global_step):
            return
        self.stopping = True
        control.should_save = self._saves
        control.should_training_stop = True

    def on_save(self, args, state, control, **kwargs):
        self._saved_at = state.global_step

    def on_epoch_end(self, args, state, control, **kwargs):
        if not self.stopping:
            return
        checkpoint = None
        if self._saves:
            if self._saved_at != state.global_step:
                # With `save_strategy="best"`, Trainer keeps no step whose evaluation is not the best.
                self.trainer._save_checkpoint(self.trainer.model_wrapped, None)
            checkpoint = os.path.join(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
        # Here, before Trainer takes the run for finished, evaluates it and deletes checkpoints.
        raise Interrupted(
            f"Interrupted after step {state.global_step} of {state.max_steps}.",
            checkpoint,
            signal.SIGINT if self.received is None else self.received,
        )

    def _told(self, step: int = 0) -> bool:
        accelerator = self.trainer.accelerator
        if accelerator.num_processes == 1:
            return self.received is not None
        if accelerator.device.type != "cpu" and step % STEPS_BETWEEN_LOOKS:
            return False
        if self.received is not None:
            accelerator.set_trigger()
        return accelerator.check_trigger()
