# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
A Hub on the loopback interface for tests: enough of the HTTP protocol for unmodified huggingface_hub, datasets and
transformers, private and gated repositories, a log of the requests, and faults on demand. Everything is in memory.

    with LoopbackHub() as hub:                      # hub.url is the HF_ENDPOINT; needs HF_HUB_DISABLE_XET=1
        hub.seed("dataset", "alice/pictures", {"data/train.parquet": content}, private=True)
        hub.fail(r"GET .*/objects/", status=500, times=2)
        ...
        hub.files("model", "alice/clip"), hub.log
"""

from __future__ import annotations

import functools
import socket
import threading
from http.server import ThreadingHTTPServer

from hub.connection import Fault, Request
from hub.protocol import Protocol
from hub.repository import LARGE_FILE_ENDINGS, Account, Refusal, Repository, Stored

TOKENS = {
    "hf_alice": {"name": "alice", "orgs": ["acme"]},
    "hf_bob": "bob",
    "hf_alice_read": {"name": "alice", "role": "read"},
}


@functools.cache
def reserved() -> socket.socket:
    """Keeps a free port of this machine for the Hubs of this process."""
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    kept.bind(("127.0.0.1", 0))
    return kept


def own_port() -> int:
    """Where every Hub of this process listens, one at a time: clients read HF_ENDPOINT once, when they are imported."""
    return reserved().getsockname()[1]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_port = True


class LoopbackHub:
    """The server. Large files are served from another origin (`localhost` beside `127.0.0.1`), where no token goes."""

    def __init__(self, tokens=TOKENS, *, page_size: int = 1000, large_from: int = 100_000, port: int | None = None):
        self.accounts = {token: Account.of(description) for token, description in tokens.items()}
        self.page_size, self.large_from = page_size, large_from
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.received: list[bytes] = []
        self.log: list[Request] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        port = own_port() if port is None else port
        self._server = Server(("127.0.0.1", port), type("Bound", (Protocol,), {"hub": self}))
        self.url, self.objects_url = f"http://127.0.0.1:{port}", f"http://localhost:{port}/objects"

    def __enter__(self) -> LoopbackHub:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()

    def seed(self, type: str, id: str, files: dict[str, bytes], *, private=False, gated=False) -> Repository:
        """Make a repository, or add files to it, without HTTP."""
        repository = self.repositories.setdefault((type, id), Repository(type, id, private, gated))
        new = {path: Stored(content, self.is_large(path, len(content))) for path, content in files.items()}
        repository.add("main", {**repository.at("main").files, **new}, "seed")
        return repository

    def fail(self, pattern: str, status: int | None = None, **how) -> None:
        """
        Disturb requests whose `METHOD /path?query` matches: a `status` instead of the answer, `reset=True` for a
        connection that breaks before anything is done, `cut=n` for the true answer cut after n bytes, `delay=seconds`;
        `times`, `after` and `headers` as the names say.
        """
        self.faults.append(Fault(pattern, status, **how))

    def files(self, type: str, id: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a repository by path."""
        return {path: stored.content for path, stored in self.repositories[type, id].at(revision).files.items()}

    def everything(self) -> list[bytes]:
        """Every byte that clients sent, bodies and stored files, also those that no commit holds."""
        stored = [s.content for r in self.repositories.values() for c in r.commits.values() for s in c.files.values()]
        return [*self.received, *self.objects.values(), *stored]

    def is_large(self, path: str, size: int) -> bool:
        return size > 0 and (size >= self.large_from or path.endswith(LARGE_FILE_ENDINGS))

    def find(self, type: str, id: str, account: Account | None, write: bool = False) -> Repository:
        """The repository, if the account may read (or write) it."""
        repository = self.repositories.get((type, id))
        mine = account is not None and account.owns(id)
        if repository is None or (repository.private and not mine):
            raise Refusal(404 if account else 401, "Repository not found", "RepoNotFound")
        if write and not (mine and account.role == "write"):
            raise Refusal(403 if account else 401, "You don't have the rights to write to this repository")
        return repository
