"""Segment a camera or a video file, frame by frame, into a video with overlays.

python examples/camera.py demo.ntre 0 fork.jpg fork_mask.png --out seen.mp4 --frames 300
python examples/camera.py demo.ntre clip.mp4 fork.jpg fork_mask.png --out seen.mp4
"""

import argparse
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from ntre_deploy import NtreError, Segmenter
from ntre_deploy.runtime.imagefile import read_image, read_mask
from ntre_deploy.runtime.overlay import overlay

CODECS = {".mp4": "mp4v", ".avi": "MJPG"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Segment a camera or a video file into a video with overlays.")
    parser.add_argument("bundle", help="folder written by ntre export")
    parser.add_argument("source", help="number of a camera, or a video file")
    parser.add_argument("support", help="photo that shows the object")
    parser.add_argument("mask", help="mask of the object in that photo")
    parser.add_argument("--out", type=Path, default=Path("seen.mp4"), help=".mp4 or .avi")
    parser.add_argument("--frames", type=int, default=0, help="stop after so many (default: at the end, or by Ctrl-C)")
    arguments = parser.parse_args()
    if arguments.out.suffix not in CODECS:
        sys.exit(f"error: {arguments.out} must end in {' or '.join(CODECS)}")

    segmenter = Segmenter.load(arguments.bundle)
    memory = segmenter.encode_support([(read_image(arguments.support), read_mask(arguments.mask))])
    source = arguments.source
    capture = cv2.VideoCapture(int(source) if source.isdecimal() else source)
    writer, times = None, []
    try:
        while not arguments.frames or len(times) < arguments.frames:
            there, frame = capture.read()
            if not there:
                break
            image = np.ascontiguousarray(frame[..., ::-1])  # OpenCV gives BGR
            began = time.perf_counter()
            labels = segmenter.segment(image, memory)
            times.append(time.perf_counter() - began)
            if writer is None:
                height, width = labels.shape
                codec = cv2.VideoWriter.fourcc(*CODECS[arguments.out.suffix])
                rate = capture.get(cv2.CAP_PROP_FPS) or 25
                writer = cv2.VideoWriter(str(arguments.out), codec, rate, (width, height))
            writer.write(overlay(image, labels)[..., ::-1])
    except KeyboardInterrupt:
        pass
    finally:
        capture.release()
        if writer is not None:
            writer.release()
    if not times:
        sys.exit(f"error: {source} gives no frames; give the number of a camera or a video file")
    milliseconds = 1000 * float(np.median(times))
    print(f"wrote {arguments.out}: {len(times)} frames, {milliseconds:.1f} ms each (median), {segmenter.reason}")


if __name__ == "__main__":
    try:
        main()
    except NtreError as error:
        sys.exit(f"error: {error}")
