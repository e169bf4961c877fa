"""Measure the CPU engines of a bundle against PyTorch, interleaved, on the same episodes.

    python benchmarks/cpu speed model.ntre --dataset SPEC --out FILE.json
    python benchmarks/cpu photo model.ntre --dataset SPEC --out FILE.json
    python benchmarks/cpu labels model.ntre --dataset SPEC --out FILE.json
    python benchmarks/cpu scale model.ntre --dataset SPEC --out FILE.json
    python benchmarks/cpu int8 model.ntre --dataset SPEC --out FILE.json

speed: latency, ratios, the share of each part, and the fraction of the machine's own limit.  photo: end to end from
1920 x 1080 pixels.  labels: the label map alone, of many classes.  scale: classes, shots, threads and batches, with a
plot.  int8: what ONNX Runtime's int8 spends its time on, and its kernels alone.

The bundle is one of `ntre export model.safetensors --engine onnx --engine openvino --precision fp32 --precision bf16
--precision int8`; its checkpoint lies beside it.  Accuracy over many episodes is `ntre bench`'s.
"""

import argparse

import int8
import labels
import photo
import scale
import speed
from common import Setting, options

from ntre_deploy.errors import NtreError

COMMANDS = {
    "speed": (speed, 3, 5),
    "photo": (photo, 4, 8),
    "labels": (labels, 4, 10),
    "scale": (scale, 4, 7),
    "int8": (int8, 1, 3),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/cpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (module, count, rounds) in COMMANDS.items():
        sub = commands.add_parser(name, help=(module.__doc__ or "").splitlines()[0])
        options(sub, count, rounds)
        module.add_options(sub)
    args = parser.parse_args()
    try:
        COMMANDS[args.command][0].run(Setting.of(args), args)
    except NtreError as error:
        parser.exit(error.exit_code, f"error: {error}\n")


if __name__ == "__main__":
    main()
