"""CMSC where a batch has one pair of segments, and so nothing to compare it with."""

import logging

import pytest
from in_process import saved, train_here
from made_up import write_shards
from running import SMALL

OPTIONS = [*SMALL, "++optimization.max_epoch=1", "++dataset.disable_validation=true"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "valid"):
        write_shards(folder, [5000] * 5, split=split)
    return folder


def test_batches_of_one_pair_are_refused(data, tmp_path):
    with pytest.raises(SystemExit, match="dataset.batch_size=1.*cmsc_gather"):
        train_here(data, tmp_path, *OPTIONS, "++dataset.batch_size=1")


@pytest.mark.slow
def test_batches_of_one_pair_may_be_where_cmsc_has_no_weight(data, tmp_path):
    options = ["++dataset.batch_size=1", "++criterion.cmsc_weights=0", "++optimization.max_update=1"]
    assert saved(train_here(data, tmp_path, *OPTIONS, *options))


def test_a_last_batch_of_one_pair_is_told_once_and_not_counted(data, tmp_path, caplog):
    """Of five pairs the last batch has one."""
    with caplog.at_level(logging.WARNING):
        folder = train_here(data, tmp_path, *OPTIONS, "++optimization.max_epoch=2")
    told = [record for record in caplog.records if "one pair of segments" in record.getMessage()]
    assert len(told) == 1 and saved(folder)["extra_state"]["train_iterator"]["epoch"] == 3
