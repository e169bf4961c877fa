"""What an exported session says: a program that does the same, and the commands that take the folder."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from ntre_deploy.studio.session import Plan

SCRIPT = "segment.py"

# the page without a server fills in the same
_TEXTS = Path(__file__).parent / "page" / "texts"


def script(plan: Plan, bundle: Path, files: Mapping[str, Sequence[tuple[str, str]]]) -> str:
    """The program, which lies in the exported folder.

    Args:
        files: class -> names of its photos and masks.
    """
    lines = []
    for item in plan.classes:
        lines.append(f"    {item.name!r}: [")
        lines += [f"        ({image!r}, {mask!r})," for image, mask in files[item.name]]
        lines.append("    ],")
    return _text("segment.py").format(
        file=SCRIPT, bundle=repr(str(bundle)), shots="".join(f"{line}\n" for line in lines)
    )


def readme(plan: Plan, bundle: Path, title: str, files: Mapping[str, Sequence[tuple[str, str]]]) -> str:
    """The page about the folder; `files` as of `script`."""
    classes = ", ".join(
        f"{item.name} ({len(shots)} shot{'' if len(shots) == 1 else 's'})"
        for item, shots in zip(plan.classes, plan.shots, strict=True)
    )
    memories = [f"--memory {shlex.quote(f'_memories/{name}.safetensors')}" for name in files]
    supports = [
        f"--support {shlex.quote(f'{name}={name}/images/{image},{name}/masks/{mask}')}"
        for name, pairs in files.items()
        for image, mask in pairs
    ]
    return _text("README.md").format(
        title=title,
        classes=classes,
        quoted=shlex.quote(str(bundle)),
        memories=_lines(memories),
        supports=_lines(supports),
    )


def _text(name: str) -> str:
    return (_TEXTS / f"{name}.txt").read_text("utf-8")


def _lines(options: Sequence[str]) -> str:
    return "".join(f" \\\n      {option}" for option in options)
