# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Answers on the disk: whole parts while a run goes on, one file in the end. What was written stays, whatever ends the process.

Beside `answers.csv` lies meanwhile the folder `.answers.csv.parts`. In it are a record of the model, the images and the options,
the list of the images, and parts: files of some hundred answers, whole or not there, whose names say how far the images were
read. A run that is begun again goes on after the last part. In the end the parts become the one file, which gets its place by one
rename, and the folder goes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..files import put_in_place, whole_file, write_whole
from ..locks import LOCK
from .answer_tables import Columns, is_summary, save_answers
from .image_sources import START, Place, as_list, list_hash, names_in
from .output_names import working_folder

_FORMAT = 1
_RECORD, _NAMES, _FINISHED = "run.json", "images", "finished.json"
#: By what a part knows the file of an answer again; no column of the one file.
STATE = "state"
_PART = re.compile(r"(\d{12})-(\d{12})-(\d+)-(\d+)-([0-9a-f]{16})\.jsonl")


class AnswerFiles:
    """
    The answers of one run. Whoever writes holds the lock of the folder.

    Args:
        output (`str` or `Path`): The file that they become.

    Attributes:
        folder (`Path`): Where the parts are.
        names (`Path`): The file with the list of the images, if they are files.
    """

    def __init__(self, output: str | Path):
        self.output = Path(output).expanduser()
        self.folder = working_folder(output)
        self.names = self.folder / _NAMES
        self._written = self.folder / f"answers{self.output.suffix.lower()}"

    @property
    def record(self) -> dict[str, Any] | None:
        """Of which model, images and options the answers in the folder are; `None` if it holds no run. Raises ValueError if it is damaged."""
        return self._read(_RECORD)

    @property
    def finished(self) -> dict[str, Any] | None:
        """As [`record`], of a run all of whose answers are in the one file, which may have got its place."""
        return self._read(_FINISHED)

    def begin(self, record: Mapping[str, Any], names: Sequence[str] | None) -> None:
        """Remove what is there, and write the `record` of a new run, and the `names` of its files, if they are files."""
        self.remove()
        if names is not None:
            with whole_file(self.names) as half:
                half.write_bytes(as_list(names))
        facts = {"format": _FORMAT, "list": None if names is None else list_hash(names), **record}
        # Last: where it is, the list is whole.
        write_whole(self.folder / _RECORD, json.dumps(facts, indent=1) + "\n")

    def reached(self) -> Place:
        """How far the images are answered. Raises ValueError if a part is missing or damaged, or the list of the images is."""
        known = (self.record or {}).get("list")
        if known is not None and (not self.names.is_file() or list_hash(names_in(self.names)) != known):
            raise self._damaged(self.names, "it is not the list that was written")
        for _ in self.answers():
            # Now, and not when all the others are answered.
            pass
        parts = self._parts()
        return parts[-1][1] if parts else START

    def add(self, answers: Sequence[Mapping[str, Any]], before: int, after: Place) -> None:
        """
        Write a part.

        Args:
            answers (`Sequence[Mapping[str, Any]]`): At least one.
            before (`int`): Images that were answered before.
            after ([`Place`]): How far the images are answered with these.
        """
        content = "".join(f"{json.dumps(answer)}\n" for answer in answers)
        name = f"{before:012}-{after.count:012}-{after.shard}-{after.row}-{_hash(content.encode())}.jsonl"
        write_whole(self.folder / name, content)

    def answers(self) -> Iterator[dict[str, Any]]:
        """All answers in the order of the images. Raises ValueError if a part is missing or damaged."""
        for answer in self._rows():
            answer.pop(STATE, None)
            yield answer

    def changed(self) -> list[str]:
        """
        The files that were answered and are others now: neither those that are gone, nor those that could not be read, nor copies of the
        same with another time. Raises ValueError as [`~AnswerFiles.answers`].
        """
        pairs = zip(names_in(self.names), self._rows(), strict=False)
        return [name for name, row in pairs if row.get(STATE) is not None and row["error"] is None and _is_other(name, row[STATE])]

    def _rows(self) -> Iterator[dict[str, Any]]:
        for path, _ in self._parts():
            content = path.read_bytes()
            if _hash(content) != path.stem.rpartition("-")[2]:
                raise self._damaged(path, "it is not what was written")
            yield from map(json.loads, content.splitlines())

    def write(self, columns: Columns) -> None:
        """Make the one file of all parts, and note that it is made."""
        save_answers(self._written, self.answers, columns)
        write_whole(self.folder / _FINISHED, json.dumps({**(self.record or {}), "summary": columns.summary}, indent=1) + "\n")

    def waits(self) -> bool:
        """Whether the one file is made, and has not got its place."""
        return self.finished is not None and self._written.is_file()

    def put(self) -> None:
        """Give the one file its place, unless it has it."""
        if self._written.is_file():
            put_in_place(self._written, self.output)

    def remove(self) -> None:
        """Remove all that is in the folder, but for its lock."""
        if not self.folder.is_dir():
            return
        # What says that all is done, last: until then it is known.
        for path in sorted(self.folder.iterdir(), key=lambda path: path.name == _FINISHED):
            if path.name == LOCK:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def remove_folder(self) -> None:
        """Remove the folder itself, if it is empty; after its lock was given back."""
        with suppress(OSError):
            self.folder.rmdir()

    def _parts(self) -> list[tuple[Path, Place]]:
        found, before = [], 0
        names = sorted(path.name for path in self.folder.iterdir() if _PART.fullmatch(path.name))
        for name in names:
            first, *place = map(int, _PART.fullmatch(name).groups()[:-1])
            if first != before or place[0] <= first:
                raise self._damaged(self.folder / name, f"the answers from {before} to {first} are missing")
            before = place[0]
            found.append((self.folder / name, Place(*place)))
        return found

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, dict) or found.get("format") != _FORMAT:
                raise ValueError("Another version wrote it")
            if name == _FINISHED and not is_summary(found.get("summary")):
                raise ValueError("It has no summary")
        except (ValueError, RecursionError) as error:
            raise self._damaged(path, error) from None
        return found

    def _damaged(self, path: Path, why: object) -> ValueError:
        reason = " ".join(str(why).split())[:200]
        return ValueError(
            f"{path} is damaged ({reason}); start again with --overwrite, or remove the folder {self.folder.name} beside {self.output.name}."
        )


def state_of(path: str) -> list[int] | None:
    """Size and time of the file at a `path`; `None` if it cannot be seen."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return [found.st_size, found.st_mtime_ns]


def digest_of(path: str) -> str | None:
    """A hash of the content of the file at a `path`; `None` if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except (OSError, ValueError):
        return None


def _is_other(path: str, known: list) -> bool:
    now = state_of(path)
    if now is None or now == known[:2]:
        return False
    # Images that are fetched once more, as on the machine that takes the place of an interrupted one, have new times.
    return now[0] != known[0] or len(known) < 3 or digest_of(path) != known[2]


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
