"""Photos of a loaded unit as pixels: those that the loader left encoded are decoded on the model's device."""

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from finer_ray.config import InputConfig
from finer_ray.pipeline.columns import unpack_some
from finer_ray.pipeline.feeding import Feeder
from finer_ray.shards import DecodeError, Sample, Transform, decode
from finer_ray.shards.device_jpeg import decode_batch


class Photos:
    """A unit's photos.

    Args:
        table: what `Loader` gives.
        transform: the backbone's.
        config: of the input.
        feed: to the device, which decodes what is encoded.
    """

    def __init__(self, table: pa.Table, transform: Transform, config: InputConfig, feed: Feeder) -> None:
        self._transform, self._config, self._feed = transform, config, feed
        self._pixels, self._places = unpack_some(table["pixels"], np.uint8, (*transform.size, 3))
        self._encoded = table["encoded"]
        self._sizes = list(zip(table["width"].to_pylist(), table["height"].to_pylist(), strict=True))

    def take(self, rows: np.ndarray) -> tuple[Tensor, dict[int, DecodeError]]:
        """The pixels of some rows whose `stage` is null.

        Returns:
            (m, h, w, 3) uint8 on the device, of those that can be decoded, in order; and by position among `rows`, what
            is wrong with the others.
        """
        encoded = {
            place: data for place, row in enumerate(rows) if (data := self._encoded[int(row)].as_py()) is not None
        }
        if not encoded:
            return self._feed(self._pixels, self._places[rows]), {}
        arrived = [*encoded]
        sizes = [self._sizes[rows[place]] for place in arrived]
        decoded, failed = decode_batch([*encoded.values()], sizes, self._transform, self._feed.device)
        errors: dict[int, DecodeError] = {}
        for position in failed:
            try:
                decoded[position] = self._on_cpu(encoded[arrived[position]]).permute(2, 0, 1).to(decoded.device)
            except DecodeError as error:
                errors[arrived[position]] = error
        pixels = decoded.permute(0, 2, 3, 1)
        if loaded := [place for place in range(len(rows)) if place not in encoded]:
            arrived += loaded
            pixels = torch.cat([pixels, self._feed(self._pixels, self._places[rows[loaded]])])
        order = [position for position in np.argsort(arrived).tolist() if arrived[position] not in errors]
        # A list as an index would make the GPU be waited for.
        index = torch.tensor(order, dtype=torch.long).to(pixels.device, non_blocking=True)
        return pixels.index_select(0, index), errors

    def fault(self, row: int) -> DecodeError | None:
        """What is wrong with a photo that nobody has decoded yet, found on the CPU."""
        if (data := self._encoded[row].as_py()) is not None:
            try:
                self._on_cpu(data)
            except DecodeError as error:
                return error
        return None

    def _on_cpu(self, data: bytes) -> Tensor:
        """A JPEG that the device refused, as the loader would have decoded it. Raises DecodeError."""
        sample = Sample("", data)
        config = self._config
        decoded = decode(sample, self._transform, config.max_image_pixels, config.fast_jpeg, region=False)
        return torch.from_numpy(decoded.image.copy())
