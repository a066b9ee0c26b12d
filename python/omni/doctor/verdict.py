"""From times and sizes to a sentence that a person understands."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from omni.doctor.estimate import STEPS, Estimate

UNIT_MS = 1000.0
_ROOM = 0.95  # of the unit; the rest is for what was not measured
_GB = 1e9

# Bytes of the published files: the language model by type, and all others together.
LLM_BYTES = {
    "F16": 16_384_959_136,
    "Q8_0": 8_707_877_536,
    "Q6_K": 6_724_631_456,
    "Q5_1": 6_192_553_760,
    "Q5_K_M": 5_849_946_912,
    "Q5_K_S": 5_719_595_808,
    "Q5_0": 5_719_595_808,
    "Q4_1": 5_246_637_856,
    "Q4_K_M": 5_026_714_400,
    "Q4_K_S": 4_800_942_880,
    "Q4_0": 4_773_679_904,
}
OTHER_BYTES = 3_845_582_688
_WORKING_BYTES = 2_500_000_000  # keys and values of 8192 positions, buffers, Python


@dataclass(frozen=True)
class Needs:
    """What the model takes, in bytes."""

    download: int
    memory: int

    @classmethod
    def of(cls, llm: str) -> Needs:
        """For a type of the language model; unknown ones count as the largest."""
        files = LLM_BYTES.get(llm.upper(), LLM_BYTES["F16"]) + OTHER_BYTES
        return cls(files, files + _WORKING_BYTES)


@dataclass(frozen=True)
class Verdict:
    """What works, and why not more."""

    full_duplex: bool  # it listens and speaks at the same time, with enough memory
    video: bool  # with a picture a second as well
    flow_steps: int | None  # with which it keeps up
    text: str

    def as_dict(self) -> dict[str, Any]:
        """The verdict for `--json`."""
        return asdict(self)


def seconds(ms: float) -> str:
    """A time beside a unit's."""
    return f"{ms / 1e3:.2f} s of {UNIT_MS / 1e3:.2f} s"


def judge(estimate: Estimate, needs: Needs, memory: int | None) -> Verdict:
    """Hold the units' times against a second, the model's size against `memory` (bytes; None: unknown)."""

    def fits(ms: float) -> bool:
        return ms <= _ROOM * UNIT_MS

    listening = f"a listening unit takes {seconds(estimate.listening())}"
    if memory is not None and memory < needs.memory:
        return Verdict(
            False,
            False,
            None,
            f"There is not enough memory: about {needs.memory / _GB:.0f} GB are needed, "
            f"{memory / _GB:.0f} GB can be used. Close other programs or take a smaller type, "
            "such as --llm Q4_0.",
        )
    if not fits(estimate.listening()):
        return Verdict(
            False,
            False,
            None,
            f"This machine can't keep up: {listening}. Turn by turn the model works all the same "
            "(python -m omni.chat), only slower than speech.",
        )
    steps = next((steps for steps in STEPS if fits(estimate.speaking(steps=steps))), None)
    if steps is None:
        speaking = (
            f"a speaking one {seconds(estimate.speaking(steps=STEPS[-1]))} even with {STEPS[-1]} flow steps"
        )
        if fits(estimate.speaking(steps=None)):
            text = f"answers keep up as text only, {seconds(estimate.speaking(steps=None))}"
        else:
            text = f"even as text an answer takes {seconds(estimate.speaking(steps=None))}, so it comes late"
        return Verdict(
            False, False, None, f"It can listen, but not speak meanwhile: {listening}, {speaking}; {text}."
        )
    how = (
        "" if steps == STEPS[0] else f" with {steps} flow steps instead of {STEPS[0]} (--flow-steps {steps})"
    )
    works = f"Full duplex works{how}: {listening}, a speaking one {seconds(estimate.speaking(steps=steps))}"
    for few in dict.fromkeys((steps, STEPS[-1])):
        with_picture = estimate.speaking(steps=few, picture=True)
        if fits(with_picture):
            note = "" if few == steps else f" with {few} flow steps"
            return Verdict(
                True, True, steps, f"{works}; with video{note} {seconds(with_picture)}, which works, too."
            )
    only = estimate.listening(picture=True)
    video = (
        f"with video listening works ({seconds(only)}), but while it speaks pictures are left out"
        if fits(only)
        else f"with video it doesn't ({seconds(only)} while listening): pictures are left out"
    )
    return Verdict(True, False, steps, f"{works}; {video}.")
