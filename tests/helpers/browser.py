# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A page in headless Chromium: what a script sees of it."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome"))), None)
_ERRORS = '<script>const errors = []; addEventListener("error", (event) => errors.push(event.message));</script>'
_SEEN = """
const result = document.createElement("script");
result.type = "application/json";
result.id = "seen";
result.textContent = JSON.stringify(seen);
document.body.append(result);
"""


def seen_in_browser(page: Path, text: str, script: str, *options: str) -> dict[str, Any]:
    """What a `script` leaves in `seen`, run once the `text` of a `page` is loaded; it knows the `errors` that were raised."""
    text = text.replace("<style>", f"{_ERRORS}<style>", 1).replace("</body>", f'<script>addEventListener("load", () => {{{script}{_SEEN}}});</script></body>')
    page.write_text(text, encoding="utf-8")
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", *options, profile, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return json.loads(unescape(re.search('id="seen">(.*?)</script>', done.stdout, re.S)[1]))
