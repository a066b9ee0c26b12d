"""Hugging Face checkpoints to GGUF files in the layout of the official set.

`python -m omni.convert HF_DIR OUT_DIR` is the command line; `convert()` does the same from Python. Needs the
extra `omni[convert]`.
"""

from omni.convert.job import Options, convert

__all__ = ["Options", "convert"]
