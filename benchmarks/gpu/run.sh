#!/usr/bin/env bash
# Every check and every measurement that needs an NVIDIA GPU, in 8 minutes and without a network.
#
#   benchmarks/gpu/run.sh [OUT]      writes OUT/gpu.json (default: gpu_out) and what each stage said, OUT/*.log
#
# PREPARED names a folder with bundles that were exported elsewhere, see main.py.  PYTHON names the interpreter.  Packages that a bare machine lacks (TensorRT for RTX, ONNX Runtime GPU, cuda-bindings)
# may lie unpacked in $SITE (default: /tmp/site); the repository itself is used in place where it is not installed.
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
out=${1:-$here/gpu_out}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$here"
site=${SITE:-/tmp/site}
python=${PYTHON:-python3}

nvidia-smi --query-gpu=name,driver_version,compute_cap,memory.total,clocks.sm,clocks.max.sm,power.limit --format=csv,noheader \
  || { echo "no NVIDIA GPU is here (nvidia-smi fails)" >&2; exit 3; }

# `export` and `kernels` lie beside the package and are its sub-packages only where it is installed
rm -rf "$out/package"
if ! "$python" -P -c 'import ntre_deploy.export' 2>/dev/null; then
  "$python" -m pip install --quiet --no-index --no-deps --no-build-isolation --target "$out/package" . 2>"$out/install.log" \
    || { tree="$out/package"; mkdir -p "$tree"; cp -r ntre_deploy "$tree/"; cp -r export kernels "$tree/ntre_deploy/"; }
  export PYTHONPATH="$out/package${PYTHONPATH:+:$PYTHONPATH}"
fi
if [ -d "$site" ]; then export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$site"; fi
export PYTHONUNBUFFERED=1
exec "$python" -P benchmarks/gpu/main.py --out "$out" --budget "${BUDGET:-470}" ${PREPARED:+--prepared "$PREPARED"}
