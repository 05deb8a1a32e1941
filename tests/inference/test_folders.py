"""A folder is replaced completely, or stays unchanged."""

from pathlib import Path

import pytest

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import atomic_folder
from fairseq_signals_ext.inference.export import check_replaceable


def filled(folder, text):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(text)
    return folder


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def replaced(folder, text="new"):
    with atomic_folder(folder) as temporary:
        (temporary / "config.json").write_text(text)


def test_new_and_replaced(tmp_path):
    for text in ("first", "second"):
        replaced(tmp_path / "above" / "out", text)
        assert content(tmp_path) == {"above/out/config.json": text}
        assert [path.name for path in (tmp_path / "above").iterdir()] == ["out"]


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt()], ids=["disk", "interrupted"])
@pytest.mark.parametrize("failing", [1, 2])
def test_the_earlier_folder_stays_where_the_swap_fails(tmp_path, monkeypatch, failing, error):
    out = filled(tmp_path / "out", "old")
    rename, calls = Path.rename, []

    def sometimes(path, target):
        calls.append(path)
        if len(calls) == failing:
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", sometimes)
    with pytest.raises(type(error)):
        replaced(out)
    assert len(calls) >= failing
    assert content(tmp_path) == {"out/config.json": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_nothing_is_lost_where_another_takes_the_place(tmp_path, monkeypatch):
    out = filled(tmp_path / "out", "old")
    rename = Path.rename

    def after_another(path, target):
        if path.suffix == ".tmp":
            filled(out, "another's")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", after_another)
    with pytest.raises(OSError, match="not empty"):
        replaced(out)
    assert sorted(content(tmp_path).values()) == ["another's", "new", "old"]


def test_an_exception_in_the_block(tmp_path):
    out = filled(tmp_path / "out", "old")
    with pytest.raises(ZeroDivisionError), atomic_folder(out) as temporary:
        (temporary / "half").touch()
        raise ZeroDivisionError
    assert content(tmp_path) == {"out/config.json": "old"}


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays(tmp_path, there):
    real, link = tmp_path / "disk" / "real", tmp_path / "link"
    if there:
        filled(real, "old")
    link.symlink_to(real)
    replaced(link)
    assert link.is_symlink() and link.resolve() == real
    assert content(real) == content(link) == {"config.json": "new"}
    assert [path.name for path in real.parent.iterdir()] == ["real"]


@pytest.mark.parametrize("name", [".", "", "x/..", "../here", "link"])
def test_the_current_folder_is_refused(tmp_path, monkeypatch, name):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match="is the current folder, which would be replaced") as error:
        check_replaceable(Path(name), ["config.json", "link"], overwrite=True)
    assert str(error.value).startswith(f"{Path(name)}: ")


def test_dots_are_followed(tmp_path, monkeypatch):
    """`not_there/../out` is `out`, also where the system's own way through is not there."""
    monkeypatch.chdir(tmp_path)
    filled(tmp_path / "out", "old")
    with pytest.raises(UserError, match="not_there/../out: is not empty"):
        check_replaceable(Path("not_there/../out"), ["config.json"], overwrite=False)
    replaced(Path("not_there/../out"))
    assert content(tmp_path) == {"out/config.json": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
