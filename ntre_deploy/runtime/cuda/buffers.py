"""Device memory and page-locked memory that is kept by name, and as large as what was asked for."""

from collections.abc import Callable

from ntre_deploy.runtime.cuda import Bytes, Device, let_go


class Buffers:
    """Memory of one owner; the primary context has to be current in every call.

    Args:
        outgrown: called with the name before device memory is given back for a larger piece, to let go of its address.
    """

    def __init__(self, device: Device, outgrown: "Callable[[Name], None]" = lambda name: None) -> None:
        self._device, self._outgrown = device, outgrown
        self._memory: dict[Name, tuple[int, int]] = {}  # address and size
        self._pinned: dict[Name, Bytes] = {}

    def room(self, name: "Name", size: int) -> int:
        """Address of so many bytes of device memory, which stays while no more is asked for.

        Raises:
            CudaError: the device's memory is full.
        """
        address, there = self._memory.get(name, (0, 0))
        if there < size:
            self._outgrown(name)
            if there:
                del self._memory[name]
                self._device.free(address)
            address = self._device.allocate(size)
            self._memory[name] = (address, size)
        return address

    def staging(self, name: "Name", size: int) -> Bytes:
        """So much page-locked memory, uint8 [size].

        Raises:
            CudaError: there is no more.
        """
        array = self._pinned.get(name)
        if array is None or array.nbytes < size:
            if array is not None:
                self._device.free_pinned(self._pinned.pop(name))
            array = self._pinned[name] = self._device.allocate_pinned(size)
        return array[:size]

    def free(self) -> None:
        """Free everything; a device that is lost does not keep it from letting go of the rest."""
        let_go(self._device, (address for address, _ in self._memory.values()), self._pinned.values())
        self._memory.clear()
        self._pinned.clear()


Name = str | tuple[str, str]
