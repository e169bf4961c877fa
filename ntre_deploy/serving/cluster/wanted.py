"""What is served, as a configuration file of Ray Serve says it (`user_config`, or the `args` of `build`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ntre_deploy.errors import InputError, did_you_mean
from ntre_deploy.serving.http.settings import Settings, read_keys
from ntre_deploy.serving.limits import Limits
from ntre_deploy.serving.memories import check_name

_WHOLE = ("workers", "threads", "device", "batch")


@dataclass(frozen=True)
class Wanted:
    """What a replica serves.

    Attributes:
        bundles: name -> folder, the first one the default; every node must see the folders.
        engine, precision, threads, device: as `Service.open` takes them.
        workers: photos that a replica works on at once.
        memories: folder for memories by name, which all replicas share; None keeps each replica's in its own memory.
        batch: photos of different requests that go through the engine together where they share supports; 1 takes each
            by itself, and None is 4 for an engine on a GPU and 1 on CPUs, which gain nothing.
        batch_seconds: that the first of them waits for others.
        limits: as of `Limits`, by their names.
        api_keys: file with a key on each line, one of which is demanded; None demands none.
        hosts: names by which requests may call the server; none takes any.
        trusted: files of public keys, by one of which bundles must be signed.
        log_requests: log each one.
    """

    bundles: Mapping[str, str]
    engine: str = "auto"
    precision: str | None = None
    threads: int | None = 1
    device: int = 0
    workers: int = 1
    memories: str | None = None
    batch: int | None = None
    batch_seconds: float = 0.005
    limits: Mapping[str, Any] = field(default_factory=dict)
    api_keys: str | None = None
    hosts: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()
    log_requests: bool = True

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> "Wanted":
        """Read a configuration.

        Raises:
            InputError: a key that there is not, or a value that cannot be.
        """
        known = {one.name for one in fields(cls)}
        if not isinstance(given, Mapping) or any(key not in known for key in given):
            odd = next((str(key) for key in given if key not in known), str(given))
            raise InputError(
                f"'{odd}' is nothing that can be set; {', '.join(sorted(known))} can.{did_you_mean(odd, known)}"
            )
        bundles = given.get("bundles")
        if not isinstance(bundles, Mapping) or not bundles:
            raise InputError("No bundle was named; `bundles: {NAME: FOLDER}` is expected.")
        for name in bundles:
            check_name(str(name))
        more = {key: tuple(given[key]) for key in ("hosts", "trusted") if key in given}
        # as `serve run ... NAME=VALUE` gives them
        numbers = {key: int(given[key]) for key in _WHOLE if str(given.get(key)).isdecimal()}
        wanted = cls(
            **{**given, **more, **numbers, "bundles": {str(name): str(path) for name, path in bundles.items()}}
        )
        for key in ("workers", "batch", "threads"):
            value = getattr(wanted, key)
            if (value is not None or key == "workers") and (not isinstance(value, int) or value < 1):
                raise InputError(f"'{key}' is {value!r}; a whole number from 1 on is expected.")
        wanted.settings()
        return wanted

    def settings(self) -> Settings:
        """Those of the HTTP application.

        Raises:
            InputError: a limit that there is not or that cannot be, or keys that cannot be read.
        """
        try:
            limits = Limits(**self.limits)
        except TypeError as error:
            known = ", ".join(one.name for one in fields(Limits))
            raise InputError(f"The limits {sorted(self.limits)} cannot be set; {known} can, to numbers.") from error
        keys = read_keys(None, None if self.api_keys is None else Path(self.api_keys))
        return Settings(limits, keys, tuple(self.hosts), self.log_requests)
