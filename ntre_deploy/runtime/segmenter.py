"""`Segmenter`: annotated images in, masks of every further image out; NumPy only."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntre_deploy.errors import EngineError, InputError
from ntre_deploy.runtime.bundle import Bundle
from ntre_deploy.runtime.calibration import NEUTRAL, calibrated, fit, responses
from ntre_deploy.runtime.encoding import EncodedShot, Shot, encode_shots, join, without
from ntre_deploy.runtime.engines import Engine, keep_supports, label_on_device, open_engine
from ntre_deploy.runtime.inputspec import InputSpec
from ntre_deploy.runtime.labels import MAX_CLASSES, label_map, label_scores
from ntre_deploy.runtime.letterbox import Letterbox, prepare_image
from ntre_deploy.runtime.manifest import ModelEntry
from ntre_deploy.runtime.masks import IGNORE, mask_iou
from ntre_deploy.runtime.pictures import as_image
from ntre_deploy.runtime.results.result import Result
from ntre_deploy.runtime.signature import Trusted
from ntre_deploy.runtime.sources.frame import Frame
from ntre_deploy.runtime.sources.images import frames, photo_path
from ntre_deploy.runtime.stacked import StackedSupports, stack_memories
from ntre_deploy.runtime.support import SupportMemory, calibrations

Float = NDArray[np.float32]
Pixels = NDArray[np.uint8]

# what an engine must reach on the self-test to be trusted: the share of equal pixels, and max |a - b| / max |b| of the
# logits, loose enough for a tied pixel of the DO mask that another processor decides otherwise
_SELF_TEST = {"fp32": (0.999, 1e-2), "int8": (0.9, 0.5), "fp8": (0.9, 0.5)}
_SELF_TEST_16 = (0.98, 0.1)


def logits_error(got: Float, wanted: Float) -> float:
    """max |a - b| / max |b| of two arrays of logits, float32 [..., 2, h, w]; NaN where one holds NaN."""
    return float(np.abs(got - wanted).max()) / max(float(np.abs(wanted).max()), 1e-6)


class Parity(NamedTuple):
    """An engine on a bundle's self-test.

    Attributes:
        pixels: share of equal pixels of the mask, 0 to 1.
        logits: max |a - b| / max |b|.
        least_pixels, most_logits: what is demanded of its precision.
    """

    pixels: float
    logits: float
    least_pixels: float
    most_logits: float

    @property
    def passed(self) -> bool:
        """Whether the engine is to be trusted."""
        # written so that NaN fails
        return self.pixels >= self.least_pixels and self.logits <= self.most_logits

    def describe(self, engine: str, precision: str) -> str:
        """What failed, in figures."""
        return (
            f"{engine} {precision} fails the bundle's self-test: {self.pixels:.2%} of the pixels are right "
            f"({self.least_pixels:.1%} demanded) and logits are off by {self.logits:.1e} "
            f"({self.most_logits:.0e} allowed)"
        )


class Segmenter:
    """Few-shot segmentation with one engine of a bundle; one per thread, `clone()` shares the engine."""

    def __init__(self, engine: Engine, spec: InputSpec, model: ModelEntry, reason: str = "") -> None:
        self.engine = engine
        self.spec = spec
        self.model = model
        self.reason = reason or f"{engine.name} {engine.precision}"
        # of the last query: the next frame of a camera asks for the same classes
        self._stacked: tuple[list[SupportMemory], StackedSupports] | None = None

    @classmethod
    def load(
        cls,
        bundle: str | Path,
        engine: str = "auto",
        *,
        precision: str | None = None,
        threads: int | None = None,
        hint: str = "latency",
        cache: str | Path | None = None,
        device_images: bool = False,
        device: int = 0,
        self_test: bool = True,
        trusted: Trusted | None = None,
    ) -> "Segmenter":
        """Open a bundle with an engine.

        Args:
            bundle: folder written by `ntre export`.
            engine: `auto` (the best that runs here; `reason` says which and why), `trt`, `trt-rtx`, `openvino`,
                `onnx`, `onnx-cuda` or `onnx-cpu`.
            precision: `fp32`, `fp16`, `bf16`, `int8` or `fp8`; None takes the engine's best that this machine has.
            threads: CPU threads; None leaves it to the engine.
            hint: `latency`, or `throughput` for several clones at once; for engines that know it (OpenVINO).
            cache: the user's own folder for compiled graphs, for a faster load; for engines that can (OpenVINO,
                TensorRT for RTX).
            device_images: scale images and make label maps on the GPU too; see `EngineOptions`.
            device: which GPU, as CUDA numbers those that this process sees; for engines that run on one.
            self_test: run the bundle's self-test first (one support encoding and one query).
            trusted: demand that one of these keys has signed the bundle, see `Bundle.open`; None demands nothing.

        Raises:
            InputError: no bundle, a file of it was changed, or no trusted key has signed it.
            EngineError: the engine or the precision cannot be had here, or fails the self-test.
        """
        opened = Bundle.open(bundle, trusted=trusted)
        choice = open_engine(
            opened,
            engine,
            precision,
            threads,
            hint=hint,
            cache=None if cache is None else Path(cache),
            device_images=device_images,
            device=device,
        )
        segmenter = cls(choice.engine, opened.manifest.input, opened.manifest.model, choice.reason)
        if self_test:
            segmenter.run_self_test(opened)
        return segmenter

    def clone(self) -> "Segmenter":
        """A segmenter for another thread, on the same engine."""
        return Segmenter(self.engine.clone(), self.spec, self.model, self.reason)

    def encode_support(
        self,
        shots: Sequence[Shot],
        name: str = "support",
        *,
        allow_unseen: bool = False,
        leave_one_out: bool = True,
    ) -> SupportMemory:
        """Encode one class from its annotated images.

        Args:
            shots: pairs of an image, as `as_image` takes it, and its mask: an array [H, W] (booleans, 0/1, 0/255, or
                0/1 with 255 as "ignore"), or what else `as_mask` takes.
            name: of the class, for messages and files.
            allow_unseen: take a target that vanishes at the network's resolution: evaluation has to run every episode.
            leave_one_out: segment each of two or more shots with the others, for `SupportMemory.shot_scores`; it costs
                a query for each.

        Raises:
            InputError: no shots, a mask of another size than its image, an empty mask, or (unless `allow_unseen`) one
                so small that nothing is left of it at the network's resolution.
            EngineError: the engine failed.
        """
        one = {name: shots}
        return self.encode_supports(one, allow_unseen=allow_unseen, leave_one_out=leave_one_out, calibrate=False)[0]

    def encode_supports(
        self,
        classes: Mapping[str, Sequence[Shot]],
        *,
        allow_unseen: bool = False,
        leave_one_out: bool = True,
        calibrate: bool = True,
    ) -> list[SupportMemory]:
        """Encode several classes that will be segmented together, so that their margins can be compared.

        Args:
            classes: for each name its shots, as `encode_support` takes them.
            allow_unseen, leave_one_out: see `encode_support`.
            calibrate: find the calibration of each class on the supports of all
                (`ntre_deploy.runtime.calibration`); it costs a query of all classes for each shot.  With one class
                there is nothing to compare.

        Raises:
            InputError, EngineError: as `encode_support`.
        """
        encoded = {n: encode_shots(self.engine, self.spec, s, n, allow_unseen) for n, s in classes.items()}
        return self.join_shots(encoded, leave_one_out=leave_one_out, calibrate=calibrate)

    def encode_shot(self, shot: Shot, name: str = "support") -> EncodedShot:
        """Encode one annotated image, for programs whose sets of shots change one by one; see `join_shots`.

        Args:
            shot: image and mask, as `encode_support` takes them.
            name: of the class, for messages.

        Raises:
            InputError, EngineError: as `encode_support`.
        """
        return encode_shots(self.engine, self.spec, [shot], name, False)[0]

    def join_shots(
        self, classes: Mapping[str, Sequence[EncodedShot]], *, leave_one_out: bool = True, calibrate: bool = True
    ) -> list[SupportMemory]:
        """The memories of several classes from shots that were encoded before; what `encode_supports` does then.

        Args:
            classes: for each name the results of `encode_shot`, one at least.
            leave_one_out, calibrate: see `encode_supports`.

        Raises:
            InputError: a class without shots.
            EngineError: the engine failed.
        """
        if empty := [name for name, shots in classes.items() if not shots]:
            raise InputError(f"No support was given for '{empty[0]}'; one image and mask at least.")
        encoded = list(classes.values())
        memories = [join(name, shots, self.model.id) for name, shots in classes.items()]
        scores: list[list[float]] = [[] for _ in memories]

        def logits(d: int, k: int, together: bool = True) -> Float:
            shot = encoded[d][k]
            rest = join(memories[d].name, without(encoded[d], k), self.model.id)
            present = [rest if c == d else memory for c, memory in enumerate(memories)] if together else [rest]
            found = self._query(shot.pixels, self._stack(present))
            if leave_one_out and len(encoded[d]) > 1:
                alone = label_map(found[d : d + 1] if together else found, shot.box)
                valid = shot.mask != IGNORE
                scores[d].append(mask_iou(alone[valid], (shot.mask == 1).astype(np.uint8)[valid]))
            return found

        if calibrate and len(memories) > 1:
            table = responses([[shot.target for shot in shots] for shots in encoded], logits)
            memories = [replace(m, calibration=c) for m, c in zip(memories, fit(table), strict=True)]
        elif leave_one_out:
            for d, shots in enumerate(encoded):
                for k in range(len(shots) if len(shots) > 1 else 0):
                    logits(d, k, together=False)
        return [replace(m, shot_scores=tuple(s) or None) for m, s in zip(memories, scores, strict=True)]

    def encode_episode(self, shots: Sequence[tuple[Pixels, Pixels]], name: str = "support") -> SupportMemory:
        """Encode the supports of a dataset's episode, as the training graph takes them.

        In a dataset's mask [H, W] only 1 is the target, 255 never; a target that vanishes at the network's resolution
        is run, because evaluation has to run every episode.

        Raises:
            InputError, EngineError: as `encode_support`.
        """
        return self.encode_episodes([shots], [name], calibrate=False)[0]

    def encode_episodes(
        self, classes: Sequence[Sequence[tuple[Pixels, Pixels]]], names: Sequence[str], *, calibrate: bool
    ) -> list[SupportMemory]:
        """Encode the supports of each class of an N-way episode; see `encode_episode` and `encode_supports`."""
        given = {
            name: [(image, mask == 1) for image, mask in shots] for name, shots in zip(names, classes, strict=True)
        }
        return self.encode_supports(given, allow_unseen=True, leave_one_out=False, calibrate=calibrate)

    def __call__(self, image: Any, memory: SupportMemory | Sequence[SupportMemory]) -> Result:
        """`segment_result`."""
        return self.segment_result(image, memory)

    def segment_result(self, image: Any, memory: SupportMemory | Sequence[SupportMemory]) -> Result:
        """Segment one image, and keep what scores, margins and more are made of when they are asked for.

        Args:
            image: uint8 RGB [H, W, 3], a file, a PIL image or a tensor; see `as_image`.
            memory: as in `segment`.

        Raises:
            InputError, EngineError: as `segment`.
        """
        pixels = as_image(image)
        memories = [memory] if isinstance(memory, SupportMemory) else list(memory)
        labels, logits = self._label(pixels, memories)
        box = Letterbox.fit(pixels.shape[0], pixels.shape[1], self.spec.size)
        path = Path(image) if isinstance(image, str | Path) else None
        return Result(labels, [item.name for item in memories], pixels, logits, box, path)

    def segment_results(self, images: Sequence[Any], memory: SupportMemory | Sequence[SupportMemory]) -> list[Result]:
        """As `segment_result` of each image, with one query of all of them through the engine.

        Args:
            images: one at least, of any sizes; of a TensorRT plan at most its `--max-batch`.
            memory: as in `segment`.

        Raises:
            InputError: no image, or as `segment`.
            EngineError: as `segment`.
        """
        if not images:
            raise InputError("No image was given; one at least is expected.")
        memories = [memory] if isinstance(memory, SupportMemory) else list(memory)
        supports, apply = self.stack(memories), calibrations(memories)
        pictures = [as_image(image) for image in images]
        prepared = [prepare_image(picture, self.spec) for picture in pictures]
        found = self.engine.query(np.stack([pixels for pixels, _ in prepared]), supports)
        self._check_finite(found)
        names = [item.name for item in memories]
        results = []
        for picture, (_, box), logits in zip(pictures, prepared, found, strict=True):
            own = calibrated(logits, apply)
            results.append(Result(label_map(own, box), names, picture, own, box))
        return results

    def stream(self, source: Any, memory: SupportMemory | Sequence[SupportMemory]) -> Iterator[tuple[Frame, Result]]:
        """Segment one picture after the other, each when it is asked for.

        Args:
            source: path of a video, of a folder of photos or of a photo, a pattern, the number of a camera, the address
                of a stream, or an iterable of images; see `ntre_deploy.runtime.sources.images.frames`.
            memory: as in `segment`.

        Yields:
            the frame, with its pixels uint8 RGB [H, W, 3] and its time in seconds, and its result.

        Raises:
            InputError: the source cannot be read, or as `segment`.
            EngineError: as `segment`, or a video is named and PyAV is not installed.
        """
        memories = [memory] if isinstance(memory, SupportMemory) else list(memory)
        for frame in frames(source):
            result = self.segment_result(frame.pixels, memories)
            result.path = photo_path(frame)
            yield frame, result

    def segment(self, image: Any, memory: SupportMemory | Sequence[SupportMemory]) -> Pixels:
        """Segment one image.

        Args:
            image: uint8 RGB [H, W, 3], or what else `as_image` takes.
            memory: one class, or N of them: the image is encoded once for all.  Where all of several carry a
                calibration, their margins are compared by it.

        Returns:
            uint8 [H, W] at the image's own size: 0 background, n the n-th class.

        Raises:
            InputError: no image, no memory, or a memory of another model.
            EngineError: the engine failed or gave NaN.
        """
        return self._label(image, memory)[0]

    def segment_scored(
        self, image: Any, memory: SupportMemory | Sequence[SupportMemory]
    ) -> tuple[Pixels, tuple[float, ...]]:
        """As `segment`, with a score for each class; always on the host.

        Returns:
            the labels, and for each class the mean probability of the class over the pixels that it won, in [0, 1]; 0
            where it won none.  A pixel's probabilities are the softmax of the (calibrated) margins with 0 for the
            background: how clear the decision was by the network's own account, and no promise that it is right.

        Raises:
            InputError, EngineError: as `segment`.
        """
        logits, box = self.logits(image, memory)
        return label_scores(logits, box)

    def logits(
        self, image: Any, memory: SupportMemory | Sequence[SupportMemory], *, calibrate: bool = True
    ) -> tuple[Float, Letterbox]:
        """Logits [N, 2, h, w] at feature resolution, and the geometry that `label_map` needs beside them.

        Those of several classes are calibrated as in `segment`, unless `calibrate` is False.

        Raises:
            InputError, EngineError: as `segment`.
        """
        pixels, box = prepare_image(as_image(image), self.spec)
        return self.query(pixels, memory, calibrate=calibrate), box

    def query(self, pixels: Float, memory: SupportMemory | Sequence[SupportMemory], *, calibrate: bool = True) -> Float:
        """The engine's part of `logits` alone, for programs that prepare images and make label maps beside it.

        Args:
            pixels: float32 [3, size, size] of `prepare_image`.

        Returns:
            logits float32 [N, 2, h, w] at feature resolution.

        Raises:
            InputError, EngineError: as `segment`.
        """
        logits = self._query(pixels, self.stack(memory))
        return calibrated(logits, calibrations(memory)) if calibrate else logits

    def stack(self, memory: SupportMemory | Sequence[SupportMemory]) -> StackedSupports:
        """The memories of N classes as the query graph takes them, on its device; shapes as in `StackedSupports`.

        Raises:
            InputError: none, or one of another model.
        """
        memories = [memory] if isinstance(memory, SupportMemory) else list(memory)
        if self._stacked is not None and [*map(id, self._stacked[0])] == [*map(id, memories)]:
            return self._stacked[1]
        if not memories:
            raise InputError("No support memory was given; make one with `encode_support`.")
        if len(memories) > MAX_CLASSES:
            raise InputError(f"{len(memories)} classes were given; a label map holds 1 to {MAX_CLASSES}.")
        wanted = (self.model.prototype_channels, self.model.key_channels)
        for item in memories:
            if not isinstance(item, SupportMemory):
                raise InputError(f"A support memory is expected, not {type(item).__name__}; use `encode_support`.")
            if item.model != self.model.id or (item.prototype.shape[0], item.keys[0].shape[0]) != wanted:
                raise InputError(
                    f"The support memory '{item.name}' was made by another model or input size; encode it again."
                )
        self._stacked = (memories, self._stack(memories))
        return self._stacked[1]

    def _stack(self, memories: list[SupportMemory]) -> StackedSupports:
        return keep_supports(self.engine, stack_memories(memories))

    def run_self_test(self, bundle: Bundle) -> None:
        """Run a bundle's self-test.

        Raises:
            InputError: the bundle has none, or one that does not fit.
            EngineError: masks or logits are not those of the PyTorch network.
        """
        parity = self.self_test_parity(bundle)
        if not parity.passed:
            raise EngineError(
                f"{parity.describe(self.engine.name, self.engine.precision)}; do not use it on this machine."
            )

    def self_test_parity(self, bundle: Bundle) -> "Parity":
        """How near this engine comes to what the export stored of the PyTorch network, on the bundle's self-test.

        Raises:
            InputError: the bundle has none, or one that does not fit.
            EngineError: the engine failed or gave NaN.
        """
        test = bundle.self_test()
        memory = self.encode_support([(test.support_image, test.support_mask)], "self-test")
        labels, logits = self._label(test.image, memory)
        if labels.shape != test.labels.shape or logits[0].shape != test.logits.shape:
            raise InputError(f"The self-test of {bundle.folder} does not fit its graphs; export the bundle again.")
        return Parity(
            float((labels == test.labels).mean()),
            logits_error(logits[0], test.logits),
            *_SELF_TEST.get(self.engine.precision, _SELF_TEST_16),
        )

    def _label(self, image: Any, memory: SupportMemory | Sequence[SupportMemory]) -> tuple[Pixels, Float]:
        """Labels [H, W] and their logits [N, 2, h, w]; made on the engine's device where it does that."""
        image = as_image(image)
        supports, found = self.stack(memory), None
        apply = calibrations(memory)
        # the device's label map knows no calibration
        if all(c == NEUTRAL for c in apply):
            found = label_on_device(self.engine, image, self.spec, supports)
        if found is not None:
            self._check_finite(found[1])
            return found
        pixels, box = prepare_image(image, self.spec)
        logits = calibrated(self._query(pixels, supports), apply)
        return label_map(logits, box), logits

    def _query(self, pixels: Float, supports: StackedSupports) -> Float:
        logits: Float = self.engine.query(pixels[None], supports)[0]
        self._check_finite(logits)
        return logits

    def _check_finite(self, logits: Float) -> None:
        if not np.isfinite(logits).all():
            raise EngineError(f"{self.engine.name} {self.engine.precision} gave NaN or infinity; run `ntre bench`.")
