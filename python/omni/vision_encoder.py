"""The vision encoder: pictures in, embeddings for the language model out."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, TypeAlias

from omni import _ext
from omni.images import load_image

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from omni.images import ImageSource

WeightFormat: TypeAlias = Literal["auto", "stored", "bf16", "q8_0"]


class VisionEncoder:
    """A SigLIP2 transformer for any aspect ratio and its resampler, from a GGUF file.

    Keeps no state between pictures; calls from several threads run one after another.

    Args:
        gguf: path of the file.
        n_threads: threads on the processor; None: one for each physical core.
        device: a name of `omni.list_devices()`, "gpu" for the first accelerator, None for the processor.
        weight_format: how weights are held: "stored" as in the file, "bf16", "q8_0", or "auto": F16 as BF16
            where the processor multiplies BF16 natively: nearly twice as fast, with activations
            rounded to BF16 in the products.
        repack: let quantised weights be copied into a layout with faster kernels.
        max_batch: slices of one shape that are computed at once; None: 1 on the processor, 16 elsewhere.
        poll: 0 to 100, how eagerly worker threads wait; high values lose when other programs run.

    Raises:
        ModelFileError, FormatError, UnsupportedError, InvalidArgumentError, OutOfMemoryError, DeviceError
    """

    def __init__(
        self,
        gguf: str | os.PathLike[str],
        *,
        n_threads: int | None = None,
        device: str | None = None,
        weight_format: WeightFormat = "auto",
        repack: bool = True,
        max_batch: int | None = None,
        poll: int = 1,
    ) -> None:
        self._encoder = _ext.VisionEncoder.open(
            os.fspath(gguf),
            n_threads=n_threads or 0,
            device=device or "",
            poll=poll,
            weight_format=weight_format,
            repack=repack,
            max_batch=max_batch or 0,
        )

    @classmethod
    def synthetic(
        cls,
        type: str = "F16",
        layers: int = 27,
        *,
        n_threads: int | None = None,
        device: str | None = None,
        weight_format: WeightFormat = "auto",
        repack: bool = True,
        max_batch: int | None = None,
        poll: int = 1,
    ) -> VisionEncoder:
        """Make an encoder of MiniCPM-o 4.5's sizes with random weights of `type`, in memory."""
        self = cls.__new__(cls)
        self._encoder = _ext.VisionEncoder.synthetic(
            type,
            layers,
            n_threads=n_threads or 0,
            device=device or "",
            poll=poll,
            weight_format=weight_format,
            repack=repack,
            max_batch=max_batch or 0,
        )
        return self

    @property
    def info(self) -> _ext.VisionEncoderInfo:
        """Sizes and memory of the encoder."""
        return self._encoder.info

    @property
    def device_name(self) -> str:
        """The device that computes."""
        return self._encoder.device_name

    def slices(
        self, image: ImageSource, max_slice_nums: int = 9
    ) -> tuple[list[tuple[NDArray[np.float32], tuple[int, int]]], tuple[int, int] | None]:
        """What the encoder sees of an image.

        Args:
            image: see `omni.images.load_image`.
            max_slice_nums: slices beside the overview at most; 1: the overview alone.

        Returns:
            the overview, then the slices row by row, each as (pixels, grid): normalised pixels, float32
            [3, height, width], and the patch grid (rows, columns); and the grid of slices (columns, rows),
            None if there are none.
        """
        return self._encoder.slices(load_image(image), max_slice_nums)

    def encode(self, image: ImageSource, max_slice_nums: int = 9) -> NDArray[np.float32]:
        """Embed an image: float32 [n_slices, queries, D], in the order of `slices()`.

        Args:
            image: see `omni.images.load_image`.
            max_slice_nums: slices beside the overview at most; 1: the overview alone.
        """
        return self._encoder.encode(load_image(image), max_slice_nums)

    def encode_slices(self, slices: Iterable[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embed slices of any images: float32 [n_slices, queries, D].

        Args:
            slices: uint8 RGB [height, width, 3] each, sides multiples of the patch size. Slices of one shape
                are computed together (see `max_batch`).
        """
        return self._encoder.encode_slices(list(slices))
