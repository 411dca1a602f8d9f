# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""From a finished checkpoint to answers about new images, without a Trainer."""
