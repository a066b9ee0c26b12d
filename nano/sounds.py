"""Sounds that are no speech, made here, and what rooms and lines do to sound. 16 kHz mono float32."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.signal
import soxr
from numpy.typing import NDArray

from nano.voices import RATE

Wave = NDArray[np.float32]
Draws = np.random.Generator


def decibels(value: float) -> np.float32:
    """A gain in dB as a factor."""
    return np.float32(10 ** (value / 20))


def _level(wave: NDArray[np.floating]) -> Wave:
    """With a peak of 0.5."""
    return np.asarray(0.5 * wave / (np.abs(wave).max() + 1e-9), np.float32)


def _times(seconds: float) -> NDArray[np.float64]:
    return np.arange(int(seconds * RATE)) / RATE


def bell(draws: Draws) -> Wave:
    """One to three strokes of a bell: partials at the ratios of bells, each with a decay of its own."""
    ratios = np.array([0.5, 1.0, 1.19, 1.5, 2.0, 2.51, 2.66, 3.01, 4.17])
    strokes = int(draws.integers(1, 4))
    gap, base = draws.uniform(0.3, 0.7), draws.uniform(350, 1300)
    t = _times(draws.uniform(1.2, 2.2) + gap * (strokes - 1))
    out = np.zeros(len(t))
    gains = draws.uniform(0.2, 1.0, len(ratios)) / np.sqrt(ratios)
    decays = draws.uniform(1.5, 5.0, len(ratios)) * np.sqrt(ratios)
    for stroke in range(strokes):
        since = t - stroke * gap
        on = since >= 0
        for ratio, gain, decay in zip(ratios, gains, decays, strict=True):
            if ratio * base < 7500:
                out[on] += gain * np.exp(-decay * since[on]) * np.sin(2 * np.pi * ratio * base * since[on])
    return _level(out)


def beeps(draws: Draws) -> Wave:
    """Short tones of one pitch."""
    t = _times(draws.uniform(0.3, 1.5))
    period, pitch = draws.uniform(0.15, 0.5), draws.uniform(300, 3000)
    gate = (t % period) < period * draws.uniform(0.3, 0.8)
    return _level(gate * np.sign(np.sin(2 * np.pi * pitch * t)) * 0.3 + gate * np.sin(2 * np.pi * pitch * t))


def knocks(draws: Draws) -> Wave:
    """Dull knocks."""
    t = _times(draws.uniform(0.5, 1.5))
    out = np.zeros(len(t))
    for start in np.arange(0, t[-1] - 0.1, draws.uniform(0.15, 0.4)):
        since = t - start
        on = since >= 0
        hit = draws.normal(size=int(on.sum())) * np.exp(-60 * since[on])
        out[on] += hit + np.sin(2 * np.pi * 150 * since[on]) * np.exp(-40 * since[on])
    return _level(scipy.signal.lfilter(*scipy.signal.butter(2, 900, fs=RATE), out))


def sweep(draws: Draws) -> Wave:
    """A tone that slides, like a siren or a whistle."""
    t = _times(draws.uniform(0.4, 2.0))
    pitch = draws.uniform(300, 1500) * 2 ** (
        draws.uniform(0.3, 1.0) * np.sin(2 * np.pi * draws.uniform(0.3, 3) * t)
    )
    return _level(np.sin(2 * np.pi * np.cumsum(pitch) / RATE))


def burst(draws: Draws) -> Wave:
    """A burst of noise: a cough, a door, paper."""
    t = _times(draws.uniform(0.1, 0.8))
    low = draws.uniform(100, 1500)
    band = scipy.signal.butter(2, [low, min(7500, low * draws.uniform(2, 5))], "band", fs=RATE)
    return _level(scipy.signal.lfilter(*band, draws.normal(size=len(t))) * np.exp(-draws.uniform(2, 12) * t))


EFFECTS: dict[str, Callable[[Draws], Wave]] = {
    "beeps": beeps,
    "knocks": knocks,
    "sweep": sweep,
    "burst": burst,
}


def music(draws: Draws, seconds: float) -> Wave:
    """Chords and a melody of plucked and blown notes on a scale."""
    out = np.zeros(int(seconds * RATE))
    root, beat = draws.uniform(110, 260), draws.uniform(0.2, 0.6)
    scale = np.array([0, 2, 4, 5, 7, 9, 11, 12, 14, 16])
    partials = draws.uniform(0, 1, 6) / np.arange(1, 7)
    decay = draws.choice([0.5, 2.0, 6.0])
    for start in np.arange(0, seconds, beat):
        voices = [int(draws.integers(10))] if draws.random() < 0.7 else [0, 2, 4]
        for voice in voices:
            length = min(beat * draws.choice([1, 1, 2]), seconds - start)
            t = _times(length)
            if len(t) < 400:
                continue
            pitch = root * 2 ** (scale[voice] / 12)
            note = sum(g * np.sin(2 * np.pi * pitch * (k + 1) * t) for k, g in enumerate(partials))
            fade = np.minimum(1, np.minimum(t, t[::-1]) * 50)
            first = int(start * RATE)
            out[first : first + len(t)] += (note * fade * np.exp(-decay * t))[: len(out) - first]
    return _level(out)


def noise(draws: Draws, seconds: float) -> Wave:
    """White to brown noise, perhaps with hum."""
    n = int(seconds * RATE)
    spectrum = np.fft.rfft(draws.normal(size=n))
    spectrum /= np.maximum(1, np.arange(len(spectrum))) ** draws.uniform(0, 1)
    out = np.fft.irfft(spectrum, n)
    out /= np.abs(out).max()
    if draws.random() < 0.3:
        t = np.arange(n) / RATE
        hum = draws.choice([50.0, 60.0])
        out += draws.uniform(0.1, 0.6) * sum(np.sin(2 * np.pi * hum * k * t) / k for k in (1, 2, 3, 5))
    return _level(out)


def room(draws: Draws) -> Wave:
    """The answer of a room to a click: direct sound and a decaying tail."""
    tail = draws.uniform(0.08, 0.5)
    t = _times(tail)
    out = draws.normal(size=len(t)) * np.exp(-6.9 * t / tail) * draws.uniform(0.02, 0.15)
    out[0] = 1.0
    return np.asarray(out, np.float32)


def vary(wave: Wave, draws: Draws) -> Wave:
    """The same words at another speed and pitch, through another line."""
    factor = draws.uniform(0.86, 1.16)
    out = np.asarray(soxr.resample(wave, RATE, RATE / factor, quality="MQ"), np.float32)
    kind = draws.random()
    if kind < 0.25:  # a telephone, a small loudspeaker
        band = scipy.signal.butter(2, [draws.uniform(80, 350), draws.uniform(3000, 6500)], "band", fs=RATE)
        out = scipy.signal.lfilter(*band, out)
    elif kind < 0.5:  # more or less treble
        tilt = draws.uniform(-0.6, 0.6)
        out = scipy.signal.lfilter([1.0, tilt], [1.0], out)
    return _level(out)
