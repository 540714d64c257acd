"""Command lines as users of other programs type them: the message names the setting that is meant."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path

from detectors.data.layouts import guess_format
from detectors.data.suggestions import did_you_mean, nearest

# Hydra's own options, and how many values each takes
HYDRA_OPTIONS = {
    **dict.fromkeys(("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r"), 0),
    **dict.fromkeys(("--multirun", "-m", "--shell-completion", "-sc"), 0),
    **dict.fromkeys(("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"), 1),
    **dict.fromkeys(("--config-dir", "-cd", "--experimental-rerun", "--info", "-i"), 1),
}
# What --cfg can print, as the next argument alone; any other value is a file of another program.
CFG_VALUES = (["job"], ["hydra"], ["all"])
TRAIN_NAMES = {  # our setting -> its names in Darknet, Ultralytics, mmdetection, torchvision, ...
    "optimizer.rate": "lr lr0 learning_rate base_lr initial_lr",
    "optimizer.momentum": "momentum",
    "optimizer.weight_decay": "weight_decay wd decay",
    "trainer.steps": "steps max_batches max_iter max_iters iterations max_steps num_steps niter",
    "trainer.epochs": "epochs n_epochs num_epochs max_epochs total_epochs epoch",
    "trainer.stop_patience": "patience early_stopping early_stopping_patience early_stop",
    "trainer.batch_size": "batch batch_size bs samples_per_gpu images_per_gpu train_batch_size",
    "trainer.accumulate": "subdivisions accumulate accumulation grad_accum gradient_accumulation_steps",
    "trainer.device": "device gpu gpus gpu_id gpu_ids cuda",
    "trainer.resume": "resume resume_from",
    "init.from": "init_from weights pretrained load_from basenet init_weights pretrained_weights "
    "backbone_weights",
    "init.without": "init_without",
    "trainer.eval_every": "val_interval eval_interval eval_every",
    "trainer.clip_grad_norm": "clip grad_clip clip_grad clip_grad_norm max_grad_norm",
    "trainer.freeze": "freeze frozen_stages freeze_layers freeze_at",
    "trainer.ema_decay": "ema model_ema use_ema ema_momentum",
    "trainer.precision": "amp half fp16 bf16 precision",
    "trainer.compile": "compile torch_compile",
    "trainer.deterministic": "deterministic cudnn_deterministic",
    "schedule.warmup_steps": "burn_in warmup warmup_steps warmup_epochs warmup_iters",
    "input.size": "imgsz img img_size image_size input_size img_scale",
    "data.root": "dataset_root data_root data_path data_dir dataset_dir",
    "data.class_names": "classes names class_names nc num_classes",
    "data.workers": "workers num_workers workers_per_gpu",
    "mixing.mosaic": "mosaic",
    "mixing.mixup": "mixup",
    "hydra.run.dir": "save_folder save_dir work_dir output_dir project output",
    "experiment": "config cfg cfg_path cfg_file config_file hyp cfg_options recipe",
}
EVALUATE_NAMES = {
    "run": "weights model ckpt trained_model checkpoint_path resume path",
    "batch_size": "batch bs",
    "device": "gpu gpus gpu_id cuda",
    "split": "task subset",
    "data.root": TRAIN_NAMES["data.root"],
    "data.workers": TRAIN_NAMES["data.workers"],
}
MEANT_VALUES: dict[str, Callable[[str], str]] = {  # our setting -> the value that another program's means
    "input.size": lambda value: f"[{value},{value}]" if value.isdigit() else "[HEIGHT,WIDTH]",
    "trainer.precision": lambda value: "bfloat16",
    "trainer.freeze": lambda value: "[backbone]",
    "trainer.ema_decay": lambda value: "0.999",
    "trainer.device": lambda value: "cpu" if value == "cpu" else "cuda",
    "schedule.warmup_steps": lambda value: "STEPS",
    "trainer.resume": lambda value: value if Path(value).exists() else "FOLDER",
    "data.class_names": lambda value: value if value.startswith("[") else "[NAME,NAME]",
    "experiment": lambda value: "NAME",
}
SWITCHED_OFF = ("null", "none", "~", "", "false", "off", "no")


def with_one_length(overrides: Sequence[str]) -> list[str]:
    """Overrides in which trainer.epochs takes the place of the trainer.steps that a yaml names."""
    given = dict(override.lstrip("+").partition("=")[::2] for override in overrides)
    replaces = (
        given.get("trainer.epochs", "null").lower() not in SWITCHED_OFF and "trainer.steps" not in given
    )
    return [*overrides, "trainer.steps=null"] if replaces else list(overrides)


class Habits:
    """What a program's command line can contain.

    settings: all dotted names of the schema. choices: group -> its yaml files. names: see TRAIN_NAMES.
    """

    def __init__(self, settings: Sequence[str], choices: dict[str, list[str]], names: dict[str, str]):
        self.settings = list(settings)
        self.choices = choices
        self.names = {other: ours for ours, others in names.items() for other in others.split()}
        self.trains = names is TRAIN_NAMES

    def ordered(self, arguments: Sequence[str]) -> list[str]:
        """Hydra's options first, where it wants them, and +experiment=... as experiment=...

        ValueError, a line for each argument that is another program's.
        """
        options, others, problems = [], [], []
        rest = list(arguments)
        while rest:
            argument = rest.pop(0)
            name, equals, _ = argument.partition("=")
            if name in HYDRA_OPTIONS and (name != "--cfg" or equals or rest[:1] in CFG_VALUES):
                count = 0 if equals else HYDRA_OPTIONS[name]
                options += [argument, *rest[:count]]
                del rest[:count]
            elif words := _unquoted(argument, rest):
                whole = " ".join([argument, *rest[:words]])
                problems.append(f"{argument}: a value with spaces needs quotes: '{whole}'")
                del rest[:words]
            elif argument.startswith("-"):
                value = rest.pop(0) if not equals and rest and _is_value(rest[0]) else ""
                problems.append(self._option(argument, value))
            else:
                bare = argument.lstrip("+")
                others.append(bare if bare.partition("=")[0] in self.choices else argument)
                problems += self._override(others[-1])
        if problems:
            raise ValueError("\n".join(problems))
        return options + others

    def _option(self, argument: str, value: str) -> str:
        """The message for an option that is not Hydra's, such as --epochs 3."""
        name, equals, text = argument.partition("=")
        key = name.lstrip("-").replace("-", "_").lower()
        typed = f"{argument} {value}".strip()
        dashes = "; settings are typed as group.key=value, without dashes"
        hint = self._renamed(key, text if equals else value) or self._setting_of(key) or dashes
        return f"{typed}: there is no such option{hint}"

    def _override(self, argument: str) -> Iterator[str]:
        if argument.startswith(("+", "~", "hydra.", "hydra/")):
            return
        key, equals, value = argument.partition("=")
        if key == "input.size" and value.isdigit():
            yield f"{argument}: it is [height,width]; did you mean input.size={MEANT_VALUES[key](value)}?"
        elif not equals:
            if (hint := self._place(argument)) is not None:
                yield f"{argument}: {hint}"
        elif key in self.choices:
            yield from self._choice(key, value)
        elif "/" not in key and "@" not in key and not self._is_setting(key):
            group, _, name = key.rpartition(".")
            hint = group and self._setting_of(key)  # trainr.steps is a misspelt group, not another program's
            hint = (
                hint or self._renamed(name.lower(), value) or self._setting_of(key) or self._setting_of(name)
            )
            if hint:
                yield f"{argument}: there is no such setting{hint}"

    def _is_setting(self, key: str) -> bool:
        """A setting or a group of the schema, or a keyword of a builder that has no other name here."""
        if any(name == key or name.startswith(f"{key}.") for name in self.settings):
            return True
        group, _, name = key.rpartition(".")
        known = any(place == group or place.startswith(f"{group}.") for place in self.settings)
        renamed = self.names.get(name.lower(), key) != key
        return bool(group) and known and not renamed

    def _renamed(self, key: str, value: str) -> str:
        """The hint for another program's name: lr, .1 -> "did you mean optimizer.rate=.1?"; else ""."""
        ours = self.names.get(key)
        if ours is None:
            return ""
        if value.endswith(".cfg"):
            return "; `detectors convert` makes a checkpoint of Darknet's cfg and weights"
        value = MEANT_VALUES[ours](value) if ours in MEANT_VALUES else value or "..."
        plus = "+" if ours.startswith("data.") and not self.trains else ""
        return f"; did you mean {plus}{ours}={value}?"

    def _setting_of(self, key: str) -> str:
        """The hint for a setting without its group, or with a misspelt one; "" for anything else.

        eval_batch_size -> trainer.eval_batch_size; trainr.steps -> trainer.steps
        """
        head, dot, rest = key.partition(".")
        if not dot:
            places = [name for name in self.settings if name.rpartition(".")[2] == key]
            return f"; did you mean {places[0]}?" if len(places) == 1 else ""
        groups = {name.partition(".")[0] for name in self.settings}
        group = nearest(head, groups)
        if head in groups or group is None:
            return ""
        return did_you_mean(f"{group}.{rest}", self.settings) or f"; did you mean {group}.{rest}?"

    def _choice(self, group: str, value: str) -> Iterator[str]:
        """Problems with the value of a group, such as data=/my/set, model=yolov2.yaml or augment=null."""
        listed = self.choices[group]
        optional = group in ("experiment", "debug", "local") or not self.trains
        if value.lower() in SWITCHED_OFF and value not in listed and not (optional and value == "null"):
            near = f"; did you mean {group}=none?" if "none" in listed else ""
            yield f"{group}={value}: choose one of {', '.join(listed)}{near}"
        elif value.endswith((".yaml", ".yml")):
            name = Path(value).stem
            near = did_you_mean(name, listed, listed=True).replace("mean ", f"mean {group}=")
            own = group == "data" and Path(value).is_file()
            images = f"; for the images of a data.yaml: {self._data(Path(value).parent)}" if own else ""
            yield f"{group}={value}: a choice is named without folder and suffix{near}{images}"
        elif group == "data" and value not in listed and ("/" in value or Path(value).is_dir()):
            what = f"data={value}: data= names a yaml of conf/data"
            yield f"{what}; for your own images: {self._data(Path(value))}"
        elif value.endswith((".pt", ".pth", ".weights")):
            what = f"{group}={value}: {group}= names a yaml of conf/{group}"
            yield f"{what}; to start from weights: init.from"

    def _data(self, folder: Path) -> str:
        return f"data={guess_format(folder) or 'voc'} data.root={folder}"

    def _place(self, argument: str) -> str | None:
        """The hint for a folder or file without a setting; None for another text."""
        path = Path(argument)
        if not self.trains:
            return f"the run to evaluate is named by a setting: run={argument}"
        if not path.exists() and "/" not in argument:
            return None
        if path.suffix in (".pt", ".pth") or (path / "last.pt").exists():
            start = f"to start from it: init.from={argument}"
            return f"to go on with a run: trainer.resume={argument}; {start}"
        return f"images are named by settings: {self._data(path)}"


def _is_value(argument: str) -> bool:
    return not argument.startswith("-") and "=" not in argument


def _unquoted(argument: str, rest: Sequence[str]) -> int:
    """How many of the next arguments belong to the path that this setting begins: data.root=my images."""
    value = argument.partition("=")[2]
    bare = list(takewhile(_is_value, rest)) if value else []
    counts = range(len(bare), 0, -1)
    return next((count for count in counts if os.path.exists(" ".join([value, *bare[:count]]))), 0)
