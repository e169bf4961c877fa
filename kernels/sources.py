"""Where the CUDA sources and the PTX made of them lie, and which PTX serves a device."""

from pathlib import Path

_HERE = Path(__file__).resolve().parent
SOURCES = _HERE / "cuda"
PTX = _HERE / "ptx"
# the architectures whose PTX is carried; a source with instructions that SM75 lacks would have two
BASES = {"labels": (75,), "prepare": (75,)}
OLDEST = min(base for bases in BASES.values() for base in bases)


def ptx_name(source: str, base: int) -> str:
    """File name of the PTX of one source for the architectures from `base` on."""
    return f"{source}.sm_{base}.ptx"


def ptx_for(source: str, capability: int) -> bytes:
    """The PTX of one source for a device of `capability` (86 for 8.6, `OLDEST` or later)."""
    base = max(base for base in BASES[source] if base <= capability)
    return (PTX / ptx_name(source, base)).read_bytes()
