"""Unpacking of archives that are valid, truncated, damaged or malicious."""

from __future__ import annotations

import contextlib
import io
import shutil
import tarfile
import zipfile
from random import Random

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
    ("kind", "what"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.FIFOTYPE, "a device or pipe"),
        (tarfile.CHRTYPE, "a device or pipe"),
        (tarfile.BLKTYPE, "a device or pipe"),
    ],
)
def test_a_tar_of_anything_but_files_is_refused(tmp_path, root, kind, what):
    """Also a link that stays in its folder: it leads elsewhere once it is moved to its place."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("V/first"), io.BytesIO())
        member = tarfile.TarInfo("V/odd")
        member.type = kind
        member.linkname = "first"
        archive.addfile(member)
    with pytest.raises(DamagedArchive) as raised:
        unpack(path, root, (("V", "V"),), progress=False)
    assert str(raised.value) == f"{path}: 'V/odd' is {what}, which could lead outside its folder"
    assert not list(root.rglob("*/*"))


@pytest.mark.parametrize(("mode", "what"), [(0o120777, "a link"), (0o010644, "a device or pipe")])
def test_a_zip_of_anything_but_files_is_refused(tmp_path, root, mode, what):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        member = zipfile.ZipInfo("V/odd")
        member.external_attr = mode << 16
        archive.writestr(member, b"../../etc/passwd")
    with pytest.raises(DamagedArchive, match=f"'V/odd' is {what}, which could lead outside"):
        unpack(path, root, (("V", "V"),), progress=False)
    assert not list(root.rglob("*/*"))


def bomb(path, size: int) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("V/a", b"x")
        archive.writestr("V/bomb", bytes(size))


def sparse_tar(path, size: int) -> None:
    """A file of `size` bytes in GNU's old sparse format, which holds 1,024 bytes."""
    member = tarfile.TarInfo("V/bomb")
    member.type = tarfile.GNUTYPE_SPARSE
    member.size = 512
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, 512)  # one piece: offset and bytes
    header[483:495] = b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(bytes(header) + bytes(512) + bytes(1024))


@pytest.mark.parametrize(("write", "name"), [(bomb, "a.zip"), (sparse_tar, "a.tar")])
def test_an_archive_of_too_many_bytes_is_refused_before_anything_is_written(
    tmp_path, root, monkeypatch, write, name
):
    path = tmp_path / name
    write(path, 2_000_000)
    for library in (zipfile.ZipFile, tarfile.TarFile):
        monkeypatch.setattr(library, "extract", lambda *_, **__: pytest.fail("written"))
    most = 100 * path.stat().st_size
    with pytest.raises(DamagedArchive) as raised:
        unpack(path, root, (("V", "V"),), progress=False)
    assert str(raised.value) == (
        f"{path}: 'V/bomb' has 2,000,000 bytes: the archive's {most // 100:,} bytes would become more than "
        f"{most:,}, which no data set needs"
    )


def test_the_limit_on_all_bytes(tmp_path, root):
    path = write_zip(tmp_path / "a.zip", {"V/a": b"12", "V/b": b"345"})
    with pytest.raises(DamagedArchive, match=r"'V/b' has 3 bytes: .* more than 4, which no data set needs"):
        unpack(path, root, (("V", "V"),), max_bytes=4, progress=False)
    unpack(path, root, (("V", "V"),), max_bytes=5, progress=False)
    assert content(root) == {"V/a": b"12", "V/b": b"345"}


def test_a_zip_whose_header_understates_a_size_writes_no_more_than_that(tmp_path, root, monkeypatch):
    path = tmp_path / "a.zip"
    bomb(path, 10_000)
    path.write_bytes(path.read_bytes().replace((10_000).to_bytes(4, "little"), (7).to_bytes(4, "little")))
    written = []
    monkeypatch.setattr(shutil, "copyfileobj", lambda source, target: written.append(source.read()))
    with pytest.raises(DamagedArchive, match=r"a\.zip: .*(CRC|Overlapped)"):
        unpack(path, root, (("V", "V"),), progress=False)
    assert sum(map(len, written)) <= 8


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_in_another_compression_is_refused(tmp_path, root, method):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("V/a", b"1")
    with pytest.raises(
        DamagedArchive, match=f"'V/a' is compressed by method {method}; data sets use deflate"
    ):
        unpack(tmp_path / "a.zip", root, (("V", "V"),), progress=False)


def test_a_compressed_tar_is_refused(tmp_path, root):
    with tarfile.open(tmp_path / "a.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("V/a"))
    with pytest.raises(DamagedArchive, match=r"a\.tar: "):
        unpack(tmp_path / "a.tar", root, (("V", "V"),), progress=False)


def test_a_negative_size_is_refused(tmp_path, root):
    member = tarfile.TarInfo("V/a")
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"  # -512 in base 256
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(1024))
    with pytest.raises(DamagedArchive, match="'V/a' has -512 bytes"):
        unpack(tmp_path / "a.tar", root, (("V", "V"),), progress=False)


@pytest.mark.parametrize(("write", "name"), [(write_tar, "a.tar"), (write_zip, "a.zip")])
def test_any_damage_is_named(tmp_path, root, write, name):
    """Random bytes in the archive: unpacked, or refused as damaged."""
    path = write(tmp_path / name, {f"V/{n}": bytes([n]) * 100 for n in range(5)})
    whole = path.read_bytes()
    rng = Random(name)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        with contextlib.suppress(DamagedArchive):
            unpack(path, root, (("V", "V"),), progress=False)
        assert not draft_of(root, name).exists() or not list(draft_of(root, name).iterdir())
    assert {place.name for place in tmp_path.iterdir()} == {name, "root"}


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
