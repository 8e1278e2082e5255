"""`make bench-quality`: how long Multi30k takes to 28 and to 35 validation BLEU, on one core.

The spec of the results' row goes to a service of its own, with one thread; the clock runs from the
submission, so that reading and encoding the data and every validation count. The job is cancelled
at the last mark. Rows go to bench.jsonl, beside those of `make bench`.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from jobs import Client, UnrollError
from jobs.specfile import read_spec
from tests.benchmarks.speed._measure import Row
from tests.benchmarks.speed._table import OUTPUT, line_of

ROOT: Final = Path(__file__).resolve().parents[2]
_SPEC: Final = ROOT / "docs" / "specs" / "multi30k-attention.toml"
_MARKS: Final = (28.0, 35.0)
#: Seconds that the worker may need until it has said what it can build.
_READY: Final = 120.0


def rows(client: Client, root: Path, precision: str) -> Iterator[Row]:
    """Train, and yield a row for each mark when it is reached. Raise UnrollError."""
    set_here = [f"data.root={root}", f"trainer.precision={precision}", "resources.threads=1"]
    began = time.time()
    job = client.submit(read_spec(_SPEC, set_here))
    marks = list(_MARKS)
    for point in job.metrics(follow=True):
        if point.name != "val/bleu":
            continue
        click.echo(f"epoch {point.epoch}: {point.value:.2f} after {point.time - began:.0f} s")
        while marks and point.value >= marks[0]:
            yield Row(
                name=f"Multi30k to {marks.pop(0):g} validation BLEU, {precision}",
                size=f"epoch {point.epoch}",
                figure=point.time - began,
                unit="s",
            )
        if not marks:
            job.cancel()
            return
    job.result()  # raises where the job failed
    raise click.ClickException(f"the training ended below {marks[0]:g} BLEU")


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
@click.option("--precision", type=click.Choice(["auto", "bf16", "fp32"]), default="auto")
def main(data: Path, precision: str) -> None:
    """Train until the last mark is reached."""
    os.environ["UNROLL_DATA_ROOTS"] = str(data.absolute())  # of the worker that is started here
    try:
        with Client.embedded() as client, OUTPUT.open("a", encoding="utf-8") as file:
            client.catalog(timeout=_READY)
            for row in rows(client, data.absolute() / "multi30k", precision):
                file.write(json.dumps(line_of("quality", row)) + "\n")
                click.echo(f"{row.name}: {row.figure:.0f} s")
    except UnrollError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
