"""Composes a dialogue that shows what the model can do: `python -m nano.demo --work DIR --out FILE.flac`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import soundfile

from nano import sounds
from nano.clips import load_clips
from nano.language import BELL_ANSWER, all_pairs
from nano.scenes import due_unit, split_answer
from nano.voices import RATE

VOICE = "flite/awb"  # of the test list
# What is heard, and seconds of quiet before it. Below zero: it is said into the answer.
SCRIPT = (
    (1.2, "hello"),
    (0.8, "what is five plus six"),
    (0.6, "repeat elephant"),
    (0.9, "what comes after friday"),
    (0.7, "count to twenty"),
    (-3.0, "stop"),
    (1.5, "tell me when you hear a bell"),
    (3.0, "(bell)"),
    (1.1, "thank you"),
)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="sound; the events go beside it as .json")
    options = parser.parse_args()
    clips = load_clips(options.work, VOICE)
    answers = {pair.question: pair.answer for pair in all_pairs()}
    draws = np.random.default_rng(11)
    parts: list[tuple[float, np.ndarray]] = []
    events = []
    at = 0.0  # when the one before has been answered
    for quiet, text in SCRIPT:
        start = at + quiet
        sound = sounds.bell(draws) if text == "(bell)" else clips[text]
        end = start + len(sound) / RATE
        answer = BELL_ANSWER if text == "(bell)" else answers.get(text, "")
        due = due_unit(start + 0.3 if text == "(bell)" else end)
        parts.append((start, sound))
        events.append({"start": round(start, 3), "heard": text, "unit": due, "answer": answer})
        at = max(end, float(due + len(split_answer(answer)))) if answer else end + 1
    length = int(np.ceil(at + 2)) * RATE
    wave = sounds.noise(draws, length / RATE) * sounds.decibels(-48)
    for start, sound in parts:
        first = int(start * RATE)
        wave[first : first + len(sound)] += sound[: length - first] * np.float32(0.8)
    soundfile.write(options.out, wave, RATE, subtype="PCM_16")
    options.out.with_suffix(".json").write_text(json.dumps(events, indent=1) + "\n")


if __name__ == "__main__":
    main()
