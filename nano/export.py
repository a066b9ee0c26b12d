"""Writes what was trained as a checkpoint and as a model directory: `python -m nano.export --work DIR`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from nano import checkpoint, whisper
from nano.model import Nano


def export(work: Path, whisper_model: Path, out: Path, llm: str, audio: str) -> int:
    """Exports DIR/train/state.pt; returns the step that it had."""
    sizes = checkpoint.Sizes()
    state = torch.load(work / "train" / "state.pt", weights_only=True)
    model = Nano(sizes)
    model.load_state_dict(state["model"])
    tensors = model.tensors() | whisper.encoder_tensors(whisper_model)
    checkpoint.write_checkpoint(work / "checkpoint", tensors, sizes)
    checkpoint.convert_checkpoint(work / "checkpoint", out, llm, audio)
    return int(state["step"])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument(
        "--whisper", type=Path, required=True, help="model.bin of tiny.en in CTranslate2's format"
    )
    parser.add_argument("--out", type=Path, help="the model directory; default: DIR/model-LLM-AUDIO")
    parser.add_argument("--llm", default="Q8_0")
    parser.add_argument("--audio", default="Q8_0")
    options = parser.parse_args()
    out = options.out or options.work / f"model-{options.llm}-{options.audio}"
    step = export(options.work, options.whisper, out, options.llm, options.audio)
    size = sum(path.stat().st_size for path in out.rglob("*.gguf"))
    print(f"{out}: step {step}, {size / 1e6:.1f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()
