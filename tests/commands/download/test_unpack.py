"""Archives that the tests make, with tarfile and zipfile: merged, cut off, damaged, and written by somebody who means harm."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile

import pytest

from detectors.commands.download.unpack import Damaged, draft_of, unpack


def tar(path, files: dict[str, bytes], **fields):
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for field, value in fields.items():
                setattr(member, field, value)
            archive.addfile(member, io.BytesIO(content))
    return path


def zipped(path, files: dict[str, bytes]):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def content(root) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.mark.parametrize("make", [tar, zipped])
def test_what_is_taken_goes_to_its_place(tmp_path, root, make):
    path = make(
        tmp_path / f"a.{'tar' if make is tar else 'zip'}",
        {"top/in/a": b"1", "top/in/deep/b": b"2", "top/LICENSE": b"3", "c": b"4"},
    )
    unpack(path, root, (("top/in", ""), ("top/LICENSE", "LICENSE")), progress=False)
    assert content(root) == {"a": b"1", "deep/b": b"2", "LICENSE": b"3"}
    assert not draft_of(root, path.name).exists()


def test_folders_are_joined_and_files_replaced(tmp_path, root):
    unpack(
        tar(tmp_path / "a.tar", {"V/J/1.jpg": b"1", "V/A/1.xml": b"old"}), root, (("V", "V"),), progress=False
    )
    unpack(
        tar(tmp_path / "b.tar", {"V/J/2.jpg": b"2", "V/A/1.xml": b"new"}), root, (("V", "V"),), progress=False
    )
    assert content(root) == {"V/J/1.jpg": b"1", "V/J/2.jpg": b"2", "V/A/1.xml": b"new"}


@pytest.mark.parametrize("name", ["../evil", "V/../../evil", "/tmp/evil-of-a-zip"])
def test_a_zip_that_leads_outside_is_refused(tmp_path, root, name):
    path = zipped(tmp_path / "a.zip", {"V/a": b"1", name: b"evil"})
    with pytest.raises(Damaged, match="outside"):
        unpack(path, root, (("V", "V"),), progress=False)
    assert content(tmp_path) == {"a.zip": path.read_bytes()}


@pytest.mark.parametrize("name", ["../evil", "V/../../evil"])
def test_a_tar_that_leads_outside_is_refused(tmp_path, root, name):
    path = tar(tmp_path / "a.tar", {"V/a": b"1", name: b"evil"})
    with pytest.raises(Damaged, match="outside"):
        unpack(path, root, (("V", "V"),), progress=False)
    assert content(tmp_path) == {"a.tar": path.read_bytes()}


def test_a_link_that_leads_outside_is_refused(tmp_path, root):
    path = tar(tmp_path / "a.tar", {"V/a": b""}, type=tarfile.SYMTYPE, linkname="../../../etc/passwd")
    with pytest.raises(Damaged, match="outside"):
        unpack(path, root, (("V", "V"),), progress=False)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(lambda data: data[: len(data) // 2], id="broken off"),
        pytest.param(lambda data: data[:60] + bytes([data[60] ^ 255]) + data[61:], id="one byte differs"),
        pytest.param(lambda data: b"<html>Not today</html>", id="a page of a proxy"),
        pytest.param(lambda data: b"", id="empty"),
    ],
)
@pytest.mark.parametrize("stored", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_zip_is_found(tmp_path, root, fault, stored):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", stored) as archive:
        archive.writestr("V/a", bytes(range(256)) * 8)
    path.write_bytes(fault(path.read_bytes()))
    with pytest.raises(Damaged, match="a.zip"):
        unpack(path, root, (("V", "V"),), progress=False)
    assert content(root) == {}
    assert draft_of(root, "a.zip").exists()  # the sign that this is not done


def test_a_tar_that_is_none(tmp_path, root):
    (tmp_path / "a.tar").write_bytes(b"<html>Not today</html>")
    with pytest.raises(Damaged, match="a.tar"):
        unpack(tmp_path / "a.tar", root, (("V", "V"),), progress=False)


def test_an_archive_of_something_else(tmp_path, root):
    with pytest.raises(Damaged, match="a.zip: holds no V"):
        unpack(zipped(tmp_path / "a.zip", {"W/a": b"1"}), root, (("V", "V"),), progress=False)


def test_a_full_disk_is_told_and_leaves_nothing_half(tmp_path, root, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    path = zipped(tmp_path / "a.zip", {"V/a": b"1"})
    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(
        ValueError, match=r"No space left on device, while a\.zip was unpacked; .*run the same command again"
    ) as raised:
        unpack(path, root, (("V", "V"),), progress=False)
    assert not isinstance(raised.value, Damaged)  # so that nobody removes the archive
    assert content(root) == {}


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path, root):
    (root / "V").mkdir()
    with pytest.raises(ValueError, match="V: a folder stands where a file belongs"):
        unpack(zipped(tmp_path / "a.zip", {"V": b"1"}), root, (("V", "V"),), progress=False)
