"""The npm package: types are right, the tarball holds what a page needs and no engine, and pages list what there is."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from ntre_deploy import __version__


def _tsc(packages: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(packages / "node_modules" / ".bin" / "tsc"), *words]
    return subprocess.run(command, cwd=packages, capture_output=True, text=True, timeout=300, check=False)


def test_types_are_right_and_a_wrong_one_is_found(packages: Path, tmp_path: Path) -> None:
    done = _tsc(packages)
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "wrong.js"
    wrong.write_text(
        f'import {{ Segmenter }} from "{packages}/src/index.js";\nSegmenter.load("x", {{ engine: "cuda" }});\n'
    )
    (tmp_path / "tsconfig.json").write_text(
        json.dumps(
            {"extends": f"{packages}/tsconfig.json", "compilerOptions": {"rootDir": "/"}, "include": [str(wrong)]}
        )
    )
    done = _tsc(packages, "-p", str(tmp_path))
    assert done.returncode != 0
    assert "cuda" in done.stdout


def test_modules_are_formatted(packages: Path) -> None:
    command = [str(packages / "node_modules" / ".bin" / "prettier"), "--check", "src"]
    done = subprocess.run(command, cwd=packages, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"npm run format: {done.stderr}"


def test_the_package_holds_modules_and_types_and_no_engine(packages: Path, tmp_path: Path) -> None:
    command = ["npm", "pack", "--json", "--pack-destination", str(tmp_path)]
    done = subprocess.run(command, cwd=packages, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    packed = json.loads(done.stdout[done.stdout.index("[") :])[0]
    names = {entry["path"] for entry in packed["files"]}
    sources = {f"src/{path.name}" for path in (packages / "src").iterdir()}
    types = {name.replace("src/", "types/").replace(".js", ".d.ts") for name in sources}
    assert names == sources | types | {"package.json", "README.md", "LICENSE", "examples/index.html"}
    assert packed["unpackedSize"] < 300_000


def test_the_package_has_the_projects_version_and_pinned_tools(packages: Path) -> None:
    content = json.loads((packages / "package.json").read_text())
    locked = json.loads((packages / "package-lock.json").read_text())["packages"]
    assert content["version"] == __version__
    assert set(content["peerDependencies"]) == {"onnxruntime-web"}
    for name, version in content["devDependencies"].items():
        assert re.fullmatch(r"[\d.]+", version)
        assert locked[f"node_modules/{name}"]["version"] == version


def test_everything_public_is_exported_and_documented(packages: Path) -> None:
    index = (packages / "src" / "index.js").read_text()
    names = {name.strip() for group in re.findall(r"export \{(.+?)\}", index) for name in group.split(",")}
    readme = (packages / "README.md").read_text()
    assert names == {
        "Segmenter",
        "WorkerSegmenter",
        "SupportMemory",
        "Result",
        "InputError",
        "EngineError",
        "NtreError",
    }
    assert [name for name in names if f"`{name}" not in readme] == []
    segmenter = (packages / "src" / "segmenter.js").read_text()
    methods = set(re.findall(r"^  async (\w+)\(", segmenter, re.MULTILINE)) - {"runSelfTest"}
    assert [method for method in methods if f"`{method}(" not in readme] == []
    worker = (packages / "src" / "client.js").read_text()
    assert methods <= set(re.findall(r"^  async (\w+)\(", worker, re.MULTILINE))


@pytest.mark.parametrize("kind", ["manifest", "support"])
def test_formats_are_those_of_python(packages: Path, kind: str) -> None:
    from ntre_deploy.runtime import manifest, support

    module, name, number = {
        "manifest": (manifest, "manifest.js", f"const SCHEMA = {manifest.SCHEMA};"),
        "support": (support, "memory.js", f"const VERSION = {support.VERSION};"),
    }[kind]
    text = (packages / "src" / name).read_text()
    assert f'const FORMAT = "{module.FORMAT}";' in text
    assert number in text
    if kind == "manifest":
        assert all(f'{key}: "{value}"' in text for key, value in manifest.CONVENTION.items())
