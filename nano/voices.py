"""Synthetic voices, who may be heard in training, and their sound."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from omni.errors import InvalidArgumentError

RATE = 16000

# Written down before anything was trained. espeak-ng voices are "accent+variant".
TRAIN = (
    "flite/slt", "flite/rms", "flite/kal16", "festival/kal_diphone", "festival/ked_diphone",
    "espeak/en-us", "espeak/en-gb", "espeak/en-us+f2", "espeak/en-us+m3", "espeak/en-gb+f4",
    "espeak/en-gb-x-rp+m7", "espeak/en-us+klatt2", "espeak/en-gb-scotland+f1", "espeak/en-us+Annie",
    "espeak/en-us+Alex", "espeak/en-gb+steph", "espeak/en-us+michael", "espeak/en-gb-x-gbclan+m1",
    "espeak/en-us+linda", "espeak/en-us+f1", "espeak/en-us+f3", "espeak/en-us+m1", "espeak/en-us+m2",
    "espeak/en-us+m4", "espeak/en-us+m6", "espeak/en-gb+f2", "espeak/en-gb+f3", "espeak/en-gb+m3",
    "espeak/en-us+Andrea", "espeak/en-us+Mike", "espeak/en-us+anika", "espeak/en-gb+antonio",
    "espeak/en-us+benjamin", "espeak/en-us+caleb", "espeak/en-gb-scotland+m4", "espeak/en-gb-x-gbcwmd+f3",
    "espeak/en-us+max", "espeak/en-us+travis", "espeak/en-gb-x-rp+f2",
)  # fmt: skip
DEV = ("espeak/en-us+f5", "espeak/en-gb-x-rp+Andy", "espeak/en-gb+m5")
# slt of Festival has the speaker of Flite's, but another synthesiser; awb and joe share nothing with
# training. joe is a neural voice with terms of its own: it may only test.
TEST = (
    "flite/awb",
    "festival/cmu_us_slt_arctic_hts",
    "espeak/en-029+belinda",
    "espeak/en-us-nyc+m8",
    "piper/joe",
)
SPLITS = {"train": TRAIN, "dev": DEV, "test": TEST}

# How often each synthesiser's voices are drawn: espeak-ng has many voices, the others sound more like people.
FAMILY_WEIGHTS = {"flite": 5.0, "festival": 3.0, "espeak": 1.3, "piper": 3.0}


@dataclass(frozen=True)
class Utterance:
    """A text to be spoken by a voice."""

    voice: str
    text: str


def weight(voice: str) -> float:
    """How often the voice is to be drawn."""
    return FAMILY_WEIGHTS[voice.split("/")[0]]


def speak(voice: str, texts: list[str], piper_model: Path | None = None) -> list[NDArray[np.float32]]:
    """Mono sound at 16 kHz of each text. Programs that are missing raise FileNotFoundError."""
    family, name = voice.split("/", 1)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.wav" for i in range(len(texts))]
        if family == "flite":
            for path, text in zip(paths, texts, strict=True):
                subprocess.run(["flite", "-voice", name, "-t", text, "-o", str(path)], check=True)
        elif family == "espeak":
            for path, text in zip(paths, texts, strict=True):
                subprocess.run(["espeak-ng", "-v", name, "-s", "150", "-w", str(path), text], check=True)
        elif family == "festival":
            _festival(name, texts, paths)
        elif family == "piper":
            _piper(texts, paths, piper_model)
        else:
            raise InvalidArgumentError(f"there is no synthesiser {family!r}")
        return [_load(path) for path in paths]


def _festival(name: str, texts: list[str], paths: list[Path]) -> None:
    lines = [f"(voice_{name})"]
    for path, text in zip(paths, texts, strict=True):
        lines.append(f'(utt.save.wave (utt.synth (Utterance Text "{text}")) "{path}" \'riff)')
    script = paths[0].with_suffix(".scm")
    script.write_text("\n".join(lines))
    subprocess.run(["festival", "-b", str(script)], check=True, capture_output=True)


def _piper(texts: list[str], paths: list[Path], model: Path | None) -> None:
    import wave

    from piper import PiperVoice

    if model is None:
        raise InvalidArgumentError("the piper voice needs the path of its model")
    voice = PiperVoice.load(str(model))
    for path, text in zip(paths, texts, strict=True):
        with wave.open(str(path), "wb") as out:
            voice.synthesize_wav(text, out)


def _load(path: Path) -> NDArray[np.float32]:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    if rate != RATE:
        mono = soxr.resample(mono, rate, RATE).astype(np.float32)
    return trim(np.asarray(mono, np.float32))


def trim(wave: NDArray[np.float32], floor: float = 0.02) -> NDArray[np.float32]:
    """Without the silence around it, but for 20 ms."""
    peak = float(np.abs(wave).max(initial=0.0))
    loud = np.flatnonzero(np.abs(wave) > floor * peak)
    if peak == 0.0 or len(loud) == 0:
        return wave[:0]
    margin = RATE // 50
    return wave[max(0, int(loud[0]) - margin) : int(loud[-1]) + margin] / peak * np.float32(0.5)
