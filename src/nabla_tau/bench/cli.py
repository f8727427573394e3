"""`nabla-tau bench`: run, table, plot, list. torch is imported inside the commands, so that --help is quick."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from nabla_tau.console import INTERRUPTED, REFUSED, TRACEBACK

if TYPE_CHECKING:
    import torch

app = typer.Typer(
    no_args_is_help=True,
    help="Measure unlearning methods on real data: cells of task × method × forget set × seed, one JSON file each.",
)

OUTPUT = Path("results/bench")
MODELS = Path("runs/bench-models")

ResultsArgument = Annotated[Path, typer.Argument(help="Folder of the JSON files.")]


def listed(text: str | None, option: str) -> tuple[str, ...]:
    """Names between commas; none where the option is not given."""
    if text is None:
        return ()
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if not found:
        raise typer.BadParameter(f"expected names between commas, got {text!r}", param_hint=option)
    return found


@app.command("list", epilog="Example:  nabla-tau bench list")
def list_suites() -> None:
    """Suites with their tasks, forget sets and methods."""
    from nabla_tau.bench.suites import SUITES, too_few

    for name, suite in SUITES.items():
        typer.echo(f"{name}: {suite.about}")
        for task, forgets in suite.forgets.items():
            typer.echo(f"  {task}: {', '.join(forgets)}")
            for forget in forgets:
                if left_out := too_few(task, forget, "quick"):
                    typer.echo(f"    {forget} at full only: at quick it is {left_out}, too few to be audited")
        typer.echo(f"  methods: {', '.join(suite.methods)}; seeds: {', '.join(map(str, suite.seeds))}")


@app.command(epilog="Example:  nabla-tau bench run domains --tasks location30 --seeds 0,1,2,3,4 --workers 2")
def run(
    suite: Annotated[str, typer.Argument(help="One of `nabla-tau bench list`.")],
    methods: Annotated[str | None, typer.Option(help="Instead of the suite's, between commas.")] = None,
    fractions: Annotated[str | None, typer.Option(help="Random forget sets instead of the suite's: 0.03,0.15")] = None,
    tasks: Annotated[str | None, typer.Option(help="Only these tasks of the suite.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Instead of the suite's, between commas: 0,1,2")] = None,
    scale: Annotated[str, typer.Option(help="quick or full; they are never mixed.")] = "quick",
    output: Annotated[Path, typer.Option(help="Folder of the JSON files.")] = OUTPUT,
    models: Annotated[Path, typer.Option(help="Folder of trained models, to be used again.")] = MODELS,
    workers: Annotated[int, typer.Option(min=1, help="Local processes of one thread each.")] = 1,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Existing Ray cluster, or auto.")] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, ... (default: a GPU where there is one; --ray needs it named).")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Measure again what failed.")] = False,
) -> None:
    """Measure the cells that are not there yet; a killed run goes on where it stopped. Exit code 1: a cell failed."""
    with refusals() as out:
        from nabla_tau.bench.cells import FAILED, Bench
        from nabla_tau.bench.running import run_cells
        from nabla_tau.bench.suites import cells_of

        cells = cells_of(
            suite,
            scale=scale,
            methods=listed(methods, "--methods"),
            fractions=listed(fractions, "--fractions"),
            tasks=listed(tasks, "--tasks"),
            seeds=whole_numbers(seeds),
        )
        place = Bench(models.absolute(), place_of(device, ray))
        outcome = run_cells(
            cells,
            output,
            place,
            workers=workers,
            ray_address=ray,
            retry_failed=retry_failed,
            begin=lambda missing, found: out.print(
                f"{missing} cells to measure, {found} are there; models that {models} does not hold are trained first"
            ),
            say=lambda record: out.print(line(record)),
        )
        counts = ", ".join(f"{count} {status}" for status, count in outcome.statuses.items())
        out.print(f"{counts}; {outcome.found} were there before; below {output / scale}")
        if outcome.other_code:
            out.print(f"{outcome.other_code} come from other code that measures: a table will show them apart.")
        if outcome.other_method:
            out.print(
                f"{outcome.other_method} are of a method that has changed since: they stay; move them away to have it "
                "measured again."
            )
        if outcome.statuses.get(FAILED):
            out.print("once what failed is mended, the same command with --retry-failed measures it again.")
            raise typer.Exit(REFUSED)


def place_of(device: str | None, ray: str | None) -> "torch.device":
    """Where to measure; what other machines have is not known here."""
    import torch

    from nabla_tau.engine import start_engine

    if ray is None:
        return start_engine(device).device
    if device not in ("cpu", "cuda"):
        raise typer.BadParameter(
            f"expected cpu or cuda, which the machines at --ray {ray} measure on, got {device}", param_hint="--device"
        )
    return torch.device(device)


def line(record: dict[str, Any]) -> str:
    """Which cell, and how it ended."""
    took = f" {record['seconds']:.1f} s" if "seconds" in record else ""
    reason = f": {'; '.join(record['reason'])}" if "reason" in record else ""
    return f"{'/'.join(map(str, record['cell'].values()))}: {record['status']}{took}{reason}"


@contextmanager
def refusals() -> Iterator[Console]:
    """A console; what goes wrong becomes a line that a reader can act on."""
    plain: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False, "soft_wrap": True}
    err = Console(stderr=True, **plain)
    try:
        yield Console(**plain)
    except KeyboardInterrupt:
        err.print("interrupted: finished cells are kept, the same command goes on.")
        raise typer.Exit(INTERRUPTED) from None
    except (ValueError, OSError) as error:
        if TRACEBACK in os.environ:
            raise
        err.print(f"error: {error}")
        raise typer.Exit(REFUSED) from None


def whole_numbers(text: str | None) -> tuple[int, ...]:
    """Seeds between commas."""
    try:
        return tuple(int(part) for part in listed(text, "--seeds"))
    except ValueError:
        raise typer.BadParameter(f"expected whole numbers between commas, got {text!r}", param_hint="--seeds") from None


@app.command(epilog="Example:  nabla-tau bench table results/bench --output results/bench/table.md")
def table(
    results: ResultsArgument = OUTPUT,
    output: Annotated[
        Path | None, typer.Option(help="Markdown file to write instead of printing.", dir_okay=False)
    ] = None,
) -> None:
    """Tables computed from the JSON files; other scales and versions of the code get tables of their own."""
    with refusals() as out:
        from nabla_tau.bench.reading import read_groups
        from nabla_tau.bench.tables import tables

        text = tables(read_groups(results))
        if output is None:
            out.print(text)
            return
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")


@app.command(epilog="Example:  nabla-tau bench fill README.md docs/findings.md")
def fill(
    pages: Annotated[list[Path], typer.Argument(help="Markdown files.", exists=True, dir_okay=False)],
) -> None:
    """Compute the tables of pages anew, between <!-- bench: TABLE PLACE --> and <!-- /bench -->."""
    with refusals() as out:
        from nabla_tau.bench.pages import filled

        for page, text in [(page, filled(page)) for page in pages]:  # all, before any is written
            page.write_text(text, encoding="utf-8")
            out.print(str(page))


@app.command(epilog="Example:  nabla-tau bench plot results/bench --output results/bench/plots")
def plot(
    results: ResultsArgument = OUTPUT,
    output: Annotated[Path, typer.Option(help="Folder for the pictures.", file_okay=False)] = OUTPUT / "plots",
) -> None:
    """Pictures computed from the JSON files, as SVG."""
    with refusals() as out:
        from nabla_tau.bench.figures import plot_alpha_rho, plot_gaps
        from nabla_tau.bench.reading import read_groups
        from nabla_tau.bench.shares import plot_shares

        groups = read_groups(results)
        written = plot_gaps(groups, output) + plot_shares(groups, output) + plot_alpha_rho(groups, output)
        for path in written:
            out.print(str(path))
        if not written:
            out.print(f"nothing to draw: no seed below {results} has a method and both retrained models.")


@app.command(epilog="Example:  nabla-tau bench same runs/before runs/after")
def same(
    older: Annotated[Path, typer.Argument(help="Cells measured with the code as it was.")],
    newer: Annotated[Path, typer.Argument(help="The same cells, on the same machine, with the code as it is.")],
    results: Annotated[Path, typer.Option(help="Folder of the results whose cells may then stand together.")] = OUTPUT,
) -> None:
    """Note which versions of the code give the same numbers, to the last bit. Exit code 1: some do not."""
    with refusals() as out:
        from nabla_tau.bench.versions import SAME, compared, write_same

        found, others = compared(older, newer)
        write_same(found, results / SAME)
        noted = f", noted in {results / SAME}" if found else "; nothing to note"
        out.print(f"{len(found)} pairs of other versions give the same numbers{noted}")
        for one in others:
            out.print(one)
        if others:
            raise typer.Exit(REFUSED)
