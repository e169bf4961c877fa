"""What an exported session says: a program that does the same, and the commands that take the folder."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from ntre_deploy.studio.session import Plan

SCRIPT = "segment.py"

_SCRIPT = '''"""Segment photos with the examples of this folder: python {file} PHOTO..."""

import sys
from pathlib import Path

from ntre_deploy import Segmenter
from ntre_deploy.runtime.imagefile import read_image, read_mask

HERE = Path(__file__).parent
BUNDLE = {bundle!r}
SHOTS = {{
{shots}}}

segmenter = Segmenter.load(BUNDLE)
memories = segmenter.encode_supports(
    {{
        name: [(read_image(HERE / name / "images" / i), read_mask(HERE / name / "masks" / m)) for i, m in pairs]
        for name, pairs in SHOTS.items()
    }}
)
for memory in memories:
    print(memory)
for photo in sys.argv[1:]:
    result = segmenter(photo, memories)
    out = Path(photo).with_suffix(".labels.png")
    result.save(out)  # 0 background, then the classes in the order of SHOTS
    print(f"{{photo}}: {{result}} -> {{out}}")
'''

_README = """# {title}

Classes and their shots, marked in `ntre studio`: {classes}.

Run these here, in the folder. Segment photos with its memories, or with its photos and masks:

    ntre segment {quoted} PHOTOS --out _masks{memories}
    ntre segment {quoted} PHOTOS --out _masks{supports}

see each shot found by another one (two photos of a class at least):

    ntre segment {quoted} --dataset folder:. --out _episodes

measure it:

    ntre eval {quoted} --dataset folder:. --out _results

learn these classes (two classes of three photos at least):

    ntre tune photos . --out _mine

`python segment.py PHOTO...` does in Python what the first command does. Folders whose names begin with an
underscore are no classes. In `<class>/masks`, white (255) is the class; in a mask that also holds 1, 1 is the class and
255 is ignored.
"""


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
    return _SCRIPT.format(file=SCRIPT, bundle=str(bundle), shots="".join(f"{line}\n" for line in lines))


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
    return _README.format(
        title=title,
        classes=classes,
        quoted=shlex.quote(str(bundle)),
        memories=_lines(memories),
        supports=_lines(supports),
    )


def _lines(options: Sequence[str]) -> str:
    return "".join(f" \\\n      {option}" for option in options)
