"""A run from its command to its results: listed and encoded once, then brought to its end on the cluster."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.engines import ENGINE_NAMES, runs_on_gpu
from ntre_deploy.runtime.imagefile import Pixels
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.support import SupportMemory
from ntre_deploy.segment.cluster.driver import Cluster, connected, run, trusted_keys
from ntre_deploy.segment.cluster.listing import Listing, source_key
from ntre_deploy.segment.cluster.plan import (
    RUN,
    Plan,
    check_command,
    done_parts,
    part_size,
    read_plan,
    write_photos,
)
from ntre_deploy.segment.cluster.rows import Told, failed_parts, tell
from ntre_deploy.segment.cluster.stores import Store, needed
from ntre_deploy.segment.cluster.worker import Order, pack


@dataclass
class Job:
    """What is asked for.

    Attributes:
        bundle: folder.
        out: folder or address for results.
        sources, recursive, lines: as of `Listing`.
        supports: class -> its shots, each uint8 RGB [H, W, 3] and uint8 [H, W], as `Segmenter.encode_supports` takes
            them.
        memories: of classes that were encoded before; they come behind those of `supports`.
        engine, precision, threads: as `Segmenter.load` takes them.
        calibrate, leave_one_out: as `Segmenter.encode_supports` takes them.
        exact: read every pixel of large JPEGs.
        trusted: files of the keys, by one of which the bundle must be signed.
        retry_failed: try those photos again that could not be segmented.
        cluster: where, and how many workers.
        step, note: called with what is done now, and with a remark.
        left: endings of files that were found and are no photos, and how many.
        segmenter: that has encoded the supports; None where an earlier run had done it.
        encoded: the memories.
    """

    bundle: Path
    out: str
    sources: Sequence[str]
    recursive: bool = False
    lines: Sequence[str] = ()
    supports: Mapping[str, Sequence[tuple[Pixels, Pixels]]] = field(default_factory=dict)
    memories: Sequence[SupportMemory] = ()
    engine: str = "auto"
    precision: str | None = None
    threads: int | None = None
    calibrate: bool = True
    leave_one_out: bool = True
    exact: bool = False
    trusted: Sequence[Path] = ()
    retry_failed: bool = False
    cluster: Cluster = field(default_factory=Cluster)
    step: Callable[[str], None] = lambda step: None
    note: Callable[[str], None] = lambda line: None
    left: Mapping[str, int] = field(default_factory=dict)
    segmenter: Segmenter | None = None
    encoded: Sequence[SupportMemory] = ()

    def prepare(self) -> None:
        """Find the run that was begun there, or begin one: encode the supports, and write down photos and memories.

        Raises:
            InputError: a source, a support, a memory or the bundle cannot be used, results cannot be written there, or
                another run is there.
            EngineError: no engine can encode the supports, or a package is missing.
        """
        with needed():
            import pyarrow  # noqa: F401
            import ray.data  # noqa: F401
        if self.out.lower().startswith("memory:"):
            raise InputError(f"{self.out} is of one process alone; a cluster needs a folder or an object store.")
        self.store = Store(self.out)
        self.opened = Bundle.open(self.bundle, trusted=list(self.trusted) or None)
        self._bundle = hashlib.sha256(self.opened.text).hexdigest()
        command = self._command()
        found = read_plan(self.store)
        if found is None:
            if self.retry_failed:
                raise InputError(f"There is no run at {self.store.place} whose photos could be tried again.")
            self.plan = self._begin(command)
        else:
            check_command(self.store, found, command)
            self.plan = found
            self.encoded = self._remembered()
        self._done = done_parts(self.store)
        self._failed = failed_parts(self.store) if self.retry_failed else {}

    @property
    def photos(self) -> int:
        """How many are to be done now, with those of parts that are done again in part."""
        return sum(self.plan.count(part) for part in self._parts)

    @property
    def done_before(self) -> int:
        """Photos that earlier runs of the same command have done."""
        return sum(self.plan.count(part) for part in self._done if part < self.plan.parts) - sum(self._failed.values())

    def run(self, advance: Callable[[int], None]) -> Told:
        """Do what is not done, and count what is there.

        Args:
            advance: called with numbers of photos that are done.

        Raises:
            InputError: results cannot be written.
            EngineError: the cluster, its workers or their engine cannot do it; the same command goes on.
        """
        files = pack(self.bundle)
        order = Order(
            self.store,
            self.plan,
            str(self.bundle.resolve()),
            self.plan.engine,
            self.plan.precision,
            self.threads or 1,
            trusted_keys(self.trusted),
            tuple(memory.to_bytes() for memory in self.encoded),
            self.exact,
        )
        missing = [part for part in range(self.plan.parts) if part not in self._done]
        if missing or self._failed:
            gpus = self.cluster.gpus or float(runs_on_gpu(self.plan.engine))
            cluster = replace(self.cluster, cpus=self.threads or 1, gpus=gpus)
            with connected(cluster, sum(map(len, files.values()))):
                if missing:
                    run(order, files, missing, cluster, advance)
                if self._failed:
                    run(replace(order, again=True), files, sorted(self._failed), cluster, advance)
        self.store.sweep()
        told = tell(self.store, self.plan.names)
        if told.photos != self.plan.photos:
            raise EngineError(
                f"{self.store.place} has {told.photos} rows of {self.plan.photos} photos; somebody has changed files."
            )
        return told

    @property
    def _parts(self) -> list[int]:
        return [part for part in range(self.plan.parts) if part not in self._done or part in self._failed]

    def _command(self) -> dict[str, Any]:
        return {
            "bundle": self._bundle,
            "classes": [[name, _digest(shots)] for name, shots in self.supports.items()],
            "memories": [[memory.name, hashlib.sha256(memory.to_bytes()).hexdigest()] for memory in self.memories],
            "sources": [source_key(source, self.lines) for source in self.sources],
            "recursive": self.recursive,
            "engine": self.engine,
            "precision": self.precision,
            "calibrate": self.calibrate,
            "exact": self.exact,
        }

    def _begin(self, command: dict[str, Any]) -> Plan:
        self.store.check()
        self.step("loading the bundle")
        segmenter, engine, precision = self._load()
        self.step("encoding the supports")
        encoded = (
            segmenter.encode_supports(self.supports, leave_one_out=self.leave_one_out, calibrate=self.calibrate)
            if self.supports
            else []
        )
        self.encoded = [*encoded, *(item if self.calibrate else item.uncalibrated() for item in self.memories)]
        segmenter.stack(self.encoded)
        self.step("listing the photos")
        listing = Listing(self.sources, self.recursive, self.lines)
        photos = write_photos(self.store, listing)
        self.left, self.segmenter = listing.left, segmenter
        contents = [memory.to_bytes() for memory in self.encoded]
        for memory, content in zip(self.encoded, contents, strict=True):
            self.store.write(_memory_name(memory.name), content)
        names = tuple(memory.name for memory in self.encoded)
        digests = tuple(hashlib.sha256(content).hexdigest() for content in contents)
        model = self.opened.manifest.model.id
        plan = Plan(photos, part_size(photos), names, digests, self._bundle, model, engine, precision, command)
        # the last one: without it, nothing was begun
        self.store.write(RUN, plan.to_bytes())
        return plan

    def _load(self) -> tuple[Segmenter, str, str | None]:
        """An engine of this machine, and the one that all workers take."""
        trusted = list(self.trusted) or None
        try:
            segmenter = Segmenter.load(
                self.bundle, self.engine, precision=self.precision, threads=self.threads, trusted=trusted
            )
        except EngineError as error:
            if self.engine not in ENGINE_NAMES or not runs_on_gpu(self.engine):
                raise
            self.note(f"note: this machine encodes the supports with another engine than the workers': {error}")
            return Segmenter.load(self.bundle, threads=self.threads, trusted=trusted), self.engine, self.precision
        return segmenter, segmenter.engine.name, segmenter.engine.precision

    def _remembered(self) -> list[SupportMemory]:
        memories = []
        for name, digest in zip(self.plan.names, self.plan.memories, strict=True):
            content = self.store.read(_memory_name(name))
            if content is None or hashlib.sha256(content).hexdigest() != digest:
                raise InputError(
                    f"{self.store.place}/{_memory_name(name)} is missing or was changed; put it back, or choose "
                    "another --out."
                )
            memories.append(SupportMemory.from_bytes(content, name))
        return memories


def _memory_name(name: str) -> str:
    return f"memories/{name}.safetensors"


def _digest(shots: Sequence[tuple[Pixels, Pixels]]) -> str:
    digest = hashlib.sha256()
    for array in (array for shot in shots for array in shot):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
