"""What a classifier says of every video: measured, written to files, drawn."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    recall_score,
    top_k_accuracy_score,
)

from memdpc.base.errors import printable
from memdpc.base.files import write_bytes
from memdpc.base.tables import path_cell, text_cell
from memdpc.base.viz import as_text, heatmap, save_figure
from memdpc.data.videos import VideoList
from memdpc.evaluation.arrays import save_array

PREDICTIONS = ("predictions.csv", "probabilities.npy", "figures/confusion.png")
COLUMNS = (
    "video",
    "class",
    "predicted",
    "probability",
)  # of predictions.csv


def labels_of(videos: VideoList) -> np.ndarray:
    """int [V]: the labels of a list of videos."""
    return np.array([video.label for video in videos.videos])


def majority(train_labels: np.ndarray, test_labels: np.ndarray) -> float:
    """The accuracy of always naming the most frequent class of the training videos."""
    most_frequent = np.bincount(train_labels).argmax()
    return float((test_labels == most_frequent).mean())


def measure_predictions(
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
) -> dict[str, Any]:
    """Measures of `probabilities` [V, classes] against `labels` [V], by scikit-learn; fractions.

    `accuracy`, `top5`, `balanced_accuracy` (the mean over classes that have videos), `chance`, the
    number of `test_videos`, and a row for each of `classes`.
    """
    numbers = np.arange(len(classes))
    predicted = probabilities.argmax(axis=1)
    top5 = 1.0
    if len(classes) > 5:
        top5 = top_k_accuracy_score(labels, probabilities, k=5, labels=numbers)
    shares = recall_score(
        labels,
        predicted,
        labels=numbers,
        average=None,
        zero_division=np.nan,
    )
    counts = np.bincount(labels, minlength=len(classes))
    rows = []
    for name, count, share in zip(classes, counts, shares):
        accuracy = float(share) if count else None
        rows.append({"class": name, "videos": int(count), "accuracy": accuracy})
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "top5": float(top5),
        "balanced_accuracy": float(np.nanmean(shares)),
        "chance": 1 / len(classes),
        "test_videos": len(labels),
        "classes": rows,
    }


def plot_confusion(
    matrix: np.ndarray,
    classes: Sequence[str],
    title: str = "Rows: the true class; columns: the predicted one",
) -> Figure:
    """A confusion matrix [classes, classes] of counts, as shares of its rows.

    Names of classes are shown where they can be read.
    """
    matrix = np.asarray(matrix)
    shares = matrix / matrix.sum(axis=1, keepdims=True).clip(1)
    names: Any = False
    side = 6.0
    if len(classes) <= 25:
        names = [as_text(name) for name in classes]
        side = 1.6 + 0.28 * len(classes)
    axes = heatmap(
        shares,
        title,
        "predicted",
        "true",
        size=(side + 0.6, side),
        vmin=0,
        vmax=1,
        xticklabels=names,
        yticklabels=names,
        square=True,
        annot=len(classes) <= 10,
        fmt=".2f",
        annot_kws={"size": 6},
    )
    return axes.figure


def save_predictions(folder: Path, videos: VideoList, probabilities: np.ndarray) -> None:
    """Write each video's prediction into a folder.

    predictions.csv has a row for each video, probabilities.npy [V, classes] the same order, and
    figures/confusion.png shows what was taken for what.
    """
    predicted = probabilities.argmax(axis=1)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows(_prediction_rows(videos, predicted, probabilities))
    write_bytes(folder / "predictions.csv", text.getvalue().encode())
    save_array(folder / "probabilities.npy", probabilities)
    numbers = np.arange(len(videos.classes))
    matrix = confusion_matrix(labels_of(videos), predicted, labels=numbers)
    save_figure(plot_confusion(matrix, videos.classes), folder / "figures" / "confusion.png")


def _prediction_rows(
    videos: VideoList, predicted: np.ndarray, probabilities: np.ndarray
) -> list[tuple[object, ...]]:
    names = [text_cell(printable(name)) for name in videos.classes]
    rows = []
    for number, video in enumerate(videos.videos):
        found = predicted[number]
        probability = f"{probabilities[number, found]:.4f}"
        rows.append(
            (
                path_cell(printable(video.path)),
                names[video.label],
                names[found],
                probability,
            )
        )
    return rows


__all__ = []
