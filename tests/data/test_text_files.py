"""Text files of users: every encoding that names itself, and one message for the others."""

import os

import pytest

from detectors.data.class_names import read_names
from detectors.data.text_files import read_text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_names_the_encoding_and_is_no_content(tmp_path, encoding):
    file = tmp_path / "a.names"
    file.write_bytes("vélo\r\n安全帽\rx\n".encode(encoding))
    assert read_text(file, what="names file") == "vélo\n安全帽\nx\n"


@pytest.mark.parametrize(("mark", "encoding"), [(b"\xfe\xff", "utf-16-be"), (b"\xff\xfe", "utf-16-le")])
def test_utf16_of_either_byte_order(tmp_path, mark, encoding):
    file = tmp_path / "a.names"
    file.write_bytes(mark + "vélo".encode(encoding))
    assert read_text(file, what="names file") == "vélo"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"v\xe9lo\n", "is not UTF-8 text (invalid continuation byte at byte 1); save it as UTF-8"),
        ("ab".encode("utf-16-le"), "contains zero bytes; save it as UTF-8 text"),
        (b"\xff\xfea", "is not UTF-16 text (truncated data at byte 2); save it as UTF-8"),
    ],
)
def test_another_encoding_is_an_error_that_names_the_file(tmp_path, data, message):
    file = tmp_path / "a.names"
    file.write_bytes(data)
    with pytest.raises(ValueError) as error:
        read_text(file, what="names file")
    assert str(error.value) == f"{file}: the names file {message}"


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        read_text(tmp_path / "a.names", what="names file")
    assert str(error.value) == f"{tmp_path / 'a.names'}: no such names file"


def test_class_names_have_no_byte_order_mark(tmp_path):
    (tmp_path / "a.names").write_bytes(b"\xef\xbb\xbfv\xc3\xa9lo\r\n\r\ncasque bleu\r\n")
    assert read_names(tmp_path / "a.names") == ("vélo", "casque bleu")
    (tmp_path / "a.names").write_bytes(b"v\xe9lo\n")
    with pytest.raises(ValueError, match=r"a\.names: the file of class names is not UTF-8 text"):
        read_names(tmp_path / "a.names")


def test_a_fifo_is_refused_before_it_is_opened(tmp_path):
    os.mkfifo(tmp_path / "a.names")
    with pytest.raises(ValueError) as error:
        read_names(tmp_path / "a.names")
    message = "the file of class names cannot be read (it is a FIFO, not a file)"
    assert str(error.value) == f"{tmp_path / 'a.names'}: {message}"


@pytest.mark.data
def test_the_reported_names_file(shared):
    assert read_names(shared / "bad-input/reported/names-bom/utf-8-sig.names")[0] == "vélo"
