"""Brings a run to its end on a Ray cluster: passes of Ray Data over the parts that are not done.

A worker that dies is started again where there is room, and what it had is done again (see `Worker`); a part that is
not done when a pass is over comes into the next one.
"""

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntre_deploy.errors import EngineError, InputError, NtreError
from ntre_deploy.segment.cluster.address import AUTO, LOCAL, is_cluster
from ntre_deploy.segment.cluster.plan import done_parts
from ntre_deploy.segment.cluster.stores import needed
from ntre_deploy.segment.cluster.worker import DEFECT, Order, Worker

# a pass may lose parts as often as workers die; one that gets nothing done is the last
_PASSES = 20
# blocks of a pass: each is a call of a worker, and some are always under way
_BLOCKS = 20_000
_HERE = "127.0.0.1"
# seconds that it may take to be connected
_ANSWER = 10.0
# bytes of a cluster of this machine alone, above those of the bundle
_STORE = 128 << 20


@dataclass(frozen=True)
class Cluster:
    """What workers are given.

    Attributes:
        address: `auto` (the cluster of this machine, else one is started for the command), `local`, or HOST:PORT.
        workers: at most so many; None takes what the cluster has room for.
        cpus: of each.
        gpus: of each; 0 for an engine that runs on CPUs.
    """

    address: str = AUTO
    workers: int | None = None
    cpus: int = 1
    gpus: float = 0


@contextmanager
def connected(cluster: Cluster, bundle_bytes: int) -> Iterator[None]:
    """A connection to a cluster for the block; one that was started for it ends with it, with all its processes.

    Args:
        bundle_bytes: of the bundle, which the cluster's store has to hold.

    Raises:
        InputError: no address of a cluster.
        EngineError: Ray is not installed, or there is no cluster at the address.
    """
    if not is_cluster(cluster.address):
        raise InputError(
            f"--ray {cluster.address} is no address of a cluster: auto, local or HOST:PORT is expected. From a machine "
            "that is none of its nodes, give the whole command to `ray job submit`."
        )
    # no word to the makers of Ray
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # else it warns of each worker that can be started again
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with needed():
        import ray
        import ray.data
    if ray.is_initialized():  # of the program that calls this
        yield
        return
    address = _found(cluster.address)
    more: dict[str, Any] = {"address": address}
    if address == LOCAL:
        more |= {
            "include_dashboard": False,
            "_node_ip_address": _HERE,
            "object_store_memory": _STORE + 2 * bundle_bytes,
        }
    try:
        # what it says of its own log
        with _without_stderr():
            ray.init(**more, logging_level=logging.ERROR, log_to_driver=False, configure_logging=True)
    # of no kind in common
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise EngineError(f"No Ray cluster can be reached at {cluster.address}: {reason}") from error
    try:
        # Ray tells there of workers that died, and that is no result
        with redirect_stdout(sys.stderr):
            yield
    finally:
        ray.shutdown()


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Nothing that compiled code writes to standard error in the block is seen."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _found(address: str) -> str:
    """Where a cluster answers, or `local` where one has to be started; Ray itself would wait for minutes.

    Raises:
        EngineError: nothing answers at the address that was told.
    """
    from ray._private import services

    if address == LOCAL:
        return LOCAL
    told = address if address != AUTO else os.environ.get("RAY_ADDRESS")
    if told is not None and not is_cluster(told):
        return told  # of a kind that only Ray knows
    # what the last cluster of this machine has left, which may have ended
    found = services.canonicalize_bootstrap_address(told or AUTO)
    if found is None:
        return LOCAL
    host, _, port = found.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _ANSWER):
            return found
    except OSError as error:
        if told is None:
            return LOCAL
        raise EngineError(f"No Ray cluster answers at {told}: {error.strerror or error}.") from error


def run(
    order: Order, files: dict[str, bytes], parts: Sequence[int], cluster: Cluster, advance: Callable[[int], None]
) -> None:
    """Do parts on the cluster that this process is connected to; what is not done on an error can be gone on with.

    Args:
        files: of the bundle; see `pack`.
        advance: called with the number of photos of each part that is done.

    Raises:
        InputError: results cannot be written.
        EngineError: workers cannot be started or cannot load the bundle, or the engine failed.
    """
    import ray

    reference = ray.put(files)
    told: set[int] = set()

    def note(part: int, photos: int) -> None:
        if part not in told:  # whose worker died when the part was done, and who did it again
            told.add(part)
            advance(photos)

    # what failed before is there already, so that only what is told counts as done
    left = list(parts)
    for _ in range(_PASSES):
        for row in _pass(order, reference, left, cluster):
            if row["code"] == DEFECT:
                raise RuntimeError(row["error"])
            if row["error"]:
                raise (EngineError if row["code"] == EngineError.exit_code else InputError)(row["error"])
            note(row["part"], row["photos"])
        if not order.again:
            there = done_parts(order.store)
            for part in left:
                if part in there:
                    note(part, order.plan.count(part))
        before, left = len(left), [part for part in left if part not in told]
        if not left:
            return
        if len(left) == before:
            break
    raise EngineError(
        f"{len(left)} parts of the photos could not be done: their workers died each time. Look at Ray's logs, then "
        "give the same command to go on."
    )


def _pass(order: Order, reference: Any, parts: Sequence[int], cluster: Cluster) -> Iterator[dict[str, Any]]:
    import ray
    from ray import data
    from ray.exceptions import RayError

    _quiet(data)
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    most = cluster.workers or _room(resources, cluster)
    count = min(len(parts), _BLOCKS)
    given = data.from_items([{"part": part} for part in parts], override_num_blocks=count)
    done = given.map_batches(
        Worker,
        fn_constructor_args=(order, [reference]),
        batch_size=1,
        num_cpus=cluster.cpus,
        num_gpus=cluster.gpus or None,
        # each worker has the next part at hand; those that are idle at the end make room for one that is started again
        compute=data.ActorPoolStrategy(
            min_size=1, max_size=most, initial_size=min(most, count), max_tasks_in_flight_per_actor=2
        ),
    )
    try:
        yield from done.iter_rows()
    except NtreError:
        raise
    except RayError as error:
        raise EngineError(f"Ray failed: {_reason(error)}; give the same command to go on.") from error


def _room(resources: dict[str, float], cluster: Cluster) -> int:
    """Workers that the cluster has room for.

    Raises:
        EngineError: none.
    """
    room = resources.get("CPU", 0) // cluster.cpus
    if cluster.gpus:
        room = min(room, resources.get("GPU", 0) // cluster.gpus)
    if room < 1:
        asked = f"{cluster.cpus} CPUs" + (f" and {cluster.gpus:g} GPUs" if cluster.gpus else "")
        raise EngineError(
            f"The cluster has {resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs, and a worker of "
            f"this engine needs {asked}; choose another --engine, fewer --threads, or --ray-workers to wait for nodes."
        )
    return int(room)


def _quiet(data: Any) -> None:
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # a part whose worker dies again and again must not end the pass of the others
    context.max_errored_blocks = -1
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]


def trusted_keys(files: Sequence[Path]) -> tuple[bytes, ...]:
    """Content of PEM files, as it travels to other machines.

    Raises:
        InputError: one cannot be read.
    """
    from ntre_deploy.files import reading

    keys = []
    for path in files:
        with reading(path, "Key"):
            keys.append(path.read_bytes())
    return tuple(keys)
