"""YOLO's and SSD's suppression as a part of an ONNX file, around ONNX's own NonMaxSuppression.

In: candidate_boxes (B, A, 4), candidate_scores (B, A, C). Out: image, boxes, scores, labels of T detections,
image by image, the best score first; of equal scores the lower anchor, then the lower label. That is
PostProcess, but for one thing: NonMaxSuppression computes IoU in float32, PostProcess in float64. Two boxes
whose IoU equals the threshold within about 1e-6 may therefore both be kept here and not there, or the other
way round.

TopK orders equal values by their index, so three of them make a stable sort by image, score and anchor.
"""

from __future__ import annotations

import onnx
from onnx import parser

from detectors.postprocess import SUPPRESSION_LIMIT, PostProcess

# NonMaxSuppression takes (B, C, A) scores and gives (T, 3): image, label, anchor.
SUPPRESSION = """
<ir_version: {ir_version}, opset_import: ["" : {opset}]>
suppression (float[batch, anchors, 4] candidate_boxes, float[batch, anchors, classes] candidate_scores)
  => (int64[detections] image, float[detections, 4] boxes, float[detections] scores, int64[detections] labels)
{{
  first = Constant <value_ints = [0]> ()
  second = Constant <value_ints = [1]> ()
  third = Constant <value_ints = [2]> ()
  whole_row = Constant <value_ints = [-1]> ()
  low = Constant <value_float = -{limit}> ()
  high = Constant <value_float = {limit}> ()
  iou = Constant <value_floats = [{nms_iou}]> ()
  least = Constant <value_floats = [{score_threshold}]> ()
  anchor_count = Constant <value_ints = [{anchors}]> ()
  best_count = Constant <value_ints = [{candidates}]> ()
  clamped = Clip (candidate_boxes, low, high)
  by_class = Transpose <perm = [0, 2, 1]> (candidate_scores)
  best_scores, best_anchors = TopK <axis = 2> (by_class, best_count)
  all_scores_shape = Shape (by_class)
  unusable = ConstantOfShape <value = float[1] {{-1.0}}> (all_scores_shape)
  limited = ScatterElements <axis = 2> (unusable, best_anchors, best_scores)
  kept = NonMaxSuppression (clamped, limited, anchor_count, iou, least)
  kept_image = Gather <axis = 1> (kept, first)
  kept_label = Gather <axis = 1> (kept, second)
  kept_anchor = Gather <axis = 1> (kept, third)
  classes = Shape <start = 1, end = 2> (by_class)
  place_of_anchor = Mul (kept_anchor, classes)
  place = Add (place_of_anchor, kept_label)
  flat_place = Reshape (place, whole_row)
  number = Shape <start = 0, end = 1> (kept)
  _places, by_anchor = TopK <largest = 0> (flat_place, number)
  kept_scores = GatherND (limited, kept)
  scores_by_anchor = Gather (kept_scores, by_anchor)
  _scores, by_score = TopK (scores_by_anchor, number)
  order_by_score = Gather (by_anchor, by_score)
  flat_image = Reshape (kept_image, whole_row)
  image_by_score = Gather (flat_image, order_by_score)
  _images, by_image = TopK <largest = 0> (image_by_score, number)
  {order} = Gather (order_by_score, by_image)
{limit_of_an_image}
  rows = Gather (kept, order)
  image_column = Gather <axis = 1> (rows, first)
  label_column = Gather <axis = 1> (rows, second)
  anchor_column = Gather <axis = 1> (rows, third)
  image = Reshape (image_column, whole_row)
  labels = Reshape (label_column, whole_row)
  image_and_anchor = Concat <axis = 1> (image_column, anchor_column)
  boxes = GatherND (candidate_boxes, image_and_anchor)
  scores = GatherND (limited, rows)
}}
"""
# A detection's rank in its image is its row, minus the rows of all images before.
LIMIT_OF_AN_IMAGE = """
  zero = Constant <value_int = 0> ()
  one = Constant <value_int = 1> ()
  most = Constant <value_int = {max_detections}> ()
  images = Shape <start = 0, end = 1> (candidate_boxes)
  no_rows = ConstantOfShape <value = int64[1] {{0}}> (images)
  a_row = ConstantOfShape <value = int64[1] {{1}}> (number)
  ordered_image = Gather (flat_image, all_rows)
  rows_of_image = ScatterElements <axis = 0, reduction = "add"> (no_rows, ordered_image, a_row)
  rows_before = CumSum <exclusive = 1> (rows_of_image, zero)
  start = Gather (rows_before, ordered_image)
  number_of_rows = Squeeze (number)
  row = Range (zero, number_of_rows, one)
  rank = Sub (row, start)
  wanted = Less (rank, most)
  order = Compress <axis = 0> (all_rows, wanted)
"""


def with_suppression(scored: onnx.ModelProto, postprocess: PostProcess, anchors: int) -> onnx.ModelProto:
    """A file with candidate boxes and scores as outputs -> the same with detections as outputs.

    anchors: of the input size.
    """
    limited = postprocess.max_detections is not None
    text = SUPPRESSION.format(
        ir_version=scored.ir_version,
        opset=scored.opset_import[0].version,
        limit=SUPPRESSION_LIMIT,
        nms_iou=float(postprocess.nms_iou),
        score_threshold=float(postprocess.score_threshold),
        anchors=anchors,
        candidates=min(postprocess.candidates_per_class or anchors, anchors),
        order="all_rows" if limited else "order",
        limit_of_an_image=LIMIT_OF_AN_IMAGE.format(max_detections=postprocess.max_detections)
        if limited
        else "",
    )
    suppression = onnx.compose.add_prefix(
        parser.parse_model(text), "suppression/", rename_inputs=False, rename_outputs=False
    )
    links = [(name, name) for name in ("candidate_boxes", "candidate_scores")]
    merged = onnx.compose.merge_models(scored, suppression, io_map=links)
    del merged.opset_import[1:]  # both had the same
    return merged
