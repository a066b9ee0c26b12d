"""Cameras and screens: the latest picture, loss, ends of files, and errors that say what to do."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from videos import make_video

from omni.devices import Camera, Screen
from omni.devices import pictures as module
from omni.errors import DeviceError, InvalidArgumentError, UnsupportedError


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class FakeCapture:
    """A camera that shows how many pictures it gave, at 100 a second."""

    def __init__(self, world: FakeWorld) -> None:
        self.world = world
        self.given = 0
        self.open = world.present

    def isOpened(self) -> bool:
        return self.open

    def get(self, prop: int) -> float:
        return 0.0

    def grab(self) -> bool:
        time.sleep(0.01)
        self.given += 1
        return self.world.present

    def retrieve(self):
        self.world.decoded += 1
        picture = np.zeros((4, 6, 3), np.uint8)
        picture[:] = (1, 2, self.given)  # blue, green, red
        return True, picture

    def release(self) -> None:
        self.open = False


class FakeWorld:
    """Where cameras are plugged in and out."""

    def __init__(self, present: bool = True) -> None:
        self.present = present
        self.decoded = 0
        self.captures: list[FakeCapture] = []

    def __call__(self, source: int | str) -> FakeCapture:
        self.captures.append(FakeCapture(self))
        return self.captures[-1]


def test_camera_gives_the_latest_picture_in_rgb():
    world = FakeWorld()
    with Camera("0", fps=20, capture=world) as camera:
        eventually(lambda: camera.latest() is not None)
        first = camera.latest()
        assert first.shape == (4, 6, 3)
        assert first.dtype == np.uint8
        assert first[0, 0].tolist()[1:] == [2, 1]
        eventually(lambda: camera.latest()[0, 0, 0] > first[0, 0, 0])
        with pytest.raises(ValueError, match="read-only"):
            camera.latest()[0] = 0
        eventually(lambda: world.captures[0].given > 30)
        assert world.decoded < world.captures[0].given  # the others were only fetched
    assert camera.latest() is None
    assert not world.captures[0].open


def test_camera_that_goes_and_comes_back(monkeypatch):
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.01)
    world, statuses = FakeWorld(), []
    with Camera(fps=50, capture=world, on_status=lambda status, _: statuses.append(status)) as camera:
        eventually(lambda: camera.latest() is not None)
        world.present = False
        eventually(lambda: camera.status == "lost")
        assert camera.latest() is None
        eventually(lambda: len(world.captures) > 3)
        world.present = True
        eventually(lambda: camera.latest() is not None)
        assert not any(capture.open for capture in world.captures[:-1])
    assert statuses == ["ok", "lost", "ok"]


def test_camera_that_is_not_there():
    with pytest.raises(DeviceError, match="can't open camera 3"):
        Camera(3, capture=FakeWorld(present=False)).start()
    with pytest.raises(DeviceError, match="no camera or video '/dev/video77'"):
        Camera("/dev/video77", capture=FakeWorld()).start()


def test_camera_can_be_started_again():
    camera = Camera(capture=FakeWorld())
    for _ in range(2):
        with camera:
            eventually(lambda: camera.latest() is not None)
        camera.close()
        assert camera.status == "closed"


def test_missing_packages_name_their_extras(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setitem(sys.modules, "mss", None)
    with pytest.raises(UnsupportedError, match=r"omni\[camera\]"):
        Camera(0).start()
    with pytest.raises(UnsupportedError, match=r"omni\[screen\]"):
        Screen().start()


@pytest.mark.parametrize("fps", [0, -1, float("nan"), 1000])
def test_absurd_rates_are_refused(fps):
    with pytest.raises(InvalidArgumentError, match="fps"):
        Camera(fps=fps)


def test_video_file_as_camera(tmp_path: Path):
    """Through OpenCV for real: 30 pictures in a second and a half, brighter and brighter."""
    pytest.importorskip("cv2")
    video = make_video(tmp_path / "看.mp4", 30, 20, size=(64, 48), codec="mpeg4")
    start, seen = time.monotonic(), []
    with Camera(str(video), fps=100) as camera:
        while camera.status != "ended":
            picture = camera.latest()
            if picture is not None:
                assert picture.shape == (48, 64, 3)
                seen.append(int(picture[24, 32, 1]))
            time.sleep(0.005)
            assert time.monotonic() < start + 60
        assert camera.latest() is None
    assert time.monotonic() - start > 1.4
    assert min(np.diff(seen)) >= -4  # the codec loses some
    assert len(set(seen)) > 5


def test_file_that_is_no_video(tmp_path: Path):
    pytest.importorskip("cv2")
    (tmp_path / "x.mp4").write_bytes(b"nothing" * 100)
    with pytest.raises(DeviceError, match="not a video"):
        Camera(str(tmp_path / "x.mp4")).start()


class FakeScreen:
    """Two monitors; the picture's red counts the shots."""

    def __init__(self) -> None:
        self.monitors = [{"width": 5}, {"width": 2}, {"width": 3}]
        self.shots = 0
        self.broken = False
        self.closed = 0

    def mss(self) -> FakeScreen:
        return self

    def grab(self, area):
        if self.broken:
            raise OSError("display is gone")
        self.shots += 1
        pixel = bytes([1, 2, self.shots % 256, 255])
        return SimpleNamespace(bgra=pixel * area["width"] * 4, width=area["width"], height=4)

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize(("monitor", "width"), [(0, 5), (1, 2), (2, 3)])
def test_screen(monitor, width):
    fake = FakeScreen()
    with Screen(monitor, fps=100, mss=fake) as screen:
        eventually(lambda: fake.shots > 2)
        picture = screen.latest()
        assert picture.shape == (4, width, 3)
        assert picture[0, 0].tolist()[1:] == [2, 1]
    assert fake.closed == 1


def test_screen_that_is_lost(monkeypatch):
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.01)
    fake = FakeScreen()
    with Screen(fps=100, mss=fake) as screen:
        eventually(lambda: screen.latest() is not None)
        fake.broken = True
        eventually(lambda: screen.status == "lost")
        fake.broken = False
        eventually(lambda: screen.latest() is not None)


def test_screen_that_is_not_there(monkeypatch):
    with pytest.raises(InvalidArgumentError, match="screen 3; there are 1 to 2"):
        Screen(3, mss=FakeScreen()).start()
    if sys.platform.startswith("linux"):
        pytest.importorskip("mss")
        monkeypatch.delenv("DISPLAY", raising=False)
        with pytest.raises(DeviceError, match=r"can't look at the screen.*DISPLAY"):
            Screen().start()
