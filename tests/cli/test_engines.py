"""Exit code 3: an engine or a package that is asked for is not there, and the message says what to install."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import onnxruntime
import pytest

Done = subprocess.CompletedProcess[str]

no_cuda = pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="onnxruntime has CUDA here"
)


@no_cuda
def test_cuda_asked_for_by_name_never_falls_to_the_cpu(
    tiny: SimpleNamespace, pictures: SimpleNamespace, support: str, refused: Callable[..., str]
) -> None:
    message = refused("segment", tiny.bundle, pictures.photo, "-s", support, "--engine", "onnx-cuda", code=3)
    assert "pip install 'ntre_deploy[gpu]'" in message
    assert "ntre doctor" in message


@no_cuda
def test_auto_says_which_engine_it_took_and_why(
    tiny: SimpleNamespace, pictures: SimpleNamespace, support: str, call: Callable[..., Done]
) -> None:
    done = call("segment", tiny.bundle, pictures.photo, "-s", support, "--json")
    reason = json.loads(done.stdout)["engine"]
    assert reason.startswith("onnx-cpu fp32; passed over onnx-cuda: ")


def failed(done: Done, *words: str) -> None:
    assert (done.returncode, done.stdout) == (3, ""), done
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def test_without_onnxruntime_every_command_says_what_to_install(
    tiny: SimpleNamespace,
    pictures: SimpleNamespace,
    support: str,
    ntre: Callable[..., Done],
    without: Callable[..., Path],
    tmp_path: Path,
) -> None:
    blocked = without("onnxruntime")
    done = ntre("segment", tiny.bundle, pictures.photo, "-s", support, cwd=tmp_path, blocked=blocked)
    failed(done, "onnxruntime is not installed", "pip install 'ntre_deploy[cpu]'")
    done = ntre("export", tiny.checkpoint, cwd=tmp_path, blocked=blocked)
    failed(done, "onnxruntime is not installed", "pip install 'ntre_deploy[cpu]'")
    assert list(tmp_path.iterdir()) == []


def test_without_torch_the_commands_that_need_it_say_what_to_install(
    tiny: SimpleNamespace, ntre: Callable[..., Done], without: Callable[..., Path], tmp_path: Path
) -> None:
    blocked = without("torch")
    for arguments in (("export", tiny.checkpoint), ("import-weights", "random:0", "x.safetensors")):
        failed(ntre(*arguments, cwd=tmp_path, blocked=blocked), "torch", "pip install 'ntre_deploy[export]'")
    failed(ntre("export", tiny.checkpoint, cwd=tmp_path, blocked=without("onnx")), "onnx", "'ntre_deploy[export]'")
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_finds_nothing_wrong_here(call: Callable[..., Done], tiny: SimpleNamespace) -> None:
    plain = call("doctor")
    assert (plain.returncode, plain.stderr) == (0, "")
    assert any(line.startswith("ok") and "CPUExecutionProvider" in line for line in plain.stdout.splitlines())
    done = call("doctor", "--bundle", tiny.bundle, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["can_run"] is True
    findings = {finding["subject"]: finding for finding in told["findings"]}
    assert told["exit_code"] == 0
    assert set(findings["python"]) == {"group", "subject", "status", "text", "fix"}
    assert findings["engine onnx-cpu"]["status"] == "ok"
    assert findings["bundle on onnx-cpu fp32"] == {
        "group": "bundle",
        "subject": "bundle on onnx-cpu fp32",
        "status": "ok",
        "text": "self-test passed",
        "fix": "",
    }
    for finding in findings.values():
        assert finding["status"] in ("ok", "absent", "warning")
        if finding["status"] == "ok":
            assert finding["fix"] == ""


def test_the_doctor_says_in_the_end_what_runs(call: Callable[..., Done], tiny: SimpleNamespace) -> None:
    assert call("doctor").stdout.splitlines()[-1].startswith("usable: bundles run on ")
    lines = call("doctor", "--bundle", tiny.bundle).stdout.splitlines()
    assert lines[-1].startswith("usable: the bundle runs on onnx-cpu fp32")
    groups = ["machine", "packages", "engines", "bundle"]
    assert [line for line in lines if line in groups] == groups


def test_the_doctor_exits_with_1_where_an_installed_engine_is_broken(
    ntre: Callable[..., Done], without: Callable[..., Path], tmp_path: Path
) -> None:
    done = ntre("doctor", "--json", cwd=tmp_path, blocked=without("onnxruntime", "openvino", "torch"))
    assert (done.returncode, done.stderr) == (1, "")
    told = json.loads(done.stdout)
    assert told["can_run"] is False
    found = {f["subject"]: f for f in told["findings"]}
    assert found["engine onnx-cpu"]["status"] == "absent"
    assert found["engine onnx-cpu"]["fix"] == "pip install 'ntre_deploy[cpu]'"
    assert found["onnxruntime"]["status"] == "problem", "pip's records say that it is installed"
    assert "--force-reinstall" in found["onnxruntime"]["fix"]
    done = ntre("doctor", cwd=tmp_path, blocked=without("onnxruntime", "openvino", "torch"))
    assert done.stdout.splitlines()[-1].startswith("broken: onnxruntime")


def test_a_bundle_that_is_not_there_is_bad_input_for_the_doctor_too(refused: Callable[..., str]) -> None:
    assert "nope.ntre" in refused("doctor", "--bundle", "nope.ntre")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--engine", "openvio"), ("Engine 'openvio' is unknown", "Did you mean 'openvino'?")),
        (
            ("--engine", "openvino", "--precision", "fp16"),
            ("openvino 'fp16' is unknown", "fp32, bf16, int8"),
        ),
        (("--precision", "fp61"), ("Precision of onnx 'fp61' is unknown", "fp32, fp16, bf16, int8, fp8")),
        (("--calibrate-on", "procedural"), ("--calibrate-on is for int8", "--precision int8")),
        (("--precision", "int8", "--calibrate-on", "nope"), ("Dataset 'nope' is unknown",)),
    ],
)
def test_an_engine_or_precision_that_export_does_not_know_is_bad_input(
    tiny: SimpleNamespace, refused: Callable[..., str], arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    message = refused("export", tiny.checkpoint, *arguments, code=2)
    assert all(word in message for word in words), message


def test_without_openvino_or_nncf_export_says_what_to_install(
    tiny: SimpleNamespace, ntre: Callable[..., Done], without: Callable[..., Path], tmp_path: Path
) -> None:
    done = ntre("export", tiny.checkpoint, "--engine", "openvino", cwd=tmp_path, blocked=without("openvino"))
    failed(done, "openvino", "pip install 'ntre_deploy[openvino]'")
    done = ntre("export", tiny.checkpoint, "--precision", "int8", cwd=tmp_path, blocked=without("nncf"))
    failed(done, "nncf", "pip install 'ntre_deploy[int8]'")
    assert list(tmp_path.iterdir()) == []
