"""Annotate once, use everywhere: support memories are saved by one process and loaded by another.

python examples/memories.py save demo.ntre fork.safetensors fork.jpg,fork_mask.png another.jpg,another_mask.png
python examples/memories.py use demo.ntre photo.jpg labels.png fork.safetensors spoon.safetensors
"""

import argparse
import sys
from pathlib import Path

from ntre_deploy import NtreError, Segmenter, SupportMemory
from ntre_deploy.runtime.imagefile import read_image, read_mask, write_png
from ntre_deploy.runtime.overlay import palette


def save(bundle: str, memory: Path, shots: list[str]) -> None:
    """Encode all shots of one class and keep what the network needs of them."""
    pairs = [text.partition(",") for text in shots]
    arrays = [(read_image(image), read_mask(mask)) for image, _, mask in pairs]
    encoded = Segmenter.load(bundle).encode_support(arrays, memory.stem)
    encoded.save(memory)
    print(f"wrote {memory}: {encoded.shots} shots, {memory.stat().st_size / 1000:.0f} kB")


def use(bundle: str, photo: str, out: str, memories: list[Path]) -> None:
    """Segment a photo with saved memories; the annotated photos are not needed."""
    loaded = [SupportMemory.load(path) for path in memories]
    labels = Segmenter.load(bundle).segment(read_image(photo), loaded)
    write_png(out, labels, palette(len(loaded)))
    found = [f"{memory.name} {(labels == n).mean():.1%}" for n, memory in enumerate(loaded, 1)]
    print(f"wrote {out}: {', '.join(found)}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Save support memories, and segment with them.")
    steps = parser.add_subparsers(dest="step", required=True)
    saving = steps.add_parser("save")
    saving.add_argument("bundle")
    saving.add_argument("memory", type=Path, help="file to write; its name is that of the class")
    saving.add_argument("shots", nargs="+", help="IMAGE,MASK")
    using = steps.add_parser("use")
    using.add_argument("bundle")
    using.add_argument("photo")
    using.add_argument("out", help="PNG for the labels: 0 background, 1 the first memory, ...")
    using.add_argument("memories", type=Path, nargs="+")
    arguments = vars(parser.parse_args())
    (save if arguments.pop("step") == "save" else use)(**arguments)


if __name__ == "__main__":
    try:
        main()
    except NtreError as error:
        sys.exit(f"error: {error}")
