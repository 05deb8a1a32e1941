"""Plots: curves equal scikit-learn's, texts do not touch, the same predictions give the same bytes."""

import dataclasses

import numpy as np
import pytest
from made_up_predictions import made_up_predictions, predictions_of
from matplotlib.backends.backend_agg import FigureCanvasAgg
from sklearn.metrics import auc, average_precision_score, confusion_matrix, roc_auc_score

from fairseq_signals_ext.evaluation import plots
from fairseq_signals_ext.evaluation.evaluating import EvaluationSettings, Thresholds, evaluate

NAMES = (
    "Supraventricular tachycardia with aberrancy",
    "costs $5 and $6",
    "non-specific intraventricular conduction disturbance (block) of unknown origin",
    "a_name_without_any_space_that_is_longer_than_its_panel_is_wide",
    "AF",
)
ABOUT = {"checkpoint": "a.pt", "subset": "test", "label_file": None}


def made_up(labels, kind="classification"):
    """With a label without positives, one without negatives and one without known targets, if there are enough."""
    predictions = made_up_predictions(items=150, labels=labels)
    if labels > 3:
        known = ~np.isnan(predictions.targets)
        predictions.targets[:, 1][known[:, 1]] = 0
        predictions.targets[:, 2][known[:, 2]] = 1
        predictions.targets[:, 3] = np.nan
    names = tuple(f"{NAMES[label % 5]} {label}"[-80:] if label >= 5 else NAMES[label] for label in range(labels))
    return dataclasses.replace(predictions, label_names=names, kind=kind)


def evaluated(predictions):
    thresholds = Thresholds(np.full(len(predictions.label_names), 0.4))
    return evaluate(predictions, ABOUT, EvaluationSettings(resamples=20), thresholds)


def draw(predictions, folder):
    evaluation = evaluated(predictions)
    return plots.draw_plots(evaluation.recordings, evaluation.per_label, folder)


@pytest.fixture
def figures(monkeypatch):
    """Figures by the name of their file, in place of files."""
    found = {}
    monkeypatch.setattr(plots, "save_png", lambda figure, path: found.update({path.name: figure}))
    return found


def boxes_of(figure):
    """Texts that are seen, then panels, each with its rectangle in pixels: x0, y0, x1, y1."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = list(figure.texts)
    for axes in figure.axes:
        texts.append(axes.title)
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            texts += [tick.label1 for tick in ticks if tick.label1.get_visible()]
    seen = [text for text in texts if text.get_text().strip()]
    names = [text.get_text() for text in seen] + ["panel"] * len(figure.axes)
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in seen] + [axes.bbox for axes in figure.axes]
    return names, np.array([box.extents for box in boxes])


def lines_of(axes):
    return [line.get_xydata() for line in axes.lines]


@pytest.mark.parametrize("labels", [1, 8, 17, 71])
def test_texts_neither_touch_nor_leave_the_picture(figures, tmp_path, labels):
    draw(made_up(labels), tmp_path)
    assert list(figures) == ["roc.png", "precision_recall.png", "calibration.png", "confusion.png"]
    for name, figure in figures.items():
        names, (x0, y0, x1, y1) = boxes_of(figure)[0], boxes_of(figure)[1].T
        width, height = figure.bbox.size
        assert width <= 1600 and height <= 2100
        outside = (x0 < 0) | (y0 < 0) | (x1 > width) | (y1 > height)
        assert not outside.any(), (name, np.array(names)[outside])
        touch = (x0[:, None] < x1) & (x0 < x1[:, None]) & (y0[:, None] < y1) & (y0 < y1[:, None])
        pairs = np.argwhere(np.triu(touch, 1))
        assert not len(pairs), (name, [(names[one], names[other]) for one, other in pairs])


def test_curves_enclose_the_areas_of_scikit_learn(figures, tmp_path):
    predictions = made_up(5)
    draw(predictions, tmp_path)
    for label in (0, 4):
        known = ~np.isnan(predictions.targets[:, label])
        scores, targets = predictions.scores[known, label], predictions.targets[known, label]
        _, roc, dot = lines_of(figures["roc.png"].axes[label])
        assert auc(*roc.T) == pytest.approx(roc_auc_score(targets, scores), abs=1e-12)
        tn, fp, fn, tp = confusion_matrix(targets, scores >= 0.4).ravel()
        np.testing.assert_allclose(dot, [[fp / (fp + tn), tp / (tp + fn)]])
        share, curve, dot = lines_of(figures["precision_recall.png"].axes[label])
        recall, precision = curve.T
        assert figures["precision_recall.png"].axes[label].lines[1].get_drawstyle() == "steps-post"
        # steps-post: from each point on, at its height, to where the next one is
        area = (-np.diff(recall) * precision[:-1]).sum()
        assert area == pytest.approx(average_precision_score(targets, scores), abs=1e-12)
        assert share[0, 1] == targets.mean()
        np.testing.assert_allclose(dot, [[tp / (tp + fn), tp / (tp + fp)]])


def test_axis_names_are_in_the_middle_of_all_panels(figures, tmp_path):
    draw(made_up(5), tmp_path)
    for figure in figures.values():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        panels = np.concatenate([axes.get_window_extent().get_points() for axes in figure.axes])
        middle = (panels.min(axis=0) + panels.max(axis=0)) / 2
        below, beside = (text.get_window_extent().get_points().mean(axis=0) for text in figure.texts[-2:])
        assert (below[0], beside[1]) == pytest.approx(middle, abs=1)


def test_confusion_has_counts_and_percentages_of_rows(figures, tmp_path):
    scores = [[0.9], [0.8], [0.7], [0.1], [0.6], [0.2], [0.3], [0.1]]
    draw(predictions_of(scores, [[1], [1], [1], [1], [0], [0], [0], [np.nan]]), tmp_path)
    cells = {text.get_position(): text.get_text() for text in figures["confusion.png"].axes[0].texts}
    assert cells == {
        (0.25, 0.25): "2\n67 %",  # known and predicted: no
        (0.75, 0.25): "1\n33 %",
        (0.25, 0.75): "1\n25 %",
        (0.75, 0.75): "3\n75 %",
    }


def test_calibration_has_a_point_for_each_bin(figures, tmp_path):
    scores = [[0.05], [0.07], [0.45], [0.45], [0.45], [0.45]]
    draw(predictions_of(scores, [[0], [0], [1], [1], [0], [1]]), tmp_path)
    axes = figures["calibration.png"].axes[0]
    np.testing.assert_allclose(lines_of(axes)[1], [[0.06, 0], [0.45, 0.75]], atol=1e-12)
    bars = [segment for collection in axes.collections for segment in collection.get_segments()]
    # Wilson's interval of 3 in 4, 95 %, from its formula with z = 1.959964
    np.testing.assert_allclose(bars[1][:, 1], [0.300642, 0.954413], atol=1e-6)


def test_undefined_panels_are_explained(figures, tmp_path):
    draw(made_up(5), tmp_path)
    said = [[text.get_text() for text in axes.texts] for axes in figures["roc.png"].axes]
    assert said == [[], ["undefined:\nno positives"], ["undefined:\nno negatives"], ["undefined:\nnone known"], []]
    said = [text.get_text() for axes in figures["calibration.png"].axes for text in axes.texts]
    assert said == ["undefined:\nnone known"]  # one class is enough


def test_names_stand_as_they_are_or_cut(figures, tmp_path):
    draw(made_up(8), tmp_path)
    titles = [axes.get_title().split("\n") for axes in figures["roc.png"].axes]
    assert titles[1][0] == "costs $5 and $6"
    assert " ".join(titles[0][:2]) == NAMES[0]
    assert len(titles[2]) == 3 and titles[2][1].endswith("…") and NAMES[2].startswith(titles[2][0])


def test_of_very_many_labels_the_most_frequent_are_drawn(figures, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "_MOST_PANELS", 3)
    targets = np.zeros((10, 5))
    for label, positives in enumerate((4, 1, 5, 2, 3)):
        targets[:positives, label] = 1
    draw(predictions_of(np.linspace(0, 1, 50).reshape(10, 5), targets), tmp_path)
    figure = figures["confusion.png"]
    assert [axes.get_title().split("\n")[0] for axes in figure.axes] == ["label 0", "label 2", "label 4"]
    assert figure.texts[0].get_text() == "Confusion at the threshold: the 3 most frequent of 5 labels"


def test_regression(figures, tmp_path):
    rng = np.random.default_rng(1)
    known = rng.normal(55, 10, (60, 3))
    predicted = 0.8 * known + rng.normal(12, 4, known.shape)
    known[:, 1], known[1:, 2] = np.nan, np.nan
    draw(predictions_of(predicted, known, kind="regression"), tmp_path)
    assert list(figures) == ["scatter.png", "bland_altman.png"]
    points = figures["scatter.png"].axes[0].collections[0].get_offsets()
    np.testing.assert_array_equal(points, np.stack([known[:, 0], predicted[:, 0]], axis=1))
    difference = predicted[:, 0] - known[:, 0]
    heights = [line[0, 1] for line in lines_of(figures["bland_altman.png"].axes[0])]
    spread = 1.96 * np.std(difference, ddof=1)
    np.testing.assert_allclose(heights, difference.mean() + np.array([0, -spread, spread]))
    assert not lines_of(figures["bland_altman.png"].axes[2])  # one recording has no spread


def test_comparison(figures, tmp_path):
    undefined = ("b", np.nan, np.nan, np.nan)
    panels = {
        "AUROC": [("a", 0.8, 0.7, 0.9), ("b", 0.6, 0.5, 0.75)],
        "AUPRC": [("a", 0.4, 0.3, 0.5), undefined],
        "r": [undefined],
    }
    plots.draw_comparison(panels, tmp_path / "comparison.png")
    first, second, third = (axes for axes in figures["comparison.png"].axes if axes.axison)
    assert [label.get_text() for label in first.get_yticklabels()] == ["a", "b"]
    np.testing.assert_array_equal(lines_of(first)[0], [[0.8, 1], [0.6, 0]])
    intervals = np.array(first.collections[0].get_segments())[:, :, 0]
    np.testing.assert_array_equal(intervals, [[0.7, 0.9], [0.5, 0.75]])
    assert not second.texts and [text.get_text() for text in third.texts] == ["undefined"]


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_same_predictions_same_bytes(tmp_path, kind):
    first, second = (draw(made_up(5, kind), tmp_path / name) for name in ("a", "b"))
    assert [path.name for path in first] == [path.name for path in second]
    for path, again in zip(first, second):
        assert path.read_bytes().startswith(b"\x89PNG") and path.read_bytes() == again.read_bytes()
    assert {path.name for path in (tmp_path / "a").iterdir()} == {path.name for path in first}
