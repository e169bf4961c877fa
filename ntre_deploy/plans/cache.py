"""Plans that were built before, in a folder of the user's own; two processes that ask for one build it once."""

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ntre_deploy.errors import InputError, NtreWarning
from ntre_deploy.files import atomic_file, atomic_folder, plain_name
from ntre_deploy.plans.builder import Built

_PLAN, _ENTRY = "engine.plan", "entry.json"
_POLL = 0.2  # seconds between two looks at another process's lock


def cached(
    folder: Path | None,
    key: Mapping[str, Any],
    build: Callable[[bytes], Built],
    progress: Callable[[str], None] = lambda step: None,
) -> tuple[Built, bool]:
    """A plan out of the cache, or built and kept there.

    Args:
        folder: None builds without a cache.
        key: all that decides about the plan, as JSON values; `library`, `version` and `compute_capabilities` tell whose
            timings a build may start from.
        build: takes the timing cache of earlier builds.

    Returns:
        The plan, and whether it was there already.  A folder that cannot be written is a warning.

    Raises:
        Exception: what `build` raises; nothing is kept then.
    """
    if folder is None:
        return build(b""), False
    # of the extras that bring an engine's library
    from filelock import FileLock, Timeout

    try:
        # plans are native code: nobody else may write here
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = json.dumps(key, sort_keys=True)
        place = folder / hashlib.sha256(text.encode()).hexdigest()[:32]
        lock = FileLock(f"{place}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress("waiting for another process that builds the same engine")
            lock.acquire(poll_interval=_POLL)
    except OSError as error:
        _without(folder, str(error.strerror or error))
        return build(b""), False
    try:
        if (found := _read(place, key)) is not None:
            return found, True
        timings = folder / _timings_name(key)
        built = build(timings.read_bytes() if timings.is_file() else b"")
        try:
            _write(place, key, built)
            if built.timing_cache:
                with atomic_file(timings) as path:
                    path.write_bytes(built.timing_cache)
        except (InputError, OSError) as error:
            _without(folder, str(error))
        return built, False
    finally:
        lock.release()


def _without(folder: Path, reason: str) -> None:
    # what was built is worth more than what would be spared the next time
    warnings.warn(
        f"Engine cache {folder} cannot be written ({reason.rstrip('.')}); nothing is kept there.",
        NtreWarning,
        stacklevel=3,
    )


def _timings_name(key: Mapping[str, Any]) -> str:
    parts = [str(key.get("library")), str(key.get("version")), *map(str, key.get("compute_capabilities", []))]
    return plain_name("-".join(["timings", *parts]))


def _read(place: Path, key: Mapping[str, Any]) -> Built | None:
    try:
        entry = json.loads((place / _ENTRY).read_text())
        plan = (place / _PLAN).read_bytes()
        same = entry["key"] == json.loads(json.dumps(key)) and entry["sha256"] == hashlib.sha256(plan).hexdigest()
        return Built(plan, **entry["built"]) if same else None
    # not there, half there or not ours: then it is built
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(place: Path, key: Mapping[str, Any], built: Built) -> None:
    facts = {k: v for k, v in asdict(built).items() if k not in ("plan", "timing_cache")}
    entry = {"key": key, "sha256": hashlib.sha256(built.plan).hexdigest(), "built": facts}
    with atomic_folder(place, replace=True) as temporary:
        (temporary / _PLAN).write_bytes(built.plan)
        (temporary / _ENTRY).write_text(json.dumps(entry, indent=2))
