"""Training code and engine on the same scenes, and what quantisation does: `python -m nano.agree --work DIR`.

The engine decides greedily; the network is then given what the engine fed and must choose the same tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import omni
from nano.checkpoint import Sizes
from nano.clips import clip_path, load_clips
from nano.model import Nano
from nano.scenes import SceneMaker
from nano.voices import RATE, SPLITS
from omni import _ext
from omni.prompts import default_duplex_prompt

UNITS = 30  # fewer than fill the window, which the network has not
_FIRST_SEED = 60_000_000


class Engine:
    """A model directory, deciding greedily."""

    def __init__(self, directory: Path) -> None:
        self.model = omni.MiniCPMO.from_pretrained(directory, n_ctx=1024, n_threads=1, kv_type="f32")
        options = _ext.DuplexOptions()
        # greedy, and nothing that changes logits: no penalties
        options.set_sampling(True, 1.0, 0, 1.0, 1.0, 512, 1.0, 1.0, None, 0)
        self._logic = _ext.DuplexLogic(self.model.llm._model, self.model.tokenizer, options)
        self._stream = self.model.require_audio().stream("duplex")

    def run(self, wave: NDArray[np.float32]) -> tuple[list[list[int]], NDArray[np.float32]]:
        """What is generated in each unit, `</unit>` included, and the ear's features [50 * units, 384]."""
        self._stream.reset()
        self._logic.prepare(f"<|im_start|>system\n{default_duplex_prompt()}", None, "<|im_end|>", "")
        ids, features = [], []
        for first in range(0, UNITS * RATE, RATE):
            self._logic.prefill([], self._stream.push(wave[first : first + RATE]), [])
            features.append(self._stream._stream._encoded())
            ids.append(list(self._logic.generate().ids))
        return ids, np.concatenate(features)


def agreement(
    network: Nano, tokenizer: _ext.Tokenizer, ids: list[list[int]], features: NDArray[np.float32]
) -> list[bool]:
    """For each unit whether the network would have generated the same."""
    unk, unit = tokenizer.required_id("<unk>"), tokenizer.required_id("<unit>")
    listen, tts_bos = tokenizer.required_id("<|listen|>"), tokenizer.required_id("<|tts_bos|>")
    row_ids = tokenizer.encode(f"<|im_start|>system\n{default_duplex_prompt()}")
    row_ids += tokenizer.encode("<|im_end|>")
    places = []  # of each unit: rows that predict, and what they predicted
    for generated in ids:
        row_ids += [unit] + [unk] * 10
        first = len(row_ids) - 1
        places.append([(first + i, token) for i, token in enumerate(generated[:-1])])
        row_ids += generated
    batch = torch.tensor(row_ids)[None]
    rows = torch.tensor([row for place in places for row, _ in place])
    with torch.no_grad():
        logits = network(batch, torch.from_numpy(features), batch == unk, rows)[0]
    best = iter(logits.argmax(-1).tolist())
    out = []
    for place in places:
        chosen = [(next(best), token) for _, token in place]
        # In an open turn the session replaces <|listen|>.
        out.append(all(b == t or (b == listen and t == tts_bos) for b, t in chosen))
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="exported as F32")
    parser.add_argument("--other", type=Path, help="the same weights quantised")
    parser.add_argument("--scenes", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = Nano(Sizes()).eval()
    state = torch.load(options.work / "train" / "state.pt", weights_only=True)
    network.load_state_dict(state["model"])
    engine = Engine(options.model)
    other = None if options.other is None else Engine(options.other)
    voices = [v for v in SPLITS["dev"] if clip_path(options.work, v).exists()]
    maker = SceneMaker({v: load_clips(options.work, v) for v in voices}, UNITS)
    same, drift = [], []
    for i in range(options.scenes):
        wave = maker.make(_FIRST_SEED + i).wave
        ids, features = engine.run(wave)
        same += agreement(network, engine.model.tokenizer, ids, features)
        if other is not None:
            drift += [a == b for a, b in zip(ids, other.run(wave)[0], strict=True)]
    report = {"units": len(same), "network and engine agree": float(np.mean(same))}
    if drift:
        report["quantised agrees"] = float(np.mean(drift))
    print(json.dumps(report), file=sys.stdout)


if __name__ == "__main__":
    main()
