"""omni: a native runtime for MiniCPM-o 4.5, which sees, listens and speaks at the same time."""

from __future__ import annotations

import atexit
import logging

from omni import _ext, media
from omni._ext import (
    ChatSampler,
    Detokenizer,
    DeviceInfo,
    DuplexSampler,
    DuplexSamplerOptions,
    Random,
    SpeechSampler,
    StreamingSampler,
    Tokenizer,
    Vocabulary,
    beam_search,
    cpu_features,
    default_threads,
    list_devices,
)
from omni.audio_encoder import AudioEncoder, AudioStream
from omni.duplex import MiniCPMODuplex
from omni.duplex_events import (
    AudioEvent,
    DegradedEvent,
    Event,
    InputDroppedEvent,
    StateEvent,
    TextEvent,
    TurnEndEvent,
    UnitEvent,
)
from omni.duplex_session import AsyncDuplexSession, DuplexSession
from omni.errors import (
    CancelledError,
    ContextFullError,
    DeviceError,
    FormatError,
    InvalidArgumentError,
    ModelFileError,
    OmniError,
    OutOfMemoryError,
    UnsupportedError,
)
from omni.generation import Generation, TextStream
from omni.language_model import Cache, LanguageModel
from omni.live.duplex_video import generate_duplex_video
from omni.minicpmo import MiniCPMO
from omni.prompts import apply_chat_template, system_prompt
from omni.speech_model import SpeechModel, SpeechStream
from omni.token2wav import Token2Wav, Token2WavStream
from omni.vision_encoder import VisionEncoder
from omni.voice import Voice, VoiceEncoder

__version__ = "0.1.0"

__all__ = [
    "AsyncDuplexSession",
    "AudioEncoder",
    "AudioEvent",
    "AudioStream",
    "Cache",
    "CancelledError",
    "ChatSampler",
    "ContextFullError",
    "DegradedEvent",
    "Detokenizer",
    "DeviceError",
    "DeviceInfo",
    "DuplexSampler",
    "DuplexSamplerOptions",
    "DuplexSession",
    "Event",
    "FormatError",
    "Generation",
    "InputDroppedEvent",
    "InvalidArgumentError",
    "LanguageModel",
    "MiniCPMO",
    "MiniCPMODuplex",
    "ModelFileError",
    "OmniError",
    "OutOfMemoryError",
    "Random",
    "SpeechModel",
    "SpeechSampler",
    "SpeechStream",
    "StateEvent",
    "StreamingSampler",
    "TextEvent",
    "TextStream",
    "Token2Wav",
    "Token2WavStream",
    "Tokenizer",
    "TurnEndEvent",
    "UnitEvent",
    "UnsupportedError",
    "VisionEncoder",
    "Vocabulary",
    "Voice",
    "VoiceEncoder",
    "__version__",
    "apply_chat_template",
    "beam_search",
    "cpu_features",
    "default_threads",
    "generate_duplex_video",
    "list_devices",
    "media",
    "system_prompt",
]

_logger = logging.getLogger("omni")
_logger.addHandler(logging.NullHandler())
_ext.set_log_sink(lambda level, message: _logger.log((10, 20, 30, 40)[level], "%s", message), 0)
# No message may reach Python while the interpreter shuts down.
atexit.register(_ext.set_log_sink, None)
