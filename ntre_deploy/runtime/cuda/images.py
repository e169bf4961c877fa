"""Images in and label maps out on the GPU, by the project's kernels, on a stream."""

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.kernels.launch import Kernels
from ntre_deploy.runtime.cuda import Device
from ntre_deploy.runtime.cuda.arrays import DeviceArray
from ntre_deploy.runtime.cuda.buffers import Buffers
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.runtime.letterbox import Letterbox, Pixels

Float = NDArray[np.float32]


class Images:
    """Device memory and staging for one image at a time; both grow with the largest image seen.

    The primary context has to be current in every call.

    Args:
        stream: on which everything is queued.
        owner: of the arrays that `prepare` gives; see `DeviceArray`.

    Raises:
        EngineError: the device is too old for the kernels.
    """

    def __init__(self, device: Device, stream: int, owner: object = None) -> None:
        self._device, self._stream, self._owner = device, stream, owner
        self._kernels = Kernels(device, device.compute_capability)
        self._buffers = Buffers(device)

    def prepare(self, image: Pixels, spec: InputSpec) -> tuple[DeviceArray, Letterbox]:
        """Queue the pre-processing of an image; `prepare_image` within a grey level.

        Args:
            image: uint8 RGB [H, W, 3].

        Returns:
            float32 [1, 3, size, size] on the device, which the next image of that size overwrites, and the geometry of
            the way back.

        Raises:
            CudaError: the device's memory is full, or it failed.
        """
        box = Letterbox.fit(image.shape[0], image.shape[1], spec.size)
        shape = (1, 3, spec.size, spec.size)
        staging = self._buffers.staging("image", image.nbytes)
        staging.reshape(image.shape)[...] = image
        source, target = self._buffers.room("image", image.nbytes), self._buffers.room("input", 4 * int(np.prod(shape)))
        self._device.copy_in(source, staging, self._stream)
        self._kernels.prepare(source, 3 * box.width, box, spec, target, half=False, stream=self._stream)
        return DeviceArray(target, shape, self._owner, device=self._device.index), box

    def label_map(self, logits: DeviceArray, box: Letterbox) -> tuple[Pixels, Float]:
        """Run the post-processing, and wait for it.

        Args:
            logits: float32 [1, N, 2, h, w] on the device.

        Returns:
            uint8 labels [H, W] and the logits [N, 2, h, w], both of the host.

        Raises:
            CudaError: the device's memory is full, or it failed.
        """
        _, classes, _, h, w = logits.shape
        size = box.height * box.width
        target = self._buffers.room("labels", size)
        labels, values = self._buffers.staging("labels", size), self._buffers.staging("logits", logits.nbytes)
        self._kernels.label_map(logits.address, (classes, h, w), box, target, half=False, stream=self._stream)
        self._device.copy_out(labels, target, self._stream)
        self._device.copy_out(values, logits.address, self._stream)
        self._device.wait(self._stream)
        return labels.reshape(box.height, box.width).copy(), values.view(np.float32).reshape(logits.shape[1:]).copy()

    def close(self) -> None:
        """Free everything; a device that is lost does not keep it from letting go of the rest."""
        self._buffers.free()
