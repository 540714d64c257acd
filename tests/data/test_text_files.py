"""Text files of users: every encoding that names itself, and one message for the others."""

import pytest

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
