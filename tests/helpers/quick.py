# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""How long a command may take to answer, and how long it took."""

import json
import resource
import subprocess

from hf_robustft.cli.description import FLAGS_FILE, transformers_hash

#: A Transformers that declares other flags than that of `constraints.txt` is not described: the real parsers are asked.
DESCRIBED = json.loads(FLAGS_FILE.read_text(encoding="utf-8"))["transformers_hash"] == transformers_hash()
#: Seconds of a processor in which a help or a wrong command line is answered.
LIMIT = 2 if DESCRIBED else 30


def seconds(command, **settings):
    """A finished process, and the seconds of processor time that it took: the clock would measure the machine's load."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **settings)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
