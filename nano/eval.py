"""Measures a model directory, from sound to decisions and text, through the engine: `python -m nano.eval`.

What is heard was never trained on: voices, scenes, and some of the questions. Recordings of people are read
from the folders of installed packages that hold them, and are only listened to.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import omni
from nano import sounds
from nano.clips import clip_path, load_clips
from nano.features import UNITS
from nano.language import all_pairs, draw_pair
from nano.recordings import sum_recordings, word_recordings
from nano.scenes import Heard, Scene, SceneMaker, due_unit
from nano.voices import RATE, SPLITS

# Units around the one in which an answer is due that count as an answer to this question.
_EARLY, _LATE = 1, 2
# Apart from every seed of training.
_FIRST_SEED = 50_000_000


@dataclass
class Turn:
    """What the model said without a pause."""

    first: int  # units
    last: int
    text: str
    ended: bool


@dataclass(frozen=True)
class Run:
    """A session's outcome: turns, and the CPU time of a unit in seconds."""

    turns: list[Turn]
    seconds: float


def listen(model: omni.MiniCPMO, wave: NDArray[np.float32], greedy: bool, seed: int = 1) -> Run:
    """Plays sound to a new session; returns what it said."""
    said: dict[int, tuple[str, bool]] = {}

    def note(event: omni.Event) -> None:
        if isinstance(event, omni.TextEvent):
            said[event.unit] = (event.text, event.end_of_turn)

    begin = time.process_time()
    units = len(wave) // RATE
    with omni.DuplexSession(
        model, generate_audio=False, real_time=False, greedy=greedy, seed=seed, on_event=note
    ) as session:
        session.push_audio(wave[: units * RATE])
        session.end_input()
        session.wait()
    turns: list[Turn] = []
    for unit, (text, ends) in sorted(said.items()):
        if turns and not turns[-1].ended and turns[-1].last == unit - 1:
            turns[-1] = Turn(turns[-1].first, unit, turns[-1].text + text, ends)
        else:
            turns.append(Turn(unit, unit, text, ends))
    return Run(turns, (time.process_time() - begin) / max(1, units))


class Tally:
    """Hits and cases by name."""

    def __init__(self) -> None:
        self.counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        self.misses: list[str] = []

    def note(self, names: list[str], hit: bool) -> None:
        """One case that counts under several names."""
        for name in names:
            self.counts[name][0] += hit
            self.counts[name][1] += 1

    def table(self) -> dict[str, object]:
        """Share and number of cases."""
        return {
            name: {"share": round(hits / cases, 4), "hits": hits, "cases": cases}
            for name, (hits, cases) in sorted(self.counts.items())
        }


def score_scene(scene: Scene, turns: list[Turn], tally: Tally) -> int:
    """Compares turns with what was due; returns how many turns nothing had asked for."""
    left = list(turns)
    for heard in scene.heard:
        if heard.due < 0 or heard.due >= len(scene.say) - 2:
            continue
        if heard.kind == "interruption":
            speaking = any(t.first < heard.due <= t.last + 1 for t in turns)
            if speaking:
                tally.note(
                    ["interruption obeyed"], any(heard.due - 1 <= t.last <= heard.due + 1 for t in turns)
                )
            continue
        answer = next((t for t in left if heard.due - _EARLY <= t.first <= heard.due + _LATE), None)
        if answer is not None:
            left.remove(answer)
        cut = _is_cut(scene, heard)
        right = answer is not None and (
            heard.answer.startswith(answer.text[:-1]) if cut else answer.text.strip() == heard.answer
        )
        names = ["answers", f"kind: {heard.kind}", f"voice: {heard.voice or 'none'}"]
        if heard.kind == "bell" and not heard.question:
            names = ["bell heard"]
        if heard.held:
            names.append("held-out question")
        tally.note(names, right)
        if heard.question:
            tally.note(["started within two units"], answer is not None)
        if not right:
            said = answer.text if answer is not None else None
            tally.misses.append(f"{heard.voice}: {heard.question or 'bell'} -> {said!r}")
    horizon = len(scene.say) - 2
    due = [h.due for h in scene.heard if h.due >= horizon]
    return sum(1 for t in left if t.first < horizon and not any(abs(t.first - d) <= 2 for d in due))


def _is_cut(scene: Scene, heard: Heard) -> bool:
    """Whether an interruption cut this answer, or the scene's end did."""
    said = ""
    for unit in range(heard.due, len(scene.say)):
        piece = scene.say[unit]
        if piece is None:
            return True
        said += piece
        if scene.ends[unit]:
            return said.strip() != heard.answer
    return True


def _dialogues(model: omni.MiniCPMO, work: Path, split: str, count: int, greedy: bool) -> dict[str, object]:
    tally, strays, units, cost = Tally(), 0, 0, 0.0
    voices = [v for v in SPLITS[split] if clip_path(work, v).exists()]
    maker = SceneMaker({v: load_clips(work, v) for v in voices}, UNITS, held_too=split == "test")
    for i in range(count):
        scene = maker.make(_FIRST_SEED + i, quiet=0.0)
        run = listen(model, scene.wave, greedy)
        strays += score_scene(scene, run.turns, tally)
        units += UNITS
        cost += run.seconds * UNITS
    return {
        "scenes": count,
        "units": units,
        "turns nothing asked for": strays,
        "ms of CPU a unit": round(1000 * cost / units, 1),
        "results": tally.table(),
        "misses": tally.misses,
    }


def _quiet(model: omni.MiniCPMO, work: Path, split: str, count: int, greedy: bool) -> dict[str, object]:
    voices = [v for v in SPLITS[split] if clip_path(work, v).exists()]
    maker = SceneMaker({v: load_clips(work, v) for v in voices}, UNITS)
    said = []
    for i in range(count):
        scene = maker.make(_FIRST_SEED + 1_000_000 + i, quiet=1.0)
        said += [t.text for t in listen(model, scene.wave, greedy).turns]
    minutes = count * UNITS / 60
    return {
        "minutes": round(minutes, 1),
        "false starts": len(said),
        "a 10 minutes": len(said) / minutes * 10,
        "said": said,
    }


def _people(model: omni.MiniCPMO, greedy: bool) -> dict[str, object]:
    """Recordings of people in a quiet room."""
    return _quiet_room(model, [*word_recordings(), *sum_recordings(60)], greedy)


def _clear(model: omni.MiniCPMO, work: Path, split: str, count: int, greedy: bool) -> dict[str, object]:
    """Questions of every kind by each voice in a quiet room, as the synthesiser speaks."""
    draws = random.Random("clear")
    pairs = [pair for pair in all_pairs() if not pair.held and pair.kind not in ("bell", "long")]
    spoken = []
    for voice in (v for v in SPLITS[split] if clip_path(work, v).exists()):
        clips = load_clips(work, voice)
        chosen = [draw_pair(draws, pairs).question for _ in range(count)]
        spoken += [(voice, text, clips[text]) for text in chosen if text in clips]
    return _quiet_room(model, spoken, greedy)


def _quiet_room(
    model: omni.MiniCPMO, spoken: list[tuple[str, str, NDArray[np.float32]]], greedy: bool
) -> dict[str, object]:
    """Sources, questions and sounds, each with some 4 s of faint noise behind it, five in a session."""
    pairs = {pair.question: pair for pair in all_pairs()}
    clips = [(source, text, wave) for source, text, wave in spoken if text in pairs]
    random.Random("order").shuffle(clips)
    draws = np.random.default_rng(7)
    tally, strays = Tally(), 0
    for first in range(0, len(clips), 5):
        heard, parts, at = [], [np.zeros(int(1.3 * RATE), np.float32)], 1.3
        for source, text, wave in clips[first : first + 5]:
            end = at + len(wave) / RATE
            heard.append(
                Heard(pairs[text].kind, source, at, end, text, pairs[text].answer, False, due_unit(end))
            )
            gap = np.zeros(int((4 - (len(wave) / RATE) % 1 + draws.uniform(0, 1)) * RATE), np.float32)
            parts += [wave, gap]
            at = end + len(gap) / RATE
        sound = np.concatenate(parts)
        sound = sound + sounds.noise(draws, len(sound) / RATE + 1)[: len(sound)] * sounds.decibels(-50)
        scene = Scene(sound, [None] * (len(sound) // RATE + 3), [False] * (len(sound) // RATE + 3), heard)
        for event in heard:
            scene.say[event.due], scene.ends[event.due] = event.answer, True
        strays += score_scene(scene, listen(model, sound, greedy).turns, tally)
    return {"turns nothing asked for": strays, "results": tally.table(), "misses": tally.misses}


def _hour(model: omni.MiniCPMO, work: Path, split: str, minutes: int, greedy: bool) -> dict[str, object]:
    """One session without a break: answers by quarter of the time."""
    voices = [v for v in SPLITS[split] if clip_path(work, v).exists()]
    maker = SceneMaker({v: load_clips(work, v) for v in voices}, UNITS)
    scenes = [maker.make(_FIRST_SEED + 2_000_000 + i, quiet=0.3) for i in range(minutes * 60 // UNITS)]
    turns = listen(model, np.concatenate([s.wave for s in scenes]), greedy).turns
    quarters: dict[str, object] = {}
    for q in range(4):
        tally, strays = Tally(), 0
        for i in range(q * len(scenes) // 4, (q + 1) * len(scenes) // 4):
            base = i * UNITS
            mine = [
                Turn(t.first - base, t.last - base, t.text, t.ended)
                for t in turns
                if 0 <= t.first - base < UNITS
            ]
            strays += score_scene(scenes[i], mine, tally)
        quarters[f"quarter {q + 1}"] = {"answers": tally.table().get("answers"), "not asked for": strays}
    return {"minutes": minutes, **quarters}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="the folder with clips")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--quiet", type=int, default=60, help="scenes of 40 s in which nothing is asked")
    parser.add_argument("--minutes", type=int, default=0, help="of one session without a break")
    parser.add_argument(
        "--people", action="store_true", help="recordings of people, where they are installed"
    )
    parser.add_argument("--clear", type=int, default=0, help="questions by each voice in a quiet room")
    parser.add_argument("--greedy", action="store_true")
    parser.add_argument("--out", type=Path)
    o = parser.parse_args()
    model = omni.MiniCPMO.from_pretrained(o.model, n_ctx=2048, n_threads=1)
    steps: dict[str, Callable[[], dict[str, object]]] = {}
    if o.scenes:
        steps["dialogues"] = lambda: _dialogues(model, o.work, o.split, o.scenes, o.greedy)
    if o.quiet:
        steps["quiet"] = lambda: _quiet(model, o.work, o.split, o.quiet, o.greedy)
    if o.people:
        steps["people"] = lambda: _people(model, o.greedy)
    if o.clear:
        steps["clear"] = lambda: _clear(model, o.work, o.split, o.clear, o.greedy)
    if o.minutes:
        steps["long"] = lambda: _hour(model, o.work, o.split, o.minutes, o.greedy)
    report: dict[str, object] = {"model": str(o.model), "split": o.split, "greedy": o.greedy}
    for name, step in steps.items():
        report[name] = step()
        print(json.dumps({name: report[name]}, indent=1), file=sys.stderr, flush=True)
        if o.out is not None:
            o.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
