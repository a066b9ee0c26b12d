"""Messages: roles, native and OpenAI-style content, bad input."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from videos import make_video

import omni
from omni.audio_io import load_audio, save_wav
from omni.fetch import Limits
from omni.messages import Message, Picture, Sound, parse_messages


def user(*content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(content)}]


def kinds(messages: list[Message]) -> list[str]:
    return [type(part).__name__ for part in messages[0].parts]


def test_native_and_structured_items_may_be_mixed(golden: Path) -> None:
    image, clip = golden / "inputs" / "small.png", golden / "inputs" / "w0.wav"
    samples = load_audio(clip)
    messages = parse_messages(
        user(
            "before",
            Image.open(image),
            samples,
            {"type": "text", "text": "after"},
            {"type": "image_url", "image_url": {"url": str(image)}},
            {"type": "audio_url", "audio_url": {"url": clip.as_uri()}},
            {"type": "image_url", "image_url": str(image)},
            {"type": "input_audio", "input_audio": {"data": base64.b64encode(clip.read_bytes()).decode()}},
        )
    )
    assert kinds(messages) == ["str", "Picture", "Sound", "str", "Picture", "Sound", "Picture", "Sound"]
    pictures, sounds = messages[0].pictures(), messages[0].sounds()
    assert all((picture == pictures[0]).all() for picture in pictures)
    assert all((sound == samples).all() for sound in sounds)


def test_sound_is_brought_to_the_models_rate(tmp_path: Path) -> None:
    stereo = np.zeros((8000, 2), np.float32)
    save_wav(tmp_path / "a.wav", stereo, 8000)
    [message] = parse_messages(user({"type": "audio_url", "audio_url": {"url": str(tmp_path / "a.wav")}}))
    assert message.sounds()[0].shape == (16000,)


def test_video_expands_second_by_second(tmp_path: Path) -> None:
    video = str(make_video(tmp_path / "v.mkv", 20, 10, sound_seconds=2))
    item = {"type": "video_url", "video_url": {"url": video, "stack_frames": 2}}
    assert kinds(parse_messages(user(item))) == ["Picture", "Sound", "Picture"] * 2
    item["video_url"] = {"url": video, "use_audio": False}
    assert kinds(parse_messages(user(item))) == ["Picture"] * 2


def test_json_text(golden: Path) -> None:
    address = str(golden / "inputs" / "small.png")
    text = json.dumps(user("你好", {"type": "image_url", "image_url": {"url": address}}))
    assert kinds(parse_messages(text)) == ["str", "Picture"]


def test_a_leading_assistant_is_the_system() -> None:
    msgs = [{"role": "assistant", "content": "voice"}, {"role": "user", "content": "hello"}]
    assert [m.role for m in parse_messages(msgs)] == ["system", "user"]
    with pytest.raises(omni.InvalidArgumentError, match="first message"):
        parse_messages(msgs, assistant_first=False)


@pytest.mark.parametrize(
    ("msgs", "message"),
    [
        ([], "at least one"),
        ({"role": "user", "content": "x"}, "must be a list"),
        ("{", "JSON"),
        ('"text"', "must be a list"),
        (["text"], "message 0 must be a dictionary"),
        ([{"role": "robot", "content": "x"}], "role must be one of"),
        ([{"role": ["user"], "content": "x"}], "role must be one of"),
        ([{"role": "user"}], "message 0 has no content"),
        ([{"role": "user", "content": "x", "contents": "y"}], "unknown fields: contents"),
        (user(3), "message 0, item 0: int is no content"),
        (user("a", None), "item 1: NoneType"),
        (user({"type": "image"}), "type must be"),
        (user({"type": "text"}), "text must be text"),
        (user({"type": "image_url"}), "image_url must be a dictionary"),
        (user({"type": "image_url", "image_url": {}}), "url must be text"),
        (
            user({"type": "video_url", "video_url": {"url": "data:video/x,", "stack_frames": "2"}}),
            "stack_frames",
        ),
        (user(np.zeros(0, np.float32)), "sound is empty"),
        (user(np.zeros(10, np.int16)), "float samples"),
        (user(np.array([0, np.nan, 0])), "NaN"),
        (user(np.zeros((4, 4, 2), np.uint8)), "channels"),
    ],
)
def test_bad_messages(msgs: Any, message: str) -> None:
    with pytest.raises(omni.OmniError, match=message):
        parse_messages(msgs)


def test_unreadable_media_say_which_item(tmp_path: Path) -> None:
    for kind in ("image", "audio", "video"):
        item = {"type": f"{kind}_url", f"{kind}_url": {"url": "data:application/octet-stream,rubbish"}}
        with pytest.raises(omni.FormatError, match="message 0, item 1"):
            parse_messages(user("look", item))
    with pytest.raises(omni.FormatError, match="base64"):
        parse_messages(user({"type": "input_audio", "input_audio": {"data": "?"}}))


def test_limits_hold_for_messages(golden: Path) -> None:
    item = {"type": "image_url", "image_url": {"url": str(golden / "inputs" / "small.png")}}
    with pytest.raises(omni.InvalidArgumentError, match="files can't be read"):
        parse_messages(user(item), limits=Limits(files=False))


def test_parts_pass_through() -> None:
    picture, sound = Picture(np.zeros((2, 2, 3), np.uint8)), Sound(np.zeros(4, np.float32))
    [message] = parse_messages(user(picture, sound))
    assert message.parts == (picture, sound)


def test_encoded_pictures_of_memory() -> None:
    data = io.BytesIO()
    Image.new("RGB", (4, 3), (1, 2, 3)).save(data, "PNG")
    url = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    [message] = parse_messages(user({"type": "image_url", "image_url": {"url": url}}))
    assert message.pictures()[0].tolist() == [[[1, 2, 3]] * 4] * 3
