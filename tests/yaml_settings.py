"""What every yaml of conf/ says, with the source of each number: literals, so that no change goes unseen.

tests/test_recipes.py compares each file of the groups below with its entry, setting by setting. Sources:
cfg: Darknet f6afaab, cfg/*.cfg. Region layer: src/parser.c, src/region_layer.c and examples/detector.c.
Caffe: branch ssd, examples/ssd/ssd_pascal.py and ssd_coco.py (SSD300; SSD512 has no script of its own there).
Course: experiencor/keras-yolo2, notebook "Yolo Step-by-Step" and utils.py. Ours: no original has it.
"""

from __future__ import annotations

from typing import Any

# What the backbone expects: tests/models/test_pixels.py
BACKBONE_PIXELS = {
    "model.pixel_mean": "${backbone_pixels:${model.backbone},mean}",
    "model.pixel_std": "${backbone_pixels:${model.backbone},std}",
    "model.layers": {
        "activation": None,
        "normalization": None,
        "separable": False,
        "pooling_power": None,
        "dilation": None,
        "spp": [],
        "dropout": 0.0,
        "spatial_dropout": 0.0,
        "initialization": None,
    },
}
# Thresholds of `detector valid` (examples/detector.c): .005 and nms .45; it keeps every box.
DARKNET_DETECTIONS = {
    "model.score_threshold": 0.005,
    "model.nms_iou": 0.45,
    "model.nms": "hard",
    "model.max_detections": None,
    "model.class_activation": "${oc.select:loss.class_activation,softmax}",  # softmax=1 in every cfg
    "model.tree": "${oc.select:loss.tree,null}",
    "model.tree_rule": "as_meant",
    "model.tree_threshold": 0.5,  # -hier of `detector test`
    "model.detection_map": None,
    **BACKBONE_PIXELS,
}
# Caffe's det_out_param: confidence_threshold, nms_param (overlap, top_k), keep_top_k; its mean_value is
# [104, 117, 123] in BGR, and its scale 1; clip: false; match_type PER_PREDICTION after the bipartite rounds.
CAFFE_MODEL = {
    "model.score_threshold": 0.01,
    "model.nms_iou": 0.45,
    "model.nms": "hard",
    "model.candidates_per_class": 400,
    "model.max_detections": 200,
    **BACKBONE_PIXELS,
    "model.channel_order": "rgb",
    "model.clip_default_boxes": None,
    "model.bipartite": "greedy",
    "model.batch_norm": False,
}
# Ablations of docs/switches.md, off in every file.
LOSS_SWITCHES = {"label_smoothing": 0.0, "focal_gamma": None, "focal_alpha": 0.25}
CLASSIFIER = {"task": "classification", "trainer.stop_metric": "val/accuracy"}
MODELS: dict[str, dict[str, Any]] = {
    "yolov2": {  # yolov2-voc.cfg: width, height; filters=64 before [reorg]
        "input.size": [416, 416],
        "input.resize": "letterbox",
        "model.backbone": "darknet19",
        "model.width": 1.0,
        "model.anchors": "voc",
        "model.passthrough_channels": 64,
        **DARKNET_DETECTIONS,
    },
    "yolov2_coco": {"input.size": [608, 608], "model.anchors": "coco"},  # yolov2.cfg
    "yolov2_2016": {  # yolo-voc.cfg of November 2016
        "input.resize": "stretch",
        "model.anchors": "tiny_voc",
        "model.passthrough_channels": None,
    },
    "yolov2_tiny": {  # yolov2-tiny-voc.cfg
        "input.size": [416, 416],
        "input.resize": "letterbox",
        "model.backbone": "tiny_darknet",
        "model.width": 1.0,
        "model.anchors": "tiny_voc",
        "model.last_channels": 1024,
        "model.stride": 32,
        **DARKNET_DETECTIONS,
    },
    "yolov2_tiny_coco": {"model.anchors": "coco", "model.last_channels": 512},  # yolov2-tiny.cfg
    "yolo9000": {  # yolo9000.cfg
        "input.size": [544, 544],
        "input.resize": "letterbox",
        "model.backbone": "darknet19",
        "model.width": 1.0,
        "model.anchors": "yolo9000",
        **DARKNET_DETECTIONS,
    },
    "yolov2_160": {  # ours
        "input.size": [160, 160],
        "model.width": 0.25,
        "model.anchors": [[1.3, 1.3], [2.3, 2.3], [3.6, 2.2], [2.4, 3.9], [4.3, 4.3]],
        "model.last_channels": 256,
        "model.stride": 16,
        "trainer.memory_format": "channels_last",
    },
    "ssd300": {
        "input.size": [300, 300],
        "input.resize": "stretch",
        "model.backbone": "reduced_vgg16",
        "model.width": 1.0,
        "model.sizes": "voc",
        **CAFFE_MODEL,
    },
    "ssd300_coco": {"model.sizes": "coco"},
    "ssd512": {"input.size": [512, 512]},
    "ssd512_coco": {"model.sizes": "coco"},
    "ssd160": {  # ours
        "input.size": [160, 160],
        "model.width": 0.25,
        "model.batch_norm": True,
        "trainer.memory_format": "channels_last",
    },
    "first_network": {  # the course, "DNN Architecture": input_shape=(28,28,1)
        **CLASSIFIER,
        "input.size": [28, 28],
        "input.resize": "stretch",
        "model.side": 28,
    },
    "darknet19_classifier": {  # YOLO9000, section 3; center_crop_image of `classifier valid`
        **CLASSIFIER,
        "input.size": [224, 224],
        "input.resize": "crop",
        "model.width": 1.0,
        "model.stage_channels": None,
    },
    "vgg16_classifier": {  # the mean of ssd_pascal.py; dropout_ratio of VGG_ILSVRC_16_layers
        **CLASSIFIER,
        "input.size": [224, 224],
        "input.resize": "crop",
        "model.width": 1.0,
        "model.batch_norm": False,
        "model.dropout": 0.5,
        "model.pixel_mean": [123, 117, 104],
        "model.pixel_std": [1, 1, 1],
    },
    "classifier": {  # ours
        **CLASSIFIER,
        "input.size": [224, 224],
        "input.resize": "crop",
        "model.backbone": "resnet18",
        "model.stride": 32,
        "model.width": 1.0,
        "model.dropout": 0.0,
    },
    "torchvision_classifier": {  # torchvision.transforms._presets.ImageClassification, times 255
        **CLASSIFIER,
        "input.size": [224, 224],
        "input.resize": "crop",
        "model.network": "resnet18",
        "model.pixel_mean": [123.675, 116.28, 103.53],
        "model.pixel_std": [58.395, 57.12, 57.375],
    },
}

REGION = {  # [region] of yolov2-voc.cfg; the prior term of region_layer.c: `*(net.seen) < 12800`, scale .01
    "coord_scale": 1.0,
    "object_scale": 5.0,
    "noobject_scale": 1.0,
    "class_scale": 1.0,
    "class_weights": None,
    "normalizer": "batch",
    "box_error": "log",
    **LOSS_SWITCHES,
    "weigh_small_boxes": True,  # (2 - w h), region_layer.c since March 2017
    "objectness_target": "iou",  # rescore=1
    "iou_gradient": False,
    "ignore_iou": 0.6,  # thresh
    "ignore_at_limit": False,  # best_iou > l.thresh
    "ignore_truths": None,
    "prior_scale": 0.01,
    "prior_images": 12800,
    "prior_boxes": "unassigned",
    "class_activation": "softmax",
    "shared_class": "last",
    "tree": None,
    "label_map": None,
    "class_only_objectness": "paper",
}
LOSSES: dict[str, dict[str, Any]] = {
    "region": REGION,
    "region_2016": {"weigh_small_boxes": False},
    "region_tiny_coco": {"objectness_target": "one"},  # yolov2-tiny.cfg: rescore=0
    "region_tree": {"tree": "${oc.select:data.tree,null}"},
    "region_keras": {  # the course's constants and custom_loss
        **REGION,
        "normalizer": "anchors",
        "box_error": "cells",
        "weigh_small_boxes": False,
        "iou_gradient": True,
        "ignore_at_limit": True,
        "ignore_truths": 50,  # TRUE_BOX_BUFFER
        "prior_scale": 1.0,
        "prior_images": 0,  # WARM_UP_BATCHES
        "prior_boxes": "all",
        "shared_class": "lowest",
    },
    "multibox": {  # multibox_loss_param: neg_pos_ratio, loc_weight; normalization_mode VALID
        "negatives_per_positive": 3.0,
        "box_scale": 1.0,
        "normalizer": "batch",
        "recount_positives": False,
        "box_error": "smooth_l1",
        **LOSS_SWITCHES,
    },
    "multibox_torchvision": {  # torchvision/models/detection/ssd.py
        "loss.recount_positives": True,
        "model.bipartite": "last",
        "model.clip_default_boxes": "wh",
    },
    "cross_entropy": {"label_smoothing": 0.0, "tree": None},  # softmax_x_ent_cpu of blas.c
    "cross_entropy_tree": {"tree": "${oc.select:data.tree,null}"},
}

# learning_rate, momentum and decay of yolov2-voc.cfg; base_lr, momentum and weight_decay of Caffe's solver
SOLVER = {"rate": 0.001, "momentum": 0.9, "weight_decay": 0.0005}
ALIKE = {"rates": None}
PLAIN = {"weight_decay": 0.0, "bias_rate_factor": 1.0, "decay_scales": False, **ALIKE}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {**SOLVER, "bias_rate_factor": 1.0, "decay_scales": False, "rate_in_momentum": False, **ALIKE},
    # lr_mult 2 and decay_mult 0 of biases; Normalize's scale has no decay_mult of its own
    "sgd_caffe": {
        **SOLVER,
        "bias_rate_factor": 2.0,
        "decay_scales": True,
        "rate_in_momentum": True,
        **ALIKE,
    },
    "adamw": {"rate": 0.004, "weight_decay": 0.02, "betas": [0.9, 0.999], **ALIKE},  # ours
    # the notebook's Adam(lr=0.5e-4, beta_1=0.9, beta_2=0.999, epsilon=1e-08, decay=0.0)
    "adam": {"rate": 5e-5, **PLAIN, "options.betas": [0.9, 0.999], "options.eps": 1e-8},
    "torch": {"rate": 0.002, **PLAIN, "options": None},  # the rate is NAdam's default in torch
    # the notebook's RMSprop(lr=1e-4, rho=0.9, epsilon=1e-08, decay=0.0)
    "rmsprop": {"rate": 1e-4, **PLAIN, "options.alpha": 0.9, "options.eps": 1e-8},
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {"warmup_steps": 0},
    "cosine": {"warmup_steps": 100, "warmup_power": 1.0, "final_fraction": 0.0},  # ours
    "poly": {"warmup_steps": 1000, "warmup_power": 4.0, "power": 4.0},  # darknet19.cfg; net.power's default
    "phases": {  # ours
        "warmup_steps": 100,
        "warmup_power": 1.0,
        "phases": [{"name": "constant", "until": 500}, {"name": "cosine"}],
    },
    "step": {"warmup_steps": 0, "milestones": [80000, 100000], "factors": [0.1, 0.1]},  # ssd_pascal.py
}

HSV = {"hue": 0.1, "saturation": 1.5, "exposure": 1.5, "max_boxes": 30}  # [net]; `max` of parse_region
AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "darknet": {"jitter": 0.3, **HSV},  # yolov2-voc.cfg
    "darknet_tiny": {"jitter": 0.2},  # yolov2-tiny-voc.cfg
    "darknet_9000": {  # yolo9000.cfg; .75 and 1 / .75 are the same range to rand_scale
        "jitter": 0.2,
        **HSV,
        "saturation": 1 / 0.75,
        "exposure": 1 / 0.75,
    },
    "darknet_2016": {"jitter": 0.2, **HSV},  # yolo-voc.cfg of November 2016
    "ssd": {  # distort_param and expand_param of ssd_pascal.py's train_transform_param
        "brightness": 32.0,
        "contrast": 0.5,
        "saturation": 0.5,
        "hue": 18.0,
        "expand": 4.0,
        "colour_last": False,
    },
    "darknet_classifier": {  # darknet19.cfg
        "min_crop": 128,
        "max_crop": 448,
        "angle": 7.0,
        "aspect": 0.75,
        "hue": 0.1,
        "saturation": 0.75,
        "exposure": 0.75,
    },
    "digits": {"angle": 10.0, "shift": 0.05, "zoom": 0.1, "flip": 0.0},  # ours
    "small_images": {"angle": 0.0, "shift": 0.125, "zoom": 0.0, "flip": 0.5},  # 4 of 32 pixels, as usual
    "course": {},
    "light": {},
    "none": {},
}

SOLVER_OF_RECIPE = {f"optimizer.{key}": value for key, value in SOLVER.items()}
RANDOM = {"min": 320, "max": 608, "step": 32, "every": 10, "final_steps": 200}  # random=1, detector.c
CAFFE_RECIPE = {  # batch_size 32 on four GPUs; max_iter, stepvalue and gamma of ssd_pascal.py
    **SOLVER_OF_RECIPE,
    "schedule.milestones": [80000, 100000],
    "schedule.factors": [0.1, 0.1],
    "trainer.steps": 120000,
    "trainer.batch_size": 8,
    "trainer.accumulate": 4,
    "init.from": "${paths.data}/weights/vgg16_reduced.pt",  # pretrain_model
    "init.without": ["neck", "head"],
}
DARKNET_RECIPE = {  # batch=64, subdivisions=8, burn_in=1000, scales=.1,.1; the power is net.power's default
    **SOLVER_OF_RECIPE,
    "input.multi_scale": RANDOM,
    "schedule.warmup_steps": 1000,
    "schedule.warmup_power": 4.0,
    "schedule.factors": [0.1, 0.1],
    "trainer.batch_size": 8,
    "trainer.accumulate": 8,
}
DARKNET19 = {  # darknet19_448.conv.23, see Darknet's page
    "init.from": "${paths.data}/weights/darknet19_448.pt",
    "init.without": ["neck", "head"],
}
IMAGENET = {  # both cfgs
    "data.root": "${paths.data}/imagenet",
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 0.0005,
    "schedule.power": 4.0,
}
EXPERIMENTS: dict[str, dict[str, Any]] = {
    "yolov2_voc0712": {  # yolov2-voc.cfg
        **DARKNET_RECIPE,
        **DARKNET19,
        "data.train_difficult": False,  # scripts/voc_label.py
        "schedule.milestones": [40000, 60000],
        "trainer.steps": 80200,
    },
    "yolov2_coco": {  # yolov2.cfg
        **DARKNET_RECIPE,
        **DARKNET19,
        "schedule.milestones": [400000, 450000],
        "trainer.steps": 500200,
    },
    "yolov2_tiny_voc0712": {  # yolov2-tiny-voc.cfg: batch=64, subdivisions=2, no burn_in
        **DARKNET_RECIPE,
        "data.train_difficult": False,
        "schedule.warmup_steps": 0,
        "schedule.milestones": [-1, 100, 20000, 30000],
        "schedule.factors": [0.1, 10, 0.1, 0.1],
        "trainer.steps": 40200,
        "trainer.batch_size": 32,
        "trainer.accumulate": 2,
        "init.from": None,
    },
    "ssd300_voc0712": {**CAFFE_RECIPE, "data.train_difficult": True},  # use_difficult_gt
    "ssd512_voc0712": {**CAFFE_RECIPE, "data.train_difficult": True},
    "ssd300_coco": {  # ssd_coco.py
        **CAFFE_RECIPE,
        "schedule.milestones": [280000, 360000],
        "trainer.steps": 400000,
    },
    "yolov2_keras_coco": {  # the course: lr=0.5e-4, BATCH_SIZE, epochs=100, OBJ_THRESHOLD, NMS_THRESHOLD
        "input.size": [416, 416],
        "input.resize": "stretch",
        "model.anchors": "coco",
        "model.score_threshold": 0.3,
        "model.nms_iou": 0.3,
        "optimizer.rate": 0.5e-4,
        "optimizer.weight_decay": 0,
        "optimizer.betas": [0.9, 0.999],
        "schedule.warmup_steps": 0,
        "trainer.steps": 100 * 7393,
        "trainer.batch_size": 16,
        "trainer.accumulate": 1,
        "trainer.eval_every": 7393,
        "init.from": "${paths.data}/weights/yolov2_coco.pt",
        "init.without": ["head"],
        "init.randomize": "last",
    },
    "bccd_ssd300": {  # ours
        "model.width": 0.25,
        "model.batch_norm": True,
        "trainer.steps": 1000,
        "trainer.eval_every": 500,
        "trainer.memory_format": "channels_last",
    },
    "bccd_yolov2_tiny": {  # ours
        "input.size": [240, 320],
        "model.width": 0.25,
        "model.stride": 16,
        "model.anchors": [[1.25, 1.22], [3.16, 2.78], [3.19, 3.31], [3.75, 3.44], [6.75, 6.12]],
        "trainer.steps": 2400,
        "trainer.eval_every": 800,
        "trainer.memory_format": "channels_last",
    },
    "first_network": {  # the course: batch_size=32; the rate and eps of Keras' Adam
        "optimizer.rate": 0.001,
        "optimizer.options": {"betas": [0.9, 0.999], "eps": 1e-7},
        "trainer.steps": 10000,  # 40 passes over 8,000 digits, ours
        "trainer.batch_size": 32,
        "trainer.eval_every": 1000,
        "trainer.eval_batch_size": 500,
        "trainer.memory_format": "contiguous",
    },
    "darknet19_imagenet": {  # YOLO9000, section 3; darknet19.cfg: burn_in, momentum, decay; its batch=128
        **IMAGENET,
        "optimizer.rate": 0.1,
        "schedule.warmup_steps": 1000,
        "schedule.warmup_power": 4.0,
        "trainer.steps": 160 * 1_281_167 // 128 + 1,
        "trainer.batch_size": 64,
        "trainer.accumulate": 2,
    },
    "darknet19_448_imagenet": {  # darknet19_448.cfg; 10 epochs: YOLO9000, section 2
        **IMAGENET,
        "input.size": [448, 448],
        "augment.min_crop": 448,  # the width, without a min_crop in the cfg
        "augment.max_crop": 512,
        "optimizer.rate": 0.001,
        "schedule.warmup_steps": 0,
        "trainer.steps": 10 * 1_281_167 // 128 + 1,
        "trainer.batch_size": 32,
        "trainer.accumulate": 4,
        "init.from": "${paths.output}/darknet19_imagenet/best.pt",
    },
    "yolo9000_coco_imagenet": {  # yolo9000.cfg
        **DARKNET_RECIPE,
        **DARKNET19,
        "loss.class_only_objectness": "paper",
        "schedule.milestones": [400000, 450000],
        "trainer.steps": 500200,
        "trainer.eval_batch_size": 8,
    },
    "darknet9000": {  # darknet9000.cfg
        **IMAGENET,
        "data.root": "${paths.data}/imagenet9k",
        "data.tree": "${paths.data}/yolo9000/9k.tree",
        "input.size": [448, 448],
        "augment.min_crop": 448,
        "augment.max_crop": 512,
        "optimizer.rate": 0.001,
        "schedule.warmup_steps": 0,
        "trainer.steps": 100000,
        "trainer.batch_size": 32,
        "trainer.accumulate": 4,
        "init.from": "${paths.output}/darknet19_448_imagenet/best.pt",
        "init.without": ["head"],
    },
    "shapes_boxes": {  # ours
        "data.train": ["boxes"],
        "loss.class_scale": 0.0,
        "optimizer.rate": 0.004,
        "trainer.steps": 500,
        "trainer.eval_every": 0,
        "init.from": None,
    },
    "shapes_joint": {  # ours
        "input.size": [96, 96],
        "model.anchors": [[2.0, 2.0]],
        "optimizer.rate": 0.003,
        "trainer.steps": 800,
        "trainer.eval_every": 400,
        "init.from": "${paths.output}/shapes_boxes/last.pt",
    },
    "duel": {  # ours
        "input.resize": "stretch",
        "hydra.sweeper": {"params": {"model": "yolov2_160,ssd160", "seed": "0,1,2"}},
    },
}

YAML_SETTINGS: dict[str, dict[str, dict[str, Any]]] = {  # group -> file -> setting -> value
    "model": MODELS,
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "augment": AUGMENTATIONS,
    "experiment": EXPERIMENTS,
}
