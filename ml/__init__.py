"""Everything about the model that is neither a server's nor a terminal's: data, training, generation, merging."""

import os

# torch reads it once, as it is loaded: what Apple's GPU has no kernel for is then computed on the CPU.
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
