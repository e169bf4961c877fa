"""Compiles the CUDA sources to the PTX that the package carries: `python -m ntre_deploy.kernels.build` (needs nvcc).

PTX and not cubins: four small files serve every GPU from SM75 on, also ones that this nvcc does not know, where cubins
would be twelve times as many and tied to it; the driver compiles PTX once and keeps the result.  nvcc writes the newest
PTX version that it has, which older drivers refuse, JetPack's among them; the kernels need nothing newer than 7.0 (CUDA
11.0), so that is written instead, and ptxas, which knows what each version lacks, proves it for every architecture.
"""

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ntre_deploy.errors import EngineError, NtreError
from ntre_deploy.files import atomic_folder
from ntre_deploy.kernels.sources import BASES, PTX, SOURCES, ptx_name

PTX_VERSION = "7.0"
FLAGS = ("-std=c++17", "-O3", "-Werror", "all-warnings")


def sources_digest() -> str:
    """SHA-256 of all CUDA sources and compiler flags; every PTX file names the one that it was made from."""
    digest = hashlib.sha256(" ".join((PTX_VERSION, *FLAGS)).encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def compile_ptx(nvcc: str, source: str, base: int) -> str:
    """PTX of one source.

    Raises:
        EngineError: nvcc refused it, or warned.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "out.ptx"
        _call([nvcc, *FLAGS, f"-arch=compute_{base}", "-ptx", "-o", str(target), str(SOURCES / f"{source}.cu")])
        text = target.read_text()
    # nvcc's own comments name its build, which would change the file without changing the code
    body = re.sub(r"^//.*\n", "", text, flags=re.MULTILINE).lstrip()
    # a hint for debuggers, and the one thing here that is newer than PTX 7.0
    body = re.sub(r'^\s*\.pragma "used_bytes_mask [^"]*";\n', "", body, flags=re.MULTILINE)
    body, changed = re.subn(r"^\.version \d+\.\d+$", f".version {PTX_VERSION}", body, count=1, flags=re.MULTILINE)
    if changed != 1:
        raise EngineError(f"nvcc wrote no PTX version for {source}.cu; this nvcc is not supported (13.0 is).")
    return f"// {source}.cu of ntre_deploy, sources {sources_digest()}\n{body}"


def architectures(nvcc: str) -> list[int]:
    """Compute capabilities that this nvcc makes code for, as 75 for 7.5."""
    listed = _call([nvcc, "--list-gpu-code"])
    return sorted(int(code) for code in re.findall(r"^sm_(\d+)$", listed, flags=re.MULTILINE))


def check_ptx(ptxas: str, path: Path, capability: int) -> str:
    """What ptxas reports of one PTX file for one architecture (registers, shared memory).

    Raises:
        EngineError: it does not assemble, or spills registers to memory.
    """
    command = [ptxas, f"-arch=sm_{capability}", "-v", "-warn-spills", "-warn-lmem-usage", "-Werror", "-o"]
    with tempfile.TemporaryDirectory() as folder:
        return _call([*command, str(Path(folder) / "out.cubin"), str(path)])


def tool(name: str) -> str:
    """Path of a program of the CUDA toolkit.

    Raises:
        EngineError: it is not installed.
    """
    found = shutil.which(name)
    if found is None:
        raise EngineError(f"{name} was not found; install the CUDA toolkit 13.0 and put its bin folder on PATH.")
    return found


def _call(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise EngineError(f"{Path(command[0]).name} failed: {(result.stderr or result.stdout).strip()}")
    return result.stdout + result.stderr


def build(out: Path) -> None:
    """Write all PTX files into the folder `out`, replaced as a whole; each is checked for every architecture first.

    Raises:
        EngineError: no CUDA toolkit, or a source that does not compile cleanly.
        InputError: the folder cannot be written.
    """
    nvcc, ptxas = tool("nvcc"), tool("ptxas")
    capabilities = architectures(nvcc)
    with atomic_folder(out, replace=True) as folder:
        for source, bases in BASES.items():
            for base in bases:
                path = folder / ptx_name(source, base)
                path.write_text(compile_ptx(nvcc, source, base))
                for capability in (c for c in capabilities if c >= base):
                    check_ptx(ptxas, path, capability)


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ntre_deploy.kernels.build", description=__doc__)
    parser.add_argument("--out", type=Path, default=PTX, help="folder of the PTX files (default: the package's own)")
    arguments = parser.parse_args()
    try:
        build(arguments.out)
    except NtreError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{sum(map(len, BASES.values()))} PTX files written to {arguments.out}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
