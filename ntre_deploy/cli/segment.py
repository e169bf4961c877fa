"""`ntre segment`: annotated images and photos in, masks and overlays out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ntre_deploy.cli.console import counting, note, print_json
from ntre_deploy.cli.episodes import Draw, open_episodes
from ntre_deploy.errors import InputError

if TYPE_CHECKING:
    from ntre_deploy.data.images import Pixels
    from ntre_deploy.runtime.segmenter import Segmenter
    from ntre_deploy.runtime.support import SupportMemory


def command(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.", show_default=False)],
    images: Annotated[
        list[Path] | None, typer.Argument(help="Photos or folders of photos.", show_default=False)
    ] = None,
    support: Annotated[
        list[str] | None,
        typer.Option(
            "--support", "-s", metavar="[NAME=]IMAGE,MASK", help="Annotated image; repeat for shots and classes."
        ),
    ] = None,
    memory: Annotated[
        list[Path] | None, typer.Option("--memory", help="Saved support memory; may be repeated.")
    ] = None,
    save_memory: Annotated[Path | None, typer.Option("--save-memory", help="Folder to save the memories in.")] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", metavar="SPEC", help="Run episodes of a dataset instead of photos.")
    ] = None,
    shots: Annotated[int, typer.Option("--shots", min=1, help="Supports of each episode (--dataset).")] = 1,
    count: Annotated[int, typer.Option("--count", min=1, help="Number of episodes (--dataset).")] = 8,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the draw (--dataset).")] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for masks and overlays.")] = Path("segmented"),
    engine: Annotated[str, typer.Option("--engine", help="auto, openvino, onnx, onnx-cpu or onnx-cuda.")] = "auto",
    precision: Annotated[
        str | None, typer.Option("--precision", help="fp32, fp16, bf16 or int8. (default: the engine's best)")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads. (default: the engine's)")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Segment photos by example: masks (PNG) and overlays at each photo's own size.

    Example: ntre segment demo.ntre photos/ --support fork=a.jpg,a_mask.png --out masks
    """
    _check_choice(images, support, memory, dataset, save_memory)
    photos = _photos(images or [])
    shots_of = _supports(support or [])
    inputs = [*photos, *(path for pairs in shots_of.values() for pair in pairs for path in pair), *(memory or [])]
    _check_outputs(out, photos, inputs)
    from ntre_deploy.data.images import read_image, read_mask
    from ntre_deploy.files import check_folder
    from ntre_deploy.runtime.segmenter import Segmenter
    from ntre_deploy.runtime.support import SupportMemory

    arrays = {name: [(read_image(i), read_mask(m)) for i, m in pairs] for name, pairs in shots_of.items()}
    loaded = [SupportMemory.load(path) for path in memory or []]
    _check_names([*arrays, *(item.name for item in loaded)])
    for folder in (out, save_memory):
        if folder is not None:
            check_folder(folder)
    for path in photos:  # all of them before the first result is written
        read_image(path)
    segmenter = Segmenter.load(bundle, engine, precision=precision, threads=threads)
    if dataset is not None:
        draw = Draw(dataset, None, shots, count, seed)
        results = segment_episodes(segmenter, draw, out, as_json)
    else:
        memories = [segmenter.encode_support(pairs, name) for name, pairs in arrays.items()] + loaded
        segmenter.stack(memories)  # refuses memories of another model before anything is written
        results = _segment_photos(segmenter, photos, memories, out, as_json)
        if save_memory is not None:
            for item in memories:
                item.save(save_memory / f"{item.name}.safetensors")
                note(f"wrote {save_memory / item.name}.safetensors ({item.shots} shots)")
    if as_json:
        print_json({"engine": segmenter.reason, "results": results})
        return
    note(f"engine: {segmenter.reason}")
    if results:
        things = "1 mask and overlay" if len(results) == 1 else f"{len(results)} masks and overlays"
        print(f"wrote {things} to {out}")


def _check_choice(
    images: list[Path] | None,
    support: list[str] | None,
    memory: list[Path] | None,
    dataset: str | None,
    save_memory: Path | None,
) -> None:
    if dataset is not None:
        if images or support or memory or save_memory:
            raise InputError("--dataset brings its own images and supports; give it alone or leave it out.")
        return
    if not support and not memory:
        raise InputError("No support was given; show the class with --support NAME=IMAGE,MASK, or pass --memory FILE.")
    if not images and save_memory is None:
        raise InputError("No photos were given; name files or folders behind the bundle.")


def _photos(given: list[Path]) -> list[Path]:
    """The photos that the arguments name, each with a header that can be read and a name of its own."""
    from ntre_deploy.data.images import IMAGE_SUFFIXES, image_size

    photos: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
            if not inside:
                raise InputError(f"Folder {path} holds no photos ({', '.join(IMAGE_SUFFIXES)}).")
            photos += inside
        else:
            photos.append(path)
    for path in photos:
        image_size(path)
    return photos


def _supports(given: list[str]) -> dict[str, list[tuple[Path, Path]]]:
    """Image and mask files of every class, in the order in which the classes are named."""
    classes: dict[str, list[tuple[Path, Path]]] = {}
    for text in given:
        name, equals, pair = text.rpartition("=")
        image, comma, mask = pair.rpartition(",")
        if not comma or not image or not mask or (equals and not name):
            raise InputError(f"Support '{text}' is not [NAME=]IMAGE,MASK, for example fork=fork.jpg,fork_mask.png.")
        classes.setdefault(name or "target", []).append((Path(image), Path(mask)))
    return classes


def _check_names(names: list[str]) -> None:
    """Names become file names, and tell classes apart."""
    from ntre_deploy.files import plain_name

    for name in names:
        if plain_name(name.replace(" ", "_")) != name.replace(" ", "_"):
            raise InputError(f"Class name {name!r} cannot be a file name; use letters, digits, spaces and _.+- only.")
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"Class '{twice[0]}' is given twice; a saved memory cannot be joined with other shots.")


def _outputs(out: Path, stem: str) -> tuple[Path, Path]:
    return out / f"{stem}.png", out / f"{stem}.overlay.png"


def _check_outputs(out: Path, photos: list[Path], inputs: list[Path]) -> None:
    """No output may fall on another one, nor on a file that the user gave."""
    given = {path.resolve() for path in inputs}
    written: dict[Path, Path] = {}
    for photo in photos:
        for target in _outputs(out, photo.stem):
            if target.resolve() in given:
                raise InputError(f"{target} is an input and would be overwritten; choose another folder with --out.")
            if target in written:
                raise InputError(f"{written[target]} and {photo} would both be written as {target}; rename one.")
            written[target] = photo


def _segment_photos(
    segmenter: "Segmenter", photos: list[Path], memories: "list[SupportMemory]", out: Path, quiet: bool
) -> list[dict[str, Any]]:
    from ntre_deploy.data.images import read_image

    results = []
    with counting(len(photos), "segmenting", quiet) as advance:
        for path in photos:
            image = read_image(path)
            labels = segmenter.segment(image, memories)
            written = _write(out, path.stem, image, labels, len(memories))
            shares = {m.name: round(float((labels == n).mean()), 6) for n, m in enumerate(memories, 1)}
            results.append({"image": str(path), **written, "shares": shares})
            advance()
    return results


def segment_episodes(segmenter: "Segmenter", draw: Draw, out: Path, quiet: bool = False) -> list[dict[str, Any]]:
    """Segment the episodes' queries; writes masks, overlays and a sheet with the ground truth, returns their paths."""
    from ntre_deploy.data.images import write_png
    from ntre_deploy.files import plain_name
    from ntre_deploy.runtime.overlay import contact_sheet, overlay
    from ntre_deploy.training.metrics import Score

    data, drawn = open_episodes(draw)
    results, rows, score = [], [], Score()
    with counting(len(drawn.episodes), "segmenting", quiet) as advance:
        for number, episode in enumerate(drawn.episodes):
            pairs = [(data.image(i), data.mask(i, episode.class_id)) for i in episode.supports]
            query, truth = data.image(episode.query), data.mask(episode.query, episode.class_id)
            labels = segmenter.segment(query, segmenter.encode_episode(pairs, episode.class_name))
            score.add(episode.class_id, labels, truth)
            stem = plain_name(f"{number:03d}_{episode.class_name}")
            results.append({"query": episode.query, "class": episode.class_name} | _write(out, stem, query, labels, 1))
            shown = [overlay(image, (mask == 1).astype("uint8")) for image, mask in pairs[:1]]
            rows.append([*shown, query, overlay(query, labels), overlay(query, (truth == 1).astype("uint8"))])
            advance()
    write_png(out / "sheet.png", contact_sheet(rows[:12], ("support", "query", "segmented", "ground truth")))
    if not quiet:
        print(f"mIoU {100 * score.miou:.1f} over {len(results)} episodes; side by side in {out / 'sheet.png'}")
    return results


def _write(out: Path, stem: str, image: "Pixels", labels: "Pixels", classes: int) -> dict[str, str]:
    from ntre_deploy.data.images import write_png
    from ntre_deploy.runtime.overlay import overlay, palette

    mask, picture = _outputs(out, stem)
    write_png(mask, labels, palette(classes))
    write_png(picture, overlay(image, labels))
    return {"mask": str(mask), "overlay": str(picture)}
