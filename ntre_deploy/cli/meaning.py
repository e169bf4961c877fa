"""What an option that a command lacks was probably meant to be: by spelling, and by what other tools call it."""

import difflib
from collections.abc import Iterable

# what is no typing error in longer names; in short ones, two of five letters may differ and mean something else
_SURE, _PROBABLE = 0.85, 0.7

# what other tools call an option -> ours, the likelier first
_NAMES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("--output", "--output-dir", "--outdir", "--dest", "--results", "--project", "--save-dir"): ("--out",),
    ("--backend", "--provider", "--runtime", "--tensorrt", "--onnx", "--openvino", "--trt"): ("--engine",),
    ("--dtype", "--half", "--fp16", "--fp32", "--bf16", "--int8", "--fp8", "--quantize"): ("--precision", "--engine"),
    ("--gpu", "--gpus", "--gpu-id", "--cuda", "--accelerator"): ("--device", "--engine"),
    ("--cpus", "--num-threads", "--jobs", "--num-workers", "--nproc"): ("--threads", "--workers"),
    ("--mask", "--masks", "--example", "--examples", "--prompt", "--image", "--reference"): ("--support",),
    ("--class", "--name", "--label"): ("--support",),
    ("--embedding", "--prototype", "--load-memory"): ("--memory",),
    ("--format", "--formats", "--save-txt", "--output-format", "--export"): ("--write",),
    ("--stride", "--vid-stride", "--frame-step", "--skip-frames", "--step"): ("--every",),
    ("--epochs", "--iterations", "--iters", "--max-steps", "--num-steps"): ("--steps",),
    ("--lr", "--learning-rate"): ("--rate",),
    ("--batch-size", "--bs"): ("--batch", "--max-batch"),
    ("--n-way", "--nway", "--classes", "--num-classes"): ("--ways", "--max-classes"),
    ("--k-shot", "--kshot", "--nshot", "--num-shots"): ("--shots", "--max-shots"),
    ("--imgsz", "--image-size", "--img-size", "--input-size", "--resolution", "--crop"): ("--size",),
    ("--data", "--dataset-path", "--datapath", "--benchmark"): ("--dataset",),
    ("--num-episodes", "--episode-count", "--num", "--n", "--test-num", "--limit"): ("--count",),
    ("--weights", "--pretrained", "--ckpt", "--resume", "--load", "--model"): ("--start", "--checkpoint", "--init"),
    ("--arch", "--network", "--layers"): ("--backbone",),
    ("--compute-capability", "--gpu-arch", "--cuda-arch"): ("--sm",),
    ("--workspace-size", "--max-memory"): ("--workspace",),
    ("--overwrite", "--yes", "--exist-ok", "-f", "-y"): ("--force",),
    ("--random-seed", "--manual-seed", "--random-state"): ("--seed",),
    ("--duration", "--time", "--min-time"): ("--seconds",),
    ("--runs", "--repeats", "--repeat", "--iterations"): ("--rounds",),
    ("--tolerance", "--threshold"): ("--min-pixel-agreement",),
    ("--baseline", "--compare"): ("--against",),
    ("--calibration-data", "--calib"): ("--calibrate-on",),
    ("--verbose", "-v", "--traceback"): ("--debug",),
}


def meant(given: str, options: Iterable[str]) -> str | None:
    """The one of a command's `options` that `given` probably means; None where none is likely."""
    known = list(options)
    if close := difflib.get_close_matches(given, known, n=1, cutoff=_SURE):
        return close[0]
    for words, names in _NAMES.items():
        if given in words and (there := [name for name in names if name in known]):
            return there[0]
    close = difflib.get_close_matches(given, known, n=1, cutoff=_PROBABLE)
    return close[0] if close else None
