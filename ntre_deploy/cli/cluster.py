"""`ntre segment --ray`: photos through a Ray cluster, masks and Parquet out."""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntre_deploy.cli.console import counting, note, print_json, steps
from ntre_deploy.errors import InputError

if TYPE_CHECKING:
    from ntre_deploy.segment.cluster.job import Job
    from ntre_deploy.segment.cluster.rows import Told

# photos with an error that are named, and those in --json
_NAMED, _LISTED = 5, 1000


@dataclass
class Asked:
    """The options of the command line."""

    bundle: Path
    sources: list[str]
    support: list[str]
    memory: list[Path]
    out: str
    recursive: bool
    engine: str
    precision: str | None
    threads: int | None
    calibrate: bool = True
    leave_one_out: bool = True
    exact: bool = False
    address: str = "auto"
    workers: int | None = None
    retry_failed: bool = False
    trusted: Sequence[Path] = ()
    strict: bool = False
    as_json: bool = False


def segment_on_ray(asked: Asked) -> None:
    """Segment photos on a cluster, or go on with that.

    Raises:
        InputError, EngineError: as `Job`; none of the photos could be segmented.
    """
    from ntre_deploy.cli.segment import check_names
    from ntre_deploy.runtime.sources.finding import LIST
    from ntre_deploy.segment.cluster.driver import Cluster
    from ntre_deploy.segment.cluster.job import Job
    from ntre_deploy.segment.cluster.stores import Store, needed

    with needed():
        import fsspec  # noqa: F401
        import ray  # noqa: F401
    lines = list(sys.stdin) if LIST in asked.sources else []
    with tempfile.TemporaryDirectory(prefix="ntre-supports-") as folder:
        supports, drawn = _supports(asked, Path(folder))
        memories = [_memory(path) for path in asked.memory]
        check_names([*supports, *(item.name for item in memories)])
        job = Job(
            asked.bundle,
            asked.out,
            asked.sources,
            asked.recursive,
            lines,
            supports,
            memories,
            asked.engine,
            asked.precision,
            asked.threads,
            asked.calibrate,
            asked.leave_one_out,
            asked.exact,
            asked.trusted,
            asked.retry_failed,
            Cluster(asked.address, asked.workers),
            note=note,
        )
        with steps(asked.as_json) as job.step:
            job.prepare()
        store = Store(asked.out)
        for name, content in drawn.items():  # to be looked at even where something fails later
            store.write(name, content)
            if name.endswith("_mask.png"):
                note(f"GrabCut made {store.place}/{name}, look at the picture beside it")
    if job.done_before and not asked.as_json:
        note(f"going on: {job.done_before} of {job.plan.photos} photos are done")
    with counting(job.photos, "segmenting", asked.as_json) as advance:
        told = job.run(advance)
    _tell(asked, job, told)


def _supports(asked: Asked, scratch: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Arrays of the supports, and files of the masks that were drawn from boxes and points."""
    from ntre_deploy.segment.supports import FOLDER, parse_supports, read_supports

    arrays, drawn = read_supports(parse_supports(asked.support), scratch, strict=asked.strict)
    for made in drawn:
        made.write()
    files = (path for path in sorted((scratch / FOLDER).glob("*")) if path.is_file())
    return arrays, {f"{FOLDER}/{path.name}": path.read_bytes() for path in files}


def _memory(path: Path) -> Any:
    from ntre_deploy.runtime.support import SupportMemory

    return SupportMemory.load(path)


def _tell(asked: Asked, job: "Job", told: "Told") -> None:
    from ntre_deploy.cli.segment import origin_warning
    from ntre_deploy.segment.cluster.rows import failures

    place = job.store.place
    failed = list(failures(job.store, _LISTED if asked.as_json else _NAMED)) if told.failed else []
    warning = origin_warning(job.opened.manifest.model.origin)
    scores = {item.name: list(item.shot_scores) for item in job.encoded if item.shot_scores is not None}
    if asked.as_json:
        print_json(
            {
                "engine": f"{job.plan.engine} {job.plan.precision or ''}".strip(),
                "out": place,
                "photos": told.photos,
                "done_before": job.done_before,
                "failed": told.failed,
                "failures": [{"path": path, "error": error} for path, error in failed],
                "found": told.found,
                "shot_scores": scores,
                "skipped": dict(job.left),
                "warnings": [] if warning is None else [warning],
            }
        )
    else:
        _remarks(job, told, failed, scores, warning)
    if told.failed == told.photos:
        path, reason = failed[0]
        raise InputError(f"None of the photos could be segmented; {path}: {reason}.")
    if not asked.as_json:
        masks = told.photos - told.failed
        print(f"wrote {masks} mask{'s' * (masks != 1)} to {place}/masks, and what is known of them to {place}/results")


def _remarks(
    job: "Job",
    told: "Told",
    failed: Sequence[tuple[str, str]],
    scores: Mapping[str, Sequence[float]],
    warning: str | None,
) -> None:
    if job.left:
        kinds = ", ".join(f"{count} {ending}" for ending, count in sorted(job.left.items()))
        note(f"skipped what is no photo: {kinds}")
    for name, shots in scores.items():
        shown = ", ".join(f"{100 * score:.0f}" for score in shots)
        note(f"'{name}': each shot segmented with the others, IoU {shown}")
    note(f"engine: {job.plan.engine} {job.plan.precision or ''}".rstrip())
    if warning is not None:
        note(f"warning: {warning}")
    for path, reason in failed:
        note(f"failed: {path}: {reason}")
    if told.failed:
        note(f"{told.failed} could not be segmented; the same command with --retry-failed tries them again")
    for name, count in told.found.items():
        if not count:
            note(f"note: '{name}' was found nowhere")
