"""Watch a job: a live display on a terminal, plain lines elsewhere, JSON lines on request."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from jobs.comparing import less_is_better
from jobs.handle import JobHandle, Update
from jobs.job import Job, MetricPoint
from jobs.verbs.common import print_json
from jobs.wording import duration, printable

_BARS: Final = "▁▂▃▄▅▆▇█"
#: Values in a sparkline.
_TREND: Final = 32
#: Splits in the order in which people look at them; others follow.
_SPLITS: Final = ("val", "unseen", "test", "train")
#: Seconds over which the pace of a job is measured.
_PACE_WINDOW: Final = 30.0


def watch(job: JobHandle, *, as_json: bool = False) -> Job:
    """Show the job until it has ended; return its record."""
    if as_json:
        return _json_lines(job.updates())
    console = Console()
    if console.is_terminal:
        return _live(job.updates(), console)
    return _plain_lines(job.updates())


def _json_lines(updates: Iterable[Update]) -> Job:
    for update in updates:
        for point in update.points:
            print_json(point)
    return update.job


def _plain_lines(updates: Iterable[Update]) -> Job:
    said = ""
    for update in updates:
        now = _headline(update.job)
        if now != said:
            click.echo(now)
            said = now
        for step in _by_step(update.points):
            click.echo(step)
    return update.job


def _headline(job: Job) -> str:
    phase = f", {job.progress.phase}" if job.progress.phase and not job.state.ended else ""
    attempt = f", attempt {job.attempt}" if job.attempt > 1 else ""
    return printable(f"{job.id}  {job.state}{phase}{attempt}")


def _by_step(points: Sequence[MetricPoint]) -> list[str]:
    """Return a line for all values of a step, in their order."""
    lines: dict[tuple[int, int], str] = {}
    for point in points:
        place = point.step, point.epoch
        line = lines.setdefault(place, f"step {point.step:<7} epoch {point.epoch:<4}")
        lines[place] = f"{line} {printable(point.name)} {_number(point.value)} "
    return [line.rstrip() for line in lines.values()]


@dataclass
class Series:
    """The values of one metric as they came."""

    name: str
    values: list[float] = field(default_factory=list)
    step: int = 0

    @property
    def best(self) -> float:
        """Return the best value so far."""
        finite = [value for value in self.values if math.isfinite(value)]
        choose = min if less_is_better(self.name) else max
        return choose(finite, default=math.nan)

    def add(self, point: MetricPoint) -> None:
        """Take a point in."""
        self.values.append(point.value)
        self.step = point.step


def sparkline(values: Sequence[float]) -> str:
    """Return the newest values as bars between the least and the greatest of them."""
    finite = [value for value in values if math.isfinite(value)][-_TREND:]
    if not finite:
        return ""
    low, span = min(finite), max(finite) - min(finite)
    top = len(_BARS) - 1
    return "".join(_BARS[round((value - low) / span * top) if span else 0] for value in finite)


class Pace:
    """Estimate when a job will have taken its last step, from its pace of late."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []

    def left(self, step: int, steps: int, now: float) -> float | None:
        """Return the seconds left at step `step` of `steps`, None while nothing tells them."""
        self._seen = [each for each in self._seen if each[0] >= now - _PACE_WINDOW]
        self._seen.append((now, step))
        then, before = self._seen[0]
        if step <= before or not steps:
            return None
        return (steps - step) * (now - then) / (step - before)


class _View:
    """What the live display shows."""

    def __init__(self) -> None:
        self._series: dict[str, Series] = {}
        self._pace = Pace()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[place]}"),
            TimeElapsedColumn(),
        )
        self._task: TaskID = self._bar.add_task("waiting", total=None, place="")

    def take(self, update: Update) -> None:
        """Take an update in."""
        for point in update.points:
            self._series.setdefault(point.name, Series(point.name)).add(point)
        job, done = update.job, update.job.progress
        self._bar.update(
            self._task,
            description=printable(done.phase or str(job.state)),
            completed=done.step,
            total=done.steps or None,
            place=self._place(job),
        )

    def _place(self, job: Job) -> str:
        done = job.progress
        words = [f"epoch {done.epoch}/{done.epochs}"] if done.epochs else []
        words += [f"step {done.step}/{done.steps}"] if done.steps else []
        left = None if job.state.ended else self._pace.left(done.step, done.steps, time.monotonic())
        words += [f"{duration(left)} left"] if left is not None else []
        return "  ".join(words)

    def __rich__(self) -> RenderableType:
        table = Table("metric", "last", "best", "step", "trend", box=None, padding=(0, 2, 0, 0))
        for each in in_order(self._series):
            last, best = _number(each.values[-1]), _number(each.best)
            trend = Text(sparkline(each.values), style="cyan")
            table.add_row(Text(printable(each.name)), last, best, str(each.step), trend)
        return Group(self._bar, table)


def in_order(series: Mapping[str, Series]) -> list[Series]:
    """Return the series as people look at them: validation first, then by name."""

    def place(name: str) -> tuple[int, str]:
        split = name.partition("/")[0]
        return (_SPLITS.index(split) if split in _SPLITS else len(_SPLITS), name)

    return [series[name] for name in sorted(series, key=place)]


def _live(updates: Iterable[Update], console: Console) -> Job:
    view = _View()
    with Live(view, console=console, refresh_per_second=4):
        for update in updates:
            view.take(update)
    return update.job


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
