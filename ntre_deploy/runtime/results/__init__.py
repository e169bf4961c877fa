"""What `Segmenter` found in one image: label map, scores, instances, outlines, and the formats of other tools."""
