"""detectors tree: text, drawing, conversion, messages."""

from __future__ import annotations

import pytest

from detectors.commands.tree import command
from detectors.wordtree.tree_files import read_tree, tree_text
from tests.wordtree import trees

SHOWN = """animal (0)
  cat (2)
  dog (3) *
    spaniel (6)
    poodle (7)
  cow (4)
thing (1)
  cup (5)
8 nodes, 4 groups of 1 to 3, 5 leaves, 2 roots, 3 levels
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "x.tree"
    path.write_text(tree_text(trees.SMALL))
    (tmp_path / "x.map").write_text("3\n")
    return path


def test_a_tree_is_printed(file, capsys):
    command.main([str(file), "--map", str(file.with_suffix(".map"))])
    assert capsys.readouterr().out == SHOWN


@pytest.mark.parametrize("node", ["dog", "3"])
def test_a_part_of_it(node, file, capsys):
    command.main([str(file), "--below", node])
    assert capsys.readouterr().out.splitlines()[:-1] == ["dog (3)", "  spaniel (6)", "  poodle (7)"]
    command.main([str(file), "--below", "animal", "--levels", "2"])
    assert "spaniel" not in capsys.readouterr().out


def test_it_is_drawn_with_readable_names(file, tmp_path, capsys):
    (tmp_path / "x.names").write_text("".join(f"<{name}>\n" for name in trees.NAMES))
    output = tmp_path / "x.svg"
    command.main([str(file), "--names", str(tmp_path / "x.names"), "--output", str(output)])
    drawing = output.read_text()
    assert drawing.count("<text") == 8 and drawing.count("<path") == 6
    assert "&lt;poodle&gt;" in drawing and drawing.rstrip().endswith("</svg>")


def test_nested_names_become_darknets_format(tmp_path, capsys):
    (tmp_path / "x.yaml").write_text("animal: {cat: , dog: [spaniel, poodle], cow: }\nthing: cup\n")
    command.main([str(tmp_path / "x.yaml"), "--output", str(tmp_path / "y.tree")])
    assert read_tree(tmp_path / "y.tree") == trees.SMALL


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--below", "horse"], "--below horse: no such node"),
        (["--output", "x.png"], "choose a name that ends in .svg or .tree"),
        (["--levels", "0"], "levels"),
        (["--map", "missing.map"], "no such map file"),
    ],
)
def test_mistakes_are_explained(arguments, message, file, capsys):
    with pytest.raises(SystemExit):
        command.main([str(file), *arguments])
    assert message in capsys.readouterr().err


def test_a_name_of_several_nodes_needs_a_number():
    with pytest.raises(ValueError, match="nodes 0, 1 have this name; give a number"):
        command.chosen_node("a", trees.SMALL, ["a", "a", *"bcdefg"])
