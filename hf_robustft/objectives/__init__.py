# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""One idea, one file: the pure functions of an objective, then the mixin that hooks it into the Trainer."""
