"""The command line: demo, unlearn, env. torch is imported inside the commands, so that --help is quick."""

import json
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

REFUSED, TARGET_NOT_REACHED, INTERRUPTED = 1, 3, 130

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    help="∇τ: take samples out of a trained model, without hyperparameters.",
    epilog="Exit codes: 0 done · 1 the request was refused or failed · 2 usage · 3 done and saved, but the target "
    "was not reached (0 under a launcher of several processes) · 130 interrupted.",
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output instead.")]


@app.command(epilog="Example:  nabla-tau demo --seed 1")
def demo(
    seed: Annotated[int, typer.Option(help="Of rows, noise, training and unlearning.")] = 0,
    as_json: JsonOption = False,
    svg: Annotated[Path | None, typer.Option(help="Also write what is shown as a picture.")] = None,
) -> None:
    """Train a small network, forget 15 % of its rows, and compare it with one that never saw them."""
    with reported() as (out, err):
        from nabla_tau.demo import run_demo, verdict
        from nabla_tau.terminal import demo_view, progress_bar

        with progress_bar(err) as (say, step):
            result = run_demo(seed, say, step)
        if as_json:
            scores = [plain_scores(one) for one in (result.before, result.after, result.retrained)]
            print_json({"models": scores, "verdict": verdict(result), "settings": result.unlearned.settings})
            return
        out.print(demo_view(result))
        if svg is not None:
            picture = Console(record=True, width=100, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
            picture.print(demo_view(result))
            picture.save_svg(str(svg), title="nabla-tau demo", code_format=SVG_FORMAT)


@app.command(
    epilog="Examples:\n\n  nabla-tau unlearn my_project.py:sets --output runs/request-17\n\n"
    "  nabla-tau unlearn my_project.py:sets --forget ids.csv --id-column user_id --output runs/request-18\n\n"
    "  nabla-tau unlearn my_project.py:sets --plan"
)
def unlearn(
    target: Annotated[
        str,
        typer.Argument(
            help="FILE.py:FUNCTION; the function returns a dict of unlearn's keyword arguments plus 'model'.",
            metavar="FILE.py:FUNCTION",
        ),
    ],
    output: Annotated[Path | None, typer.Option(help="Folder for model.safetensors and unlearning.json.")] = None,
    forget: Annotated[
        Path | None, typer.Option(help="CSV file of ids to forget, where the function returns 'train'.")
    ] = None,
    id_column: Annotated[str | None, typer.Option(help="Column of ids, in that file and in the training set.")] = None,
    method: Annotated[str | None, typer.Option(help="nabla_tau (default) or another of nabla_tau.methods.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the order of both sets.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples per global batch (a resource, not tuning).")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... (default: Accelerate's choice).")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would happen, change nothing, and stop.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Take samples out of a trained model: your function names the model and the sets."""
    with reported() as (out, err):
        if output is None and not plan:
            raise typer.BadParameter("expected a folder, got none: add --output DIR (or --plan)", param_hint="--output")
        if (forget is None) != (id_column is None):
            raise typer.BadParameter("expected --forget and --id-column together, got one of them")
        from nabla_tau.planning import plan as make_plan
        from nabla_tau.project import find_method, read_project
        from nabla_tau.storage import require_free
        from nabla_tau.terminal import progress_bar, unlearned_view
        from nabla_tau.unlearning import Request

        if output is not None:
            require_free(output)
        options: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "device": device}
        if method is not None:
            options["method"] = find_method(method)
        arguments = read_project(target, ids_file=forget, id_column=id_column)
        arguments.update({name: value for name, value in options.items() if value is not None})
        if plan:
            planned = make_plan(Request(**arguments))
            if is_main():
                print_json(planned.as_dict()) if as_json else out.print(str(planned), highlight=False)
            return
        with progress_bar(err) as (say, step):
            say("unlearning")
            unlearned = Request(**arguments, on_step=step).run()
        folder = unlearned.save(output or Path())
        if is_main():
            if as_json:
                print_json({"output": str(folder), **unlearned.record()})
            else:
                out.print(unlearned_view(unlearned))
                out.print(f"written to {folder}", highlight=False)
        if not unlearned.reached_target and "RANK" not in os.environ:  # launchers take any other code for a crash
            raise typer.Exit(TARGET_NOT_REACHED)


@app.command(
    epilog="Example:\n\n  nabla-tau audit runs/request-17 my_project.py:sets\n\n"
    "Exit code 3: done and saved, but the verdict is another than that nothing was detectable."
)
def audit(
    run: Annotated[Path, typer.Argument(help="Folder that unlearn wrote to; the report is written beside it.")],
    target: Annotated[
        str,
        typer.Argument(
            help="As for unlearn; the dict also holds 'test' and, if there are any, 'retrained' models.",
            metavar="FILE.py:FUNCTION",
        ),
    ],
    forget: Annotated[
        Path | None, typer.Option(help="CSV file of the ids that were forgotten, where the function returns 'train'.")
    ] = None,
    id_column: Annotated[str | None, typer.Option(help="Column of ids, in that file and in the training set.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of resampling and permutations.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples per forward pass.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... (default: Accelerate's choice).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Test whether the forgotten samples can still be told from data that the model never saw."""
    with reported() as (out, _):
        if (forget is None) != (id_column is None):
            raise typer.BadParameter("expected --forget and --id-column together, got one of them")
        from nabla_tau.auditing.audit import audit as make_audit
        from nabla_tau.auditing.report import require_no_report
        from nabla_tau.project import read_project
        from nabla_tau.storage import load

        require_no_report(run)
        arguments = read_project(target, ids_file=forget, id_column=id_column, command="audit")
        options = {"seed": seed, "batch_size": batch_size, "device": device}
        arguments.update({name: value for name, value in options.items() if value is not None})
        original = arguments.pop("model")
        report = make_audit(load(run, original), original=original, **arguments)
        command = [f"nabla-tau audit {run} {target}"]
        command += [f"--forget {forget} --id-column {id_column}"] if forget is not None else []
        report.data["command"] = " ".join(command)
        if is_main():
            folder = report.save(run)
            if as_json:
                print_json({"output": str(folder), **report.data})
            else:
                out.print(str(report), markup=False, highlight=False)
                out.print(f"written to {folder}", highlight=False, soft_wrap=True)
        if report.verdict["kind"] != "none_detectable" and "RANK" not in os.environ:
            raise typer.Exit(TARGET_NOT_REACHED)


@app.command(epilog="Example:  nabla-tau env --json")
def env(as_json: JsonOption = False) -> None:
    """Versions and hardware, for a bug report."""
    with reported() as (out, _):
        import torch

        facts: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
        for package in ("nabla-tau", "torch", "accelerate", "numpy", "safetensors", "scikit-learn", "transformers"):
            try:
                facts[package] = version(package)
            except PackageNotFoundError:
                facts[package] = "not installed"
        facts["cores"] = os.cpu_count()
        facts["threads"] = torch.get_num_threads()
        facts["devices"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["cpu"]
        if as_json:
            print_json(facts)
            return
        for name, value in facts.items():
            out.print(f"{name:<14} {', '.join(value) if isinstance(value, list) else value}", highlight=False)


@contextmanager
def reported() -> Iterator[tuple[Console, Console]]:
    """Consoles for output and for messages; errors and warnings become lines a reader can act on."""
    out, err = Console(), Console(stderr=True)

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if is_main():
            err.print(f"[bold yellow]{category.__name__}:[/] ", end="")
            err.print(str(message), markup=False, highlight=False, soft_wrap=True)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        try:
            yield out, err
        except KeyboardInterrupt:
            err.print("[bold red]interrupted:[/] nothing was written.")
            raise typer.Exit(INTERRUPTED) from None
        except (ValueError, TypeError, OSError, ArithmeticError) as error:
            if os.environ.get("NABLA_TAU_TRACEBACK"):
                raise
            if is_main():
                err.print(f"[bold red]{type(error).__name__}:[/] ", end="")
                err.print(str(error), markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(REFUSED) from None


def is_main() -> bool:
    """Whether this process is the one that prints."""
    return os.environ.get("RANK", "0") == "0"


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def plain_scores(scores: Any) -> dict[str, Any]:
    """Scores as JSON takes them."""
    from dataclasses import asdict

    return {key: value for key, value in asdict(scores).items() if not key.endswith("_losses")}


def main() -> None:
    """Entry point of the `nabla-tau` command."""
    app()


# Rich's own format without the web fonts it would fetch.
SVG_FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g>
</g>
</svg>
"""
