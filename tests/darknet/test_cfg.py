"""Reading cfg files; the errors for invalid ones name file, line, section and the fix."""

from __future__ import annotations

import ctypes
import json
from random import Random

import numpy as np
import pytest

from detectors.darknet.cfg import read_cfg
from detectors.darknet.sections import Convolutional, Cost, Dropout, MaxPool, Route
from detectors.darknet.syntax import atof, atoi
from tests.darknet import cfgs

HEAD = "[net]\nwidth=32\nheight=32\nchannels=3\n"
CONV = "[convolutional]\nfilters=40\nsize=3\nstride=1\npad=1\nactivation=leaky\n"


def recorded_nets(fixtures) -> dict[str, dict]:
    return json.loads((fixtures / "darknet/net.json").read_text())


NETS = (
    "mini-yolov2-64",
    "mini-yolov2-128x96-b2",
    "mini-yolov2-nosoftmax",
    "mini-tiny-96x64",
    "mini-tiny-odd-100x76",
    "mini-darknet19-64",
)
# Layers, classes.
ORIGINALS = {
    "yolov2": (32, 80),
    "yolov2-voc": (32, 20),
    "yolov2-tiny": (16, 80),
    "yolov2-tiny-voc": (16, 20),
}


@pytest.mark.parametrize("name", NETS)
def test_recorded_cfgs(name, fixtures):
    recorded = recorded_nets(fixtures)[name]
    config = read_cfg(fixtures / "darknet" / recorded["cfg"])
    convs = [
        [layer.settings.filters, layer.input[0], layer.settings.size, int(layer.settings.batch_normalize)]
        for layer in config.layers
        if isinstance(layer.settings, Convolutional)
    ]
    assert convs == recorded["convs"]
    assert config.parameters == recorded["params"]
    assert config.net.width == recorded["width"]
    assert config.net.height == recorded["height"]
    assert config.net.batch == recorded["batch"]
    assert config.unused == ()


def test_values_of_a_cfg(fixtures):
    config = read_cfg(fixtures / "darknet/cfg/nano-train.cfg")
    net = config.net
    assert (net.batch, net.subdivisions) == (4, 2)
    assert (net.momentum, net.decay, net.policy) == (0.9, 0.0005, "constant")
    region = config.region
    assert region.classes == 3
    assert len(region.anchors) == 5
    assert (region.object_scale, region.thresh) == (5.0, 0.6)
    assert region.softmax
    assert region.rescore
    assert region.bias_match
    assert config.layers[-1].output == (40, 6, 8)


def test_defaults_are_darknets(tmp_path):
    text = HEAD + "[convolutional]\n[maxpool]\nstride=3\n[dropout]\n[cost]\n"
    config = read_cfg(cfgs.write(tmp_path, text))
    assert config.layers[0].settings == Convolutional(1, 1, 1, 0, 1, False, "logistic")
    assert config.layers[1].settings == MaxPool(size=3, stride=3, padding=2)
    assert config.layers[2].settings == Dropout(0.5)
    assert config.layers[3].settings == Cost()
    net = config.net
    assert (net.batch, net.learning_rate, net.decay, net.power) == (1, 0.001, 0.0001, 4.0)
    assert [layer.output for layer in config.layers] == [(1, 32, 32), (1, 11, 11), (1, 11, 11), (1, 11, 11)]


def test_spaces_comments_and_line_ends(tmp_path):
    lines = [
        "\ufeff# first",
        "[ net ]",
        " width = 32 ",
        "height=32# remark",
        " \t;x",
        "channels=3",
        "[conv]",
        "filters=2",
        "activation = leaky",
    ]
    config = read_cfg(cfgs.write(tmp_path, "\r\n".join(lines)))
    assert config.layers[0].output == (2, 32, 32)


def test_padding_and_pad(tmp_path):
    """pad=1 means half the kernel size and overrides padding, as in Darknet."""
    first = "[conv]\nsize=5\npadding=1\nactivation=leaky\n"
    second = "[conv]\nsize=5\npad=1\npadding=7\nactivation=leaky\n"
    config = read_cfg(cfgs.write(tmp_path, HEAD + first + second))
    assert [layer.output[1:] for layer in config.layers] == [(30, 30), (30, 30)]


def test_routes_count_from_the_first_layer_or_backwards(tmp_path):
    text = HEAD + CONV + CONV.replace("40", "8") + "[route]\nlayers=-1, -2\n[route]\nlayers=0,1,1\n"
    config = read_cfg(cfgs.write(tmp_path, text))
    assert [layer.settings for layer in config.layers[2:]] == [Route((1, 0)), Route((0, 1, 1))]
    assert [layer.output[0] for layer in config.layers[2:]] == [48, 56]


def test_options_without_effect_are_listed(tmp_path):
    path = cfgs.write(tmp_path, HEAD + CONV + "fliters=3\nsize=5\n")
    assert read_cfg(path).unused == (
        f"{path}:11: [convolutional] fliters=3 is not known and not used",
        f"{path}:12: [convolutional] size=5 is a duplicate and not used",
    )


@pytest.mark.parametrize(
    ("value", "filters", "note"),
    [
        ("14 ; 2*(5+2)", 14, None),
        ("14\t# 2, 3", 14, None),
        ("+14", 14, None),
        ("14abc", 14, "filters=14abc: Darknet reads 14 here"),
        ("14 // last", 14, "filters=14//last: Darknet reads 14 here"),
        ("14 2*(5+2)", 142, "filters=142*(5+2): Darknet reads 142 here"),
        ("1 4", 14, "filters=14: Darknet reads 14 here"),
        ("1e3", 1, "filters=1e3: Darknet reads 1 here"),
        ("7.9", 7, "filters=7.9: Darknet reads 7 here"),
        ("\u06617", None, None),
        ("# 14", None, None),
    ],
)
def test_integers_are_read_as_by_atoi(value, filters, note, tmp_path):
    """A remark behind a number is nothing special; a number that is not what stands there is noted."""
    path = cfgs.write(tmp_path, HEAD + f"[conv]\nactivation=leaky\nfilters = {value}\n")
    if filters is None:
        with pytest.raises(
            ValueError, match="is not an integer: Darknet reads 0, and it must be between 1 and"
        ):
            read_cfg(path)
        return
    config = read_cfg(path)
    assert config.layers[0].output[0] == filters
    assert config.notes == ((f"{path}:7: [conv] {note}",) if note else ())
    assert config.unused == ()


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\t\n", " \r\n"])
@pytest.mark.parametrize("remark", ["# last", ";last", "last", "// last", "\t# last"])
def test_words_are_compared_with_their_remarks(remark, line_end, tmp_path):
    """As in Darknet, `linear # last` is no activation, and then relu is taken."""
    text = (
        HEAD + f"policy = steps {remark}\nsteps=1\n[conv]\nactivation=linear {remark}\n[cost]\ntype=sse # x\n"
    )
    path = tmp_path / "x.cfg"
    path.write_bytes(text.replace("\n", line_end).encode())
    config = read_cfg(path)
    assert config.layers[0].settings.activation == "relu"
    assert config.net.policy == "constant" and config.net.steps == ()
    word = "".join(f"linear {remark}".split())
    told = (
        "Darknet compares the whole text, knows no such activation and takes relu; put the remark on a line "
    )
    assert config.notes[1] == f"{path}:8: [conv] activation={word}: {told}of its own"
    assert "knows no such policy and takes constant" in config.notes[0]


def test_lists_are_split_at_every_comma(tmp_path):
    """Commas of a remark count, too, and a part without a number is 0."""
    net = HEAD + "policy=steps\nsteps=10, 20 # 30, and, 5 more\nscales=.1,10.x,0x10,1e-1e,7,8\n"
    path = cfgs.write(tmp_path, net + CONV)
    config = read_cfg(path)
    assert config.net.steps == (10, 20, 0, 5)
    assert config.net.scales == (0.1, 10.0, 16.0, 0.1)
    assert config.notes == (
        f"{path}:6: [net] steps=10,20#30,and,5more: Darknet reads 10, 20, 0, 5 here",
        f"{path}:7: [net] scales=.1,10.x,0x10,1e-1e,7,8: Darknet reads 0.1, 10, 16, 0.1, 7, 8 here",
    )
    anchors = REGION.replace("3,4", "3, 4 # two")
    assert read_cfg(cfgs.write(tmp_path, HEAD + CONV + anchors)).region.anchors == ((1.0, 2.0), (3.0, 4.0))


def test_a_comma_at_the_end_of_a_route_adds_layer_0(tmp_path):
    text = HEAD + CONV + CONV.replace("40", "8") + "[route]\nlayers=-1,\n"
    config = read_cfg(cfgs.write(tmp_path, text))
    assert config.layers[-1].settings == Route((1, 0))
    assert config.notes[0].endswith("[route] layers=-1,: Darknet reads -1, 0 here")


def test_numbers_are_cs(tmp_path):
    """atoi and strtod of this machine's C library as the oracle."""
    c = ctypes.CDLL(None)
    c.strtod.restype = ctypes.c_double
    c.strtod.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    rng = Random(0)
    texts = [
        "",
        "inf",
        "-Infinityx",
        "nan",
        "0x",
        "0x.",
        "0x1p3",
        "0X.8P-1q",
        "1e",
        "1e+",
        ".5.5",
        ".",
        "+-1",
    ]
    texts += [
        "".join(rng.choices("0123456789+-.eExXpPaf ,#\x0b\u00e9", k=rng.randint(1, 9))) for _ in range(5000)
    ]
    for text in texts:
        assert atoi(text) == c.atoi(text.encode()), text
        np.testing.assert_equal(atof(text), c.strtod(text.encode(), None), text)


def test_a_value_that_is_missing_leaves_the_default(tmp_path):
    path = cfgs.write(tmp_path, HEAD + "[conv]\nfilters=\nfilters=2\nactivation=leaky\n")
    config = read_cfg(path)
    assert config.layers[0].output[0] == 2
    assert config.unused == (f"{path}:6: [conv] filters= has no value and is not used",)


def test_other_versions_activations_are_not_taken_for_relu(tmp_path):
    for name in ("elu", "mish", "swish"):
        with pytest.raises(ValueError, match=f"activation '{name}' is not supported"):
            read_cfg(cfgs.write(tmp_path, HEAD + CONV.replace("leaky", name)))


REGION = "[region]\nanchors=1,2,3,4\nnum=2\nclasses=15\n"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", None, "no [section] in this file"),
        ("width=3\n[net]\n", 1, "comes before the first section"),
        ("[convolutional]\n", 1, "[convolutional]: a Darknet cfg begins with [net]"),
        (HEAD, 1, "[net]: there are no layers after it"),
        (
            HEAD + "[yolo]\nmask=1\n",
            5,
            "[yolo]: the YOLOv2 family has no such layer; known layers: convolutional, maxpool",
        ),
        (HEAD + "[convolutional\n", 5, "has no closing ]"),
        (
            HEAD + "[conv] # x\n",
            5,
            "'[conv]#x' has a remark behind it, which Darknet takes for a part of the",
        ),
        (HEAD + "policy=steps\nsteps=1,2\nscales=.1\n[conv]\n", 7, "2 steps and 1 scales are given"),
        (HEAD + "policy=steps\nsteps=1,2\n[conv]\n", 1, "policy=steps needs a scale for each step"),
        (HEAD + "[conv]\nfilters=99999999999 # x\n", 6, "'99999999999#x' is not an integer of 32 bits"),
        (HEAD + "[conv]\nfilters=" + "9" * 9999, 6, "is not an integer of 32 bits"),
        (HEAD + "momentum=1e39\n[conv]\n", 5, "'1e39' is not a number of 32 bits"),
        (HEAD + "momentum=inf # x\n[conv]\n", 5, "'inf#x' is not a number of 32 bits"),
        (
            HEAD + CONV + REGION.replace("4\n", "4 # two, pairs\n"),
            12,
            "num=2 needs 4 numbers above 0, width and height of each anchor; "
            "4 are given, and 1 not above 0 (an empty place is 0)",
        ),
        (HEAD + CONV + REGION + "tree=0\n", 15, "[region] tree=0: 0: no such tree file"),
        (HEAD + CONV + "xnor=2 # x\n", 11, "[convolutional] xnor=2#x: not supported"),
        (HEAD + "[conv]\nfilters 3\n", 6, "'filters3' is neither a [section] nor key=value"),
        (HEAD + "[conv]\n=3\n", 6, "'=3' is neither"),
        (
            "[net]\nwidth=32\nheight=32\n[conv]\n",
            1,
            "[net] channels (not given): must be between 1 and 1024",
        ),
        ("[net]\nwidth=0\nheight=32\nchannels=3\n[conv]\n", 2, "[net] width=0: must be between 1 and 32768"),
        ("[net]\nwidth=99999999999999999999\n", 2, "is not an integer"),
        (HEAD + CONV.replace("40", "x"), 6, "[convolutional] filters=x: 'x' is not an integer"),
        (HEAD + CONV.replace("40", "-1"), 6, "[convolutional] filters=-1: must be between 1 and"),
        (
            HEAD + CONV.replace("leaky", "mish"),
            10,
            "'mish' is not supported; choose from leaky, linear, relu, logistic",
        ),
        (
            HEAD + CONV + "binary=1\n",
            11,
            "[convolutional] binary=1: not supported, since no network of the YOLOv2 family has it",
        ),
        (HEAD + CONV + "groups=2\n", 11, "[convolutional] groups=2: must divide the 3 channels"),
        (
            HEAD + "[conv]\nsize=40\nactivation=leaky\n",
            6,
            "a kernel of 40 pixels is larger than its input of 32 x 32 with padding 0",
        ),
        (HEAD + "[maxpool]\nsize=40\npadding=2\n", 6, "a window of 40 pixels is larger than its input"),
        (HEAD + "[maxpool]\nsize=2\npadding=3\n", 7, "a window of 2 pixels can lie completely outside"),
        (HEAD + "[route]\n", 5, "layers=... is missing"),
        (
            HEAD + CONV + "[route]\nlayers=1\n",
            12,
            "[route] layers=1: this is layer 1: choose from 0 to 0, or from -1 to -1",
        ),
        (
            HEAD + CONV + "[maxpool]\nstride=2\n[route]\nlayers=0,1\n",
            14,
            "(layer 0: 32 x 32, layer 1: 16 x 16)",
        ),
        (
            HEAD + "[reorg]\nstride=2\n",
            6,
            "the input has 3 channels of 32 x 32: channels must be a multiple of 4, width and height of 2",
        ),
        (HEAD + "[reorg]\nreverse=1\n", 6, "[reorg] reverse=1: not supported"),
        (HEAD + "[softmax]\ngroups=5\n", 6, "must divide the 3072 inputs"),
        (HEAD + "[softmax]\ntemperature=0\n", 6, "must be above 0"),
        (HEAD + "[dropout]\nprobability=1\n", 6, "at least 0 and below 1"),
        (HEAD + "[dropout]\nprobability=nan\n", 6, "'nan' is not a number"),
        (
            HEAD + CONV + REGION.replace("4\n", "\n"),
            12,
            "num=2 needs 4 numbers above 0, width and height of each anchor; 3 are given",
        ),
        (
            HEAD + CONV + REGION.replace("15", "20"),
            11,
            "2 anchors and 20 classes need 2 * (5 + 20) = 50 channels",
        ),
        (HEAD + CONV + REGION + "coords=5\n", 15, "[region] coords=5: YOLOv2 has 4"),
        (
            HEAD + CONV + REGION + "tree=a.tree\n",
            15,
            "[region] tree=a.tree: a.tree: no such tree file",
        ),
        (HEAD + CONV + REGION + "[conv]\nactivation=leaky\n", 11, "[region]: must be the last layer"),
    ],
)
def test_errors_name_the_line_and_the_section(text, line, message, tmp_path):
    path = cfgs.write(tmp_path, text)
    with pytest.raises(ValueError) as caught:
        read_cfg(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}:{line}: " if line else f"{path}: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            HEAD + CONV.replace("40", "999999999"),
            "with layer 0 the network has 27999999972 parameters, above the limit",
        ),
        (HEAD.replace("32", "32000") + CONV, "outputs for one image, above the limit"),
        (HEAD + CONV.replace("size=3", "size=99999"), "parameters, above the limit"),
        (HEAD + "[maxpool]\nsize=100000\n", "the padded input has 30018602883 numbers, above the limit"),
        (HEAD.replace("32", "4096") + "[maxpool]\nsize=1001\n", "operations for one image, above the limit"),
        (HEAD + CONV + "[route]\nlayers=" + "0," * 100000 + "0\n", "outputs for one image, above the limit"),
        (HEAD + CONV + "[route]\nlayers=-1,-1\n" * 40, "outputs for one image, above the limit"),
        (HEAD + "[dropout]\n" * 1001, "more than 1000 sections"),
    ],
)
def test_absurd_numbers_are_refused_before_memory_is_allocated(text, message, tmp_path):
    with pytest.raises(ValueError) as caught:
        read_cfg(cfgs.write(tmp_path, text))
    assert message in str(caught.value)


def test_files_that_are_not_cfgs(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such cfg file"):
        read_cfg(tmp_path / "absent.cfg")
    big = tmp_path / "big.cfg"
    big.write_bytes(bytes(1 << 21))
    with pytest.raises(ValueError, match="is it the .weights file"):
        read_cfg(big)


@pytest.mark.data
@pytest.mark.parametrize("name", [*ORIGINALS, "darknet19", "darknet19_448"])
def test_the_six_original_cfgs(name, shared):
    folder = shared / "oracles/darknet"
    config = read_cfg(folder / f"cfg-full/{name}.cfg")
    assert (len(config.layers), config.region and config.region.classes) == ORIGINALS.get(name, (26, None))
    assert config.unused == ()
    recorded = json.loads((folder / "full.json").read_text())[name.removesuffix("_448")]
    assert config.parameters == recorded["params"]
    assert 4 * config.parameters + 16 == recorded["file_bytes_hdr1"]


@pytest.mark.data
def test_a_cfg_with_more_parameters_than_its_weights_file(shared):
    """trial11's weights file had 572,317 numbers."""
    assert read_cfg(shared / "bad-input/darknet/tiny-yolov2-trial11.cfg").parameters == 15858861
