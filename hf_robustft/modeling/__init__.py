# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""From a model to unit-norm embeddings, and from class names to a classification head."""
