"""What a step of a kit may differ by, for each precision; docs/conformance.md tells what is measured."""

# nothing of these is the engine's, so the precision does not count
_EXACT = {
    "box": 0.0,
    # one grey level, and what float32 makes of it
    "input": 1.001,
    "input-share": 0.01,
    "target": 0.0,
    "stack": 0.0,
    "labels-from-logits": 1e-4,
    "fields": 0.0,
    "arrays": 0.0,
    "warning": 0.0,
    "loaded": 0.0,
    "rewritten": 0.0,
    "error": 0.0,
}
_FP32 = {"prototype": 1e-3, "keys": 1e-3, "calibration": 1e-3, "shot-scores": 0.01, "logits": 2e-3, "labels": 1e-3}
_16_BITS = {"prototype": 0.05, "keys": 0.05, "calibration": 0.1, "shot-scores": 0.1, "logits": 0.1, "labels": 0.02}
_8_BITS = {"prototype": 0.5, "keys": 0.5, "calibration": 0.5, "shot-scores": 0.5, "logits": 0.5, "labels": 0.1}

TOLERANCES: dict[str, dict[str, float]] = {
    "fp32": _EXACT | _FP32,
    "fp16": _EXACT | _16_BITS,
    "bf16": _EXACT | _16_BITS,
    "int8": _EXACT | _8_BITS,
    "fp8": _EXACT | _8_BITS,
}
