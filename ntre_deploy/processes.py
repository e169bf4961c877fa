"""Processes of the package's own."""

import sys

# what `-P` does from Python 3.11 on
_WITHOUT_FOLDER = (
    "import runpy, sys; sys.path = [place for place in sys.path if place]; "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs an installed module, whatever lies in the folder in which it is started."""
    if sys.version_info >= (3, 11):
        return [sys.executable, "-P", "-m", module, *arguments]
    else:  # noqa: RET505 - mypy takes what follows a test of the version for dead
        return [sys.executable, "-c", _WITHOUT_FOLDER, module, *arguments]
