"""Filters leave out the right recordings, and count them."""

import pytest
from made_up import write_shards
from made_up_tables import ALL_LEADS, split, times, write_table

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.data.manifest import find_manifests, read_manifests


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        ({"without_flags": ("nan",)}, {"flag nan": [0, 1]}),
        ({"without_flags": ("clipped", "nan")}, {"flag clipped": [1], "flag nan": [0]}),
        ({"with_leads": 12}, {"fewer than 12 leads": [2, 3, 4]}),
        ({"with_leads": 6}, {"fewer than 6 leads": [4]}),
        ({"needs_leads": "V1,ii"}, {"without all of the leads V1,ii": [2, 3, 4]}),
        ({"where": (("age", ">=", "18"),)}, {"not age >= 18": [0, 1]}),
        ({"where": (("age", "!=", "18"),)}, {"not age != 18": [0, 2]}),
        ({"where": (("age", "in", "18, 17.5"),)}, {"not age in 18, 17.5": [0, 3, 4, 5, 6, 7]}),
        ({"where": (("sex", "==", "male"),)}, {"not sex == male": [1, 3]}),
        ({"where": (("sex", "in", "male,other"),)}, {"not sex in male,other": [1, 3]}),
        ({"where": (("start_time", "<", "2019-01-05"),)}, {"not start_time < 2019-01-05": [0, 5, 6, 7]}),
        (
            {"where": (("idx", "<=", "6"), ("sex", "!=", "male")), "with_leads": 6},
            {"fewer than 6 leads": [4], "not idx <= 6": [7], "not sex != male": [0, 2, 3, 5, 6]},
        ),
    ],
)
def test_filters(tmp_path, filters, left):
    table = write_table(
        tmp_path,
        8,
        flags=[["nan"], ["clipped", "nan"], ["flat"], None, [], [], [], []],
        leads=[ALL_LEADS] * 3 + ["I,II,III,aVR,aVL,aVF", None] + [ALL_LEADS] * 3,
        filled_leads=["", "", "V1,V2,V3,V4,V5,V6", "", None, "", "", ""],
        age=[None, 17.5, 18.0, 18.5, 19.0, 20.0, 80.0, 89.0],
        sex=["male", "female", "male", None, "male", "male", "male", "male"],
        start_time=times(None, 0, 1, 2, 3, 4, 5, 6),
    )
    found, summary = split(tmp_path, table, fractions=(1, 0, 0), filters=filters)
    assert summary.left_out == {reason: len(idx) for reason, idx in left.items()}
    assert found["train"] == sorted(set(range(8)) - {one for idx in left.values() for one in idx})


def test_seconds_are_those_of_the_shards(tmp_path):
    samples = [2000, 2500, 2499, 5000, 1000, 1250, 1249, 5000]
    write_shards(tmp_path, samples[:4], sample_rate=500)
    write_shards(tmp_path / "slow", samples[4:], sample_rate=250)
    for path in (tmp_path / "slow" / "shards").iterdir():
        path.rename(tmp_path / "shards" / path.name.replace("00000", "00001"))
    table = write_table(tmp_path, 8, samples=samples, sample_rate=[1000.0] * 8)
    found, summary = split(tmp_path, table, fractions=(0.5, 0, 0.5), filters={"min_seconds": 5})
    assert sorted(found["train"] + found["test"]) == [1, 3, 5, 7]
    assert summary.left_out == {"shorter than 5 s": 4}
    manifest = read_manifests(find_manifests(tmp_path / "splits" / "s", "test"))
    assert all(shard.is_file() for shard in manifest.shards)
    assert manifest.samples.tolist() == [samples[idx] for idx in found["test"]]
    (tmp_path / "shards" / "00001.index.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"00001\.index\.npy: cannot be read .*prepare it again"):
        split(tmp_path, table, "t", filters={"min_seconds": 5})
