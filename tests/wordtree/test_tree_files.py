"""Trees and maps from files, and what is wrong with broken ones."""

from __future__ import annotations

import pytest

from detectors.wordtree.tree_files import load_map, map_text, read_map, read_tree, tree_text
from detectors.wordtree.tree_sources import load_tree, nested_tree, read_nested, read_pairs
from tests.wordtree import trees

PAIRS = "cat\tanimal\ndog\tanimal\ncow\tanimal\npoodle dog\n".replace(
    "poodle dog", "spaniel\tdog\npoodle\tdog"
)
NESTED = "animal:\n  cat:\n  dog: [spaniel, poodle]\n  cow:\nthing: cup\n"


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "x.tree"
    path.write_text(tree_text(trees.SMALL))
    assert path.read_text().splitlines()[3] == "dog 0"
    assert read_tree(path) == load_tree(path) == load_tree(path.read_text()) == trees.SMALL
    (tmp_path / "x.map").write_text(map_text([3, 5]))
    assert read_map(tmp_path / "x.map", trees.SMALL) == load_map("3\n5\n", trees.SMALL) == (3, 5)
    assert load_map([3, 5], trees.SMALL) == (3, 5)


def test_a_root_needs_no_number_and_the_file_no_last_newline():
    assert read_tree("x", "a\nb -1\nc 0").parent.tolist() == [-1, -1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a -1\n\nb 0\n", "x:2: the line is blank"),
        ("a -1\nb 0\n\n", "x:3: the line is blank"),
        ("a -1\nb 0 1\n", "x:2: 'b 0 1' is not 'name parent'"),
        ("a -1\nb c\n", "x:2: 'b c' is not 'name parent'"),
        ("a -1\nb 0x\n", "x:2: 'b 0x' is not 'name parent'"),
        ("a -1\nb 12345678901\n", "x:2: 'b 12345678901' is not 'name parent'"),
        ("a -1\nb 2\nc 0\n", "x:2: parent 2 does not stand above it"),
        ("", "x:1: the tree has 0 nodes"),
    ],
)
def test_a_broken_tree_names_the_line(text, message):
    with pytest.raises(ValueError, match=message):
        read_tree("x", text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0\n8\n", "x:2: '8' is not a node of the tree, 0 to 7"),
        ("-1\n", "x:1: '-1' is not a node"),
        ("0\n\n1\n", "x:2: '' is not a node"),
        ("0\n1.5\n", "x:2: '1.5' is not a node"),
        ("", "x: there is no line"),
    ],
)
def test_a_broken_map_names_the_line(text, message):
    with pytest.raises(ValueError, match=message):
        read_map("x", trees.SMALL, text)


def test_files_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="no such tree file"):
        read_tree(tmp_path / "x.tree")
    with pytest.raises(ValueError, match="no such tree file"):
        read_tree(tmp_path)
    (tmp_path / "x.tree").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        read_tree(tmp_path / "x.tree")


def test_pairs_and_nested_names_give_the_same_tree(tmp_path):
    """Level by level, as Darknet needs them."""
    (tmp_path / "x.pairs").write_text(f"animal\nthing\n{PAIRS}cup\tthing\n")
    (tmp_path / "x.yaml").write_text(NESTED)
    nesting = {"animal": {"cat": None, "dog": ["spaniel", "poodle"], "cow": None}, "thing": "cup"}
    made = [load_tree(tmp_path / "x.pairs"), load_tree(str(tmp_path / "x.yaml")), nested_tree(nesting)]
    assert [sorted(tree.names) for tree in made] == [sorted(trees.NAMES)] * 3
    assert made[0] == made[1] == made[2] == trees.SMALL


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b\na c\n", "x:2: 'a' has another parent, 'b', on line 1"),
        ("a b\nb c\nc a\n", "x:1: 'a' is among its own ancestors"),
        ("r\na b\nb a\n", "x:2: 'a' is among its own ancestors"),
        ("a a\n", "x:1: 'a' is among its own ancestors"),
        ("a b c\n", "x:1: 'a b c' is not 'child parent'"),
        ("a b\n\n", "x:2: '' is not 'child parent'"),
    ],
)
def test_broken_pairs_name_the_line(text, message):
    with pytest.raises(ValueError, match=message):
        read_pairs("x", text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: b\na: c\n", "x:2: a stands twice"),
        ("a: &x [b]\nc: *x\n", r"x:2: write the names out"),
        ("a: [", "x:1: "),
        ("[a, [b]]", "below 'the top'"),
        ("", "the tree has 0 nodes"),
        ("[" * 5000, "x"),
    ],
)
def test_broken_nested_names(text, message):
    with pytest.raises(ValueError, match=message):
        read_nested("x", text)


def test_yaml_words_are_names():
    assert read_nested("x", "no: [yes, 1]").names == ("no", "yes", "1")
    with pytest.raises(ValueError, match="True is not a name; quote it|'True' is not a name; quote it"):
        nested_tree([True])


def test_names_with_blanks_cannot_be_written():
    with pytest.raises(ValueError, match="node 0 'traffic light': a .tree file holds names without blanks"):
        tree_text(nested_tree(["traffic light"]))
