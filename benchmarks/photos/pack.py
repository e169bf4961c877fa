"""Leave out of a trained checkpoint what its backbone's package holds.

python benchmarks/photos/pack.py runs/photos/last.safetensors photos.safetensors
"""

import sys
from pathlib import Path

from ntre_deploy.model.checkpoint import load_checkpoint, save_checkpoint


def main() -> None:
    source, out = map(Path, sys.argv[1:])
    loaded = load_checkpoint(source)
    save_checkpoint(out, loaded.model, loaded.origin, borrow=f"package:{loaded.model.config.backbone}")
    print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
