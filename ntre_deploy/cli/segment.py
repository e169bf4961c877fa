"""`ntre segment`: annotated images, photos and videos in; masks, overlays and a page to look at out."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from ntre_deploy.cli.console import counting, note, print_json, steps
from ntre_deploy.cli.engines import PANEL, EngineOption, PrecisionOption, ThreadsOption, one_engine
from ntre_deploy.cli.episodes import Draw, StrictOption, open_episodes
from ntre_deploy.cli.trust import TrustedOption
from ntre_deploy.errors import InputError

if TYPE_CHECKING:
    from ntre_deploy.runtime.segmenter import Segmenter
    from ntre_deploy.runtime.sources.finding import Skipped, Source
    from ntre_deploy.segment.outputs import Kinds

# files that a line names
_NAMED = 5
_DATASET = "Episodes of a dataset"
_CLUSTER = "On a cluster"


class Command(TyperCommand):
    """`--ray` may stand alone: the word behind it is its value only where that is the address of a cluster."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `auto` behind a `--ray` that stands alone, then parse as usual."""
        if "--ray" in args[: args.index("--") if "--" in args else None]:
            from ntre_deploy.segment.cluster.address import AUTO, is_cluster

            at = args.index("--ray") + 1
            # Ray's own kind of address is told to be none
            if at == len(args) or not (is_cluster(args[at]) or args[at].startswith("ray://")):
                args = [*args[:at], AUTO, *args[at:]]
        return super().parse_args(ctx, args)


def command(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.", show_default=False)],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            help="Photos, videos, folders, 'patterns', a camera's number, rtsp:// or http://, or - for a list.",
            show_default=False,
        ),
    ] = None,
    support: Annotated[
        list[str] | None,
        typer.Option(
            "--support",
            "-s",
            metavar="[NAME=]IMAGE,MASK",
            help="Annotated image; repeat it. MASK may be box=x1,y1,x2,y2.",
        ),
    ] = None,
    memory: Annotated[
        list[Path] | None, typer.Option("--memory", metavar="FILE", help="A saved class; repeat it.")
    ] = None,
    save_memory: Annotated[
        Path | None, typer.Option("--save-memory", metavar="FOLDER", help="Save for --memory.")
    ] = None,
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="FOLDER", help="For results; with --ray, an address too.")
    ] = "segmented",
    write: Annotated[
        list[str] | None,
        typer.Option(
            "--write",
            metavar="KIND",
            help="mask, overlay, video, page, coco, labelme, yolo, geojson, polygons, label-studio; repeat it.",
        ),
    ] = None,
    instances: Annotated[bool, typer.Option("--instances", help="COCO: each connected region on its own.")] = False,
    no_calibrate: Annotated[bool, typer.Option("--no-calibrate", help="Leave classes' margins raw.")] = False,
    no_leave_one_out: Annotated[bool, typer.Option("--no-leave-one-out", help="Do not score shots.")] = False,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Folders inside folders too.")] = False,
    every: Annotated[int, typer.Option("--every", metavar="N", min=1, help="Take each Nth frame.")] = 1,
    partial: Annotated[bool, typer.Option("--partial", help="Take videos that end early.")] = False,
    exact: Annotated[bool, typer.Option("--exact", help="Read all pixels of large JPEGs: slower.")] = False,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", metavar="SPEC", help="In place of inputs.", rich_help_panel=_DATASET),
    ] = None,
    shots: Annotated[
        int, typer.Option("--shots", metavar="N", min=1, help="Supports of each.", rich_help_panel=_DATASET)
    ] = 1,
    count: Annotated[int, typer.Option("--count", metavar="N", min=1, help="How many.", rich_help_panel=_DATASET)] = 8,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of the draw.", rich_help_panel=_DATASET)] = 0,
    engine: EngineOption = "auto",
    precision: PrecisionOption = None,
    threads: ThreadsOption = None,
    device: Annotated[int, typer.Option("--device", metavar="N", min=0, help="Which GPU.", rich_help_panel=PANEL)] = 0,
    device_images: Annotated[
        bool, typer.Option("--device-images", help="Scale and label on the GPU.", rich_help_panel=PANEL)
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="[ADDRESS]",
            help="Through a Ray cluster: HOST:PORT, local for one of this machine's own, or auto, which finds one.",
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    ray_workers: Annotated[
        int | None,
        typer.Option(
            "--ray-workers",
            metavar="N",
            min=1,
            help="At most so many.",
            show_default="what there is room for",
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Photos with an error once more.", rich_help_panel=_CLUSTER)
    ] = False,
    trusted: TrustedOption = None,
    strict: StrictOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Segment photos, videos and cameras by example: give an image and mask of each class.

    Example: ntre segment my.ntre photos/ clip.mp4 -s fork=a.jpg,a_mask.png
    """
    name, precision = one_engine(engine, precision)
    if ray is not None:
        from ntre_deploy.cli.cluster import Asked, segment_on_ray

        given_options = {
            "--save-memory": save_memory is not None,
            "--write": any(kind != "mask" for kind in write or ()),
            "--instances": instances,
            "--every": every > 1,
            "--partial": partial,
            "--dataset": dataset is not None,
            "--device": device > 0,
            "--device-images": device_images,
        }
        if others := [option for option, there in given_options.items() if there]:
            raise InputError(f"{others[0]} is not for --ray, which writes masks and Parquet of photos; leave one out.")
        _check_choice(inputs, support, memory, None, None, None)
        asked = Asked(bundle, inputs or [], support or [], memory or [], out, recursive, name, precision, threads)
        asked.calibrate, asked.leave_one_out, asked.exact = not no_calibrate, not no_leave_one_out, exact
        asked.address, asked.workers, asked.retry_failed = ray, ray_workers, retry_failed
        asked.trusted, asked.strict, asked.as_json = trusted or [], strict, as_json
        segment_on_ray(asked)
        return
    if ray_workers is not None or retry_failed:
        raise InputError(
            f"--{'retry-failed' if retry_failed else 'ray-workers'} is for --ray; add it or leave this out."
        )
    if "://" in out:
        raise InputError(f"--out {out} is an address, which --ray writes to; name a folder, or add --ray.")
    _check_choice(inputs, support, memory, dataset, save_memory, write)
    folder = Path(out)
    from ntre_deploy.files import check_folder
    from ntre_deploy.runtime.sources.finding import find_sources
    from ntre_deploy.segment.outputs import check_outputs, chosen_kinds
    from ntre_deploy.segment.supports import check_drawn, parse_supports, read_supports

    sources, skipped = find_sources(inputs or [], recursive=recursive, listed=sys.stdin)
    _check_live(sources)
    examples = parse_supports(support or [])
    kinds = chosen_kinds(write, sources, instances)
    given = [source.path for source in sources]
    given += [path for shown in examples.values() for example in shown for path in example.files]
    check_outputs(folder, kinds, sources, [*given, *(memory or [])])
    check_drawn(folder, examples, given)
    if (every > 1 or partial) and all(source.video is None for source in sources):
        raise InputError(f"--{'partial' if partial else 'every'} is for videos, and there is none among the inputs.")
    from ntre_deploy.runtime.imagefile import read_reduced
    from ntre_deploy.runtime.segmenter import Segmenter
    from ntre_deploy.runtime.support import SupportMemory

    arrays, drawn = read_supports(examples, folder, strict=strict)
    loaded = [SupportMemory.load(path) for path in memory or []]
    check_names([*arrays, *(item.name for item in loaded)])
    for written in (folder, save_memory):
        if written is not None:
            check_folder(written)
    for made in drawn:  # to be looked at even where something fails later
        made.write()
        note(f"'{made.name}': GrabCut made a mask of '{made.prompt.text}', look at {made.overlay_file}")
    # those that were named, before the first result is written; what was found in a folder is skipped when it comes
    photos = [source.path for source in sources if source.video is None and not source.found]
    with counting(len(photos), "checking photos", as_json) as advance:
        for path in photos:
            read_reduced(path, 1)
            advance()
    with steps(as_json) as step:
        step("loading the bundle")
        segmenter = Segmenter.load(
            bundle,
            name,
            precision=precision,
            threads=threads,
            device=device,
            device_images=device_images,
            trusted=trusted or None,
        )
        step("encoding the supports")
        encoded = segmenter.encode_supports(arrays, leave_one_out=not no_leave_one_out, calibrate=not no_calibrate)
        memories = encoded + [item.uncalibrated() if no_calibrate else item for item in loaded]
    warning = None if dataset is not None else origin_warning(segmenter.model.origin)
    results: list[dict[str, Any]]
    if dataset is not None:
        results = run_episodes(segmenter, Draw(dataset, None, shots, count, seed, quiet=as_json, strict=strict), folder)
    else:
        segmenter.stack(memories)  # refuses memories of another model before anything is written
        from ntre_deploy.segment.run import Job

        job = Job(segmenter, memories, folder, kinds, every, partial, exact, tell=note, skipped=skipped)
        with counting(_frames(sources, every), "segmenting", as_json) as job.advance:
            results = job.run(sources) if sources else []
        if save_memory is not None:
            for item in memories:
                item.save(save_memory / f"{item.name}.safetensors")
                note(f"wrote {save_memory / item.name}.safetensors ({item.shots} shots)")
    if as_json:
        from ntre_deploy.segment.outputs import TOGETHER

        files = TOGETHER if results and dataset is None else {}
        more = {kind: str(folder / name) for kind, name in files.items() if kind in kinds.together}
        told = {item.name: list(item.shot_scores) for item in memories if item.shot_scores is not None}
        content = {"engine": segmenter.reason, "results": results, "shot_scores": told}
        if drawn:
            content["drawn_supports"] = [{"name": made.name, "mask": str(made.mask_file)} for made in drawn]
        left = [{"path": str(item.path), "reason": item.reason} for item in skipped]
        print_json(content | {"skipped": left, "warnings": [] if warning is None else [warning]} | more)
        return
    _tell_skipped(skipped)
    for item in memories:
        if item.shot_scores is not None:
            shown = ", ".join(f"{100 * score:.0f}" for score in item.shot_scores)
            note(f"'{item.name}': each shot segmented with the others, IoU {shown}")
    note(f"engine: {segmenter.reason}")
    if warning is not None:
        note(f"warning: {warning}")
    if dataset is not None:
        print(f"wrote {_things(len(results), ['mask', 'overlay'])} to {folder}")
    elif results:
        _tell(results, kinds, folder)


def origin_warning(origin: Mapping[str, Any]) -> str | None:
    """What is to be said of a model that has never seen a photo, to someone who gives it files; None for others."""
    from ntre_deploy.data.registry import RENDERED

    if origin.get("head") == "untrained":
        told = "the head of this model is untrained: its masks mean nothing"
    elif str(origin.get("dataset", "")).partition(":")[0] in RENDERED:
        told = f"this model was trained on rendered scenes ({origin['dataset']}) and knows no photos"
    else:
        return None
    return f"{told}; for photos there is `ntre export photos --out photos.ntre`"


def run_episodes(segmenter: "Segmenter", draw: Draw, out: Path) -> list[dict[str, Any]]:
    """Segment the queries of a dataset's episodes, and tell their mIoU; returns what was written for each."""
    from ntre_deploy.segment.episodes import SHEET, segment_episodes

    data, drawn = open_episodes(draw)
    with counting(len(drawn.episodes), "segmenting", draw.quiet) as advance:
        results, miou = segment_episodes(segmenter, data, drawn, out, advance)
    if not draw.quiet:
        print(f"mIoU {100 * miou:.1f} over {len(results)} episodes; side by side in {out / SHEET}")
    return results


def _tell(results: list[dict[str, Any]], kinds: "Kinds", out: Path) -> None:
    from ntre_deploy.segment.outputs import COCO, LABEL_STUDIO, LABEL_STUDIO_CONFIG, PAGE, SHAPES
    from ntre_deploy.segment.run import unseen

    order = ("mask", "overlay")
    photos = sum("image" in result for result in results)
    if photos and kinds.photos:
        print(f"wrote {_things(photos, [kind for kind in order if kind in kinds.photos])} to {out}")
    for result in results:
        if "folder" in result:
            pictures = _things(result["frames"], [kind for kind in order if kind in kinds.videos])
            print(f"wrote {pictures} of {result['video']} to {result['folder']}")
        if "video" in result and "overlay" in result:
            print(f"wrote {result['overlay']} ({result['frames']} frames)")
    for kind in SHAPES:
        if kind in kinds.shapes:
            images = sum(result.get("frames", 1) for result in results)
            print(f"wrote {_things(images, ['file'])} of {kind} to {out / SHAPES[kind][0]}")
    if "coco" in kinds.together:
        print(f"wrote {out / COCO}")
    if "label-studio" in kinds.together:
        print(f"wrote {out / LABEL_STUDIO}, and {LABEL_STUDIO_CONFIG} for the labelling interface")
    if "page" in kinds.together:
        print(f"look at {out / PAGE}")
    for name in unseen(results):
        note(f"note: '{name}' was found nowhere")


def _tell_skipped(skipped: "list[Skipped]") -> None:
    """A line for each reason, with the files' names."""
    by_reason: dict[str, list[str]] = {}
    for path, reason in skipped:
        by_reason.setdefault(reason, []).append(str(path))
    for reason, names in by_reason.items():
        shown = ", ".join(names[:_NAMED])
        if len(names) == 1:
            note(f"skipped {shown}: {reason}")
        else:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            note(f"skipped {len(names)}: {reason} ({shown}{more})")


def _things(number: int, kinds: list[str]) -> str:
    ending = "" if number == 1 else "s"
    return f"{number} " + " and ".join(kind + ending for kind in kinds)


def _frames(sources: "list[Source]", every: int) -> int | None:
    """Photos and frames to segment; None where a video does not tell its number."""
    counts = [1 if s.video is None else s.video.frames and -(-s.video.frames // every) for s in sources]
    return None if None in counts else sum(count or 0 for count in counts)


def _check_live(sources: "list[Source]") -> None:
    """A camera or stream ends with the user, and what stands behind it would never be reached."""
    if any(source.live for source in sources[:-1]):
        raise InputError("A camera or stream ends by Ctrl-C: give one alone, or as the last input.")


def _check_choice(
    inputs: list[str] | None,
    support: list[str] | None,
    memory: list[Path] | None,
    dataset: str | None,
    save_memory: Path | None,
    write: list[str] | None,
) -> None:
    if dataset is not None:
        if inputs or support or memory or save_memory or write:
            raise InputError("--dataset brings its own images and supports; give it alone or leave it out.")
        return
    if not support and not memory:
        raise InputError("No support was given; show the class with --support NAME=IMAGE,MASK, or pass --memory FILE.")
    if not inputs and save_memory is None:
        raise InputError(
            "No photos or videos were given; name files, folders, patterns, a camera's number or a stream behind the "
            "bundle."
        )


def check_names(names: list[str]) -> None:
    """Names become file names, and tell classes apart."""
    from ntre_deploy.files import plain_name

    for name in names:
        if plain_name(name.replace(" ", "_")) != name.replace(" ", "_"):
            raise InputError(f"Class name {name!r} cannot be a file name; use letters, digits, spaces and _.+- only.")
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"Class '{twice[0]}' is given twice; a saved memory cannot be joined with other shots.")
