import json

import pytest
import torch
from made_up_checkpoints import saved_checkpoint

from fairseq_signals_ext.checkpoints.inspecting import inspect_model
from fairseq_signals_ext.cli import main


def inspect(path, capsys, *options):
    assert main(["inspect", str(path), *options]) == 0
    return capsys.readouterr().out


def test_text_has_all_facts_and_fits(golden_folder, capsys):
    for name in ("tiny_pretrained", "tiny_finetuned"):
        text = inspect(golden_folder / f"{name}.pt", capsys)
        assert max(map(len, text.splitlines())) <= 110
        assert "None" not in text and "null" not in text and "{" not in text
    sections = {}
    for block in text.rstrip().split("\n\n"):
        heading, *lines = block.splitlines()
        sections[heading] = {line[2:28].strip(): line[28:] for line in lines if line[2] != " "}
    assert sections["file"]["size"] == "402 kB" and sections["parameters"]["total"] == "93,793"
    assert sections["model"]["convolutions"] == "[(32,2,2)]*4" and sections["model"]["norm first"] == "no"
    assert sections["model"]["frames per second"] == "31.25" and sections["progress"]["updates"] == "123"
    assert sections["training"]["optimizer"].startswith("adam, adam_betas=(0.9, 0.98), adam_eps=1e-08, weight_decay=0")


def test_the_best_metric_has_its_name(tmp_path, capsys):
    path = saved_checkpoint(tmp_path / "checkpoint.pt")
    state = torch.load(path, weights_only=True)
    state["cfg"]["checkpoint"] = {"best_checkpoint_metric": "auroc"}
    torch.save({**state, "extra_state": {"best": 0.875, "val_loss": 0.75}}, path)
    lines = [line.split() for line in inspect(path, capsys).splitlines()]
    assert ["best", "auroc", "0.875"] in lines and ["last", "validation", "auroc", "0.75"] in lines


def test_label_table(tmp_path, capsys):
    text = inspect(saved_checkpoint(tmp_path / "checkpoint.pt"), capsys)
    lines = text.splitlines()
    first = lines.index(next(line for line in lines if line.split() == ["name", "threshold", "aggregation"]))
    assert [line.split()[:3] for line in lines[first + 1 : first + 4]] == [
        ["0", "A", "0.25"],
        ["1", "B", "0.5"],
        ["2", "C", "0.75"],
    ]
    regression = inspect(saved_checkpoint(tmp_path / "regression.pt", "regression"), capsys)
    assert any(line.split()[-2:] == ["1000", "300"] for line in regression.splitlines())


def test_json_is_the_same_and_valid(tmp_path, capsys):
    path = saved_checkpoint(tmp_path / "checkpoint.pt")
    state = torch.load(path, weights_only=True)
    torch.save({**state, "extra_state": {"best": float("nan"), "metrics": []}}, path)

    def refuse(constant):
        raise AssertionError(constant)

    facts = json.loads(inspect(path, capsys, "--json"), parse_constant=refuse)
    assert facts == inspect_model(path) and facts["progress"]["best"] is None


@pytest.mark.parametrize(
    ("seconds", "words"), [(7.76, "7.8 s"), (90.2, "1 min 30 s"), (3600 * 1234 + 125, "1,234 h 2 min")]
)
def test_training_time(tmp_path, capsys, seconds, words):
    path = saved_checkpoint(tmp_path / "checkpoint.pt")
    state = torch.load(path, weights_only=True)
    torch.save({**state, "extra_state": {"previous_training_time": seconds}}, path)
    assert f"training time             {words}\n" in inspect(path, capsys)


def test_a_file_that_is_none(tmp_path):
    (tmp_path / "no.pt").write_bytes(b"PK not a checkpoint")
    with pytest.raises(SystemExit, match=r"error: .*no\.pt: is damaged or cut short") as end:
        main(["inspect", str(tmp_path / "no.pt")])
    assert "\n" not in str(end.value)
