"""Trains projector and language model on cached features: `python -m nano.train --work DIR --steps N`.

Goes on from DIR/train/state.pt if it is there. One thread.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from nano.checkpoint import Sizes
from nano.items import Item, Question, load_shard
from nano.language import all_pairs
from nano.model import Nano, Recogniser
from nano.sequences import WORD_NUMBERS, Batch, Sequence, Sequencer, collate, first_units
from omni import _ext

BATCH_ROWS = 3400
_SAVE_EVERY, _REPORT_EVERY = 50, 10
_RECOGNISE = 0.2  # weight of the recogniser's loss
# Shares of steps.
_DUPLEX, _AUDIO_CHAT = 0.62, 0.2


class Data:
    """What has been made so far; looks for more from time to time."""

    def __init__(self, folder: Path, sequencer: Sequencer) -> None:
        self.folder, self.sequencer = folder, sequencer
        self.items: list[tuple[Item, list[int]]] = []
        self.questions: list[Question] = []
        self.pairs = [pair for pair in all_pairs() if not pair.held]
        self._seen: set[Path] = set()

    def refresh(self) -> None:
        """Loads the shards that are new."""
        for path in sorted(self.folder.glob("*.pkl")):
            if path in self._seen:
                continue
            self._seen.add(path)
            for item in load_shard(path):
                if isinstance(item, Question):
                    self.questions.append(item)
                else:
                    self.items.append((item, first_units(item)))

    def batch(self, step: int) -> Batch:
        """The batch of a step: always the same, but for what has been added since."""
        draws = random.Random(f"batch {step}")
        kind = draws.random()
        sequences: list[Sequence] = []
        rows = 0
        while rows < BATCH_ROWS - 200:
            if kind < _DUPLEX:
                item, starts = draws.choice(self.items)
                first = 0 if draws.random() < 0.5 else draws.choice(starts or [0])
                sequence = self.sequencer.duplex(item, first, len(item.say))
            elif kind < _DUPLEX + _AUDIO_CHAT:
                sequence = self.sequencer.audio_chat(draws.choice(self.questions), draws)
            else:
                sequence = self.sequencer.text_chat(self.pairs, draws)
            sequences.append(sequence)
            rows += len(sequence.ids)
        return collate(sequences, self.sequencer.id["<unk>"])


def run(model: Nano, recogniser: Recogniser, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [n, vocabulary] of the batch's rows, and the loss of the words that are heard."""
    with torch.autocast("cpu", torch.bfloat16):
        logits, half = model(batch.ids, batch.features, batch.is_audio, batch.rows)
        spoken = bool(batch.is_audio.any())
        words = recogniser.loss(half, batch.is_audio, batch.words) if spoken else torch.zeros(())
    return logits.float(), words


def make_optimizers(model: Nano) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the network, AdamW for tables and vectors."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        table = "embed_tokens" in name or "lm_head" in name
        (matrices if parameter.ndim == 2 and not table else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=4e-3, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=3e-3, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


def rate(step: int, steps: int, decay: float) -> float:
    """Share of the learning rate: a short rise, a plateau, a straight fall at the end."""
    rise = min(1.0, (step + 1) / 40)
    fall = min(1.0, (steps - step) / max(1.0, decay * steps))
    return rise * max(fall, 0.02)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True, help="in all, those before a restart included")
    parser.add_argument(
        "--decay", type=float, default=0.35, help="share of the steps in which the rate falls"
    )
    parser.add_argument("--stop-at", type=int, help="stop at this step, to go on later")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    folder = options.work / "train"
    folder.mkdir(parents=True, exist_ok=True)
    sequencer = Sequencer(_ext.Tokenizer(next((options.work / "base-gguf").glob("*.gguf"))))
    data = Data(options.work / "features" / "train", sequencer)
    model = Nano(Sizes(), dropout=0.1)
    recogniser = Recogniser(Sizes(), len(WORD_NUMBERS))
    optimizers = make_optimizers(model)
    optimizers.append(torch.optim.AdamW(recogniser.parameters(), lr=3e-3, weight_decay=0.0))
    base_rates = [group["lr"] for o in optimizers for group in o.param_groups]
    step = 0
    state_path = folder / "state.pt"
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        recogniser.load_state_dict(state["recogniser"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step = state["step"]
    print(
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, step {step}", file=sys.stderr
    )
    last = min(options.steps, options.stop_at or options.steps)
    losses: dict[str, list[float]] = {}
    begin = time.process_time()
    with (folder / "curve.jsonl").open("a") as curve:
        while step < last:
            if step % _SAVE_EVERY == 0 or not data.items:
                data.refresh()
            batch = data.batch(step)
            for group, base in zip((g for o in optimizers for g in o.param_groups), base_rates, strict=True):
                group["lr"] = base * rate(step, options.steps, options.decay)
            logits, words = run(model, recogniser, batch)
            each = F.cross_entropy(logits, batch.targets, reduction="none")
            loss = (each * batch.weights).sum() / batch.weights.sum()
            (loss + _RECOGNISE * words).backward()
            if batch.features.shape[0]:
                losses.setdefault("recognise.loss", []).append(words.item())
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            _note(losses, batch, logits, each.detach(), sequencer)
            step += 1
            if step % _REPORT_EVERY == 0:
                record = {k: round(sum(v) / max(1, len(v)), 4) for k, v in losses.items()}
                record |= {
                    "step": step,
                    "cpu": round(time.process_time() - begin, 1),
                    "scenes": len(data.items),
                }
                curve.write(json.dumps(record) + "\n")
                curve.flush()
                print(record, file=sys.stderr, flush=True)
                losses.clear()
            if step % _SAVE_EVERY == 0 or step == last:
                save(state_path, model, recogniser, optimizers, step)


def _note(
    losses: dict[str, list[float]], batch: Batch, logits: torch.Tensor, each: torch.Tensor, s: Sequencer
) -> None:
    """Losses and hits by kind of prediction."""
    hit = (logits.argmax(-1) == batch.targets).float()
    speak = batch.targets == s.id["<|speak|>"]
    listen = batch.targets == s.id["<|listen|>"]
    kind = "duplex" if bool(listen.any()) else "audio" if len(batch.features) else "text"
    words = ~speak & ~listen
    for name, mask in ((f"{kind}.words", words), ("speak", speak), ("listen", listen)):
        if bool(mask.any()):
            losses.setdefault(f"{name}.loss", []).append(each[mask].mean().item())
            losses.setdefault(f"{name}.hit", []).append(hit[mask].mean().item())


def save(
    path: Path, model: Nano, recogniser: Recogniser, optimizers: list[torch.optim.Optimizer], step: int
) -> None:
    """Writes the state as a whole or not at all."""
    part = path.with_suffix(".part")
    state = {
        "model": model.state_dict(),
        "recogniser": recogniser.state_dict(),
        "optimizers": [o.state_dict() for o in optimizers],
        "step": step,
    }
    torch.save(state, part)
    part.rename(path)


if __name__ == "__main__":
    main()
