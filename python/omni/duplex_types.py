"""What the published full-duplex class takes and gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from omni import _ext
from omni.arguments import warn_unknown
from omni.errors import UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["DuplexParams", "DuplexPrefill", "DuplexUnitResult"]

# What the public server sets differently.
_SERVER = {"top_k": 20, "force_listen_count": 3}
_SERVER_CHARACTERS = 28
_WINDOW = (
    "sliding_window_mode", "basic_window_high_tokens", "basic_window_low_tokens",
    "context_previous_max_tokens", "context_max_units",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class DuplexParams:
    """Parameters of `MiniCPMO.as_duplex()`, with names and defaults of the published class.

    With variant="server" three defaults are the public server's: top_k 20, force_listen_count 3 and 5 flow
    steps.
    """

    generate_audio: bool = True
    ls_mode: str = "explicit"  # the only one
    max_new_speak_tokens_per_chunk: int = 20  # positions of a speaking unit, its end included
    text_repetition_penalty: float = 1.05
    text_repetition_window_size: int = 512
    temperature: float = 0.7
    top_k: int = 100
    top_p: float = 0.8
    decode_mode: str = "sampling"  # or "greedy"
    length_penalty: float = 1.1  # on the end of a turn
    listen_prob_scale: float = 1.0
    listen_top_k: int | None = None
    force_listen_count: int = 0  # so many units listen at first
    tts_temperature: float = 0.8  # 0: always the best
    tts_repetition_penalty: float = 1.05
    n_timesteps: int | None = None  # flow steps; None: 10, or those of the voice
    enable_float16: bool = False  # without effect
    chunk_ms: int = 1000  # this and the next three can't be changed
    first_chunk_ms: int = 1035
    cnn_redundancy_ms: int = 20
    sample_rate: int = 16000
    # How a context that grows too long is shortened. None: as the model file says, or else the published
    # "off", 8000 and 6000 (less if the context is smaller), 500 and 24.
    sliding_window_mode: str | None = None  # "off", "basic", "context"
    basic_window_high_tokens: int | None = None
    basic_window_low_tokens: int | None = None
    context_previous_max_tokens: int | None = None
    context_max_units: int | None = None
    # Not of the published class.
    n_ctx: int | None = None  # positions of the context; None: as the model was opened with
    seed: int | None = None  # makes drawing reproducible
    noise: NDArray[np.float32] | None = None  # the flow's, as for `Token2Wav.stream()`
    excitation: bool = True  # the vocoder's, as for `Token2Wav.stream()`

    @classmethod
    def of(cls, params: Mapping[str, Any], variant: str = "hub") -> DuplexParams:
        """From keyword arguments; warns of unknown ones. Raises UnsupportedError if one can't be so."""
        names = {f.name for f in fields(cls)}
        warn_unknown("as_duplex", sorted(set(params) - names), stacklevel=4)
        known = {name: value for name, value in params.items() if name in names}
        self = cls(**((_SERVER if variant == "server" else {}) | known))
        for name in ("ls_mode", "chunk_ms", "first_chunk_ms", "cnn_redundancy_ms", "sample_rate"):
            if getattr(self, name) != getattr(cls, name):
                raise UnsupportedError(
                    f"{name} must be {getattr(cls, name)!r}, not {getattr(self, name)!r}: the model was "
                    "trained so"
                )
        return self

    def options(self, llm: Path, n_ctx: int, *, server: bool, reference: bool) -> _ext.DuplexOptions:
        """For the logic; `n_ctx` is the size of its context."""
        options = _ext.DuplexOptions.of_model(str(llm))
        options.force_listen_count = self.force_listen_count
        options.basic_window_high_tokens = min(options.basic_window_high_tokens, n_ctx)
        options.basic_window_low_tokens = min(options.basic_window_low_tokens, n_ctx * 3 // 4)
        for name in _WINDOW:
            if getattr(self, name) is not None:
                setattr(options, name, getattr(self, name))
        if self.basic_window_low_tokens is None:
            low = min(options.basic_window_low_tokens, options.basic_window_high_tokens)
            options.basic_window_low_tokens = low
        options.max_unit_characters = _SERVER_CHARACTERS if server else 0
        options.deferred_finalize = server
        options.reference_quirks = reference
        return options


class _Fields:
    """Lets a result be read like the dictionary that the published code returns."""

    def __getitem__(self, name: str) -> Any:
        if name not in self.keys():
            raise KeyError(name)
        return getattr(self, name)

    def keys(self) -> list[str]:
        """Names of the fields."""
        return [f.name for f in fields(self)]  # type: ignore[arg-type]

    def items(self) -> list[tuple[str, Any]]:
        """Names and values."""
        return [(name, getattr(self, name)) for name in self.keys()]

    def get(self, name: str, default: Any = None) -> Any:
        """A field's value, or `default`."""
        return getattr(self, name) if name in self.keys() else default

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __contains__(self, name: object) -> bool:
        return name in self.keys()


@dataclass(frozen=True, eq=False)
class DuplexPrefill(_Fields):
    """What `streaming_prefill()` did. Times in seconds; `feed` is one pass, divided by rows."""

    success: bool
    reason: str = ""  # why not
    cost_vision_process: float = 0.0
    cost_vision_embed: float = 0.0
    cost_vision_feed: float = 0.0
    cost_audio_process: float = 0.0
    cost_audio_embed: float = 0.0
    cost_audio_feed: float = 0.0
    cost_all: float = 0.0


@dataclass(frozen=True, eq=False)
class DuplexUnitResult(_Fields):
    """What the model did in a unit. Times in seconds."""

    is_listen: bool
    text: str  # new text of this unit
    audio_waveform: NDArray[np.float32] | None  # 24 kHz; silence when listening; None: nothing to hear
    end_of_turn: bool
    current_time: int  # units so far, this one included
    cost_llm: float = 0.0
    cost_tts_prep: float = 0.0
    cost_tts: float = 0.0
    cost_token2wav: float = 0.0
    cost_all: float = 0.0
    n_tokens: int = 0  # text tokens, the end of the turn included
    n_tts_tokens: int = 0  # speech tokens
