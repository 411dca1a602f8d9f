#!/usr/bin/env python
# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Make what the quick start is shown by: the model cards of its runs, its table in the guide, and the packaged checkpoint.

    python examples/make_model_cards.py

Each method is trained on Emoji Shift by its recipe, two to six minutes each on 2 CPU cores; a finished folder in `outputs` is
taken as it is. The card and its pictures go into `model_cards`. The first method is the quick start: its table goes into
`examples/guides/results.md`, and its weights into the package (`examples/emoji/package_checkpoint.py`).
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

from hf_robustft.evaluation.report import load_reports

REPOSITORY = Path(__file__).resolve().parents[1]
GUIDE = REPOSITORY / "examples" / "guides" / "results.md"
QUICK_START = "carot"
METHODS = (QUICK_START, "croft", "carot+croft", "tracer")


def finished(method: str) -> Path:
    """The folder of the run of a method, which is made if it is not there."""
    folder = REPOSITORY / "outputs" / method
    if not (folder / "evaluation.json").is_file():
        given = [] if method == QUICK_START else ["--method", method]
        launch = ["accelerate", "launch", "--num_cpu_threads_per_process", "2", "examples/run_robust_ft.py", *given]
        subprocess.run(launch, cwd=REPOSITORY, check=True)  # noqa: S603 (words, no shell)
    return folder


def copy_card(folder: Path) -> None:
    """Put the card and the pictures of a finished folder in the place of those in `model_cards`."""
    target = REPOSITORY / "model_cards" / folder.name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in (folder / "README.md", *sorted(folder.glob("*.png"))):
        shutil.copyfile(path, target / path.name)


def with_table(page: str, table: str) -> str:
    """A page with another table of the quick start in its one listing that begins with zero-shot."""
    changed, found = re.subn(r"^```\nzero-shot → .*?^```$", lambda _: f"```\n{table}\n```", page, flags=re.DOTALL | re.MULTILINE)
    if found != 1:
        raise ValueError(f"The page has {found} listings that begin with 'zero-shot → '; it must have one.")
    return changed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="all by default")
    for method in parser.parse_args().methods:
        folder = finished(method)
        copy_card(folder)
        if method == QUICK_START:
            baseline, report = load_reports(folder / "evaluation.json")
            table = report.table(baseline=baseline).rstrip("\n")
            GUIDE.write_text(with_table(GUIDE.read_text(encoding="utf-8"), table), encoding="utf-8")
            script = REPOSITORY / "examples" / "emoji" / "package_checkpoint.py"
            subprocess.run([sys.executable, str(script), "--run", str(folder)], check=True)  # noqa: S603 (words, no shell)


if __name__ == "__main__":
    main()
