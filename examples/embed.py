"""Few-shot segmentation in a program of one's own.

python examples/embed.py demo.ntre fork.jpg fork_mask.png photo.jpg mask.png
"""

import sys

from ntre_deploy import NtreError, Segmenter
from ntre_deploy.runtime.imagefile import read_image, read_mask, write_png
from ntre_deploy.runtime.overlay import palette

if len(sys.argv) != 6:
    sys.exit("usage: embed.py BUNDLE SUPPORT SUPPORT_MASK PHOTO OUT.png")
try:
    bundle, support, support_mask, photo, out = sys.argv[1:]
    segmenter = Segmenter.load(bundle)
    memory = segmenter.encode_support([(read_image(support), read_mask(support_mask))])
    mask = segmenter.segment(read_image(photo), memory)
    write_png(out, mask, palette(1))
except NtreError as error:
    sys.exit(f"error: {error}")
print(f"wrote {out}: {(mask == 1).mean():.1%} of the photo is the target ({segmenter.reason})")
