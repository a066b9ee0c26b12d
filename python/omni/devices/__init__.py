"""Microphones, loudspeakers, cameras and screens that survive the loss of their device.

`python -m omni.devices` lists the first two.
"""

from __future__ import annotations

from omni.devices.backend import AudioDevice, Backend, find_audio_device, list_audio_devices
from omni.devices.microphone import Microphone
from omni.devices.pictures import Camera, Screen
from omni.devices.ring import History, RingBuffer, StreamClock
from omni.devices.speaker import SPEECH_RATE, Speaker

__all__ = [
    "SPEECH_RATE",
    "AudioDevice",
    "Backend",
    "Camera",
    "History",
    "Microphone",
    "RingBuffer",
    "Screen",
    "Speaker",
    "StreamClock",
    "find_audio_device",
    "list_audio_devices",
]
