# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Pushes of a run: whole, with their card, and never at the expense of the run."""

from __future__ import annotations

import contextlib
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import HfApi
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from ..data.benchmarks import Benchmark
from ..evaluation.evaluator import Evaluator
from ..evaluation.report import TRAINED_HEAD, ZERO_SHOT_HEAD, EvaluationReport
from ..publishing.card_file import CARD_FILE, is_untouched
from ..publishing.card_sections import draw_pictures
from ..publishing.finish import finish_checkpoint
from ..publishing.folder import check_secrets, leaves, pictures
from ..publishing.hardware import describe_hardware
from ..publishing.hub import Publication, open_repository, publish, summary, with_retries
from ..publishing.metadata import METADATA_FILE, write_robustft_json
from ..publishing.model_card import write_model_card
from ..publishing.progress_card import is_progress_card, write_progress_card
from .benchmark_evaluation import as_benchmarks
from .push_parts import changed_arguments, linked_copy, what_ran

if TYPE_CHECKING:
    from .trainer import RobustTrainer

logger = logging.getLogger(__name__)

STAGE = ".push"
#: Pickled, with paths of this machine in it, and no resumed run reads it.
NOT_PUSHED = "training_args.bin"


class HubPusher:
    """
    Uploads of a run to the Hub: `trainer.hub_pusher`.

    Every push holds all that belongs to the model: the weights as they are exported, `robustft.json`, head, adapters,
    and a card from the facts known by then. Pushes during training go on in the background from copies, so that the
    run never waits and no file changes under them; one that fails is logged, and the next one makes up for it.

    Args:
        trainer ([`RobustTrainer`]): Whose run is pushed.
        args ([`~transformers.TrainingArguments`]): Its settings.
    """

    def __init__(self, trainer: RobustTrainer, args: TrainingArguments):
        self.trainer, self.args = trainer, args
        self._failure: str | None = None
        self._thread: ThreadPoolExecutor | None = None

    def create_repository(self, token: str | None = None, private: bool | None = None) -> None:
        """
        Make the repository, before anything is trained.

        Raises:
            OSError: If the Hub refuses or cannot be reached, after repetitions.
            ValueError: If it is to be private and exists as a public one.
        """
        if not self.trainer.is_world_process_zero():
            return
        name = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        private = self.args.hub_private_repo if private is None else private
        try:
            url = open_repository(HfApi(token=token or self.args.hub_token), name, private)
        except OSError as error:
            raise OSError(
                f"The repository {name} cannot be made on the Hub ({summary(error)}). Log in with `hf auth login`, or "
                f"train without --push_to_hub and upload later: {self._command(name)}"
            ) from error
        self.trainer.hub_model_id = url.repo_id
        self.trainer.push_in_progress = None

    def begin(self) -> None:
        """Remove what a run that was killed left to be pushed."""
        if self.trainer.is_world_process_zero():
            shutil.rmtree(Path(self.args.output_dir) / STAGE, ignore_errors=True)

    def end(self) -> None:
        """Say if the last push of the run failed."""
        if self._failure is not None:
            logger.warning(
                "The last push of the run failed (%s). The checkpoints are in %s; what is finished there is uploaded by: %s",
                self._failure,
                self.args.output_dir,
                self._command(self.trainer.hub_model_id),
            )

    # ---- While the run goes on ---------------------------------------------------------------------------------

    def push_checkpoint(self, checkpoint_folder: str) -> None:
        """Push in the background, while the run goes on, unless another push is still under way."""
        trainer = self.trainer
        if self.args.hub_strategy == HubStrategy.END:
            return
        busy = trainer.is_world_process_zero() and self._is_pushing() and not self.args.hub_always_push
        # Saving takes all processes, and only the first knows of its pushes.
        if trainer.accelerator.reduce(torch.tensor(int(busy), device=self.args.device), "sum").item():
            return
        # What is pushed may be resumed from elsewhere.
        trainer.record_checkpoint(checkpoint_folder)
        stage = Path(self.args.output_dir) / STAGE / f"step-{trainer.state.global_step}"
        # The checkpoint holds what a resumed run needs: adapters beside the weights, a student beside its teacher.
        saving, trainer._saving_checkpoint = trainer._saving_checkpoint, False
        try:
            trainer.save_model(str(stage), _internal_call=True)
        finally:
            trainer._saving_checkpoint = saving
        if not trainer.is_world_process_zero():
            return
        trainer.callback_handler.on_push_begin(self.args, trainer.state, trainer.control)
        resumable = None
        if self.args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            last = self.args.hub_strategy == HubStrategy.CHECKPOINT
            resumable = "last-checkpoint" if last else Path(checkpoint_folder).name
            # Before the checkpoint is rotated away.
            linked_copy(Path(checkpoint_folder), stage / resumable)
        message = f"Training in progress, step {trainer.state.global_step}"
        try:
            self._describe(stage)
        except Exception as error:
            self._note_failure(message, error, stage)
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="push")
        job = self._thread.submit(self._push, stage, resumable, message)
        running = trainer.push_in_progress.jobs if self._is_pushing() else []
        trainer.push_in_progress = PushInProgress([*running, job])

    def _is_pushing(self) -> bool:
        running = getattr(self.trainer, "push_in_progress", None)
        return running is not None and not running.is_done()

    def _push(self, stage: Path, resumable: str | None, message: str) -> None:
        try:
            self._upload(stage, message)
            if resumable is not None:
                check_secrets(stage, {p.name: p for p in (stage / resumable).rglob("*")}, self.args.hub_token)
                api = HfApi(token=self.args.hub_token)
                with_retries(
                    lambda: api.upload_folder(
                        repo_id=self.trainer.hub_model_id,
                        folder_path=stage / resumable,
                        path_in_repo=resumable,
                        commit_message=f"{message}, checkpoint",
                        revision=self.args.hub_revision,
                        ignore_patterns=[NOT_PUSHED],
                        # An earlier one may be of more processes.
                        delete_patterns=["*"],
                    ),
                    f"The upload of {resumable}",
                )
            self._failure = None
            self._remove(stage)
        except Exception as error:
            self._note_failure(message, error, stage)

    def _note_failure(self, message: str, error: Exception, stage: Path) -> None:
        # Whatever went wrong: the run is worth more than this push.
        self._failure = summary(error)
        logger.warning("%s was not pushed, and the run goes on: %s", message, error)
        self._remove(stage)

    @staticmethod
    def _remove(stage: Path) -> None:
        shutil.rmtree(stage, ignore_errors=True)
        with contextlib.suppress(OSError):
            # Not empty while another push waits.
            stage.parent.rmdir()

    def _upload(self, folder: Path, message: str, **options: Any) -> Publication:
        settings = {"token": self.args.hub_token, "revision": self.args.hub_revision, "edited_card": "keep", **options}
        done = publish(folder, self.trainer.hub_model_id, commit_message=message, **settings)
        if done.card_kept:
            logger.warning(
                "The card of %s was edited on the Hub and is kept; `hf-robustft publish --overwrite_card` replaces it.",
                done.repo_id,
            )
        return done

    def _describe(self, stage: Path) -> None:
        written = Path(self.args.output_dir) / CARD_FILE
        if written.is_file() and not is_untouched(written):
            for name in (CARD_FILE, *pictures(written)):
                # What a link or `..` would fetch from elsewhere stays there.
                if (written.parent / name).is_file() and not leaves(written.parent / name, written.parent):
                    (stage / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(written.parent / name, stage / name)
            return
        if self.trainer.last_report is not None:
            draw_pictures(stage, self.trainer.last_report)
        self.trainer._write_progress_card(stage)

    # ---- At the end --------------------------------------------------------------------------------------------

    def push(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs,
    ) -> Publication | None:
        """As `push_to_hub`."""
        trainer = self.trainer
        if not blocking:
            raise ValueError("`blocking=False` could lose the end of a run unheard; leave it away.")
        trainer.callback_handler.on_push_begin(self.args, trainer.state, trainer.control)
        trainer._finish_current_push()
        if trainer.hub_model_id is None:
            trainer.init_hf_repo(token=token, private=private)
        if not trainer._is_finished:
            trainer.save_model(_internal_call=True)
        if not trainer.is_world_process_zero():
            return None
        trainer.create_model_card(**kwargs)
        options = {"token": token or self.args.hub_token, "revision": revision or self.args.hub_revision}
        return self._upload(Path(self.args.output_dir), commit_message or "End of training", **options)

    def _command(self, repo_id: str) -> str:
        return f"hf-robustft publish {self.args.output_dir} --repo_id {repo_id}"


class FinishedFolder:
    """
    The part of `RobustTrainer` that completes `output_dir`: `robustft.json`, the card, and what a user of the saved model
    will measure.

    Stands before `ObjectiveMixin` and `Trainer` in the order of base classes.
    """

    #: The training set, if it was given as a [`Benchmark`].
    train_benchmark: Benchmark | None = None
    #: Whether `output_dir` holds all there is: a push saves nothing then.
    _is_finished: bool = False
    _train_seconds: float | None = None

    def _write_metadata(self, folder: Path) -> None:
        head = ZERO_SHOT_HEAD if self.head is None else TRAINED_HEAD
        write_robustft_json(folder, head=head, **self._facts_of_the_model())

    def _facts_of_the_model(self) -> dict[str, Any]:
        names, templates = self._named_classes()
        return {
            "method": self.method,
            "class_names": names,
            "templates": templates,
            "settings": changed_arguments(self.args),
            "image_hashes": () if self.image_check is None else self.image_check.hashes,
            "label_names": getattr(self.train_benchmark, "label_names", None) if names else None,
        }

    def _facts_of_the_run(self) -> dict[str, Any]:
        trained = self._train_seconds is not None
        return {
            "base_model": self.model.name_or_path or None,
            "hardware": describe_hardware(self.args.device, self.args.world_size),
            "wall_seconds": self._train_seconds,
            "seed": self.args.seed,
            # Without a training its arguments describe nothing.
            "run": what_ran(self.args, *self.given_optimizers()) if trained else None,
            "log_history": self.state.log_history,
        }

    def _write_progress_card(self, folder: Path) -> None:
        losses = [(entry["step"], entry["loss"]) for entry in self.state.log_history if "loss" in entry]
        write_progress_card(
            folder,
            title=(self.hub_model_id or folder.resolve().name).split("/")[-1],
            method=self.method,
            step=self.state.global_step,
            total_steps=self.state.max_steps,
            base_model=self.model.name_or_path or None,
            trained_on=[self.train_benchmark.name] if self.train_benchmark is not None else [],
            loss=losses[-1] if losses else None,
            report=self.last_report,
            evaluated_at=self._evaluated_at,
        )

    def _named_classes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        source = self.train_benchmark if self.train_benchmark is not None else self.train_dataset
        names, templates = (tuple(getattr(source, name, None) or ()) for name in ("class_names", "templates"))
        return (names, templates) if names and templates else ((), ())

    # ---- At the end --------------------------------------------------------------------------------------------

    def finish(self, **options: Any) -> EvaluationReport | None:
        """
        Save the model and complete `output_dir`: [`finish_checkpoint`] with this trainer, after `train`.

        Args:
            options: As for [`finish_checkpoint`].

        Returns:
            [`EvaluationReport`], also in `self.last_report`; `None` without evaluation sets.
        """
        return finish_checkpoint(self.args.output_dir, trainer=self, **options)

    def own_evaluator(self) -> Evaluator | None:
        """Of the evaluation sets of this trainer; `None` if it has none."""
        return None if self.eval_dataset is None else self._evaluator_of(as_benchmarks(self.eval_dataset))

    def checkpoint_facts(self) -> dict[str, Any]:
        """What [`finish_checkpoint`] tells of this run, and the images that it fits on."""
        benchmarks = [] if self.eval_dataset is None else as_benchmarks(self.eval_dataset)
        return {
            **self._facts_of_the_model(),
            "validation": next((benchmark for benchmark in benchmarks if benchmark.role == "validation"), None),
            "train": self.train_benchmark,
            "notes": [] if self.image_check is None else self.image_check.notes,
            **self._facts_of_the_run(),
        }

    def note_finished(self, report: EvaluationReport | None) -> None:
        """`output_dir` holds all there is, and `report` is of what it holds."""
        if report is not None:
            self.last_report, self._evaluated_at = report, self.state.global_step
        self._is_finished = True

    def create_model_card(self, **kwargs) -> None:
        """
        Write the card into `output_dir`, unless it is there.

        A card that a person wrote or edited is kept, and one that `write_model_card` wrote since the training began.
        Otherwise the card holds the last evaluation of the run, or says that there was none.

        Args:
            kwargs: As for [`~transformers.Trainer.create_model_card`]; `license`, `finetuned_from` and `model_name` are used.
        """
        if not self.is_world_process_zero():
            return
        folder = Path(self.args.output_dir)
        card = folder / CARD_FILE
        old = card.is_file() and (card.stat().st_mtime < self._run_started or is_progress_card(folder))
        if card.is_file() and not (old and is_untouched(card)):
            return
        metadata = folder / METADATA_FILE
        if not metadata.is_file() or metadata.stat().st_mtime < self._run_started:
            self._write_metadata(folder)
        data = [] if self.train_benchmark is None else [self.train_benchmark]
        data += [benchmark for benchmark in getattr(self, "_evaluated", ()) if benchmark not in data]
        if not data or not self._last_report_is_of_the_export():
            self._write_progress_card(folder)
            return
        draw_pictures(folder, self.last_report)
        write_model_card(
            folder,
            report=self.last_report,
            method=self.method,
            data=data,
            settings=changed_arguments(self.args),
            tags=getattr(self.model, "model_tags", None) or (),
            **self._facts_of_the_run(),
            **({"base_model": kwargs["finetuned_from"]} if kwargs.get("finetuned_from") else {}),
            **({"licence": kwargs["license"]} if kwargs.get("license") else {}),
        )

    def _last_report_is_of_the_export(self) -> bool:
        at_the_end = self._evaluated_at == self.state.global_step >= self.state.max_steps
        return self.last_report is not None and at_the_end and not self.args.load_best_model_at_end


def push_finished(args: TrainingArguments, trainer: RobustTrainer | None = None) -> Publication:
    """
    Upload the output folder of a job, after its last file is written.

    Unlike `push_to_hub` it saves nothing, so that interpolated weights or a folded temperature stay in the folder.

    Args:
        args ([`~transformers.TrainingArguments`]): Folder, repository, its visibility and branch, and the token.
        trainer ([`RobustTrainer`], *optional*): The trainer of the job, to wait for its pushes, and for the card where
            none was written.

    Returns:
        [`Publication`]: What was uploaded.

    Raises:
        OSError, ValueError: See `publish`.
    """
    repo_id = args.hub_model_id or Path(args.output_dir).absolute().name
    if trainer is not None:
        trainer._finish_current_push()
        trainer.create_model_card()
        repo_id = trainer.hub_model_id or repo_id
    return publish(
        args.output_dir,
        repo_id,
        private=args.hub_private_repo,
        token=args.hub_token,
        revision=args.hub_revision,
        commit_message="End of training",
        edited_card="keep",
    )
