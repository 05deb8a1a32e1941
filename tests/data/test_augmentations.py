"""Augmentations against their definitions, independent of the implementation."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.data.augmentations import AUGMENTATIONS, AugmentationSettings, build_augmentations

RATE = 500.0
SAMPLES = 1000
ALL = tuple(range(12))
I, II, III, AVR, AVL, AVF = range(6)  # noqa: E741
ADDITIVE = ["powerline_noise", "emg_noise", "baseline_shift", "baseline_wander"]
EVERY = ["random_leads_masking"] + ADDITIVE

seeds = st.integers(0, 2**32 - 1)
lead_lists = st.lists(st.sampled_from(ALL), min_size=1, max_size=12, unique=True)
quick = settings(max_examples=40, deadline=None)


def build(name, leads=ALL, p=1.0, rate=RATE, **options):
    (augmentation,) = build_augmentations(
        AugmentationSettings(perturbation_mode=(name,), p=(p,), **options), leads, rate
    )
    return augmentation


def signal(leads=ALL, samples=SAMPLES):
    return np.random.default_rng(7).standard_normal((len(leads), samples)).astype(np.float32)


def noise(name, leads=ALL, seed=0, samples=SAMPLES, **options):
    segment = np.zeros((len(leads), samples), np.float32)
    build(name, leads, **options)(segment, np.random.default_rng(seed))
    return segment


def within(hits, draws, probability):
    return abs(hits - draws * probability) <= 5 * np.sqrt(draws * probability * (1 - probability))


def test_the_names_are_those_of_ecg_fm():
    assert sorted(AUGMENTATIONS) == sorted(EVERY)
    assert build_augmentations(AugmentationSettings(), ALL, RATE) == []


@quick
@given(st.sampled_from(EVERY), lead_lists, seeds, st.integers(1, 700), st.booleans())
def test_same_seed_same_result_of_the_same_shape_and_type(name, leads, seed, samples, dependency):
    first, second = signal(leads, samples), signal(leads, samples)
    augmentation = build(name, leads, dependency=dependency)
    assert augmentation(first, np.random.default_rng(seed)) is None
    augmentation(second, np.random.default_rng(seed))
    assert first.shape == (len(leads), samples) and first.dtype == np.float32
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", EVERY)
def test_p_0_never_and_p_1_always_changes(name):
    rng = np.random.default_rng(3)
    never, always = build(name, p=0.0), build(name, mask_leads_prob=1.0, min_amplitude=0.1)
    for _ in range(50):
        kept, changed = signal(), signal()
        never(kept, rng)
        always(changed, rng)
        assert kept.tobytes() == signal().tobytes()
        assert (changed != signal()).any(axis=1).sum() >= 11  # powerline and shift may leave III alone


@pytest.mark.parametrize("name", EVERY)
def test_p_is_the_frequency_of_a_change(name):
    augmentation, rng = build(name, p=0.3, mask_leads_prob=1.0), np.random.default_rng(4)
    hits = 0
    for _ in range(2000):
        segment = np.ones((12, 20), np.float32)
        augmentation(segment, rng)
        hits += bool((segment != 1).any())
    assert within(hits, 2000, 0.3)


@pytest.mark.parametrize("name", [name for name in EVERY if name != "random_leads_masking"])
def test_the_draw_for_p_comes_first(name):
    rng, twin = np.random.default_rng(5), np.random.default_rng(5)
    build(name, p=0.0)(signal(), rng)
    twin.random()
    assert rng.random() == twin.random()


def test_lead_masking_draws_as_much_whether_it_masks_or_not():
    rng, twin = np.random.default_rng(5), np.random.default_rng(5)
    build("random_leads_masking", p=0.0)(signal(), rng)
    build("random_leads_masking", p=1.0)(signal(), twin)
    assert rng.random() == twin.random()


def test_each_augmentation_has_its_own_p_and_they_run_in_order():
    options = AugmentationSettings(("emg_noise", "random_leads_masking"), p=(0.0, 1.0), mask_leads_prob=1.0)
    for p, expected in (((1.0, 1.0), 0), ((0.0, 1.0), 0), ((0.0, 0.0), 1)):
        segment = np.ones((12, 20), np.float32)
        rng = np.random.default_rng(0)
        for augmentation in build_augmentations(dataclasses.replace(options, p=p), ALL, RATE):
            augmentation(segment, rng)
        assert (segment == expected).all()


def test_a_segment_of_other_leads_is_refused():
    with pytest.raises(ValueError, match="leads"):
        build("emg_noise", leads=ALL)(np.zeros((1, 20), np.float32), np.random.default_rng(0))


@pytest.mark.parametrize("leads", [ALL, (1, 7, 0), (11,)])
@pytest.mark.parametrize("prob", [0.0, 0.2, 0.5, 1.0])
def test_random_masking_has_its_rate_and_spares_the_survivors(leads, prob):
    augmentation, rng = build("random_leads_masking", leads, mask_leads_prob=prob), np.random.default_rng(8)
    before, masked = signal(leads, 30), np.zeros(len(leads), int)
    for _ in range(2000):
        segment = before.copy()
        augmentation(segment, rng)
        gone = (segment == 0).all(axis=1)
        assert segment[~gone].tobytes() == before[~gone].tobytes()
        masked += gone
    assert all(within(hits, 2000, prob) for hits in masked)


def test_random_masking_treats_leads_independently():
    augmentation, rng = build("random_leads_masking"), np.random.default_rng(9)
    gone = np.empty((4000, 12))
    for row in gone:
        segment = np.ones((12, 2), np.float32)
        augmentation(segment, rng)
        row[:] = segment[:, 0] == 0
    correlation = np.corrcoef(gone.T) - np.eye(12)
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)


@settings(max_examples=200, deadline=None)
@given(lead_lists, st.integers(0, 6), st.integers(0, 6), seeds)
def test_conditional_masking_counts_limb_and_chest_leads(leads, limb, chest, seed):
    before = signal(leads, 30)
    segment = before.copy()
    options = {"mask_leads_selection": "conditional", "mask_leads_condition": (limb, chest)}
    build("random_leads_masking", leads, **options)(segment, np.random.default_rng(seed))
    gone = (segment == 0).all(axis=1)
    is_limb = np.array(leads) < 6
    assert (gone & is_limb).sum() == min(limb, is_limb.sum())
    assert (gone & ~is_limb).sum() == min(chest, (~is_limb).sum())
    assert segment[~gone].tobytes() == before[~gone].tobytes()


def test_conditional_masking_gives_every_lead_the_same_chance():
    options = {"mask_leads_selection": "conditional", "mask_leads_condition": (4, 1)}
    augmentation, rng = build("random_leads_masking", **options), np.random.default_rng(10)
    masked = np.zeros(12, int)
    for _ in range(3000):
        segment = np.ones((12, 2), np.float32)
        augmentation(segment, rng)
        masked += segment[:, 0] == 0
    assert all(within(hits, 3000, 4 / 6) for hits in masked[:6])
    assert all(within(hits, 3000, 1 / 6) for hits in masked[6:])


@quick
@given(st.sampled_from(ADDITIVE), seeds, st.floats(0.01, 2.0))
def test_noise_of_derived_leads_follows_from_i_and_ii(name, seed, amplitude):
    added = noise(name, seed=seed, max_amplitude=amplitude, samples=200).astype(np.float64)
    bound = 1e-6 * np.abs(added).max()
    np.testing.assert_allclose(added[III], added[II] - added[I], atol=bound, rtol=0)
    np.testing.assert_allclose(added[AVR], -(added[I] + added[II]) / 2, atol=bound, rtol=0)
    np.testing.assert_allclose(added[AVL], added[I] - added[II] / 2, atol=bound, rtol=0)
    np.testing.assert_allclose(added[AVF], added[II] - added[I] / 2, atol=bound, rtol=0)


@quick
@given(st.sampled_from(ADDITIVE), lead_lists, seeds, st.booleans())
def test_noise_of_a_lead_does_not_depend_on_the_other_leads(name, leads, seed, dependency):
    whole = noise(name, seed=seed, dependency=dependency, samples=200)
    part = noise(name, leads, seed=seed, dependency=dependency, samples=200)
    np.testing.assert_array_equal(part, whole[leads])


@pytest.mark.parametrize("name", ["emg_noise", "baseline_wander"])
def test_without_dependency_derived_leads_have_noise_of_their_own(name):
    added = noise(name, dependency=False)
    assert np.abs(added[III] - (added[II] - added[I])).max() > 0.001
    np.testing.assert_array_equal(added[[I, II, 6, 11]], noise(name)[[I, II, 6, 11]])


@pytest.mark.parametrize("name", ADDITIVE)
def test_noise_is_added_to_the_signal_that_is_there(name):
    segment = signal()
    build(name, max_amplitude=0.5)(segment, np.random.default_rng(0))
    np.testing.assert_allclose(segment - signal(), noise(name, max_amplitude=0.5), atol=2e-6)


@quick
@given(seeds, st.sampled_from([250.0, 500.0, 1000.0]))
def test_powerline_noise_is_one_cosine_of_50_or_60_hz(seed, rate):
    samples = int(2 * rate)
    options = {"max_amplitude": 0.3, "min_amplitude": 0.2, "dependency": False}
    added = noise("powerline_noise", seed=seed, samples=samples, rate=rate, **options)
    assert (added == added[0]).all()
    assert 0.19 <= np.abs(added).max() <= 0.3 + 1e-6
    spectrum = np.abs(np.fft.rfft(added[0].astype(np.float64))) ** 2
    peak = spectrum.argmax()
    assert np.fft.rfftfreq(samples, 1 / rate)[peak] in (50, 60)
    assert spectrum[peak] > 0.999 * spectrum.sum()


def test_powerline_noise_has_both_frequencies_any_phase_and_any_amplitude():
    peaks, phases, amplitudes = [], [], []
    for seed in range(1000):
        spectrum = np.fft.rfft(noise("powerline_noise", leads=(0,), seed=seed, samples=500)[0])
        peaks.append(np.abs(spectrum).argmax())
        phases.append(np.angle(spectrum[peaks[-1]]))
        amplitudes.append(np.abs(spectrum).max() / 250)
    assert within(peaks.count(50), 1000, 0.5) and set(peaks) == {50, 60}
    assert np.histogram(phases, 4, (-np.pi, np.pi))[0].min() > 180
    assert np.histogram(amplitudes, 4, (0, 0.1))[0].min() > 180


def test_emg_noise_is_white_and_gaussian_with_the_amplitude_as_deviation():
    added = noise("emg_noise", samples=50_000, max_amplitude=0.3, min_amplitude=0.3, dependency=False)
    np.testing.assert_allclose(added.std(axis=1), 0.3, rtol=0.03)
    assert np.abs(added.mean(axis=1)).max() < 5 * 0.3 / np.sqrt(50_000)
    np.testing.assert_allclose(np.mean((added / 0.3) ** 4, axis=1), 3, rtol=0.1)
    assert np.abs(np.corrcoef(added) - np.eye(12)).max() < 0.03
    assert np.abs(np.mean(added[:, 1:] * added[:, :-1], axis=1) / 0.09).max() < 0.03


def test_emg_noise_has_an_amplitude_for_each_lead():
    deviations = noise("emg_noise", max_amplitude=0.4, min_amplitude=0.1, dependency=False).std(axis=1)
    assert len(set(deviations.round(3))) > 6
    assert deviations.min() > 0.09 and deviations.max() < 0.44


@quick
@given(seeds, st.integers(1, 600), st.floats(0.01, 1.0), st.integers(1, 3))
def test_baseline_shift_is_a_constant_up_or_down(seed, samples, ratio, stretches):
    amplitude = 0.25
    options = {"max_amplitude": amplitude, "min_amplitude": amplitude, "shift_ratio": ratio, "num_segment": stretches}
    added = noise("baseline_shift", seed=seed, samples=samples, **options)[[I, II, *range(6, 12)]]
    assert set(np.unique(added)) <= {np.float32(0), np.float32(amplitude), np.float32(-amplitude)}
    shifted = added != 0
    assert (shifted == shifted[0]).all() and shifted.any()
    assert all(len(set(lead[shifted[0]])) == 1 for lead in added)
    edges = np.diff(np.concatenate([[0], shifted[0].astype(int), [0]]))
    assert (edges == 1).sum() <= stretches


def test_baseline_shift_has_the_specified_distributions():
    lengths, starts, ups, amplitudes = [], [], 0, []
    for seed in range(1000):
        added = noise("baseline_shift", leads=(0, 8), seed=seed)
        where = np.flatnonzero(added[0])
        lengths.append(len(where))
        starts.append(where[0] / (SAMPLES - len(where)))
        ups += (added[0, where[0]] > 0) == (added[1, where[0]] > 0)
        amplitudes.append(np.abs(added).max())
    assert np.mean(lengths) == pytest.approx(200, abs=5 * 40 / np.sqrt(1000))
    assert np.std(lengths) == pytest.approx(40, rel=0.12)
    assert np.histogram(starts, 4, (0, 1))[0].min() > 180
    assert within(ups, 1000, 0.5)
    assert np.histogram(amplitudes, 4, (0, 0.1))[0].min() > 180 and max(amplitudes) <= 0.1 + 1e-6


@quick
@given(seeds, st.integers(1, 5), st.floats(0.01, 1.0))
def test_baseline_wander_is_one_bounded_drift_times_a_factor_for_each_lead(seed, k, amplitude):
    added = noise("baseline_wander", seed=seed, k=k, max_amplitude=amplitude, dependency=False).astype(np.float64)
    _, sizes, _ = np.linalg.svd(added, full_matrices=False)
    assert sizes[1] <= 1e-5 * sizes[0]
    # a factor beyond 1 +- 5 deviations is out of the question
    assert np.abs(added).max() <= k * amplitude * 3.5


@pytest.mark.parametrize("k", [1, 4])
def test_baseline_wander_stays_in_its_band(k):
    for seed in range(30):
        options = {"k": k, "min_freq": 0.5, "max_freq": 2.0, "min_amplitude": 0.1}
        added = noise("baseline_wander", seed=seed, samples=20_000, **options)[6]
        power = np.abs(np.fft.rfft(added * np.hanning(20_000))) ** 2
        hertz = np.fft.rfftfreq(20_000, 1 / RATE)
        inside = (hertz >= 0.4) & (hertz <= 2.1)
        assert power[inside].sum() > 0.999 * power.sum()


def test_factors_of_baseline_wander_are_normal_about_one():
    ratios = []
    for seed in range(1500):
        added = noise("baseline_wander", leads=tuple(range(6, 12)), seed=seed, samples=50)
        at = np.abs(added).max(axis=0).argmax()
        ratios.append(added[:, at] / np.median(added[:, at]))
    # the sign of a factor relative to the others: P(N(1, 0.5) < 0) = 0.0228
    assert within((np.array(ratios) < 0).sum(), 9000, 0.0228)


NAN = float("nan")


@pytest.mark.parametrize(
    "option, value",
    [
        ("perturbation_mode", ("emg_noise", "emg")),
        ("perturbation_mode", "emg_noise"),
        ("p", (1.5,)),
        ("p", (-0.1,)),
        ("p", (NAN,)),
        ("p", ("a",)),
        ("p", 0.5),
        ("p", ()),
        ("p", (0.5, 0.5)),
        ("max_amplitude", -1.0),
        ("max_amplitude", NAN),
        ("min_amplitude", 0.2),
        ("min_amplitude", -0.1),
        ("shift_ratio", 0.0),
        ("shift_ratio", 1.1),
        ("num_segment", 0),
        ("num_segment", 1.5),
        ("max_freq", -1.0),
        ("min_freq", 0.3),
        ("min_freq", -0.1),
        ("k", 0),
        ("k", True),
        ("mask_leads_selection", "some"),
        ("mask_leads_prob", 1.01),
        ("mask_leads_prob", None),
        ("mask_leads_condition", (4,)),
        ("mask_leads_condition", (4, 7)),
        ("mask_leads_condition", (-1, 5)),
        ("mask_leads_condition", (1.5, 5)),
        ("mask_leads_condition", 4),
    ],
)
def test_a_wrong_option_is_named_with_its_value(option, value):
    good = AugmentationSettings(perturbation_mode=("random_leads_masking",))
    with pytest.raises(UserError) as caught:
        build_augmentations(dataclasses.replace(good, **{option: value}), ALL, RATE)
    message = str(caught.value)
    assert f"{option}=" in message and repr(value) in message and "\n" not in message


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError) as caught:
        build("masking")
    assert all(name in str(caught.value) for name in EVERY)
