"""`supervision.Detections`, for its annotators, trackers and metrics."""

from typing import TYPE_CHECKING

import numpy as np

from ntre_deploy.errors import EngineError

if TYPE_CHECKING:
    from supervision import Detections

    from ntre_deploy.runtime.results.result import Result


def supervision(result: "Result", min_area: int = 1) -> "Detections":
    """One detection for each instance; see `Result.to_supervision`.

    Raises:
        EngineError: supervision is not installed.
    """
    try:
        from supervision import Detections
    except ImportError as error:
        raise EngineError(f"Detections need the package supervision ({error}): pip install supervision.") from error
    instances = result.instances(min_area)
    if not instances:
        return Detections.empty()
    height, width = result.size
    boxes = np.array([one.box for one in instances], np.float32)
    scores = [one.score for one in instances]
    return Detections(
        xyxy=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
        mask=np.stack([one.full_mask(height, width).view(np.bool_) for one in instances]),
        confidence=np.array(scores, np.float32) if result.has_scores else None,
        class_id=np.array([one.label - 1 for one in instances]),
        data={"class_name": np.array([one.name for one in instances])},
    )
