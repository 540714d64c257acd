"""What the numbers of a comparison mean, as the page shows it on hover."""

INTERVAL_WORDS = "The mean over the seeds, [95 % interval over images], {95 % interval over images and seeds}"
ESTIMATES = {
    "AP": "COCO's AP: the mean over IoU .50:.05:.95, 101 recall levels and the classes",
    "AP50": "COCO's AP at IoU .5",
    "AP75": "COCO's AP at IoU .75",
    "AP50_voc07": "PASCAL VOC 2007: IoU above .5, the mean precision at 11 recall levels",
    "AP50_voc10": "PASCAL VOC 2010 and later: IoU above .5, the area under the curve",
    "AP_small": "COCO's AP of boxes below 32 x 32 pixels; larger detections do not count",
    "AP_medium": "COCO's AP of boxes from 32 x 32 to 96 x 96 pixels",
    "AP_large": "COCO's AP of boxes of 96 x 96 pixels or more",
}
ERRORS = {
    "class": "wrong class: IoU .5 or more with a box of another class",
    "location": "right class, but IoU from .1 to .5",
    "both": "wrong class, and IoU from .1 to .5",
    "duplicate": "a second detection of a box that is found",
    "background": "IoU below .1 with every box",
    "missed": "boxes that no detection found, nor would find with its class or place corrected",
    "wrong": "without all wrong detections",
    "unfound": "without all boxes that are not found",
}
ERROR_CELL = "AP50 that would be gained without these errors (TIDE), and their number in one run"
TOTALS = {"wrong": "all wrong detections", "unfound": "all boxes not found"}
P_VALUE = "share of random exchanges of the two, image by image, that give as large a difference"
RECALL = {
    "size": "by the area of the box in the original image, COCO's ranges",
    "shape": "by width / height: below 1/3, 2/3, 3/2, 3, above",
    "border": "by the smallest gap to the image's border, relative to its side: below 1 %, 10 %, above",
    "crowding": "by the share of the box that another box covers: below 1 %, 20 %, 50 %, above",
    "flag": "boxes marked as difficult or as crowd regions, which count nowhere else",
}
RECALL_CELL = "share of these boxes that a detection of the right class finds at IoU .5, over all seeds"
D_ECE = (
    "detection expected calibration error: the mean over detections of |share that is right - score|, in 20 "
    "bins of the score"
)
BEST_F1 = (
    "the highest F1 = 2 right / (right + wrong + boxes) at IoU .5 over all scores; right, wrong: detections"
)
BEST_SCORE = "detections of this score or more give the highest F1; confusion and disagreement use it"
CONFUSION = (
    "boxes of the row's class that a detection of the column's class has taken, at IoU above .5 and the "
    "score of the best F1, over all seeds"
)
NEAR_RECALL = "share of the boxes that have an anchor at IoU .5 or more, where the anchors stand"
NEAR_IOU = "mean over the boxes of the highest IoU with any anchor"
CELL_RECALL = (
    "YOLOv2's rule: share of the boxes whose best anchor in the cell of their centre has a shape IoU of .5 "
    "or more and is not taken by another box"
)
CELL_IOU = "the mean of that shape IoU; 0 for a box whose anchor another box takes"
FOUND = "what the trained detector finds at IoU .5, over all seeds, to compare with"
SPEED = {
    "pre-processing": "reading, decoding and resizing the image, without worker processes",
    "network": "copy to the device, and the network's forward pass",
    "post-processing": "scores, boxes, suppression, back to the original image and to the host",
    "total": "the three together",
}
QUARTILE_WORDS = "median over the rounds, [quartiles]"
IMAGES_PER_SECOND = "the batch size over the total time of a batch; median over the rounds, [quartiles]"
PEAK_MEMORY = (
    "weights, and the most that tensors of one batch hold at once in network and post-processing: on a CPU "
    "by PyTorch's profile of allocations, on a GPU by max_memory_allocated; PyTorch itself is not in it"
)
PARAMETERS = "numbers in the network's weights"
GFLOPS = "GFLOPs of one image at the input's size: convolutions and linear layers, 2 for a multiply-add"
FRONT = "yes: no other detector is as good in both AP and this cost and better in one of them"
LATENCY = "median total milliseconds of one image alone, pre-processing included"
DIFFERENCE_F1 = "the largest F1 of a detector on this image minus the smallest"
IMAGE_F1 = (
    "F1 at IoU .5 on this image, at the detector's score of the best F1; the mean over its seeds; 1 for an "
    "image without boxes and detections"
)
DETECTOR = "runs whose settings differ in the seed alone"
SEEDS = "runs of the detector"
PAIR = "the first detector minus the second one"
RUN_PAIRS = "runs of equal seed that are compared with each other"
BOXES = "how many such boxes there are in the ground truth"
