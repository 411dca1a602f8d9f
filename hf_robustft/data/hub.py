# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The one test for an id of a data set on the Hub, whether the Hub can be asked at all, and of which commit a data set is."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import datasets
from huggingface_hub import HfApi, constants, hf_hub_download, metadata_load
from huggingface_hub.errors import EntryNotFoundError, HTTPError, LocalEntryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import get_session

from .messages import beside, say_once
from .pinned import keep_silent, pin, pinned, pinning, silent

#: Seconds after which the Hub counts as out of reach. Its own client would try for half a minute, once per question.
_PATIENCE = 5.0
#: Repository, commit and path of a file, by the address that `datasets` has for it.
_ON_HUB = re.compile(r"hf://datasets/([^@]+)@([0-9a-f]{40})/(.+)")
#: Of data sets of more files it would take too long to list them all once more.
_MANY_FILES = 20_000


def is_hub_id(path: str) -> bool:
    """Whether a path has the form owner/name."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", path) is not None


def require_hub(path: str) -> None:
    """
    Refuse at once what cannot be a data set of the Hub, or cannot be loaded from there now.

    Args:
        path (`str`): What was given as a path and does not exist on this machine.

    Raises:
        OSError: It does not have the form owner/name; there is a folder of a name like it; or the Hub does not answer
            and there is no copy in the cache.
    """
    if not is_hub_id(path):
        raise FileNotFoundError(
            f"The path {path!r} does not exist{beside(path) or '; give a folder, a .parquet file or a Hub id owner/name.'}"
        )
    if is_cached(path):
        return
    owner, name = Path(path).parent, Path(path).name
    if owner.is_dir() and (near := beside(path)):
        raise FileNotFoundError(f"The path {path!r} does not exist: the folder {str(owner)!r} has no {name!r}{near}")
    if constants.HF_HUB_OFFLINE:
        return
    reason = out_of_reach()
    if reason:
        raise OSError(
            f"No folder {path!r} here, and it cannot be loaded from the Hub, since {constants.ENDPOINT} is out of reach: {reason.rstrip('.')}"
            f"{beside(path) or '; correct the path, or try again with a connection.'}"
        )


_reached: set[str] = set()


def out_of_reach() -> str:
    """
    Why the Hub does not answer within seconds; `""` if it does, whatever it says, and where this process works offline. A command that
    has waited for it once does not wait again for a minute.
    """
    endpoint = constants.ENDPOINT
    if not constants.HF_HUB_OFFLINE and endpoint not in _reached:
        if reason := silent(endpoint):
            return reason
        try:
            get_session().head(endpoint, timeout=_PATIENCE)
        except Exception as error:
            # The library beneath, whose errors share no base with Python's, is another one in each version of the Hub's.
            reason = " ".join(str(error).split()) or type(error).__name__
            keep_silent(endpoint, reason)
            return reason
        _reached.add(endpoint)
    return ""


def is_cached(path: str) -> bool:
    """Return whether something of the Hub's data set `path` is on this machine."""
    owner, name = path.split("/")
    return (Path(constants.HF_HUB_CACHE) / f"datasets--{owner}--{name}").is_dir() or (
        Path(datasets.config.HF_DATASETS_CACHE) / f"{owner}___{name}".lower()
    ).is_dir()


def ask_commit(path: str, revision: str | None = None) -> str | None:
    """
    The commit that a revision of a data set stands for in this command, which the Hub is asked for once.

    Args:
        path (`str`): Hub id of the data set.
        revision (`str`, *optional*): A branch, tag or commit; the main branch by default.

    Returns:
        `str`, *optional*: `None` where the Hub does not say, and outside of a command.

    Raises:
        OSError: If the Hub gives the data set without its README.
    """
    if not pinning():
        return None
    name = f"datasets/{path}"
    if (known := pinned(name, revision)) == revision and (known := _commit_now(path, revision)) is not None:
        pin(name, revision, known)
    return known


def at_one_commit(path: str, revision: str | None = None) -> str | None:
    """
    The revision at which a data set is opened, so that one command reads one commit of it.

    Args:
        path (`str`): Hub id of the data set.
        revision (`str`, *optional*): As it was given.

    Returns:
        `str`, *optional*: `revision` as long as it stands for the commit that this command has begun with, later that commit.

    Raises:
        OSError: If the Hub gives the data set without its README.
    """
    name, now = f"datasets/{path}", _commit_now(path, revision)
    if not pinning():
        return revision
    if now is not None:
        pin(name, revision, now)
    known = pinned(name, revision)
    # Of the main branch alone `datasets` knows what the Hub's viewer has counted.
    return revision if known == now else known


def contents_digest(files: Sequence[str]) -> str | None:
    """
    A digest of the names and contents of files on the Hub, by the hashes that it has of them: nothing is downloaded.

    Args:
        files (`Sequence[str]`): Their addresses, of one commit of a data set, as `datasets` gives them.

    Returns:
        `str`, *optional*: The same for the same files at any commit; `None` for files elsewhere, and where the Hub does not say.
    """
    found = [_ON_HUB.fullmatch(file) for file in files]
    if not found or not all(found) or len({match.group(1, 2) for match in found if match}) != 1:
        return None
    repository, commit = found[0].group(1, 2)
    try:
        infos = HfApi().get_paths_info(repository, [match[3] for match in found], repo_type="dataset", revision=commit)
    except (OSError, RuntimeError, ValueError, HTTPError):
        return None
    held = sorted((info.path, info.blob_id) for info in infos if isinstance(info, RepoFile))
    return hashlib.sha256(repr(held).encode()).hexdigest()[:16] if len(held) == len(found) else None


def unread_files(files: Sequence[str]) -> list[str]:
    """
    Files of a data set on the Hub that are in none of its splits: `datasets` tells splits by words in names, and one file called like a test
    hides all others.

    Args:
        files (`Sequence[str]`): The addresses of those in a split, as `datasets` gives them.

    Returns:
        `list[str]`: Of the same endings. None where the README says which files the data set has, and where the Hub does not answer, which is said.
    """
    found = [match for file in files if (match := _ON_HUB.fullmatch(file))]
    if not found or len(found) > _MANY_FILES:
        return []
    repository, commit = found[0].group(1, 2)
    read = {match[3] for match in found}
    endings = {Path(name).suffix.lower() for name in read}
    try:
        held = _all_files(repository, commit)
    except (OSError, RuntimeError, ValueError, HTTPError) as error:
        if not constants.HF_HUB_OFFLINE and not out_of_reach():
            say_once(f"{repository}: whether files of it are in none of its splits could not be found out: {_why(error)}.")
        return []
    left = (name for name in held if name not in read and not any(part.startswith(".") for part in Path(name).parts))
    return [name for name in left if Path(name).suffix.lower() in endings]


@functools.lru_cache(maxsize=16)
def _all_files(repository: str, commit: str) -> list[str]:
    """The files of a data set at a commit; none where its README says which ones count."""
    names = HfApi().list_repo_files(repository, repo_type="dataset", revision=commit)
    if "README.md" in names:
        readme = hf_hub_download(repository, "README.md", repo_type="dataset", revision=commit)
        if "configs" in (metadata_load(readme) or {}):
            return []
    return names


def check_commit(path: str | None, revision: str | None, commit: str | None) -> None:
    """
    Refuse data that were opened at another commit than this command has begun with.

    Args:
        path (`str`, *optional*): Hub id of the data set, or another place, of which nothing is said.
        revision (`str`, *optional*): As it was given.
        commit (`str`, *optional*): That of the rows, where it is known.

    Raises:
        OSError: If it is another one: somebody has written to the data set just when it was opened.
    """
    known = pinned(f"datasets/{path}", revision)
    if commit is not None and known is not None and known not in (revision, commit):
        raise OSError(
            f"The data set {path!r} changed on the Hub from commit {known[:8]} to {commit[:8]} while it was opened; run the command again."
        )


def _commit_now(path: str, revision: str | None) -> str | None:
    """Ask as `datasets` does, by the README where there is one. Raises OSError if the Hub gives the data set without it."""
    # What `datasets` reads from its cache on purpose is of whatever commit it has.
    if constants.HF_HUB_OFFLINE or datasets.config.HF_DATASETS_OFFLINE or out_of_reach():
        return None
    try:
        return Path(hf_hub_download(path, "README.md", repo_type="dataset", revision=revision)).parent.name
    except LocalEntryNotFoundError as error:
        commit = _commit_without_readme(path, revision)
        if commit is None or getattr(getattr(error.__cause__, "response", None), "status_code", None) == 404:
            # Of a mirror, which does not say what is missing.
            return commit
        # `datasets` would go on as if there were none, with other splits and class names than it says.
        raise OSError(
            f"README.md of the data set {path!r}, which may say what its splits and classes are, cannot be fetched: {_why(error)}; try again later."
        ) from error
    except EntryNotFoundError:
        return _commit_without_readme(path, revision)
    except (OSError, RuntimeError, ValueError, HTTPError):
        # Opening the data says what is wrong.
        return None


def _commit_without_readme(path: str, revision: str | None) -> str | None:
    try:
        return HfApi().dataset_info(path, revision=revision).sha
    except (OSError, RuntimeError, ValueError, HTTPError):
        # As above; `datasets` may have the data in its cache.
        return None


def _why(error: Exception) -> str:
    """What the Hub answered, in one line without a full stop."""
    return " ".join(str(error.__cause__ or error).split()).rstrip(".")
