"""What the findings come to."""

import pytest

from ntre_deploy.doctor.findings import Finding, Group, Status, can_run, exit_code


def found(group: Group, subject: str, status: Status) -> Finding:
    return Finding(group, subject, status, "")


_ENGINE = found("engines", "engine onnx-cpu", "ok")
_NO_ENGINE = found("engines", "engine onnx-cpu", "absent")


@pytest.mark.parametrize(
    ("findings", "runs", "code"),
    [
        ([_ENGINE], True, 0),
        ([_ENGINE, found("packages", "nncf", "absent"), found("machine", "disk", "warning")], True, 0),
        ([_ENGINE, found("packages", "onnxruntime flavours", "problem")], True, 1),
        ([_NO_ENGINE], False, 3),
        ([_NO_ENGINE, found("engines", "tensorrt builder", "problem")], False, 1),
        ([_ENGINE, found("bundle", "bundle", "ok"), found("bundle", "bundle on onnx-cpu fp32", "ok")], True, 0),
        ([_ENGINE, found("bundle", "bundle", "ok"), found("bundle", "bundle on openvino bf16", "absent")], False, 3),
        ([_ENGINE, found("bundle", "bundle", "problem")], False, 1),
        ([found("engines", "CPUExecutionProvider", "ok"), _NO_ENGINE], False, 3),
    ],
)
def test_exit_codes(findings: list[Finding], runs: bool, code: int) -> None:
    assert can_run(findings) is runs
    assert exit_code(findings) == code
