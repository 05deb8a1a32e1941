"""Models and recordings for reports."""

import datetime
import functools

import numpy as np
import pytest
from browser import shared_page
from made_up import made_up_counts, plain_recording
from made_up_checkpoints import made_up_checkpoint

from fairseq_signals_ext.checkpoints.describing import describe
from fairseq_signals_ext.checkpoints.description import ModelDescription, Preprocessing
from fairseq_signals_ext.inference.backends import TorchBackend
from fairseq_signals_ext.inference.model import LoadedModel
from fairseq_signals_ext.inference.network import build_network
from fairseq_signals_ext.pages.report_findings import ReportOptions

DATE = datetime.date(2024, 5, 6)


@pytest.fixture(scope="session")
def browser():
    return shared_page()


@pytest.fixture(scope="session")
def made_up_model():
    """The model of a made-up checkpoint, each made once: segments of 1 s, labels A, B, C."""

    @functools.lru_cache(maxsize=None)
    def make(kind="classification", **options):
        checkpoint = made_up_checkpoint(kind, **options)
        description = describe(checkpoint)
        return LoadedModel(description, TorchBackend(build_network(checkpoint, description)), "folder/made_up.pt")

    return make


@pytest.fixture(scope="session")
def saying():
    """Makes a model that predicts given probabilities for every segment; it supports no saliency."""

    def make(probabilities, **facts):
        labels = tuple(probabilities)
        logits = np.array([np.log(p / (1 - p)) for p in probabilities.values()], np.float32)

        def backend(source, padding_mask):
            return np.tile(logits, (len(source), 1)), source.mean(axis=2)

        facts = {"label_names": labels, "aggregation": ("mean",) * len(labels), **facts}
        description = ModelDescription("classification", {}, Preprocessing(), **facts)
        return LoadedModel(description, backend, "folder/saying.pt")

    return make


@pytest.fixture(scope="session")
def recording():
    """Makes a made-up recording."""

    def make(seconds=10, leads=range(12), seed=0, **facts):
        leads = tuple(leads)
        counts = made_up_counts(np.random.default_rng(seed), int(500 * seconds), len(leads))
        return plain_recording(counts / 1000, leads=leads, **facts)

    return make


@pytest.fixture(scope="session")
def options():
    """Makes options of a report without saliency, of a certain day."""

    def make(**given):
        return ReportOptions(**{"saliency": None, "date": DATE, **given})

    return make
