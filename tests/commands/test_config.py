import pytest
from omegaconf import OmegaConf

from fairseq_signals_ext.cli import main

CONFIG = """
task: {_name: ecg_pretraining, data: theirs, filter: true}
model: {_name: wav2vec2_cmsc}
criterion: {_name: wav2vec2_with_cmsc, all_gather: true}
"""


@pytest.fixture()
def source(tmp_path):
    path = tmp_path / "theirs.yaml"
    path.write_text(CONFIG)
    return path


def convert(*arguments):
    return main(["config", "convert", *map(str, arguments)])


def test_file_and_list(source, tmp_path, capsys):
    out = tmp_path / "ours.yaml"
    assert convert(source, "--out", out) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == str(out)
    assert "-> criterion.cmsc_gather" in printed and "WARNING: 1" in printed
    assert OmegaConf.load(out).criterion.cmsc_gather is True
    text = out.read_text()
    assert "theirs.yaml" in text.splitlines()[1] and str(tmp_path) not in text
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["ours.yaml", "theirs.yaml"]


def test_without_out_both_are_printed(source, tmp_path, capsys):
    assert convert(source) == 0
    printed = capsys.readouterr()
    convert(source, "--out", tmp_path / "ours.yaml")
    assert printed.out == (tmp_path / "ours.yaml").read_text()
    assert "task.filter" in printed.err and "-> criterion.cmsc_gather" in printed.err


def test_a_file_is_replaced_only_with_overwrite(source, tmp_path):
    out = tmp_path / "ours.yaml"
    out.write_text("mine")
    with pytest.raises(SystemExit, match=r"error: .*ours\.yaml: exists already; give another --out, or replace"):
        convert(source, "--out", out)
    assert out.read_text() == "mine"
    assert convert(source, "--out", out, "--overwrite") == 0
    assert OmegaConf.load(out).task._name == "ecg_pretraining"


def test_the_source_is_never_replaced(source, tmp_path):
    (tmp_path / "link.yaml").symlink_to(source)
    for out in (source, tmp_path / "link.yaml", tmp_path / "." / "theirs.yaml"):
        with pytest.raises(SystemExit, match=r"error: --out .*\.yaml: is the same file as the input"):
            convert(source, "--out", out, "--overwrite")
    assert source.read_text() == CONFIG


def test_the_folder_is_made(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert convert(source, "--out", "configs/new/ours.yaml") == 0
    assert OmegaConf.load(tmp_path / "configs" / "new" / "ours.yaml").model._name == "wav2vec2_cmsc"


@pytest.mark.parametrize(
    ("out", "message"),
    [("ours.yml", "by the ending .yaml"), ("theirs.yaml/new/ours.yaml", "theirs.yaml: is a file, not a folder")],
)
def test_places_that_do_not_do(source, tmp_path, out, message):
    with pytest.raises(SystemExit, match=message):
        convert(source, "--out", tmp_path / out)


def test_an_error_leaves_nothing(source, tmp_path):
    source.write_text(CONFIG.replace("wav2vec2_cmsc}", "clocs}"))
    with pytest.raises(SystemExit, match=r"error: .*theirs\.yaml: model 'clocs' is not here; there are ecg_"):
        convert(source, "--out", tmp_path / "ours.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.yaml"]


def test_help_and_a_missing_word(capsys):
    for arguments, status in ((["config", "--help"], 0), (["config", "convert", "--help"], 0), (["config"], 2)):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == status
    assert "fairseq-hydra-train" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (
            "config ecg_fn",
            "ecg_fn: no such file; did you mean ecg_fm? It comes with this package and is used as ",
        ),
        ("config convert ecg_fn.yaml", "ecg_fn.yaml: no such file; did you mean ecg_fm?"),
        ("config convert ecg_fm", "ecg_fm: no such file; did you mean ecg_fm?"),
        ("config convert thiers.yaml", "thiers.yaml: no such file; did you mean theirs.yaml?"),
        ("config convert nothing", "nothing: no such file; give a config (.yaml) or a checkpoint"),
    ],
)
def test_a_config_that_is_not_there(source, monkeypatch, typed, told):
    monkeypatch.chdir(source.parent)
    with pytest.raises(SystemExit) as ended:
        main(typed.split())
    assert str(ended.value).startswith(f"error: {told}") and "\n" not in str(ended.value)
