"""Average precision: VOC and COCO."""
