"""Segments photos and videos and writes what was asked for."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ntre_deploy.runtime.imagefile import Pixels, read_image, write_png
from ntre_deploy.runtime.overlay import overlay, palette, tag_names
from ntre_deploy.runtime.segmenter import Segmenter
from ntre_deploy.runtime.support import SupportMemory
from ntre_deploy.runtime.video import Video, write_video
from ntre_deploy.segment.inputs import Source
from ntre_deploy.segment.outputs import PAGE, Kinds, frame_outputs, photo_outputs, video_output
from ntre_deploy.segment.page import Card, thumbnail, write_page
from ntre_deploy.segment.writers import ResultFiles

# pictures of a video on the page
_SHOWN = 4


@dataclass
class Job:
    """What to do with the inputs.

    Attributes:
        segmenter, memories: label n is the n-th memory.
        out: folder for results.
        kinds: what to write.
        every: of a video's frames, take each n-th.
        partial: take a video that ends early.
        advance: called after each photo and frame.
    """

    segmenter: Segmenter
    memories: Sequence[SupportMemory]
    out: Path
    kinds: Kinds
    every: int = 1
    partial: bool = False
    advance: Callable[[], None] = lambda: None
    _cards: list[Card] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names = [memory.name for memory in self.memories]
        self._files = ResultFiles(self.out, self.names, self.kinds)

    def run(self, sources: Sequence[Source]) -> list[dict[str, Any]]:
        """Segment all of them.

        Returns:
            for each input what was written, in `shares` the part of the pixels that each class has, and in `scores` how
            clear each class is where it was found (see `Segmenter.segment_scored`); of a video, means over its frames
            and over the frames in which the class was found.

        Raises:
            InputError: an input that cannot be read to its end, or an output that cannot be written.
            EngineError: the engine failed.
        """
        results = [self._photo(s.path) if s.video is None else self._video(s.video) for s in sources]
        self._files.finish()
        if "page" in self.kinds.together:
            write_page(self.out / PAGE, self._cards, self.names, self.segmenter.reason)
        return results

    def _photo(self, path: Path) -> dict[str, Any]:
        image = read_image(path)
        found = self.segmenter.segment_result(image, self.memories)
        labels, scores = found.labels, found.scores
        mask, drawn = photo_outputs(self.out, path)
        written, picture = self._pictures(image, labels, mask, drawn, self.kinds.photos)
        written |= self._files.write(found, mask, path)
        self._files.gather(found, path.name, path)
        shares = self._shares(labels)
        if "page" in self.kinds.together:
            links = [file.name for file, kind in ((drawn, "overlay"), (mask, "mask")) if kind in self.kinds.photos]
            self._cards.append(Card(path.name, [thumbnail(picture)], links, self._named(shares)))
        self.advance()
        return {"image": str(path), **written, "shares": self._named(shares), "scores": self._named(np.array(scores))}

    def _video(self, video: Video) -> dict[str, Any]:
        path, target = video.path, video_output(self.out, video.path)
        kinds = self.kinds.videos
        pictures = bool(kinds & {"mask", "overlay"})
        # without a number of frames, the first ones are shown
        step = max((video.frames or _SHOWN) // self.every // _SHOWN, 1)
        shown: list[str] = []
        total, clear, seen, frames = *np.zeros((3, len(self.names))), 0
        with ExitStack() as stack:
            write = None
            if "video" in kinds:
                write = stack.enter_context(write_video(target, video.size, video.rate / self.every))
            for frames, image in enumerate(video.read(self.every, partial=self.partial), 1):
                number = (frames - 1) * self.every
                found = self.segmenter.segment_result(image, self.memories)
                labels, scores = found.labels, found.scores
                mask, drawn = frame_outputs(self.out, path, number)
                _, picture = self._pictures(image, labels, mask, drawn, kinds)
                if write is not None:
                    write(picture)
                self._files.write(found, mask)
                name = mask.relative_to(self.out).as_posix()
                self._files.gather(found, name, video=path.name, frame=number)
                if "page" in self.kinds.together and (frames - 1) % step == 0 and len(shown) < _SHOWN:
                    shown.append(thumbnail(picture))
                total += self._shares(labels)
                clear += scores
                seen += np.array(scores) > 0
                self.advance()
        shares = self._named(total / max(frames, 1))
        result: dict[str, Any] = {"video": str(path), "frames": frames, "shares": shares}
        result["scores"] = self._named(clear / np.maximum(seen, 1))
        if "video" in kinds:
            result["overlay"] = str(target)
        if pictures:
            result["folder"] = str(self.out / path.stem)
        links = [target.name] * ("video" in kinds) + [f"{path.stem}/"] * pictures
        self._cards.append(Card(path.name, shown, links, shares, frames))
        return result

    def _pictures(
        self, image: Pixels, labels: Pixels, mask: Path, drawn: Path, kinds: frozenset[str]
    ) -> tuple[dict[str, str], Pixels]:
        """Write label map and overlay where they are wanted; the overlay is drawn where anything needs it."""
        written = {}
        if "mask" in kinds:
            write_png(mask, labels, palette(len(self.names)))
            written["mask"] = str(mask)
        picture = image
        if kinds & {"overlay", "video"} or "page" in self.kinds.together:
            picture = tag_names(overlay(image, labels), labels, self.names)
        if "overlay" in kinds:
            write_png(drawn, picture)
            written["overlay"] = str(drawn)
        return written, picture

    def _shares(self, labels: Pixels) -> "np.ndarray[Any, np.dtype[np.float64]]":
        counts = np.bincount(labels.ravel(), minlength=len(self.names) + 1)[1:]
        return counts / labels.size

    def _named(self, shares: "np.ndarray[Any, np.dtype[np.float64]]") -> dict[str, float]:
        return {name: round(float(share), 6) for name, share in zip(self.names, shares, strict=True)}


def unseen(results: Sequence[dict[str, Any]]) -> list[str]:
    """Names of the classes that occur in no result."""
    names = list(results[0]["shares"]) if results else []
    return [name for name in names if not any(result["shares"][name] > 0 for result in results)]
