# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Pushes of a run: whole, with their card, and never at the expense of the run."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from ..publishing.card_file import CARD_FILE, is_untouched
from ..publishing.finish import complete_folder
from ..publishing.folder import check_secrets, leaves, pictures
from ..publishing.hub import Publication, open_repository, publish, summary, with_retries

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
        # The folder of all stages goes with the last one, and must not go while another one is made in it.
        self._staging = threading.Lock()

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
        except (HTTPError, OSError) as error:
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
        stage = Path(self.args.output_dir) / STAGE / f"step-{trainer.state.global_step}"
        if trainer.is_world_process_zero() and not busy:
            with self._staging:
                stage.mkdir(parents=True, exist_ok=True)
        # Saving takes all processes, and only the first knows of its pushes.
        if trainer.accelerator.reduce(torch.tensor(int(busy), device=self.args.device), "sum").item():
            return
        # The checkpoint holds what a resumed run needs: adapters beside the weights, a student beside its teacher.
        trainer.save_model(str(stage), _internal_call=True)
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

    def _remove(self, stage: Path) -> None:
        shutil.rmtree(stage, ignore_errors=True)
        with self._staging, contextlib.suppress(OSError):
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
        complete_folder(stage, report=self.trainer.last_report, progress=self.trainer.progress())

    # ---- At the end --------------------------------------------------------------------------------------------

    def push(self, message: str | None, token=None, revision=None, private=None, **kwargs) -> Publication | None:
        """The work of [`RobustTrainer.push_to_hub`], with the same arguments."""
        trainer = self.trainer
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
        return self._upload(Path(self.args.output_dir), message or "End of training", **options)

    def _command(self, repo_id: str) -> str:
        return f"hf-robustft publish {self.args.output_dir} --repo_id {repo_id}"


def linked_copy(folder: Path, copy: Path) -> None:
    """A copy of a folder whose files take no space where the file system allows: they are never rewritten, only removed."""

    def left_out(place: str, names: list[str]) -> list[str]:
        # A copy would hold what a link points to outside of the folder.
        return [name for name in names if leaves(Path(place) / name, folder)]

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)

    shutil.copytree(folder, copy, copy_function=link, ignore=left_out)


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
