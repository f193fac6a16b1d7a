"""Files are written as a whole, or nothing is touched."""

import pytest

from tflite_export.files import require_writable, write_atomically


def test_a_folder_in_the_place_of_one_file_leaves_all_others(tmp_path):
    model, source = tmp_path / "model.tflite", tmp_path / "model.cc"
    model.write_bytes(b"old")
    source.mkdir()

    with pytest.raises(ValueError, match=r"model\.cc', a folder"):
        write_atomically({model: b"new", source: b"new"})

    assert model.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == [source, model]


def test_a_place_that_can_be_written_is_accepted(tmp_path):
    require_writable(tmp_path / "new.png")
    write_atomically({tmp_path / "new.png": b""})
    require_writable(tmp_path / "new.png")


def test_a_missing_or_closed_folder_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="in an existing folder"):
        require_writable(tmp_path / "none" / "plot.png")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(ValueError, match="that can be written"):
        require_writable(tmp_path / "plot.png")


def test_folders_are_made_below_one_and_only_there(tmp_path):
    inner = tmp_path / "kws" / "main" / "main.cc"

    with pytest.raises(ValueError, match="in an existing folder"):
        write_atomically({inner: b""})
    with pytest.raises(ValueError, match="in an existing folder"):
        write_atomically({inner: b""}, below=tmp_path / "kws" / "main")
    assert list(tmp_path.iterdir()) == []

    write_atomically({inner: b"new"}, below=tmp_path)
    assert inner.read_bytes() == b"new"


def test_a_write_that_fails_leaves_no_folder(tmp_path, monkeypatch):
    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    contents = {
        tmp_path / "kws.tflite": b"new",
        tmp_path / "kws" / "main" / "main.cc": b"new",
    }
    with pytest.raises(OSError, match="disk full"):
        write_atomically(contents, below=tmp_path)
    assert list(tmp_path.iterdir()) == []
