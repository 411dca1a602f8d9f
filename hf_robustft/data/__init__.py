# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Images and captions: which data set, how an example is drawn from it, and how it becomes tensors."""
