"""The bundles of one application, and which requests it accepts for them."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from ntre_deploy.errors import did_you_mean
from ntre_deploy.serving.limits import BusyError, ClosedError, Limits, MissingError
from ntre_deploy.serving.service import Service

Services = Mapping[str, Service]
Opening = Callable[[], Services]

# bodies of so many of the largest requests are held at once; the usual ones are far smaller
_HELD = 8


class Serving:
    """What all requests of an application share.  But for `load` and `close`, only its event loop may use it.

    Args:
        services: the bundles by name, the first one the default; or what opens them, see `load`.
        limits: of requests.

    Attributes:
        draining: nothing new is accepted any more.
        failed: what `load` has raised.
        loading: whether `load` is under way.
        accepted: requests that are being answered.
    """

    def __init__(self, services: Services | Opening, limits: Limits) -> None:
        self._opening = services if callable(services) else None
        self._services: dict[str, Service] = {} if callable(services) else dict(services)
        self._limits = limits
        self._working: dict[str, int] = {}
        self._held = 0
        self._lock = threading.Lock()
        self._closed = False
        self.draining = False
        self.failed: BaseException | None = None
        self.loading = False
        self.accepted = 0

    @property
    def owns(self) -> bool:
        """Whether the services are opened, and so closed, here."""
        return self._opening is not None

    @property
    def ready(self) -> bool:
        """Whether requests are accepted."""
        return bool(self._services) and not self.draining

    @property
    def state(self) -> str:
        """`loading`, `ready`, `draining` or `failed`."""
        if self.draining:
            return "draining"
        return "failed" if self.failed else "ready" if self._services else "loading"

    @property
    def services(self) -> Services:
        """Those that are loaded."""
        return self._services

    def load(self) -> None:
        """Open the bundles, on a thread, as it takes seconds; what it raises is kept as `failed`."""
        if self._opening is None:
            return
        self.loading = True
        try:
            opened = dict(self._opening())
        except Exception as error:
            self.failed = error
            return
        finally:
            self.loading = False
        with self._lock:
            if not self._closed:
                self._services = opened
                return
        # the server has ended meanwhile
        for service in opened.values():
            service.close(0)

    def close(self, seconds: float | None = None) -> int:
        """Answer what was accepted, and end the workers of all bundles; a second call does nothing.

        Args:
            seconds: see `Pool.drain`.

        Returns:
            how many pieces of work were not done.
        """
        with self._lock:
            if self._closed:
                return 0
            self._closed = True
        return sum(service.close(seconds) for service in self._services.values())

    def find(self, name: str | None = None) -> Service:
        """The bundle of a name; None takes the first one.

        Raises:
            MissingError: there is none.
            ClosedError: bundles are still being loaded, or could not be.
        """
        if not self._services:
            raise ClosedError(
                "The bundles could not be loaded; see the server's log."
                if self.failed
                else "The bundles are being loaded; ask /readyz, and try again then."
            )
        if name is None:
            return next(iter(self._services.values()))
        if name not in self._services:
            names = list(self._services)
            raise MissingError(
                f"There is no bundle {name[:100]!r}; there is {', '.join(names)}.{did_you_mean(name[:100], names)}"
            )
        return self._services[name]

    @contextmanager
    def place(self, service: Service) -> Iterator[None]:
        """A place in the queue of a bundle, taken before the body of its request is read and held for its answer.

        Raises:
            BusyError: there is none free.
        """
        pool, taken = service.pool, self._working.get(service.name, 0)
        if taken >= pool.workers + pool.waiting or pool.full:
            raise pool.refusal()
        self._working[service.name] = taken + 1
        try:
            yield
        finally:
            self._working[service.name] -= 1

    def waiting(self, service: Service) -> int:
        """Requests of a bundle that are accepted and that no worker is busy with."""
        taken = max(self._working.get(service.name, 0), service.pool.under_way)
        return max(0, taken - service.pool.workers)

    def hold(self, size: int) -> None:
        """Count bytes of bodies that are kept in memory.

        Raises:
            BusyError: it would be too much; nothing is counted then.
        """
        if self._held and self._held + size > _HELD * self._limits.body_bytes:
            raise BusyError("Requests that are as large as may be fill the memory that they may; try again in 1 s.")
        self._held += size

    def release(self, size: int) -> None:
        """Take back what `hold` has counted."""
        self._held -= size
