"""A strategy for Kernel Tuner that starts from what other devices have measured."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import polars as pl

from gbr.errors import MissingLibraryError, UsageError
from gbr.tune.space import TableSpace, loaded
from gbr.tune.tuner import Tuner

if TYPE_CHECKING:
    from gbr.ranker import Ranker


class Strategy:
    """A strategy of Kernel Tuner: the ``strategy`` of ``kernel_tuner.tune_kernel``.

    Parameters
    ----------
    model : Ranker or path-like
        Trained on a table of other devices, or its run directory.
    fixed : mapping, optional
        Values of columns of the table that are no parameters.  By default, those of a table that was imported from
        caches of Kernel Tuner: the device, the kernel and the extents of the problem.
    seed : int

    Examples
    --------
    Import the caches of other devices, train a model, and tune::

        gbr table import a100.json a4000.json --out data/table/convolution
        gbr train --subset table:convolution --out runs/convolution

        from gbr.tune.kernel_tuner import Strategy

        results, env = kernel_tuner.tune_kernel(
            "convolution", source, size, arguments, tune_params, restrictions=restrictions,
            strategy=Strategy("runs/convolution"), strategy_options={"max_fevals": 40},
        )
    """

    def __init__(self, model: Ranker | Any, *, fixed: Mapping[str, Any] | None = None, seed: int = 0) -> None:
        self.model = loaded(model)
        self.fixed = dict(fixed or {})
        self.seed = seed

    def tune(self, searchspace: Any, runner: Any, tuning_options: Any) -> list[dict[str, Any]]:
        """Measure proposals until the budget is spent, as Kernel Tuner calls it; returns its results."""
        try:
            from kernel_tuner.strategies.common import CostFunc
            from kernel_tuner.util import StopCriterionReached
        except ImportError as fault:
            raise MissingLibraryError("kernel_tuner is not installed; pip install 'gbr[kernel-tuner]'") from fault
        if len(tuning_options.objective) != 1:
            raise UsageError(f"strategy: expected one objective, got {', '.join(tuning_options.objective)}")
        cost = CostFunc(searchspace, tuning_options, runner, scaling=False, snap=False)
        configs = searchspace.list
        rows = pl.DataFrame(configs, schema=list(searchspace.tune_params), orient="row", infer_schema_length=None)
        space = TableSpace(rows, self.model, fixed=self._fixed(rows, runner))
        tuner = Tuner(space, self.model, seed=self.seed)
        try:
            while proposed := tuner.ask():
                for number in proposed:
                    tuner.tell([number], [_runtime(cost(configs[space.rows[number]], check_restrictions=False))])
        except StopCriterionReached as reason:
            if tuning_options.verbose:
                print(reason)  # noqa: T201  (as other strategies do)
        return list(cost.results)

    def _fixed(self, rows: pl.DataFrame, runner: Any) -> dict[str, Any]:
        """Values of the columns of the training table that are no parameters."""
        roles, known = self.model.table.roles, self.model.table.known.frame
        options = runner.kernel_options
        size = options.problem_size
        about: dict[str, Any] = {"kernel": options.kernel_name}
        about |= {} if roles.device is None else {roles.device: runner.dev.name}
        if not callable(size):
            extents = size if isinstance(size, tuple | list) else [size]
            about |= {f"problem_{axis}": extent for axis, extent in zip("xyz", extents, strict=False)}
        constant = {name: known[name][0] for name in roles.described if known[name].n_unique() == 1}
        found = {**constant, **about, **self.fixed}
        return {name: found[name] for name in roles.described if name in found and name not in rows.columns}


def _runtime(cost: float) -> float | str:
    """The cost as a runtime: Kernel Tuner negates objectives that should be high; failures cost most."""
    if cost >= sys.float_info.max:
        return "failed"
    return 1 / -cost if cost < 0 else cost
