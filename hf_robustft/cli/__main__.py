# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`python -m hf_robustft.cli`."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
