"""Errors for the user."""

import pytest

from ntre_deploy.errors import EngineError, GateError, InputError, NtreError, did_you_mean, one_of


@pytest.mark.parametrize(("kind", "code"), [(GateError, 1), (InputError, 2), (EngineError, 3), (NtreError, 2)])
def test_each_kind_of_error_has_its_exit_code(kind: type[NtreError], code: int) -> None:
    assert issubclass(kind, NtreError)
    assert kind("text").exit_code == code
    assert str(kind("text")) == "text"


def test_the_kinds_are_not_caught_for_each_other() -> None:
    kinds = [InputError, GateError, EngineError]
    assert not any(issubclass(a, b) for a in kinds for b in kinds if a is not b)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("onx", " Did you mean 'onnx'?"), ("openvimo", " Did you mean 'openvino'?"), ("zzz", ""), ("", "")],
)
def test_the_closest_name_is_offered_and_only_a_close_one(given: str, wanted: str) -> None:
    assert did_you_mean(given, ["onnx", "trt", "openvino"]) == wanted
    assert did_you_mean(given, iter(["onnx", "trt", "openvino"])) == wanted


def test_nothing_known_offers_nothing() -> None:
    assert did_you_mean("onnx", []) == ""


def test_a_known_value_is_returned_and_an_unknown_one_refused_with_all_that_exist() -> None:
    assert one_of("trt", iter(["onnx", "trt"]), "Engine") == "trt"
    with pytest.raises(InputError) as caught:
        one_of("tr", iter(["onnx", "trt"]), "Engine")
    assert str(caught.value) == "Engine 'tr' is unknown; it must be one of onnx, trt. Did you mean 'trt'?"
    with pytest.raises(InputError, match=r"one of onnx, trt\.$"):
        one_of("TRT", ["onnx", "trt"], "Engine")
