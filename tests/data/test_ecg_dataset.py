"""The dataset: values, pairs, randomness, dropped recordings, and every kind of damage."""

import pickle

import numpy as np
import pytest
import scipy.io
import torch
from made_up import RATE, open_dataset, write_mat, write_shards

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.data.augmentations import AugmentationSettings
from fairseq_signals_ext.data.batch_order import ErrorsAsSamples
from fairseq_signals_ext.data.time_masks import MaskSettings

SEGMENT = 5 * RATE


def batch_of(dataset, indices=None):
    return dataset.collater([dataset[i] for i in (range(len(dataset)) if indices is None else indices)])


def standardised(counts):
    counts = counts.astype(np.float64)
    deviation = counts.std(axis=1, keepdims=True)
    return (counts - counts.mean(axis=1, keepdims=True)) / np.where(deviation > 0, deviation, 1) * (deviation > 0)


def test_single_segments_are_standardised_over_the_recording(tmp_path):
    recordings = write_shards(tmp_path, [5000, 7000, 2499, 2500])
    batch = batch_of(open_dataset(tmp_path))
    starts = [(0, 0), (0, 2500), (1, 0), (1, 2500), (3, 0)]
    expected = [standardised(recordings[r])[:, s : s + SEGMENT] for r, s in starts]
    np.testing.assert_allclose(batch["net_input"]["source"].numpy(), expected, atol=1e-5)
    assert batch["segment"].tolist() == [0] * 5
    assert batch["net_input"]["source"].dtype == torch.float32
    assert "padding_mask" not in batch["net_input"]


def test_fixed_pairs(tmp_path):
    recordings = write_shards(tmp_path, [5000, 12600, 4999], patients=["a", "b", "a"])
    dataset = open_dataset(tmp_path, pairs="fixed")
    batch = batch_of(dataset)
    starts = [(0, 0), (0, 2500), (1, 0), (1, 2500), (1, 5000), (1, 7500)]
    expected = [standardised(recordings[r])[:, s : s + SEGMENT] for r, s in starts]
    np.testing.assert_allclose(batch["net_input"]["source"].numpy(), expected, atol=1e-5)
    assert batch["segment"].tolist() == [0, 1] * 3
    assert batch["id"].tolist() == [0, 0, 1, 1, 2, 2]
    patients = batch["patient_id"].tolist()
    assert patients[0] == patients[1] != patients[2] == patients[3] == patients[4] == patients[5]


def test_patient_is_the_same_number_in_every_recording_of_theirs(tmp_path):
    write_shards(tmp_path, [5000] * 6, patients=["a", "b", "a", "c", "b", "a"], shard_size=2)
    patients = batch_of(open_dataset(tmp_path, pairs="fixed"))["patient_id"].tolist()[::2]
    assert [patients.index(patient) for patient in patients] == [0, 1, 0, 3, 1, 0]


def test_random_pairs_are_adjacent_and_new_in_each_epoch(tmp_path):
    recordings = write_shards(tmp_path, [9000])
    dataset = open_dataset(tmp_path, pairs="random")
    expected, starts = standardised(recordings[0]), set()
    for epoch in range(1, 12):
        dataset.set_epoch(epoch)
        first, second = batch_of(dataset, [0])["net_input"]["source"].numpy()
        start = dataset[0].start
        assert 0 <= start <= 4000
        np.testing.assert_allclose(first, expected[:, start : start + SEGMENT], atol=1e-5)
        np.testing.assert_allclose(second, expected[:, start + SEGMENT : start + 2 * SEGMENT], atol=1e-5)
        starts.add(start)
    assert len(starts) > 5


def test_randomness_comes_from_seed_epoch_and_item_alone(tmp_path):
    write_shards(tmp_path, [5000] * 5)
    noisy = AugmentationSettings(perturbation_mode=("random_leads_masking", "emg_noise"), p=(0.7,))

    def source(indices, seed=1, epoch=1):
        dataset = open_dataset(tmp_path, pairs="random", augmentations=noisy, seed=seed)
        dataset.set_epoch(epoch)
        return batch_of(dataset, indices)["net_input"]["source"]

    together, alone = source([4, 2, 0]), source([2])
    assert torch.equal(together[2:4], alone)
    assert not torch.equal(alone, source([2], epoch=2))
    assert not torch.equal(alone, source([2], seed=2))


def test_a_constant_lead_becomes_zeros(tmp_path):
    from fairseq_signals_ext.data.shards import ShardWriter

    counts = np.random.default_rng(0).integers(-500, 500, (12, 5000)).astype(np.int16)
    counts[3] = 77
    with ShardWriter(tmp_path / "a.npy") as writer:
        writer.add(
            counts, leads=range(12), scale=np.full(12, 0.005), zero=np.zeros(12), sample_rate=RATE, idx=0, patient="p"
        )
    (tmp_path / "train.tsv").write_text(".\na.npy\t0\t5000\n")
    source = batch_of(open_dataset(tmp_path))["net_input"]["source"]
    assert (source[:, 3] == 0).all()
    assert (source[:, [0, 1, 2, 4]].std(dim=-1) > 0.9).all()


def test_leads_are_in_the_requested_order(tmp_path):
    recordings = write_shards(tmp_path, [2500])
    source = batch_of(open_dataset(tmp_path, leads=(6, 0)))["net_input"]["source"]
    np.testing.assert_allclose(source[0].numpy(), standardised(recordings[0])[[6, 0]], atol=1e-5)
    padded = batch_of(open_dataset(tmp_path, leads=(6, 0), pad_leads=True))["net_input"]["source"]
    assert padded.shape == (1, 12, 2500)
    assert torch.equal(padded[0, [6, 0]], source[0])
    assert (padded[0, [1, 2, 3, 4, 5, 7, 8, 9, 10, 11]] == 0).all()


def test_absent_leads(tmp_path):
    recordings = write_shards(tmp_path, [2500], leads=(0, 1, 7))
    with pytest.raises(UserError, match="recording idx 0 .*no lead III, aVR.*enable_padding_leads"):
        open_dataset(tmp_path)[0]
    source = batch_of(open_dataset(tmp_path, pad_leads=True))["net_input"]["source"]
    np.testing.assert_allclose(source[0, [0, 1, 7]].numpy(), standardised(recordings[0]), atol=1e-5)
    assert (source[0, [2, 3, 4, 5, 6, 8, 9, 10, 11]] == 0).all()


@pytest.mark.parametrize("mode", ["random_leads_masking", "emg_noise"])
def test_augmentation_reaches_chosen_leads_only_and_only_training(tmp_path, mode):
    write_shards(tmp_path, [2500])
    settings = {"leads": (0, 6), "pad_leads": True, "augmentations": AugmentationSettings((mode,), mask_leads_prob=1.0)}
    plain = batch_of(open_dataset(tmp_path, training=False, **settings))["net_input"]["source"]
    batch = batch_of(open_dataset(tmp_path, keep_original=True, **settings))
    changed = (batch["net_input"]["source"] != plain).any(dim=-1)[0]
    assert changed.nonzero().ravel().tolist() == [0, 6]
    assert torch.equal(batch["original"], plain)


def test_normalize_equals_ecg_fm(tmp_path):
    recordings = write_shards(tmp_path, [2500])
    scale = 0.001 * (1 + np.arange(12) / 10)
    millivolts = torch.from_numpy((recordings[0] - np.arange(12)[:, None] * 3.0) * scale[:, None]).float()
    expected = torch.nn.functional.layer_norm(millivolts, millivolts.shape)
    source = batch_of(open_dataset(tmp_path, standardization="segment"))["net_input"]["source"][0]
    torch.testing.assert_close(source, expected, atol=1e-5, rtol=1e-5)


def test_padding(tmp_path):
    recordings = write_shards(tmp_path, [1000, 6000])
    batch = batch_of(open_dataset(tmp_path, pad=True))
    assert batch["net_input"]["source"].shape == (3, 12, 2500)
    assert batch["net_input"]["padding_mask"].sum(dim=1).tolist() == [1500, 0, 0]
    short = batch["net_input"]["source"][0]
    np.testing.assert_allclose(short[:, :1000].numpy(), standardised(recordings[0]), atol=1e-5)
    assert (short[:, 1000:] == 0).all()


def test_dropped_recordings_are_counted(tmp_path, caplog):
    write_shards(tmp_path, [5000, 4999, 100, 10000])
    with caplog.at_level("INFO"):
        dataset = open_dataset(tmp_path, pairs="fixed")
    assert len(dataset) == 3
    assert "3 pairs of adjacent segments of 5 s from 2 recordings; 2 of 4 recordings dropped" in caplog.text


def test_crop_and_minimum(tmp_path):
    write_shards(tmp_path, [5000, 5500])
    dataset = open_dataset(tmp_path, max_sample_size=1000, min_sample_size=5001)
    assert batch_of(dataset)["net_input"]["source"].shape == (2, 12, 1000)
    assert set(dataset.sizes) == {1000} and dataset.num_tokens(0) == 1000


@pytest.mark.parametrize("recordings", [1, 7, 11])
def test_every_item_is_in_a_batch(tmp_path, recordings):
    """With the multiple of 8 that fairseq asks for by default."""
    write_shards(tmp_path, [5000] * recordings)
    dataset = ErrorsAsSamples(open_dataset(tmp_path, pairs="fixed"))
    batches = dataset.batch_by_size(dataset.ordered_indices(), max_sentences=4, required_batch_size_multiple=8)
    assert sorted(index for batch in batches for index in batch) == list(range(recordings))
    assert max(len(batch) for batch in batches) <= 4


def test_the_largest_batch_is_known_to_all_workers_in_each_epoch(tmp_path):
    write_shards(tmp_path, [5000] * 7)
    dataset = open_dataset(tmp_path, pairs="fixed")
    assert dataset.largest_batch == 0 and "most_segments" not in batch_of(dataset)

    class Batches:
        def __iter__(self):
            return iter(self.batches)

        def __len__(self):
            return len(self.batches)

    loader = torch.utils.data.DataLoader(
        dataset, batch_sampler=Batches(), collate_fn=dataset.collater, num_workers=2, persistent_workers=True
    )
    for size in (4, 3):
        loader.batch_sampler.batches = dataset.batch_by_size(dataset.ordered_indices(), max_sentences=size)
        assert dataset.largest_batch == size
        seen = list(loader)
        assert [batch["most_segments"] for batch in seen] == [2 * size] * len(seen)
        assert type(seen[0]["most_segments"]) is int
    assert dataset.collater([]) == {}


MASKS = MaskSettings([(8, 2, 2)] * 4, 16, 0.65, 10, "static", 0.0, False, 1, True, 0.0, 0.5, 4, "static", 0.0, False, 1)


def test_masks_repeat_and_follow_the_item(tmp_path):
    write_shards(tmp_path, [5000] * 4)
    dataset = open_dataset(tmp_path, pairs="fixed", masks=MASKS)
    batch = batch_of(dataset)
    mask = batch["net_input"]["mask_indices"]
    assert mask.shape == (8, 156) and mask.dtype == torch.bool
    assert batch["net_input"]["mask_channel_indices"].shape == (8, 16)
    assert batch["sample_size"] == mask.sum() and len(set(mask.sum(dim=1).tolist())) == 1
    assert len({tuple(row) for row in mask.tolist()}) == 8
    assert torch.equal(batch_of(dataset)["net_input"]["mask_indices"], mask)
    dataset.set_epoch(2)
    assert not torch.equal(batch_of(dataset)["net_input"]["mask_indices"], mask)


def test_masked_spans_are_those_of_fairseq(tmp_path):
    from fairseq.data.data_utils import compute_mask_indices

    write_shards(tmp_path, [5000] * 4)
    dataset = open_dataset(tmp_path, pairs="fixed", masks=MASKS)
    expected = compute_mask_indices((8, 156), None, 0.65, 10, min_masks=2, seed=1, epoch=1, indices=torch.arange(8))
    assert np.array_equal(batch_of(dataset)["net_input"]["mask_indices"].numpy(), expected)


@pytest.mark.parametrize("selection, no_overlap", [("uniform", False), ("static", True), ("uniform", True)])
def test_masks_that_fairseq_cannot_make(tmp_path, selection, no_overlap):
    import dataclasses

    write_shards(tmp_path, [2500] * 3)
    masks = dataclasses.replace(MASKS, selection=selection, other=5.0, no_overlap=no_overlap)
    mask = batch_of(open_dataset(tmp_path, masks=masks))["net_input"]["mask_indices"]
    assert len(set(mask.sum(dim=1).tolist())) == 1 and 30 < mask[0].sum() < 130


def test_a_persistent_worker_sees_the_epoch(tmp_path):
    write_shards(tmp_path, [9000] * 2)
    dataset = open_dataset(tmp_path, pairs="random")
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=2, collate_fn=dataset.collater, num_workers=1, persistent_workers=True
    )
    seen = []
    for epoch in (1, 2):
        dataset.set_epoch(epoch)
        (batch,) = list(loader)
        assert torch.equal(batch["net_input"]["source"], batch_of(dataset)["net_input"]["source"])
        seen.append(batch["net_input"]["source"])
    assert not torch.equal(*seen)


def test_a_pickled_dataset_is_small_and_equal(tmp_path):
    write_shards(tmp_path, [5000] * 4)
    dataset = open_dataset(tmp_path, pairs="fixed")
    content = pickle.dumps(dataset.store)
    assert len(content) < 10_000
    restored = pickle.loads(content)
    assert np.array_equal(restored.read(3).counts, dataset.store.read(3).counts)


def test_ecg_fm_pairs(tmp_path):
    feats = np.random.default_rng(0).normal(size=(12, 5000))
    for number in (0, 1):
        write_mat(tmp_path / "segmented" / f"rec_{number}.mat", feats[:, number * SEGMENT :][:, :SEGMENT], idx=42)
    (tmp_path / "train.tsv").write_text(f"{tmp_path / 'segmented'}\nmat\nrec\t2500\t0\t0,1\n")
    batch = batch_of(open_dataset(tmp_path, pairs="fixed"))
    np.testing.assert_allclose(
        batch["net_input"]["source"].numpy(), [feats[:, :SEGMENT], feats[:, SEGMENT:]], atol=1e-6
    )
    assert batch["patient_id"].tolist() == [42, 42]


def test_real_ecg_fm_files(ecg_data, tmp_path):
    folder = ecg_data / "code15_ecg_fm" / "segmented"
    files = sorted(folder.glob("*.mat"))
    (tmp_path / "train.tsv").write_text(f"{folder}\n" + "".join(f"{file.name}\t2500\n" for file in files))
    batch = batch_of(open_dataset(tmp_path))
    assert len(batch["id"]) == len(files) > 10
    for found, file in zip(batch["net_input"]["source"].numpy(), files):
        np.testing.assert_allclose(found, scipy.io.loadmat(file)["feats"], atol=1e-5)


# --- damage: each is one UserError that names file and item


def damage(folder, name, position, value=None):
    path = folder / name
    content = bytearray(path.read_bytes())
    if value is None:
        content = content[:position]
    else:
        content[position] ^= value
    path.write_bytes(content)


@pytest.fixture()
def shards(tmp_path):
    write_shards(tmp_path, [5000] * 6)
    return tmp_path


@pytest.mark.parametrize("name", ["shards/00001.npy", "shards/00001.index.npy"])
def test_missing_shard(shards, name):
    (shards / name).unlink()
    with pytest.raises(UserError, match=f"{name}: no such file"):
        open_dataset(shards)


@pytest.mark.parametrize("name", ["shards/00001.npy", "shards/00001.index.npy"])
@pytest.mark.parametrize("kept", [0, 40, -1])
def test_truncated_shard(shards, name, kept):
    damage(shards, name, kept)
    with pytest.raises(UserError, match=f"{name}: truncated"):
        open_dataset(shards)


def test_flipped_byte(shards):
    damage(shards, "shards/00001.npy", 128 + 2 * 12 * 5000 + 77, 1)
    dataset = open_dataset(shards, pairs="fixed")
    for index in range(5):
        dataset[index]
    with pytest.raises(UserError, match=r"shards/00001.npy: recording idx 5 \(row 1\): checksum differs \(stored"):
        dataset[5]
    assert open_dataset(shards, pairs="fixed", checksum="never")[5]
    with pytest.raises(UserError, match="checksum='sometimes'"):
        open_dataset(shards, checksum="sometimes")


def test_a_recording_is_checked_once_or_always(shards):
    once, always = open_dataset(shards), open_dataset(shards, checksum="always")
    once[0], always[0]
    damage(shards, "shards/00000.npy", 200, 1)
    once[0]
    with pytest.raises(UserError, match="checksum"):
        always[0]


def test_manifest_and_shards_of_different_runs(shards):
    text = (shards / "train.tsv").read_text()
    (shards / "train.tsv").write_text(text + "shards/00001.npy\t9\t5000\n")
    with pytest.raises(UserError, match="names row 9, but the shard has 2 recordings"):
        open_dataset(shards)
    (shards / "train.tsv").write_text(text.replace("\t1\t5000", "\t1\t6000"))
    with pytest.raises(UserError, match=r"row 1\): manifest, index and shard do not agree"):
        open_dataset(shards)[2]


def test_sample_rate_that_float32_rounds(tmp_path):
    write_shards(tmp_path, [5000], sample_rate=99.9)
    assert open_dataset(tmp_path, sample_rate=99.9)[0].samples == 500


def test_wrong_sample_rate(tmp_path):
    write_shards(tmp_path, [5000], sample_rate=400)
    with pytest.raises(UserError, match="idx 0 .*400 Hz where 500 Hz is wanted; prepare with --rate 500"):
        open_dataset(tmp_path, sample_rate=500)[0]


def test_fewer_than_two_segments_everywhere(tmp_path):
    write_shards(tmp_path, [4999, 2500])
    with pytest.raises(UserError, match="none of 2 recordings has 10 s at 500 Hz .pairs"):
        open_dataset(tmp_path, pairs="fixed")


def test_nan_in_a_mat_file(tmp_path):
    feats = np.zeros((12, 2500))
    feats[4, 5] = np.nan
    write_mat(tmp_path / "a.mat", feats, idx=1)
    (tmp_path / "train.tsv").write_text(".\na.mat\t2500\n")
    with pytest.raises(UserError, match="a.mat: NaN"):
        open_dataset(tmp_path)[0]


def test_damaged_mat_files(tmp_path):
    (tmp_path / "train.tsv").write_text(".\na.mat\t2500\n")
    with pytest.raises(UserError, match="a.mat: no such file"):
        open_dataset(tmp_path)
    (tmp_path / "a.mat").write_bytes(b"nothing")
    with pytest.raises(UserError, match="a.mat: not a .mat file"):
        open_dataset(tmp_path)
    write_mat(tmp_path / "a.mat", np.zeros((12, 2400)), idx=1)
    with pytest.raises(UserError, match="2400 samples, but the manifest has 2500"):
        open_dataset(tmp_path)


def test_masks_of_whole_segments_are_refused(tmp_path):
    import dataclasses

    write_shards(tmp_path, [2500])
    dataset = open_dataset(tmp_path, masks=dataclasses.replace(MASKS, prob=50.0, length=10))
    with pytest.raises(UserError, match="mask_prob=50"):
        batch_of(dataset)


def test_unknown_pairs(shards):
    with pytest.raises(UserError, match="pairs='all'"):
        open_dataset(shards, pairs="all")
