"""A training that is killed and started again ends with the weights of an unbroken one, bit for bit."""

import os
import signal
import subprocess
import time

import pytest
from made_up import write_shards
from running import FAST, SMALL, train, train_command, weights

UPDATES = 14
OVERRIDES = [
    *SMALL,
    f"++optimization.max_update={UPDATES}",
    "++common.log_interval=1",
    "++checkpoint.save_interval_updates=2",
    "++checkpoint.keep_interval_updates=-1",
    "++dataset.disable_validation=true",
    "++task.pairs=random",
    "++task.perturbation_mode=[random_leads_masking,emg_noise]",
    "++model.encoder_layers=2",
    "++model.encoder_layerdrop=0.3",
    "++model.mask_channel_prob=0.5",
    "++model.mask_channel_length=4",
]


COMPILED = ["++model.compile=true", "++model.encoder_layerdrop=0"]
slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("workers", "others"),
    [
        pytest.param(0, [], marks=slow, id="no workers"),
        pytest.param(2, [], id="two workers"),
        pytest.param(2, FAST, marks=slow, id="fast"),
        pytest.param(2, [*FAST, *COMPILED], marks=slow, id="fast and compiled"),
    ],
)
def test_kill_and_resume(tmp_path, workers, others):
    write_shards(tmp_path, [9000] * 24)  # six updates an epoch
    overrides = [*OVERRIDES, f"++dataset.num_workers={workers}", *others]
    train(tmp_path, tmp_path / "unbroken", *overrides)

    out = tmp_path / "broken"
    process = subprocess.Popen(
        train_command(tmp_path, out, *overrides),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    log = out / "hydra_train.log"
    killed_after = "checkpoint_2_8.pt (epoch 2 @ 8 updates"  # the second update of the second epoch, saved and copied
    deadline = time.monotonic() + 120
    while not (log.exists() and killed_after in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert killed_after in log.read_text()
    assert not list((out / "checkpoints").glob(f"*_{UPDATES}.pt")), "it was too late to kill it"

    log = train(tmp_path, out, *overrides)
    assert "Loaded checkpoint" in log
    expected = weights(tmp_path / "unbroken" / "checkpoints" / "checkpoint_last.pt")
    found = weights(out / "checkpoints" / "checkpoint_last.pt")
    assert expected.keys() == found.keys()
    differences = {key: float((expected[key] - found[key]).abs().max()) for key in expected}
    assert max(differences.values()) == 0
