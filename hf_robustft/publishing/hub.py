# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Uploading a finished checkpoint folder: checked first, in one commit, repeated when the Hub fails, then compared."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoUrl

# HTTPError is the HTTP library's base class, by the name under which the client has it: the library has changed before.
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id
from huggingface_hub.utils.sha import git_hash, sha_fileobj

from ..data.packaged import check_not_packaged
from ..evaluation.report import load_reports
from ..files import is_of_this_room, locked
from .card_file import CARD_FILE, is_untouched
from .eval_results import FOLDER, is_ours
from .folder import MODEL_FILES, check_files, chosen_files, matches
from .run_folder import EVALUATION_FILE

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

RETRIES = 5
#: Statuses of a Hub that is busy or broken for the moment. 412: somebody committed in between.
PASSING = (408, 412, 425, 429, 500, 502, 503, 504)
LONGEST_WAIT = 60.0


@dataclass(frozen=True)
class Publication:
    """
    What was published, or in a dry run, what would be.

    Attributes:
        repo_id (`str`): The repository.
        files (`dict[str, int]`): Sizes in bytes by name.
        left_out (`tuple[str, ...]`): Files at the top of the folder that were not uploaded.
        removed (`tuple[str, ...]`): Files and results of an earlier model that were removed from the repository.
        card_kept (`bool`): Whether the repository's own, hand-edited card was left as it is.
        url, commit (`str`, *optional*): Address of the repository and id of the commit; `None` in a dry run.
        unchanged (`bool`): Whether the repository already held everything, so that there was nothing to commit.
    """

    repo_id: str
    files: dict[str, int]
    left_out: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    card_kept: bool = False
    url: str | None = None
    commit: str | None = None
    unchanged: bool = False


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    dry_run: bool = False,
    revision: str | None = None,
    commit_message: str | None = None,
    include: Sequence[str] = (),
    edited_card: str = "refuse",
    retries: int = RETRIES,
) -> Publication:
    """
    Upload a finished checkpoint folder to a model repository, in one commit.

    Uploaded is what belongs to the model: weights, configuration, tokenizer and processor, `robustft.json`, head,
    adapters, card and pictures, evaluation. Checkpoints of the run, optimizer states, pickled arguments and logs stay.
    Nothing is uploaded unless all of it is fit (see `check_files`). Afterwards the repository is compared with the folder.

    Args:
        folder (`str` or `Path`): The folder.
        repo_id (`str`): `user/name`, or a name in your own account. Created if it does not exist.
        private (`bool`, *optional*): Make a new repository private; by default as the account or organisation is set up.
        token (`str`, *optional*): Access token with write permission; by default that of `hf auth login` or `HF_TOKEN`.
        dry_run (`bool`, *optional*, defaults to `False`): Only check, without the network, and report what would be
            uploaded.
        revision (`str`, *optional*): Branch, created if it does not exist; `main` by default.
        commit_message (`str`, *optional*): First line of the commit.
        include (`Sequence[str]`, *optional*, defaults to `()`): Patterns of further files, such as `"runs/*"`.
        edited_card (`str`, *optional*, defaults to `"refuse"`): If the repository has a card that a person wrote or
            edited: `"refuse"` to publish, `"keep"` that card, or `"overwrite"` it.
        retries (`int`, *optional*, defaults to 5): Repetitions after errors that may pass (busy or broken server,
            broken connection, truncated answer), after 1, 2, 4, ... seconds or as long as the Hub asks for.

    Returns:
        [`Publication`]: What was uploaded, and where.

    Raises:
        OSError: If files are missing or cannot be read, or the Hub cannot be reached or refuses; the folder is as it was.
        ValueError: If the folder is one of the package, a file is unfit or contains an access token, a name is not valid,
            the card on the Hub was edited, or a repository that should be private is public.
    """
    if edited_card not in ("refuse", "keep", "overwrite"):
        raise ValueError(f"`edited_card={edited_card!r}` is unknown; choose refuse, keep or overwrite.")
    if retries < 0:
        raise ValueError(f"`retries={retries}` must be 0 or more.")
    check_not_packaged(folder, "DIR")
    folder = Path(folder)
    validate_repo_id(repo_id)
    with locked(folder, "hf-robustft publish", reads=True):
        return _publish(folder, repo_id, private, token, dry_run, revision, commit_message, include, edited_card, retries)


def _publish(
    folder: Path,
    repo_id: str,
    private: bool | None,
    token: str | None,
    dry_run: bool,
    revision: str | None,
    commit_message: str | None,
    include: Sequence[str],
    edited_card: str,
    retries: int,
) -> Publication:
    files = chosen_files(folder, include)
    check_files(folder, files, token)
    sizes = {name: path.stat().st_size for name, path in files.items()}
    left_out = tuple(sorted(path.name for path in folder.iterdir() if not (_goes(path.name, files) or is_of_this_room(path.name))))
    if dry_run:
        return Publication(repo_id, sizes, left_out)
    upload = _Upload(files, HfApi(token=token), revision, commit_message or "Upload model", edited_card)
    try:
        upload.open(repo_id, private, retries)
        commit = with_retries(upload.commit, f"The upload to {upload.repo_id}", retries=retries)
        with_retries(lambda: upload.compare(commit), f"The comparison with {upload.repo_id}", retries=retries)
    except (HTTPError, OSError) as error:
        again = "Try again later" if may_pass(error) else _advice(error)
        raise OSError(
            f"{folder} was not uploaded to {upload.repo_id or repo_id} ({summary(error)}). All files are still in the "
            f"folder. {again}: hf-robustft publish {folder} --repo_id {upload.repo_id or repo_id}"
        ) from error
    if upload.card_kept:
        sizes.pop(CARD_FILE)
    return Publication(
        upload.repo_id,
        sizes,
        left_out,
        upload.removed,
        upload.card_kept,
        f"{upload.url}",
        upload.commit_id,
        unchanged=upload.commit_id == upload.before,
    )


def open_repository(api: HfApi, repo_id: str, private: bool | None, retries: int = RETRIES) -> RepoUrl:
    """
    Create a model repository if it does not exist.

    Args:
        api (`HfApi`): The client.
        repo_id (`str`), private (`bool`, *optional*), retries (`int`, *optional*, defaults to 5): As for `publish`.

    Returns:
        `RepoUrl`: Its address, with the full `repo_id`.

    Raises:
        ValueError: If it should be private and exists as a public repository.
        OSError: If the Hub refuses or cannot be reached.
    """
    url = with_retries(
        lambda: api.create_repo(repo_id, private=private, exist_ok=True), f"Creating {repo_id}", retries=retries
    )
    if private:
        info = with_retries(lambda: api.model_info(url.repo_id), f"Looking at {url.repo_id}", retries=retries)
        if not info.private:
            raise ValueError(
                f"{url.repo_id} should be private, but exists as a public repository; make it private in its settings on "
                "the Hub, or choose another name."
            )
    return url


@dataclass
class _Upload:
    files: Mapping[str, Path]
    api: HfApi
    revision: str | None
    message: str
    edited_card: str
    repo_id: str = ""
    url: str = ""
    commit_id: str = ""
    before: str | None = None
    card_kept: bool = False
    removed: tuple[str, ...] = ()
    sent: dict[str, Path] = field(default_factory=dict)

    def open(self, repo_id: str, private: bool | None, retries: int) -> None:
        url = open_repository(self.api, repo_id, private, retries)
        self.url, self.repo_id = str(url), url.repo_id
        if self.revision is not None:
            with_retries(
                lambda: self.api.create_branch(self.repo_id, branch=self.revision, exist_ok=True),
                f"Creating the branch {self.revision}",
                retries=retries,
            )

    def commit(self) -> str:
        # After a failure everything is repeated. If only the answer to a commit was lost, or somebody else committed in
        # between, this sees the repository as it is then, and files that it already holds are not sent again.
        parent = self.api.model_info(self.repo_id, revision=self.revision).sha
        # A repetition finds what the first attempt committed, of which only the answer was lost.
        self.before = self.before or parent
        there = self._listing(parent)
        self.sent = dict(self.files)
        self.card_kept = False
        if self._card_is_foreign(there, parent):
            if self.edited_card == "refuse":
                raise ValueError(
                    f"The card of {self.repo_id} on the Hub was written or edited by hand, and would be lost. Copy it to "
                    f"{CARD_FILE} in the folder to keep it, or publish with --overwrite_card."
                )
            self.card_kept = self.edited_card == "keep"
        if self.card_kept:
            self.sent.pop(CARD_FILE)
        stale = [name for name in there if matches(name, MODEL_FILES) and name not in self.files]
        stale += self._former_results(there, parent)
        self.removed = tuple(stale) or self.removed
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in self.sent.items()]
        operations += [CommitOperationDelete(path_in_repo=name) for name in stale]
        info = self.api.create_commit(
            self.repo_id, operations, commit_message=self.message, revision=self.revision, parent_commit=parent
        )
        self.commit_id = info.oid
        return info.oid

    def compare(self, commit: str) -> None:
        there = self._listing(commit)
        for name, path in self.sent.items():
            found = there.get(name)
            if found is None or not _is_equal(path, found):
                raise OSError(f"{name} in the repository is not what was sent")

    def _listing(self, revision: str) -> dict[str, RepoFile]:
        entries = self.api.list_repo_tree(self.repo_id, recursive=True, revision=revision)
        return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

    def _former_results(self, there: Mapping[str, RepoFile], revision: str) -> list[str]:
        """What we have written of the results of a model that was there before; leaderboards would take them for those of this one."""
        names = [name for name in there if matches(name, (EVALUATION_FILE, f"{FOLDER}/*.yaml")) and name not in self.files]
        with tempfile.TemporaryDirectory() as fresh:
            paths = {name: Path(self.api.hf_hub_download(self.repo_id, name, revision=revision, local_dir=fresh)) for name in names}
            return [name for name, path in paths.items() if (_holds_reports if name == EVALUATION_FILE else is_ours)(path)]

    def _card_is_foreign(self, there: Mapping[str, RepoFile], revision: str) -> bool:
        if CARD_FILE not in there or _is_equal(self.files[CARD_FILE], there[CARD_FILE]):
            return False
        with tempfile.TemporaryDirectory() as fresh:
            # Not from the cache, where a card of the same commit may have been changed by hand.
            path = self.api.hf_hub_download(self.repo_id, CARD_FILE, revision=revision, local_dir=fresh)
            return not is_untouched(Path(path))


def _holds_reports(path: Path) -> bool:
    try:
        return bool(load_reports(path))
    except ValueError:
        return False


def _is_equal(path: Path, entry: RepoFile) -> bool:
    if path.stat().st_size != entry.size:
        return False
    if entry.lfs is not None:
        with open(path, "rb") as file:
            return sha_fileobj(file).hex() == entry.lfs.sha256
    return git_hash(path.read_bytes()) == entry.blob_id


def _goes(name: str, files: Mapping[str, Path]) -> bool:
    return name in files or any(sent.startswith(f"{name}/") for sent in files)


def _advice(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, RevisionNotFoundError):
        return "Give a branch that exists, or leave --revision out"
    if status in (401, 403, 404):
        return "Log in with `hf auth login` and a token that may write there, then"
    if isinstance(error, HfHubHTTPError):
        return "Correct what the Hub says, then"
    return "Then"


# ---- Calls that are repeated -------------------------------------------------------------------------------------
#
# The client's own `http_backoff` repeats single requests, and creating a repository, committing and reading a file do not
# use it. A general retry library would need the same two decisions from us (which errors pass, how long the Hub asks to
# wait); what is left is the loop.


def with_retries(call: Callable[[], Result], what: str, *, retries: int = RETRIES, wait: float = 1.0) -> Result:
    """
    Call a function, and call it again after errors that may pass.

    Args:
        call (`Callable`): A function without arguments that may be repeated.
        what (`str`): What it does, for the log.
        retries (`int`, *optional*, defaults to 5): Calls after the first.
        wait (`float`, *optional*, defaults to 1.0): Seconds before the first repetition; then twice as long each time, and
            never shorter than the Hub asks for, up to 60.

    Returns:
        What `call` returns.

    Raises:
        Exception: The last error, or the first one that would not pass.
    """
    for attempt in range(retries + 1):
        try:
            return call()
        except Exception as error:
            if attempt == retries or not may_pass(error):
                raise
            seconds = min(max(wait * 2**attempt, _asked_for(error)), LONGEST_WAIT)
            logger.warning("%s failed (%s); trying again in %.0f s.", what, summary(error), seconds)
            time.sleep(seconds)
    raise ValueError(f"retries is {retries}; give 0 or more.")


def may_pass(error: BaseException) -> bool:
    """Return whether a call with this `error` may succeed later: busy server, broken connection, truncated answer."""
    if isinstance(error, OfflineModeIsEnabled):
        return False
    if isinstance(error, (json.JSONDecodeError, ConnectionError, TimeoutError)):
        return True
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        # A download that could not reach the Hub says only that the file is not in the cache.
        return may_pass(error.__cause__)
    if not isinstance(error, HTTPError):
        return False
    response = getattr(error, "response", None)
    return response is None or response.status_code in PASSING


def summary(error: BaseException) -> str:
    """Return the first line of an `error`, with its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _asked_for(error: BaseException) -> float:
    headers: Any = getattr(getattr(error, "response", None), "headers", {}) or {}
    value = str(headers.get("Retry-After", ""))
    return float(value) + 1 if value.isdigit() else 0.0
