"""What can be configured: names, types, units and defaults. conf/*.yaml says what is chosen;
detectors/config/check.py says what is wrong.

`augment`, `model`, `loss`, `optimizer` have no dataclass: each names a builder in `_target_`, whose
keyword-only signature is its schema.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf

from detectors.config.typed import setting_hints, setting_name
from detectors.data.image_headers import PIXEL_LIMIT

PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = (
    PACKAGE / "conf"
).is_dir()  # a wheel has conf/ inside the package; in a checkout it lies beside it
CONF = PACKAGE / "conf" if INSTALLED else PACKAGE.parent / "conf"
HOME = Path.cwd() if INSTALLED else PACKAGE.parent  # where data, caches and runs lie by default


def _choice(default: str, *others: str) -> Any:
    return field(default=default, metadata={"choices": (default, *others)})


def _choice_or_null(*choices: str) -> Any:
    return field(default=None, metadata={"choices": choices})


def _choices(*default: str, others: tuple[str, ...] = ()) -> Any:
    """A list whose items are among the default ones and the others."""
    return field(default_factory=lambda: list(default), metadata={"each": (*default, *others)})


def _device() -> Any:
    return field(default="auto", metadata={"device": True})  # auto, cpu, cuda or cuda:1


def _at_least(low: float, default: float | None) -> Any:
    return field(default=default, metadata={"low": low})


def _within(low: float, high: float, default: float) -> Any:
    return field(default=default, metadata={"low": low, "high": high})


def _above_zero(default: float | None, *, off: str) -> Any:
    return field(default=default, metadata={"above": 0, "off": off})


def _between(low: float, high: float, default: float | None, *, off: str) -> Any:
    """Both ends excluded."""
    return field(default=default, metadata={"above": low, "below": high, "off": off})


def _probability(default: float) -> Any:
    return _within(0, 1, default)


def _empty(kind: type = list) -> Any:
    return field(default_factory=kind)


@dataclass
class MultiScaleConfig:
    """Training on squares of changing size, as Darknet's random=1 does with sides of 320 to 608.

    Evaluation keeps input.size.
    """

    min: int = _at_least(0, 0)  # smallest side, pixels; min and max 0: always input.size
    max: int = _at_least(0, 0)  # largest side, pixels
    step: int = _at_least(1, 32)  # pixels between neighbouring sides
    every: int = _at_least(1, 10)  # optimiser steps between draws of a new side
    final_steps: int = _at_least(0, 200)  # the last N optimiser steps have the largest side

    def sides(self) -> range:
        """Pixels, rising; empty if switched off."""
        return range(self.min, self.max + 1, self.step) if self.max else range(0)


@dataclass
class InputConfig:
    size: list[int] = field(default_factory=lambda: [416, 416])  # (height, width) of the model input, pixels
    # letterbox keeps the aspect ratio and pads; stretch warps; crop, of classifiers, cuts the longer side
    resize: str = _choice("letterbox", "stretch", "crop")
    multi_scale: MultiScaleConfig | None = _empty(MultiScaleConfig)  # null is off, too


@dataclass
class ShapesConfig:
    """The generated set; changing a value makes another cache folder."""

    seed: int = 0
    train: int = _at_least(1, 600)  # images
    val: int = _at_least(1, 150)  # images
    size: int = _at_least(32, 160)  # pixels of either side
    classes: list[str] | None = None  # of the shapes in the images; null: all six
    single: bool = False  # one shape in each image


SPLITS = ("train", "val", "test")
ARRAY_FORMATS = ("mnist", "fashion_mnist", "cifar10", "cifar100")  # torchvision's, whole in memory
LABELLED_FORMATS = ("imagefolder", "imagelist", *ARRAY_FORMATS)  # images with a label each, and no boxes
JOINT = "joint"  # of data.format: several sets below one tree
CLASSIFICATION = "classification"  # of task
SUPPRESSIONS = ("hard", "soft_linear", "soft_gaussian", "diou")  # docs/switches.md
AUTO = "auto"  # of trainer.resume and trainer.memory_format


@dataclass
class ImageFolders:
    """COCO only: the folder of each annotation file's images. VOC's image sets all use JPEGImages."""

    train: str | None = None
    val: str | None = None
    test: str | None = None


@dataclass
class SourceConfig:
    """One of the sets of data.mix; docs/yolo9000.md."""

    weight: float = _above_zero(1.0, off="data.train without its name")  # share of the images of an epoch
    format: str = _choice("voc", "coco", "darknet", "shapes", *LABELLED_FORMATS)
    root: str = MISSING  # this and the next ones as in data
    file: str | None = None
    sets: list[str] = _empty()  # what data.train is elsewhere: image sets, an annotation file, folders, lists
    image_folder: str | None = None  # COCO only, as in data.image_folders
    class_names: list[str] | None = None  # the classes of the set that are used; null: all
    shapes: ShapesConfig = _empty(ShapesConfig)
    nodes: dict[str, str] = _empty(dict)  # class -> node of the tree; other classes are nodes of their name
    map: str | None = None  # a .map file instead, whose lines are the node numbers of the classes, by id
    labels_only: bool = False  # of a set with boxes: each image has the label of its boxes, if they have one


@dataclass
class DataConfig:
    name: str = MISSING
    format: str = _choice("voc", "coco", "darknet", "shapes", *LABELLED_FORMATS, JOINT)
    # VOC: the folder of Annotations/ or of VOC2007/; COCO: where relative paths start; Darknet: the folder
    # that contains images and labels; shapes: paths.cache; imagefolder: the folder of train/ and val/; mnist
    # and its like: the root that torchvision has, the folder of MNIST/ or of cifar-10-batches-py/
    root: str = MISSING
    file: str | None = None  # Darknet: X.data or data.yaml, splits and class names; null: the one in root
    # VOC: image sets; COCO: one annotation file; Darknet: split, list or folder; imagefolder: folders that
    # hold one folder for each class; imagelist: lists; mnist and its like: train or test; joint: names of mix
    train: list[str] = _empty()
    val: list[str] = _empty()
    test: list[str] = _empty()  # may stay empty
    image_folders: ImageFolders = _empty(ImageFolders)
    class_names: list[str] | None = None  # null: all classes that the annotations of train, val and test name
    # The val split is this share of the images of `train`, drawn by split_seed; `val` then names the same as
    # `train`. null: the splits are as they are named.
    val_share: float | None = _between(0, 1, None, off="null")
    split_seed: int = _at_least(0, 0)
    # Classification on a set with boxes: each box is an image, with a margin of this share of its sides.
    box_crops: float | None = _at_least(0, None)
    allow_empty_classes: bool = False  # train although a class of class_names has no box in `train`
    on_error: str = _choice("stop", "skip")  # a faulty file raises, or is logged, counted and skipped
    cache: str | None = None  # folder for parsed annotations; null parses them each time
    train_difficult: bool = True  # VOC's `difficult` objects: train on them (Caffe) or not (Darknet)
    workers: int = _at_least(0, 0)  # loading processes; 0 loads in the training process
    prefetch: int = _at_least(1, 2)  # batches that each process keeps ready
    timeout: int = _at_least(0, 300)  # seconds that a step waits for a batch of the workers; 0: for ever
    # Where decoded images are kept, height * width * 3 bytes each; disk: in paths.cache.
    image_cache: str = _choice("none", "ram", "disk")
    # Decode large JPEGs at 1/2, 1/4 or 1/8 if that leaves all the pixels that the input needs.
    reduced_decode: bool = False
    max_pixels: int = _at_least(1, PIXEL_LIMIT)  # of an image; a larger one is a fault and is not decoded
    shapes: ShapesConfig = _empty(ShapesConfig)
    # joint: the tree whose nodes are the classes, a file or nested names, and the sets by a name of yours
    tree: Any = None
    mix: dict[str, SourceConfig] = _empty(dict)


@dataclass
class MixingConfig:
    """Several training images in one, after the augmentation."""

    mosaic: float = _probability(0.0)  # of four images around a point
    mixup: float = _probability(0.0)  # of two images laid over each other


@dataclass
class CurveConfig:
    """How the rate changes over a run, or over a phase of it."""

    name: str = _choice("constant", "step", "cosine", "poly")
    milestones: list[int] = _empty()  # step: the steps at which the rate is multiplied by a factor
    factors: list[float] = _empty()  # step: one for each milestone
    final_fraction: float = _at_least(0, 0.0)  # cosine: the last step's rate as a fraction of the first one's
    power: float = _at_least(0, 4.0)  # poly: rate * (1 - step / steps) ** power


@dataclass
class PhaseConfig(CurveConfig):
    until: int | None = _at_least(1, None)  # its last step; null: the run's, of the last phase


@dataclass
class ScheduleConfig(CurveConfig):
    name: str = _choice("constant", "step", "cosine", "poly", "phases")
    warmup_steps: int = _at_least(0, 0)  # rate warm-up: rate * (step / warmup_steps) ** warmup_power
    warmup_power: float = _at_least(0, 1.0)  # 1 linear; 4 is Darknet's burn_in
    phases: list[PhaseConfig] = _empty()  # phases: each begins with the rate at which the one before ended


@dataclass
class InitConfig:
    """What the weights of a new run are, before its first step."""

    # A run folder, latest, a checkpoint, or a file of another program: what fits is loaded, see
    # docs/transfer.md. null: random weights.
    from_: str | None = None
    without: list[str] = _empty()  # beginnings of parameter names that are not loaded, such as head
    # last: then the last convolutions are drawn anew, N(0, 1) / number of cells, as the Keras course does.
    randomize: str = _choice("none", "last")


@dataclass
class TrainerConfig:
    steps: int | None = _at_least(1, 1200)  # optimiser steps; null: trainer.epochs says how long
    epochs: float | None = _above_zero(None, off="null")  # the length in passes over the training images
    max_images: int | None = _at_least(1, None)  # training images, repetitions counted, that end a run early
    max_minutes: float | None = _above_zero(None, off="null")  # of training without evaluations, likewise
    # Evaluations without a better stop_metric that end a run early; null never does.
    stop_patience: int | None = _at_least(1, None)
    stop_metric: str = "val/AP"  # a tag of docs/curves.md that begins with val; of losses, lower is better
    stop_min_delta: float = _at_least(0, 0.0)  # a smaller gain is none
    batch_size: int = _at_least(1, 8)  # images in one forward pass of one process
    accumulate: int = _at_least(1, 1)  # forward passes in one step (Darknet's subdivisions)
    # On a GPU: the largest batch_size that fits, with accumulate so that the images of a step stay.
    find_batch_size: bool = False
    eval_every: int = _at_least(0, 0)  # steps; 0 evaluates at the end only
    save_every: int = _at_least(0, 0)  # steps between writings of last.pt; 0: at evaluations only
    save_minutes: float | None = _above_zero(None, off="null")  # minutes since it was last written; null: off
    keep: int = _at_least(0, 0)  # older checkpoints that stay beside last.pt, as step_000120.pt
    log_every: int = _at_least(1, 10)  # steps
    histograms_every: int = _at_least(0, 0)  # steps between histograms of weights and gradients; 0: none
    eval_batch_size: int = _at_least(1, 16)  # images
    device: str = _device()
    # bfloat16 and float16: autocast of the network; offsets, targets and losses stay in float32
    precision: str = _choice("float32", "bfloat16", "float16")
    # How weights and features lie in memory; auto: channels_last on a GPU, on a CPU what a measurement at the
    # start says. A run keeps its choice.
    memory_format: str = _choice("auto", "channels_last", "contiguous")
    tf32: bool = False  # on GPUs, float32 convolutions and products with the 10 bits of TF32
    # Fused operations: auto runs Triton kernels on a GPU, reference never does, triton raises without a GPU.
    kernels: str = _choice("auto", "reference", "triton")
    compile: bool = False  # the training step by torch.compile; it takes minutes before the first step
    cuda_graphs: bool = False  # with compile, on a GPU: one launch for all kernels of a pass
    deterministic: bool = False  # only operations that give the same bits each time, on GPUs, too; slower
    # Of a loss, weight or statistic with NaN or infinity; skip leaves such steps out and counts them.
    on_nonfinite: str = _choice("stop", "skip")
    clip_grad_norm: float | None = _above_zero(None, off="null")  # null does not clip
    # torchrun: counts by which a loss divides are those of all processes' images, or of each one's own.
    loss_normalizer: str = _choice("global", "process")
    sync_batch_norm: bool = False  # torchrun: batch statistics over the images of all processes, on GPUs
    # Names of parameters or modules that do not change, such as [backbone, "head.*bias"].
    freeze: list[str] = _empty()
    freeze_statistics: bool = True  # a BatchNorm with frozen parameters keeps its running mean and variance
    # Evaluations use an average of the weights over about 1 / (1 - ema_decay) steps; null: the last step's.
    ema_decay: float | None = _between(0, 1, None, off="null")
    threads: int = _at_least(0, 0)  # of PyTorch on the CPU; 0: PyTorch's choice
    probe_images: int = _at_least(0, 4)  # fixed images drawn with their detections at every evaluation
    # Where curves go: event files, metrics.csv; Weights & Biases and MLflow need their packages.
    trackers: list[str] = _choices("tensorboard", "csv", others=("wandb", "mlflow"))
    progress: bool = True  # show a progress bar on a terminal; without one there are lines
    # A run folder or checkpoint to go on from; auto: the newest in hydra.run.dir, a new run if it has none.
    resume: str | None = None
    profile_steps: int = _within(0, 50, 0)  # steps that are timed, then as many traced; 0: no profile
    on_step: list[str] = _empty()  # your functions, as module.name, called with the Run after each step
    on_evaluation: list[str] = (
        _empty()
    )  # with Run and Evaluation after each; a checkpoint's lists are not used


@dataclass
class PathsConfig:
    root: str = str(HOME)
    shared: str | None = None  # a folder with data/bccd; null: it is in `data`
    data: str = MISSING  # what `detectors download` writes
    cache: str = MISSING
    output: str = MISSING


@dataclass
class Config:
    """The settings of train.py."""

    name: str = MISSING  # of the run; each model yaml gives one
    task: str = _choice("detection", CLASSIFICATION)  # what the model learns; each model yaml says it
    seed: int = _at_least(0, 0)
    input: InputConfig = _empty(InputConfig)
    data: DataConfig = _empty(DataConfig)
    augment: dict[str, Any] = _empty(dict)
    mixing: MixingConfig = _empty(MixingConfig)
    model: dict[str, Any] = _empty(dict)
    loss: dict[str, Any] = _empty(dict)
    optimizer: dict[str, Any] = _empty(dict)
    schedule: ScheduleConfig = _empty(ScheduleConfig)
    trainer: TrainerConfig = _empty(TrainerConfig)
    init: InitConfig = _empty(InitConfig)
    paths: PathsConfig = _empty(PathsConfig)
    builders: list[str] = _empty()  # your own `_target_`s, as module.name; a checkpoint's list is not used


@dataclass
class EvaluateConfig:
    """The settings of evaluate.py."""

    run: str | None = None  # a run folder or a checkpoint
    checkpoint: str = _choice("best", "last")  # which one of a run folder
    # In place of run: saved detections, of other programs too, as a file, a folder or a pattern
    detections: str | None = None
    output: str | None = None  # with detections: the folder that is written; null: NAME_evaluated beside them
    split: str = _choice("val", "test", "train")
    # What computes COCO's numbers: flat arrays, or COCO's own code, many times slower, for the same numbers.
    # all: arrays, and a table of AP50 as other programs measure it.
    evaluators: str = _choice("arrays", "pycocotools", "all")
    # Post-processing that replaces the model's own, so that detectors can be compared; null keeps it.
    score_threshold: float | None = _probability(None)
    nms_iou: float | None = _probability(None)
    nms: str | None = _choice_or_null(*SUPPRESSIONS)
    candidates_per_class: int | None = _at_least(0, None)  # of an image, by score, before suppression; 0: all
    max_detections: int | None = _at_least(0, None)  # of an image; 0: all
    data: dict[str, Any] = _empty(dict)  # settings that replace those of the run's own data
    batch_size: int = _at_least(1, 16)  # images
    device: str = _device()
    kernels: str = _choice("auto", "reference", "triton")  # as trainer.kernels; not the run's
    threads: int = _at_least(0, 0)
    progress: bool = True
    paths: PathsConfig = _empty(PathsConfig)
    builders: list[str] = _empty()  # as in Config


HYDRA_TEXTS = dict.fromkeys(("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir"), str)
HINTS = setting_hints(EvaluateConfig) | setting_hints(Config) | HYDRA_TEXTS


def to_plain(config: Config | EvaluateConfig) -> dict[str, Any]:
    """A configuration as dicts, lists, texts and numbers. Law: check(to_plain(config)) == config."""
    return asdict(config, dict_factory=lambda pairs: {setting_name(name): value for name, value in pairs})


def to_yaml(config: Config | EvaluateConfig) -> str:
    return OmegaConf.to_yaml(to_plain(config))
