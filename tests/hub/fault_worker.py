# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Uploads through every fault at every place, with the Hub in the same process: `python -m hub.fault_worker <folder>`.

Prints what came of each as JSON. Nothing waits: the seconds that would have been slept are written down instead.
"""

import contextlib
import hashlib
import io
import json
import os
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from helpers import tiny_config, tiny_processor
from huggingface_hub import snapshot_download
from transformers import CLIPModel

from hf_robustft.cli import main as command
from hf_robustft.publishing.hub import publish
from hf_robustft.publishing.progress_card import write_progress_card
from hub.loopback import LoopbackHub
from hub.push_worker import train

HUB = LoopbackHub(port=urlsplit(os.environ["HF_ENDPOINT"]).port)

PLACES = {
    "create": "POST /api/repos/create",
    "look": r"GET /api/models/alice/[\w-]+(/revision/main)?$",
    "list": "GET .*/tree/",
    "read the card": r"GET .*/resolve/.*/README\.md",
    "validate": "POST /api/validate-yaml",
    "preupload": "POST .*/preupload/",
    "batch": "POST .*/objects/batch",
    "put": "PUT /objects/",
    "verify": "POST /lfs-verify",
    "commit": "POST .*/commit/",
}
FAULTS = {
    "500": {"status": 500},
    "503 twice": {"status": 503, "times": 2},
    "429": {"status": 429, "headers": {"Retry-After": "3"}},
    "reset": {"reset": True},
    "cut": {"cut": 3},
}
slept: list[float] = []


def local(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def whole(folder: Path, repo_id: str) -> bool:
    there = HUB.files("model", repo_id)
    return all((folder / name).read_bytes() == content for name, content in there.items()) and len(there) > 5


def finished_folder(folder: Path, step: int) -> Path:
    model = CLIPModel(tiny_config())
    model.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    write_progress_card(folder, title="clip", method="carot", step=step, total_steps=9)
    return folder


def uploads(folder: Path) -> list[dict]:
    results = []
    old, new = finished_folder(folder / "old", 1), finished_folder(folder / "new", 2)
    before, earlier = local(new), {path.name: path.read_bytes() for path in old.iterdir()}
    for place, pattern in PLACES.items():
        for fault, how in FAULTS.items():
            repo_id = f"alice/{place}-{fault}".replace(" ", "-")
            HUB.seed("model", repo_id, earlier)
            # Objects are stored once for all repositories, and what is there is not sent.
            HUB.objects.clear()
            commits = len(HUB.repositories["model", repo_id].commits)
            start, first = len(HUB.log), len(slept)
            HUB.fail(pattern, **how)
            try:
                publish(new, repo_id)
                outcome = "whole" if whole(new, repo_id) else "not whole"
            except Exception as error:
                outcome = f"{type(error).__name__}: {error}"
            hits = [r for r in HUB.log[start:] if r.status in (500, 503, 429, "RESET")]
            HUB.faults.clear()
            results.append(
                {
                    "place": place,
                    "fault": fault,
                    "outcome": outcome,
                    "commits": len(HUB.repositories["model", repo_id].commits) - commits,
                    "local": local(new) == before,
                    "struck": len(hits) if fault != "cut" else 1,
                    "slept": slept[first:],
                }
            )
    return results


def lasting(folder: Path) -> dict:
    """A Hub that never takes a commit: the error, the folder, and the way out that the error names."""
    out = finished_folder(folder / "lasting", 3)
    before = local(out)
    HUB.fail(PLACES["commit"], 500, times=10**6)
    error = io.StringIO()
    with contextlib.redirect_stderr(error):
        status = command(["publish", str(out), "--repo_id", "alice/lasting", "--retries", "1"])
    failed = {"status": status, "error": error.getvalue(), "local": local(out) == before}
    HUB.faults.clear()
    with contextlib.redirect_stdout(io.StringIO()):
        again = command(["publish", str(out), "--repo_id", "alice/lasting"])
    return {**failed, "again": again, "whole": whole(out, "alice/lasting")}


def downloads(folder: Path) -> dict:
    """What a user does with faults on the way down, from a repository that we made."""
    publish(folder / "new", "alice/down")
    HUB.fail(r"GET /objects/", cut=50_000)
    path = snapshot_download("alice/down", cache_dir=folder / "cache")
    return {
        "whole": (Path(path) / "model.safetensors").read_bytes() == (folder / "new/model.safetensors").read_bytes()
    }


def run_of_the_trainer(folder: Path, name: str, faults: list[dict]) -> dict:
    out = folder / name
    for fault in faults:
        HUB.fail(**fault)
    settings = {"output_dir": str(out), "hub_model_id": f"alice/{name}", "eval_strategy": "steps", "eval_steps": 2}
    outcome = "ended"
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            train(settings)
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
    HUB.faults.clear()
    try:
        CLIPModel.from_pretrained(out)
    except OSError as error:
        # What went wrong before says more than a model that is not there.
        raise AssertionError(f"{outcome}; {error}") from None
    files = sorted(local(out))
    there = ("model", f"alice/{name}") in HUB.repositories and whole(out, f"alice/{name}")
    return {"outcome": outcome, "local": files, "whole": there}


def main(folder: Path) -> dict:
    time.sleep = slept.append
    with HUB:
        shaky = [{"pattern": PLACES[place], **how} for place, how in zip(PLACES, [*FAULTS.values()] * 2, strict=True)]
        return {
            "uploads": uploads(folder),
            "lasting": lasting(folder),
            "downloads": downloads(folder),
            "shaky run": run_of_the_trainer(folder, "shaky", shaky),
            "lost run": run_of_the_trainer(
                folder, "lost", [{"pattern": PLACES["commit"], "status": 500, "times": 9**9}]
            ),
        }


if __name__ == "__main__":
    print("\n" + json.dumps(main(Path(sys.argv[1]))))
