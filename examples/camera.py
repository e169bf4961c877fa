"""Segment a camera, stream or video file, frame by frame, into a video with overlays.

python examples/camera.py demo.ntre 0 fork.jpg fork_mask.png --out seen.mp4 --frames 300
python examples/camera.py demo.ntre rtsp://camera/stream fork.jpg fork_mask.png --out seen.mp4
"""

import argparse
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np

from ntre_deploy import NtreError, Segmenter
from ntre_deploy.runtime.imagefile import read_image, read_mask
from ntre_deploy.runtime.overlay import overlay
from ntre_deploy.runtime.sources.opening import open_source
from ntre_deploy.runtime.videowriter import write_video


def main() -> None:
    parser = argparse.ArgumentParser(description="Segment a camera, stream or video file into a video with overlays.")
    parser.add_argument("bundle", help="folder written by ntre export")
    parser.add_argument("source", help="number of a camera, address of a stream, or a video file")
    parser.add_argument("support", help="photo that shows the object")
    parser.add_argument("mask", help="mask of the object in that photo")
    parser.add_argument("--out", type=Path, default=Path("seen.mp4"), help="an mp4 file")
    parser.add_argument("--frames", type=int, default=0, help="stop after so many (default: at the end, or by Ctrl-C)")
    arguments = parser.parse_args()

    segmenter = Segmenter.load(arguments.bundle)
    memory = segmenter.encode_support([(read_image(arguments.support), read_mask(arguments.mask))])
    write, times = None, []
    with ExitStack() as stack, suppress(KeyboardInterrupt):
        # of a camera or stream, each frame is the newest one
        for frame in open_source(arguments.source):
            began = time.perf_counter()
            labels = segmenter.segment(frame.pixels, memory)
            times.append(time.perf_counter() - began)
            if write is None:
                write = stack.enter_context(write_video(arguments.out, labels.shape, 25))
            write(overlay(frame.pixels, labels), frame.seconds)
            if len(times) == arguments.frames:
                break
    if not times:
        sys.exit(f"error: {arguments.source} gives no frames; give the number of a camera, a stream or a video file")
    milliseconds = 1000 * float(np.median(times))
    print(f"wrote {arguments.out}: {len(times)} frames, {milliseconds:.1f} ms each (median), {segmenter.reason}")


if __name__ == "__main__":
    try:
        main()
    except NtreError as error:
        sys.exit(f"error: {error}")
