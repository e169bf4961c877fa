"""A Dockerfile's steps as a shell script, for machines on which no image can be built."""

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile_parse import DockerfileParser


@dataclass
class Image:
    """What a Dockerfile says of its last stage.

    Attributes:
        script: the steps of all its stages, for bash.
        workdir: where the program starts; with variables.
        start: the program, and its usual arguments.
        health: the shell command that tells whether it is well.
        environment: set when it starts; with variables, in their order.
        copied: sources of the build context.
    """

    script: str
    workdir: str = "/"
    start: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))
    health: str = ""
    user: str = "root"
    environment: list[tuple[str, str]] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)


def read(dockerfile: Path, context: Path, home: Path) -> Image:
    """The steps with NTRE_HOME at another place, and what stands behind them.

    Raises:
        AssertionError: an instruction that has no counterpart in a script.
    """
    lines = ["set -euo pipefail"]
    image = Image("")
    start: list[str] = []
    arguments: list[str] = []
    for step in DockerfileParser(str(dockerfile), cache_content=True).structure:
        kind, value = step["instruction"], step["value"]
        if kind in ("COMMENT", "EXPOSE", "STOPSIGNAL", "ARG"):
            continue
        if kind == "FROM":
            # a stage begins at the root, with nothing of the one before
            image.environment, image.workdir = [], "/"
            lines.append("cd /")
        elif kind == "ENV":
            name, _, content = value.partition("=")
            content = str(home) if name == "NTRE_HOME" else content
            image.environment.append((name, content))
            lines.append(f'export {name}="{content}"')
        elif kind == "WORKDIR":
            image.workdir = value
            lines.append(f'mkdir -p "{value}" && cd "{value}"')
        elif kind == "COPY":
            lines.append(_copy(value.split(), context, image.copied))
        elif kind == "RUN":
            # dockerfile-parse leaves out the ends of lines
            lines.append(f"bash -euc {shlex.quote(value)}")
        elif kind == "USER":
            image.user = value
        elif kind == "HEALTHCHECK":
            image.health = value.split("CMD ", 1)[1]
        elif kind == "ENTRYPOINT":
            start = json.loads(value)
        elif kind == "CMD":
            arguments = json.loads(value)
        else:
            raise AssertionError(f"{dockerfile.name}: no counterpart of {kind} {value}")
    image.script = "\n".join(lines) + "\n"
    image.start = start, arguments
    return image


def _copy(words: list[str], context: Path, copied: list[str]) -> str:
    if words[0].startswith("--from="):
        # stages share one file system here
        assert words[1] == words[2], words
        return f'test -e "{words[1]}"'
    *sources, target = words
    copied += sources
    commands = []
    for source in sources:
        assert (context / source).exists(), f"COPY {source}: not in the build context"
        if (context / source).is_dir():
            commands.append(f'mkdir -p "{target}" && cp -r {shlex.quote(str(context / source))}/. "{target}"')
        else:
            commands.append(f'cp {shlex.quote(str(context / source))} "{target}"')
    return "\n".join(commands)
