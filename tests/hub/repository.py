# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What the loopback Hub keeps: files, commits, branches and who may see them. No HTTP here."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field
from functools import cached_property

#: Stored outside git whatever their size, as a new repository on the Hub does.
LARGE_FILE_ENDINGS = (".bin", ".parquet", ".safetensors", ".pt", ".tar", ".zip", ".gz", ".arrow", ".npy", ".npz")
TIME = "2026-01-01T00:00:00.000Z"
_counter = itertools.count(1)


class Refusal(Exception):
    """An answer that is no success: status, the Hub's error code, a sentence, and headers or fields beside it."""

    def __init__(self, status: int, sentence: str, code: str | None = None, headers=None, **fields):
        super().__init__(sentence)
        self.status, self.fields = status, {"error": sentence, **fields}
        self.headers = {"X-Error-Message": sentence, **({"X-Error-Code": code} if code else {}), **(headers or {})}


@dataclass(frozen=True)
class Account:
    """Who a token speaks for."""

    name: str
    orgs: tuple[str, ...] = ()
    role: str = "write"

    @classmethod
    def of(cls, description) -> Account:
        """From a name, or a mapping with `name` and, where they matter, `orgs` and `role`."""
        if isinstance(description, str):
            return cls(description)
        return cls(description["name"], tuple(description.get("orgs", ())), description.get("role", "write"))

    def owns(self, repo_id: str) -> bool:
        return repo_id.split("/")[0] in (self.name, *self.orgs)


@dataclass(frozen=True)
class Stored:
    """One version of one file. Git knows a large file by its pointer."""

    content: bytes
    large: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        size = len(self.content)
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {size}\n".encode()

    @cached_property
    def git_oid(self) -> str:
        in_git = self.pointer if self.large else self.content
        return hashlib.sha1(b"blob %d\0%b" % (len(in_git), in_git)).hexdigest()

    def entry(self, path: str) -> dict:
        entry = {"type": "file", "path": path, "oid": self.git_oid, "size": len(self.content)}
        if self.large:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": len(self.pointer)}
        return entry


@dataclass(frozen=True)
class Commit:
    """A state of all files."""

    files: dict[str, Stored]
    title: str
    parent: str | None

    @cached_property
    def sha(self) -> str:
        return hashlib.sha1(f"{next(_counter)} {self.title} {self.parent}".encode()).hexdigest()


@dataclass
class Repository:
    """A model or data set repository."""

    type: str
    id: str
    private: bool = False
    gated: bool | str = False
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    def __post_init__(self):
        self.add("main", {}, "initial commit")

    @property
    def address(self) -> str:
        return self.id if self.type == "model" else f"{self.type}s/{self.id}"

    def add(self, branch: str, files: dict[str, Stored], title: str) -> Commit:
        commit = Commit(dict(files), title, self.branches.get(branch))
        self.commits[commit.sha] = commit
        self.branches[branch] = commit.sha
        return commit

    def at(self, revision: str) -> Commit:
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[sha]

    def history(self, branch: str = "main") -> list[Commit]:
        """The branch's commits, newest first."""
        found, sha = [], self.branches.get(branch)
        while sha is not None:
            found.append(self.commits[sha])
            sha = found[-1].parent
        return found

    def entries(self, revision: str, folder: str, recursive: bool) -> list[dict]:
        """Files and folders below a folder, as the tree listing shows them."""
        prefix = f"{folder.strip('/')}/" if folder else ""
        found: dict[str, dict] = {}
        for path, stored in sorted(self.at(revision).files.items()):
            if not path.startswith(prefix):
                continue
            *parents, _ = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parents) + 1):
                name = prefix + "/".join(parents[:depth])
                if depth == 1 or recursive:
                    found[name] = folder_entry(name)
            if recursive or not parents:
                found[path] = stored.entry(path)
        if folder and not found:
            raise Refusal(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        return list(found.values())

    def described(self, revision: str) -> dict:
        commit = self.at(revision)
        return {
            "_id": hashlib.sha1(self.address.encode()).hexdigest()[:24],
            "id": self.id,
            "author": self.id.split("/")[0],
            "sha": commit.sha,
            "private": self.private,
            "gated": self.gated,
            "disabled": False,
            "lastModified": TIME,
            "createdAt": TIME,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [
                {"rfilename": path, "size": len(stored.content), "blobId": stored.git_oid}
                for path, stored in sorted(commit.files.items())
            ],
        }


def folder_entry(path: str) -> dict:
    return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}
