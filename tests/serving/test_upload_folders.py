"""Folders of uploads: private, removed after a killed service, and a clear message if the disk is full."""

import errno
import fcntl
import os

import pytest
from fastapi.testclient import TestClient
from made_up_uploads import csv_file, parts

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.serving import folders, uploads
from fairseq_signals_ext.serving.app import make_app
from fairseq_signals_ext.serving.folders import PREFIX, remove_left_folders, upload_folder
from fairseq_signals_ext.serving.guard import hosts_of
from fairseq_signals_ext.serving.limits import Limits


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def left(temporary, name, mode=0o700):
    """A folder as a killed service leaves it."""
    folder = temporary / f"{PREFIX}{name}"
    folder.mkdir(mode)
    folder.chmod(mode)
    (folder / "a.csv").write_text("of a patient")
    return folder


def test_folders_of_a_killed_service_are_removed(temporary):
    folders_left = [left(temporary, "a"), left(temporary, "b")]
    (folders_left[0] / "outside").symlink_to(temporary.parent)
    (temporary.parent / "kept").write_text("")
    remove_left_folders()
    assert not list(temporary.iterdir()) and (temporary.parent / "kept").exists()


def test_other_folders_stay(temporary, monkeypatch):
    """Of a living one, somebody's link or file of such a name, other names, and of others than this user."""
    target = temporary.parent / "target"
    target.mkdir(0o700)
    (target / "file").write_text("kept")
    (temporary / f"{PREFIX}link").symlink_to(target)
    (temporary / f"{PREFIX}file").write_text("kept")
    left(temporary, "shared", 0o777)
    (temporary / "other").mkdir(0o700)
    with upload_folder() as living:
        (living / "a.csv").write_text("")
        before = sorted(temporary.rglob("*"))
        remove_left_folders()
        assert sorted(temporary.rglob("*")) == before and (target / "file").exists()
        assert living.stat().st_mode & 0o777 == 0o700
    assert not living.exists()
    of_another = left(temporary, "of_another")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    remove_left_folders()
    assert of_another.exists()


def test_a_folder_that_another_takes_for_left_is_made_again(monkeypatch):
    """Between being made and being locked."""
    made, lock = [], folders._lock

    def locking(folder):
        made.append(folder)
        if len(made) == 1:
            folder.rmdir()
        return lock(folder)

    monkeypatch.setattr(folders, "_lock", locking)
    with upload_folder() as folder:
        assert folder == made[1] != made[0] and folder.is_dir()


def test_a_service_that_is_removing_holds_the_folder(temporary):
    folder = left(temporary, "a")
    held = os.open(folder, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    remove_left_folders()
    assert folder.exists()
    os.close(held)
    remove_left_folders()
    assert not folder.exists()


def test_no_folder_for_temporary_files(monkeypatch):
    def fail():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("tempfile.gettempdir", fail)
    with pytest.raises(UserError, match="TMPDIR: No usable"):
        remove_left_folders()


@pytest.mark.parametrize("where", ["folder", "store", "spool"])
@pytest.mark.parametrize(
    ("number", "status"),
    [(errno.ENOSPC, 507), (errno.EDQUOT, 507), (errno.EROFS, 507), (errno.EMFILE, 503), (errno.ENOMEM, 503)],
)
def test_no_room(model, monkeypatch, temporary, where, number, status):
    def fail(*arguments, **options):
        raise OSError(number, os.strerror(number))

    place = {"folder": "tempfile.mkdtemp", "spool": "starlette.datastructures.UploadFile.write"}
    if where == "store":
        monkeypatch.setattr(uploads, "_store", fail)
    else:
        monkeypatch.setattr(place[where], fail)
    with TestClient(make_app(model, Limits(), hosts_of("127.0.0.1")), base_url="http://127.0.0.1:8000") as client:
        response = client.post("/predict", files=parts(csv_file()))
        assert client.get("/health").status_code == 200
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"] and "\n" not in response.json()["error"]
    assert not list(temporary.iterdir())
