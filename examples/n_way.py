"""Several classes in one pass: the photo is encoded once for all of them.

python examples/n_way.py demo.ntre photo.jpg labels.png fork=fork.jpg,fork_mask.png spoon=spoon.jpg,spoon_mask.png
"""

import argparse
import sys

from ntre_deploy import NtreError, Segmenter
from ntre_deploy.runtime.imagefile import read_image, read_mask, write_png
from ntre_deploy.runtime.overlay import palette


def main() -> None:
    parser = argparse.ArgumentParser(description="Label a photo with several classes, each shown by example.")
    parser.add_argument("bundle", help="folder written by ntre export")
    parser.add_argument("photo")
    parser.add_argument("out", help="PNG for the labels: 0 background, 1 the first class, ...")
    parser.add_argument("support", nargs="+", help="NAME=IMAGE,MASK; the same name again is one more shot")
    arguments = parser.parse_args()

    shots: dict[str, list] = {}
    for text in arguments.support:
        name, _, files = text.partition("=")
        image, _, mask = files.partition(",")
        shots.setdefault(name, []).append((read_image(image), read_mask(mask)))
    segmenter = Segmenter.load(arguments.bundle)
    # together, so that their margins can be compared
    memories = segmenter.encode_supports(shots)
    labels = segmenter.segment(read_image(arguments.photo), memories)
    write_png(arguments.out, labels, palette(len(memories)))
    for number, memory in enumerate(memories, 1):
        print(f"{number} {memory.name}: {(labels == number).mean():.1%} of the photo, from {memory.shots} shots")


if __name__ == "__main__":
    try:
        main()
    except NtreError as error:
        sys.exit(f"error: {error}")
