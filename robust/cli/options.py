"""Options that are read in a way of their own, and those that several commands share."""

from pathlib import Path
from typing import Any

import click

RUNS = Path("runs")  # where runs go, and are looked for


class Number(click.ParamType):  # type: ignore[type-arg]  # generic in new versions of click only
    """A decimal or a fraction: 0.3, 8/255."""

    name = "number"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        from robust.registry import number

        try:
            return float(value) if isinstance(value, int | float) else number(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor a fraction like 8/255", param, ctx)


class Numbers(click.ParamType):  # type: ignore[type-arg]  # generic in new versions of click only
    """Numbers separated by commas."""

    name = "numbers"

    def __init__(self, count: int | None = None) -> None:
        self.count = count

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        found = tuple(Number().convert(part, param, ctx) for part in value.split(","))
        if self.count and len(found) != self.count:
            self.fail(f"{value!r}: {self.count} numbers with a comma between them", param, ctx)
        return found


class BatchSize(click.ParamType):  # type: ignore[type-arg]  # generic in new versions of click only
    name = "n|auto"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | str:
        if value == "auto" or isinstance(value, int):
            return value  # type: ignore[no-any-return]
        if not (value.isdigit() and int(value)):
            self.fail(f"{value!r} is neither a positive number nor auto", param, ctx)
        return int(value)


NUMBER, NUMBERS, BATCH_SIZE = Number(), Numbers(), BatchSize()


def model_options(command: Any) -> Any:
    """How a model file is to be read."""
    for option in reversed(
        [
            click.option("--arch", metavar="NAME", help="Architecture of a plain state dict: a "
                         "name (see `robust list architectures`) or file.py:factory, which runs "
                         "that file."),
            click.option("--mean", type=NUMBERS, help="Normalisation to put inside the model, per "
                         "channel, in the range of the data: 0.49,0.48,0.45."),
            click.option("--std", type=NUMBERS, help="See --mean."),
            click.option("--trust-pickle", is_flag=True, help="Load a fully pickled module. This "
                         "runs whatever code is in the file."),
            click.option("--probabilities", is_flag=True, help="The model returns probabilities: "
                         "take their logarithm as logits."),
            click.option("--with", "defenses", multiple=True, metavar="NAME[,KEY=VALUE…]",
                         help="Repeatable, in the order in which a sample meets them: defenses to "
                         "put around the model, see `robust list defenses`; file.py:Name is one of "
                         "your own, and runs that file."),
        ]
    ):  # fmt: skip
        command = option(command)
    return command


def oracle_options(command: Any) -> Any:
    """How a model may be asked, and how a service is."""
    for option in reversed(
        [
            click.option("--access", type=click.Choice(["gradient", "scores", "labels"]),
                         help="What attackers may see of the model. Default: all that it gives."),
            click.option("--queries", type=click.IntRange(min=1), metavar="N",
                         help="At most N queries a sample, checks included, over all attacks (with "
                         "--every: for each); with --access scores or labels. Default: what the "
                         "attacks say."),
            click.option("--draws", type=click.IntRange(min=1), metavar="N",
                         help="Answers that make one, where the model answers at random: scores "
                         "are averaged, labels vote. Default: a few repeated queries tell."),
            click.option("--price-per-1000", type=click.FloatRange(min=0), metavar="X",
                         help="Price of 1,000 queries, for the report."),
            click.option("--classes", "num_classes", type=click.IntRange(min=2), metavar="K",
                         help="Number of classes of a model that answers with labels. Default: "
                         "that of the data."),
            click.option("--template", type=click.Path(path_type=Path), metavar="FILE",
                         help="How to ask a JSON service that does not speak the v2 protocol: see "
                         "docs/oracles.md."),
            click.option("--concurrency", type=click.IntRange(min=1), metavar="N", default=4,
                         show_default=True, help="Requests to a service at the same time."),
            click.option("--rows-per-request", type=click.IntRange(min=1), metavar="N",
                         help="Samples in one request.  [default: 8 to 32, or what the "
                "service says]"),
            click.option("--rate-limit", type=click.FloatRange(min=0, min_open=True), metavar="X",
                         help="At most X queries a second."),
            click.option("--timeout", type=click.FloatRange(min=0, min_open=True), metavar="S",
                         default=30.0, show_default=True, help="Seconds to wait for an answer."),
            click.option("--retries", type=click.IntRange(min=0), metavar="N", default=5,
                         show_default=True, help="Tries after the first, with growing pauses."),
            click.option("--token-env", metavar="NAME", help="Environment variable whose content "
                         "is sent as bearer token.  [default: ROBUST_TOKEN, if it is set]"),
            click.option("--ca-file", type=click.Path(path_type=Path), metavar="FILE",
                         help="Certificates to trust, where the service has a private one."),
            click.option("--input", "input_name", metavar="NAME", help="The input of a v2 service "
                         "with several."),
            click.option("--output", "output_name", metavar="NAME", help="The output of a v2 "
                         "service with several."),
        ]
    ):  # fmt: skip
        command = option(command)
    return command
