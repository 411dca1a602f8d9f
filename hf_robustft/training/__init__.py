# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The Trainer that sums named objectives, its arguments, and the methods composed from them."""
