"""ParetoCheckpoint: keeps every model that no other one beats twice."""

import dataclasses
import json
import math
import os
import pathlib
import re
import warnings
from collections.abc import Sequence
from typing import Any

import keras

from codeq_keras.reports.files import write_whole
from codeq_keras.reports.plot import plot_points
from codeq_keras.reports.report import summarize
from codeq_keras.training.quantized import require_quantized

_INDEX = "index.json"


@dataclasses.dataclass(frozen=True)
class ParetoPoint:
    """One model that is kept.

    Attributes:
        file: Name of its `.keras` file in the folder.
        epoch: Epoch of its training, from 0.
        metric: Value of the monitored metric.
        relative_bops: As in `codeq_keras.report`.
    """

    file: str
    epoch: int
    metric: float
    relative_bops: float


class ParetoCheckpoint(keras.callbacks.Callback):
    """Saves each epoch's model unless another is as good and as small.

    A model is dominated by one whose metric and relative BOPs are both at
    least as good. Those that are not dominated stay in the folder as `.keras`
    files, with `index.json` that says what they reached. While a budget
    tightens this is one model for every price on its way.

    The folder is changed so that an interruption at any moment leaves the
    index and the files that it names whole: a file is written under another
    name and moved, then the index is replaced, then dominated files are
    removed. Where the folder has an index, from an earlier training or an
    interrupted one, its models compete with the new ones.

    Args:
        folder: Folder for the files; made if it does not exist.
        monitor: Name of the metric in Keras's logs. A validation metric: a
            choice by training metrics is flattered. Epochs without it are
            not saved.
        mode: `"max"`, `"min"`, or `"auto"`: min for names that end with
            `loss` or `error`, max for all others.

    Raises:
        ValueError: If an argument is none of these, or the folder has an index
            of another `monitor` or `mode`; at the beginning of `fit`, if the
            model is not a quantized one or its relative BOPs are not known.

    Warns:
        UserWarning: At the end of `fit`, if no epoch had the metric.

    Example:

    >>> import tempfile
    >>> import codeq_keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> qmodel = codeq_keras.quantize_model(model)
    >>> qmodel.compile("adam", "mse")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pareto = ParetoCheckpoint(folder, monitor="val_loss")
    ...     x, y = keras.ops.ones((8, 4)), keras.ops.ones((8, 1))
    ...     history = qmodel.fit(
    ...         x, y, validation_data=(x, y), verbose=0, callbacks=[pareto]
    ...     )
    ...     best = keras.saving.load_model(pareto.path(pareto.points[-1]))
    >>> len(pareto.points)
    1
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        monitor: str = "val_accuracy",
        mode: str = "auto",
    ) -> None:
        super().__init__()
        if not isinstance(folder, str | os.PathLike):
            raise ValueError(
                "`folder` must be a path; the model is that of `fit`. "
                f"Received: folder={folder!r}."
            )
        if not isinstance(monitor, str):
            raise ValueError(
                "`monitor` must be the name of a metric, as 'val_accuracy'. "
                f"Received: monitor={monitor!r}."
            )
        if mode not in ("auto", "min", "max"):
            raise ValueError(
                "`mode` must be 'auto', 'min' or 'max'. "
                f"Received: mode={mode!r}."
            )
        if mode == "auto":
            mode = "min" if monitor.endswith(("loss", "error")) else "max"
        self.folder = pathlib.Path(folder)
        self.monitor = monitor
        self.mode = mode
        self._points: list[ParetoPoint] = []
        self._num_saved = 0
        if (self.folder / _INDEX).exists():
            self._read_index()

    @property
    def points(self) -> tuple[ParetoPoint, ...]:
        """The models that are kept, those of the fewest BOPs first."""
        return tuple(sorted(self._points, key=lambda p: p.relative_bops))

    def path(self, point: ParetoPoint) -> pathlib.Path:
        """Returns the file of a model, for `keras.saving.load_model`.

        Args:
            point: One of `points`.
        """
        return self.folder / point.file

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Writes a picture of the metric against relative BOPs.

        Args:
            path: File to write; its suffix chooses the format, e.g. ".png".

        Raises:
            ImportError: If matplotlib is not installed.
        """
        plot_points(
            [(p.relative_bops, p.metric) for p in self.points],
            path,
            label=self.monitor,
        )

    def __str__(self) -> str:
        """Returns a table with a line per model."""
        lines = [f"{'relative BOPs':>13}  {self.monitor:>12}  epoch  file"]
        lines += [
            f"{p.relative_bops:>13.2%}  {p.metric:>12.6g}  {p.epoch:>5}"
            f"  {p.file}"
            for p in self.points
        ]
        return "\n".join(lines)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks the model and makes the folder."""
        require_quantized(self.model)
        if "relative_bops" not in summarize(self.model):
            raise ValueError(
                "`ParetoCheckpoint` needs a model whose relative BOPs are "
                "known. Received: an input size that is not fixed. Build the "
                "model with a fixed input shape."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._seen: set[str] = set()
        self._num_monitored = 0

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Saves the model unless it is dominated."""
        self._seen.update(logs or {})
        if self.monitor not in (logs or {}):
            return
        self._num_monitored += 1
        metric = float((logs or {})[self.monitor])
        bops = summarize(self.model)["relative_bops"]
        name = re.sub(r"\W+", "_", self.monitor)
        point = ParetoPoint(
            file=(
                f"{self._num_saved + 1:04d}_{name}_{metric:.4g}"
                f"_bops_{bops:.4g}.keras"
            ),
            epoch=epoch,
            metric=metric,
            relative_bops=bops,
        )
        is_known = not math.isnan(metric) and not math.isnan(bops)
        if not is_known or self._is_dominated(point, self._points):
            return
        self._save(point)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Warns if there was nothing to choose by."""
        if not self._num_monitored:
            warnings.warn(
                f"`ParetoCheckpoint` saved nothing: no epoch had "
                f"{self.monitor!r}. Available: {sorted(self._seen)}. Is there "
                "`validation_data`?",
                stacklevel=2,
            )

    def _is_dominated(
        self, point: ParetoPoint, others: Sequence[ParetoPoint]
    ) -> bool:
        """Whether one of `others` is as good and as small."""
        sign = 1 if self.mode == "max" else -1
        return any(
            other.relative_bops <= point.relative_bops
            and sign * other.metric >= sign * point.metric
            for other in others
        )

    def _save(self, point: ParetoPoint) -> None:
        write_whole(self.path(point), self.model.save)
        self._num_saved += 1
        dominated = [p for p in self._points if self._is_dominated(p, [point])]
        kept = [p for p in self._points if p not in dominated]
        self._points = [*kept, point]
        self._write_index([p.file for p in dominated])
        for other in dominated:
            self.path(other).unlink(missing_ok=True)

    def _write_index(self, removed: list[str]) -> None:
        index = {
            "monitor": self.monitor,
            "mode": self.mode,
            "num_saved": self._num_saved,
            "models": [dataclasses.asdict(p) for p in self.points],
            # Whoever reads the index after an interruption removes them.
            "removed": removed,
        }
        text = json.dumps(index, indent=2) + "\n"
        write_whole(self.folder / _INDEX, lambda path: path.write_text(text))

    def _read_index(self) -> None:
        path = self.folder / _INDEX
        try:
            index = json.loads(path.read_text())
            settings = index["monitor"], index["mode"]
            points = [ParetoPoint(**fields) for fields in index["models"]]
            removed, self._num_saved = index["removed"], index["num_saved"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                "Expected an index that `ParetoCheckpoint` wrote. Received: "
                f"{path} ({error!r}). Choose another folder."
            ) from error
        if settings != (self.monitor, self.mode):
            raise ValueError(
                "Models in one folder are compared by one metric. Received: "
                f"monitor={self.monitor!r}, mode={self.mode!r} for "
                f"{self.folder}, whose index has {settings}. Choose another "
                "folder."
            )
        for name in removed:
            # The name alone: an index must not reach out of its folder.
            (self.folder / pathlib.Path(name).name).unlink(missing_ok=True)
        # A file that its owner has deleted no longer competes.
        self._points = [p for p in points if self.path(p).exists()]
