"""A bundle on Ray Serve: `NTRE_BUNDLE=photos.ntre serve run segmentation:app`, then http://127.0.0.1:8000/docs."""

import os

from ntre_deploy.serving.cluster.app import build

bundle = os.path.abspath(os.environ.get("NTRE_BUNDLE", "photos.ntre"))
# every replica sees this folder, so that a memory that one of them is given is known to all
memories = os.path.abspath(os.environ.get("NTRE_MEMORIES", "memories"))

app = build({"bundle": bundle, "memories": memories})
