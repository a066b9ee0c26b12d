"""Voices: what speech synthesis needs to know of a speaker, computed from a short recording."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from omni import _ext
from omni.audio_io import float_samples
from omni.errors import ModelFileError
from omni.model_files import TOKEN2WAV_FOLDERS

if TYPE_CHECKING:
    from numpy.typing import NDArray

Voice = _ext.Voice

TOKENIZER_FILE = "speech_tokenizer.gguf"
SPEAKER_FILE = "speaker_encoder.gguf"


class VoiceEncoder:
    """Turns a recording into a `Voice`: speech tokens (S3), speaker vector (CAM++) and mel spectrogram.

    Args:
        model: a model directory, its `token2wav-gguf` folder, or the speech tokenizer's GGUF file.
        speaker: the speaker encoder's GGUF file; by default `speaker_encoder.gguf` beside the tokenizer.
        weight_format: how the tokenizer's float weights are held: "stored", "bf16" or "q8_0".
        repack: let quantised weights be copied into a layout with faster kernels.
        whole_tail_block: compute the speaker vector as ONNX Runtime 1.21 to 1.23 do, which divide the last
            2 s block by a whole block's length; by default by its own, as the network was defined.
        n_threads: threads on the processor; None: one for each physical core.
        device: a name of `omni.list_devices()`, "gpu" for the first accelerator, None for the processor.
        poll: 0 to 100, how eagerly worker threads wait; high values lose when other programs run.

    Raises:
        ModelFileError, FormatError, UnsupportedError, InvalidArgumentError, OutOfMemoryError, DeviceError
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        speaker: str | os.PathLike[str] | None = None,
        *,
        weight_format: Literal["stored", "bf16", "q8_0"] = "stored",
        repack: bool = True,
        whole_tail_block: bool = False,
        n_threads: int | None = None,
        device: str | None = None,
        poll: int = 1,
    ) -> None:
        tokenizer = _find_tokenizer(Path(model))
        self._encoder = _ext.VoiceEncoder.open(
            str(tokenizer),
            os.fspath(speaker) if speaker is not None else str(tokenizer.with_name(SPEAKER_FILE)),
            weight_format=weight_format,
            repack=repack,
            whole_tail_block=whole_tail_block,
            device=device or "",
            n_threads=n_threads or 0,
            poll=poll,
        )

    @classmethod
    def synthetic(
        cls,
        *,
        weight_format: Literal["stored", "bf16", "q8_0"] = "stored",
        repack: bool = True,
        n_threads: int | None = None,
        device: str | None = None,
        poll: int = 1,
    ) -> VoiceEncoder:
        """Make both networks at their published sizes with random weights, in memory."""
        self = cls.__new__(cls)
        self._encoder = _ext.VoiceEncoder.synthetic(
            weight_format=weight_format,
            repack=repack,
            whole_tail_block=False,
            device=device or "",
            n_threads=n_threads or 0,
            poll=poll,
        )
        return self

    def encode(self, wav: NDArray[Any], rate: int) -> Voice:
        """Compute the voice in a recording; 5 to 15 s of clean speech at 16 kHz or more make a good one.

        Args:
            wav: samples [n] or [n, channels]: floats in [-1, 1], uint8, int16 or int32. Tokens and speaker
                vector come from the first channel, the mel from the mean of all.
            rate: samples a second, 8000 to 192000. Higher than 16000 makes the mel better.

        Of a recording over 30 s the 15 s with the least silence are used; a warning in the log says which.

        Raises:
            InvalidArgumentError: shorter than 0.12 s, silent, not finite, or a wrong shape.
        """
        return self._encoder.encode(float_samples(np.asarray(wav)), rate)


def _find_tokenizer(model: Path) -> Path:
    if not model.is_dir():
        return model
    folders = [model, *(model / name for name in TOKEN2WAV_FOLDERS)]
    for folder in folders:
        if (folder / TOKENIZER_FILE).is_file():
            return folder / TOKENIZER_FILE
    raise ModelFileError(
        f"{model}: holds no {TOKENIZER_FILE}, which voice cloning needs; the official files lack it, "
        "python -m omni.convert makes it from the original checkpoint"
    )
