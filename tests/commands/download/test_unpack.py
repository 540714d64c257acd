"""Unpacking of archives that are valid, truncated, damaged or malicious."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile

import pytest

from detectors.commands.download.unpack import DamagedArchive, draft_of, unpack


def write_tar(path, files: dict[str, bytes], **fields):
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for field, value in fields.items():
                setattr(member, field, value)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_zip(path, files: dict[str, bytes]):
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


@pytest.mark.parametrize(("write", "name"), [(write_tar, "a.tar"), (write_zip, "a.zip")])
def test_selected_contents_go_to_their_places(tmp_path, root, write, name):
    files = {"top/in/a": b"1", "top/in/deep/b": b"2", "top/LICENSE": b"3", "c": b"4"}
    path = write(tmp_path / name, files)
    unpack(path, root, (("top/in", ""), ("top/LICENSE", "LICENSE")), progress=False)
    assert content(root) == {"a": b"1", "deep/b": b"2", "LICENSE": b"3"}
    assert not draft_of(root, path.name).exists()


def test_folders_are_merged_and_files_replaced(tmp_path, root):
    first = write_tar(tmp_path / "a.tar", {"V/J/1.jpg": b"1", "V/A/1.xml": b"old"})
    second = write_tar(tmp_path / "b.tar", {"V/J/2.jpg": b"2", "V/A/1.xml": b"new"})
    for path in (first, second):
        unpack(path, root, (("V", "V"),), progress=False)
    assert content(root) == {"V/J/1.jpg": b"1", "V/J/2.jpg": b"2", "V/A/1.xml": b"new"}


@pytest.mark.parametrize("name", ["../evil", "V/../../evil", "/tmp/evil-of-a-zip"])
def test_a_zip_that_leads_outside_is_refused(tmp_path, root, name):
    path = write_zip(tmp_path / "a.zip", {"V/a": b"1", name: b"evil"})
    with pytest.raises(DamagedArchive, match="outside"):
        unpack(path, root, (("V", "V"),), progress=False)
    assert content(tmp_path) == {"a.zip": path.read_bytes()}


@pytest.mark.parametrize("name", ["../evil", "V/../../evil"])
def test_a_tar_that_leads_outside_is_refused(tmp_path, root, name):
    path = write_tar(tmp_path / "a.tar", {"V/a": b"1", name: b"evil"})
    with pytest.raises(DamagedArchive, match="outside"):
        unpack(path, root, (("V", "V"),), progress=False)
    assert content(tmp_path) == {"a.tar": path.read_bytes()}


def test_a_link_that_leads_outside_is_refused(tmp_path, root):
    path = write_tar(tmp_path / "a.tar", {"V/a": b""}, type=tarfile.SYMTYPE, linkname="../../../etc/passwd")
    with pytest.raises(DamagedArchive, match="outside"):
        unpack(path, root, (("V", "V"),), progress=False)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(lambda data: data[: len(data) // 2], id="truncated"),
        pytest.param(lambda data: data[:60] + bytes([data[60] ^ 255]) + data[61:], id="one byte differs"),
        pytest.param(lambda data: b"<html>Not today</html>", id="a proxy's web page"),
        pytest.param(lambda data: b"", id="empty"),
    ],
)
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_zip_is_detected(tmp_path, root, fault, compression):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("V/a", bytes(range(256)) * 8)
    path.write_bytes(fault(path.read_bytes()))
    with pytest.raises(DamagedArchive, match="a.zip"):
        unpack(path, root, (("V", "V"),), progress=False)
    assert content(root) == {}
    assert draft_of(root, "a.zip").exists()  # marks the unpacking as unfinished


def test_a_file_that_is_not_a_tar(tmp_path, root):
    (tmp_path / "a.tar").write_bytes(b"<html>Not today</html>")
    with pytest.raises(DamagedArchive, match="a.tar"):
        unpack(tmp_path / "a.tar", root, (("V", "V"),), progress=False)


def test_an_archive_without_the_expected_contents(tmp_path, root):
    path = write_zip(tmp_path / "a.zip", {"W/a": b"1"})
    with pytest.raises(DamagedArchive, match="a.zip: holds no V"):
        unpack(path, root, (("V", "V"),), progress=False)


def test_a_full_disk_is_reported_and_leaves_no_partial_files(tmp_path, root, monkeypatch):
    def disk_full(*_):
        raise OSError(28, "No space left on device")

    path = write_zip(tmp_path / "a.zip", {"V/a": b"1"})
    monkeypatch.setattr(shutil, "copyfileobj", disk_full)
    with pytest.raises(
        ValueError, match=r"No space left on device, while unpacking a\.zip; .*run the same command again"
    ) as raised:
        unpack(path, root, (("V", "V"),), progress=False)
    assert not isinstance(raised.value, DamagedArchive)  # the archive must not be removed
    assert content(root) == {}


def test_a_folder_in_the_place_of_a_file_is_reported(tmp_path, root):
    (root / "V").mkdir()
    path = write_zip(tmp_path / "a.zip", {"V": b"1"})
    with pytest.raises(ValueError, match="V: a folder stands where a file belongs"):
        unpack(path, root, (("V", "V"),), progress=False)
