"""A small model behind the service, and the command in a process of its own."""

import pytest
from browser import shared_page
from made_up_checkpoints import saved_checkpoint
from serving_process import running

import fairseq_signals_ext


@pytest.fixture(scope="session")
def browser():
    return shared_page()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Of a small classifier with thresholds; its segments are 1 s of every 5 s."""
    return saved_checkpoint(tmp_path_factory.mktemp("model") / "small.pt")


@pytest.fixture(scope="session")
def model(checkpoint):
    return fairseq_signals_ext.load(checkpoint)


@pytest.fixture(scope="session")
def served(checkpoint, tmp_path_factory):
    """One for all tests that leave it as it is; SIGTERM ends it cleanly."""
    with running(tmp_path_factory.mktemp("served"), checkpoint, "--port", 0, "--threads", 1) as one:
        yield one
        assert one.end() == 0
