"""A `Result` in the formats of other tools, one module each; all take the result, and some what to call its image."""

from ntre_deploy.runtime.results.formats.coco import coco, coco_annotations, coco_dataset, coco_image
from ntre_deploy.runtime.results.formats.geojson import geojson
from ntre_deploy.runtime.results.formats.label_studio import label_studio, labelling_config
from ntre_deploy.runtime.results.formats.labelme import labelme
from ntre_deploy.runtime.results.formats.polygons import polygons
from ntre_deploy.runtime.results.formats.supervision import supervision
from ntre_deploy.runtime.results.formats.yolo import yolo, yolo_names

__all__ = [
    "coco",
    "coco_annotations",
    "coco_dataset",
    "coco_image",
    "geojson",
    "label_studio",
    "labelling_config",
    "labelme",
    "polygons",
    "supervision",
    "yolo",
    "yolo_names",
]
