"""The command line: demo, unlearn, audit, tune, env. torch is imported inside the commands, so that --help is quick."""

import io
import itertools
import json
import os
import platform
import shlex
import sys
import tempfile
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nabla_tau.bench.cli import app as bench
from nabla_tau.console import WITH_RESERVATIONS, is_main, print_json, reported
from nabla_tau.errors import InvalidRequest, Problems
from nabla_tau.salt import salt_of

if TYPE_CHECKING:
    from nabla_tau.auditing.report import Report
    from nabla_tau.storage import Unlearned

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    help="∇τ: take samples out of a trained model, without hyperparameters.",
    epilog="Exit codes: 0 done · 1 the request was refused or failed · 2 usage · 3 done and saved, with "
    "reservations: target not reached, model damaged, or, of an audit, any verdict but that nothing was detectable "
    "(0 under a launcher of several processes) · 130 interrupted.\n\n"
    "Environment: NABLA_TAU_TRACEBACK=1 shows the Python traceback of an error.",
)

app.add_typer(bench, name="bench")

JsonOption = Annotated[
    bool,
    typer.Option("--json", help='Print one JSON object on standard output instead; {"error": [...]} where refused.'),
]
IdsOption = Annotated[
    Path | None, typer.Option(help="CSV file of the ids to forget, where the function returns 'train'.")
]
ColumnOption = Annotated[str | None, typer.Option(help="Column of ids, in that file and in the training set.")]
SkipOption = Annotated[
    bool, typer.Option("--skip-unknown", help="Leave out ids that the training set does not hold, and say how many.")
]
ForgottenOption = Annotated[
    Path | None,
    typer.Option(help="CSV file of the ids that were forgotten before: their rows are left out of every set."),
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, ... (default: Accelerate's choice).")]


def well_formed(target: str) -> str:
    """A target as it is, if it names a file or module and a function."""
    where, _, name = target.rpartition(":")
    if not where or not name:
        raise typer.BadParameter(f"expected my_project.py:function, got {target!r}: name the function after a colon")
    return target


def show_version(asked: bool) -> None:
    """Print the version and stop."""
    if asked:
        typer.echo(f"nabla-tau {version('nabla-tau')}")
        raise typer.Exit


@app.callback()
def common(
    _: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """What goes before a command."""


@app.command(epilog="Example:  nabla-tau demo --seed 1")
def demo(
    seed: Annotated[int, typer.Option(help="Of rows, noise, training and unlearning.")] = 0,
    output: Annotated[Path, typer.Option(help="Folder for the audit's report and page; numbered if taken.")] = Path(
        "runs/demo"
    ),
    as_json: JsonOption = False,
    svg: Annotated[Path | None, typer.Option(help="Also write what is shown as a picture.")] = None,
) -> None:
    """Train a small network, forget 15 % of its rows, and compare it with one that never saw them."""
    with reported(as_json) as (out, err):
        from nabla_tau.demo import run_demo, verdict
        from nabla_tau.terminal import demo_view, progress_bar, save_picture

        if svg is not None and not svg.absolute().parent.is_dir():
            raise InvalidRequest([f"--svg: expected a file in a folder that is there, got {svg}: make the folder."])
        with progress_bar(err) as (say, step):
            result = run_demo(seed, say, step)
        report = result.report.save(first_free(output)) / "report.html"
        if svg is not None:
            save_picture(demo_view(result), svg)
        if as_json:
            scores = [plain_scores(one) for one in (result.before, result.after, result.retrained)]
            unlearned = result.unlearned
            record = {"settings": unlearned.settings, "warnings": unlearned.warnings}
            print_json({"models": scores, "verdict": verdict(result), "report": str(report), **record})
            return
        out.print(demo_view(result))
        out.print(f"The audit, which also says what it could not have seen: open {report}", soft_wrap=True)


@app.command(
    epilog="Examples:\n\n  nabla-tau unlearn my_project.py:sets --output runs/request-17\n\n"
    "  nabla-tau unlearn my_project.py:all_rows --forget ids.csv --id-column user_id --output runs/request-18\n\n"
    "  nabla-tau unlearn my_project.py:sets --plan\n\n"
    "  nabla-tau unlearn my_project.py:sets --output runs/request-19 --checkpoint runs/request-19.state"
)
def unlearn(
    target: Annotated[
        str,
        typer.Argument(
            help="FILE.py:FUNCTION; the function returns a dict with 'model' and unlearn's arguments but those of "
            "checkpoints; for --forget 'train' in place of 'forget' and 'retain'.",
            metavar="FILE.py:FUNCTION",
            callback=well_formed,
        ),
    ],
    output: Annotated[Path | None, typer.Option(help="Folder for model.safetensors and unlearning.json.")] = None,
    forget: IdsOption = None,
    id_column: ColumnOption = None,
    skip_unknown: SkipOption = False,
    forgotten: ForgottenOption = None,
    method: Annotated[str | None, typer.Option(help="nabla_tau (default) or another of nabla_tau.methods.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the order of both sets.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Samples per global batch (default: 256); best that of training.")
    ] = None,
    micro_batch_size: Annotated[
        int | None, typer.Option(help="Samples that a process gives the model at once; the result stays the same.")
    ] = None,
    device: DeviceOption = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Make no copy of the model; its weights are on disk meanwhile.")
    ] = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Folder to keep the state of the run in: the same command continues a run that was cut off, to the "
            "same bits. Removed once the result is saved."
        ),
    ] = None,
    checkpoint_every: Annotated[
        float | None,
        typer.Option(help="Seconds between two checkpoints (default: so many that saving takes 2 % of the time)."),
    ] = None,
    shard: Annotated[
        bool,
        typer.Option("--shard", help="Spread the copy over the processes that torchrun or accelerate launch starts."),
    ] = False,
    gradient_checkpointing: Annotated[
        bool,
        typer.Option("--gradient-checkpointing", help="Switch on what the model offers; the result stays the same."),
    ] = False,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="Say what would happen, with what the folder of --checkpoint holds, change nothing, and stop.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Take samples out of a trained model: your function names the model and the sets."""
    if output is None and not plan:
        raise typer.BadParameter("expected a folder, got none: add --output DIR (or --plan)", param_hint="--output")
    require_together(forget, id_column, skip_unknown, forgotten)
    resumable = "nothing was written." if checkpoint is None else f"the same command continues from {checkpoint}."
    with reported(as_json, resumable) as (out, err):
        from nabla_tau.checkpoint import clear, remove_saved_before
        from nabla_tau.methods import find_method
        from nabla_tau.planning import plan as make_plan
        from nabla_tau.project import read_project
        from nabla_tau.terminal import progress_bar, unlearned_view
        from nabla_tau.unlearning import Request

        problems, arguments = Problems(), {}
        with problems.gathered("--output", "a folder that can be written to", "name another."):
            require_output(output, checkpoint)
        if output is not None and checkpoint is not None and output.resolve() == checkpoint.resolve():
            problems.append(f"--checkpoint: expected another folder than --output, got {checkpoint}: name another.")
        sizes = {"batch_size": batch_size, "micro_batch_size": micro_batch_size}
        options: dict[str, Any] = {"seed": seed, **sizes, "device": device, "in_place": in_place or None}
        options.update(checkpoint=checkpoint, checkpoint_every=checkpoint_every)
        options.update(shard=shard or None, gradient_checkpointing=gradient_checkpointing or None)
        with problems.gathered("--method", "a method", "name another."):
            options["method"] = None if method is None else find_method(method, "--method")
        with problems.gathered("target", f"a dict from {target}", "mend it."):
            arguments = read_project(
                target, ids_file=forget, id_column=id_column, skip_unknown=skip_unknown, forgotten=forgotten
            )
        problems.refuse()
        arguments.update({name: value for name, value in options.items() if value is not None})
        if plan:
            planned = make_plan(Request(**arguments))
            if is_main():
                print_json(planned.as_dict()) if as_json else out.print(str(planned), soft_wrap=True)
            return
        with progress_bar(err) as (say, step):
            say("unlearning")
            unlearned = Request(**arguments, on_step=step).run()
        again = "" if checkpoint is None else f", and {checkpoint} keeps it: the same command saves it again"
        if output is not None and checkpoint is not None and is_main():
            remove_saved_before(output, checkpoint)
        folder = save(unlearned, output or Path(), unlearned.warnings, again)
        as_asked = folder == output
        if is_main():
            if checkpoint is not None and as_asked:
                clear(checkpoint)
            if as_json:
                print_json({"output": str(folder), **unlearned.record()})
            else:
                out.print(unlearned_view(unlearned))
                out.print(f"written to {folder}", soft_wrap=True)
        fine = unlearned.reached_target and not unlearned.settings["damaged"] and as_asked
        if not fine and "RANK" not in os.environ:  # launchers take any other code for a crash
            raise typer.Exit(WITH_RESERVATIONS)


@app.command(
    epilog="Example:\n\n  nabla-tau audit runs/request-17 my_project.py:sets\n\n"
    "Exit code 3: done and saved, but the verdict is another than that nothing was detectable."
)
def audit(
    run: Annotated[Path, typer.Argument(help="Folder that unlearn wrote to.")],
    target: Annotated[
        str,
        typer.Argument(
            help="As for unlearn; the dict also holds 'test' and, if there are any, 'retrained' models; 'matched': "
            "True where test rows are of the people or things whose rows were forgotten.",
            metavar="FILE.py:FUNCTION",
            callback=well_formed,
        ),
    ],
    output: Annotated[
        Path | None, typer.Option(help="Folder for report.json and report.html (default: RUN itself).")
    ] = None,
    forget: IdsOption = None,
    id_column: ColumnOption = None,
    skip_unknown: SkipOption = False,
    forgotten: ForgottenOption = None,
    seed: Annotated[int | None, typer.Option(help="Of resampling and permutations.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples per forward pass.")] = None,
    device: DeviceOption = None,
    salt: Annotated[
        Path | None,
        typer.Option(
            help="Secret file, made if it is not there, under which the inputs of the sets, and ids, get fingerprints; "
            "keep it apart from the report."
        ),
    ] = None,
    request: Annotated[
        list[str] | None,
        typer.Option(help="A field of the request for the report, as often as needed.", metavar="NAME=VALUE"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Test whether the forgotten samples can still be told from data that the model never saw."""
    require_together(forget, id_column, skip_unknown, forgotten)
    with reported(as_json) as (out, _):
        from nabla_tau.auditing.audit import audit as make_audit
        from nabla_tau.auditing.report import require_no_report
        from nabla_tau.project import read_project
        from nabla_tau.storage import load, sha256

        folder = output or run
        problems, arguments, fields = Problems(), {}, {}
        with problems.gathered("--output", "a folder that can be written to", "name another."):
            require_no_report(folder)
        if salt is not None and forget is not None and salt.resolve() == forget.resolve():
            problems.append(f"--salt: expected a secret, got the list of ids, {salt}: name another file.")
        with problems.gathered("--request", "NAME=VALUE", "mend it."):
            fields = read_fields(request or [])
        with problems.gathered("target", f"a dict from {target}", "mend it."):
            arguments = read_project(
                target,
                ids_file=forget,
                id_column=id_column,
                skip_unknown=skip_unknown,
                forgotten=forgotten,
                command="audit",
            )
        problems.refuse()
        options = {"seed": seed, "batch_size": batch_size, "device": device}
        arguments.update({name: value for name, value in options.items() if value is not None})
        original = arguments.pop("model")
        with salt_of(salt, folder) as secret:
            report = make_audit(load(run, original), original=original, salt=secret, request=fields, **arguments)
        command = ["nabla-tau", "audit", str(run), target]
        command += ["--forget", str(forget), "--id-column", str(id_column)] if forget is not None else []
        command += ["--skip-unknown"] if skip_unknown else []
        command += ["--forgotten", str(forgotten)] if forgotten is not None else []
        for name, value in {"output": output, **options, "salt": salt}.items():
            command += [f"--{name.replace('_', '-')}", str(value)] if value is not None else []
        for field in request or []:
            command += ["--request", field]
        report.data["command"] = shlex.join(command)
        record = run / "unlearning.json"
        report.data["settings"]["unlearning_saved"] = json.loads(record.read_text(encoding="utf-8")).get("saved")
        report.data["settings"]["unlearning_record_sha256"] = sha256(record)
        del report.data["absent"]["command"]
        if is_main():
            folder = save(report, folder, report.data["warnings"])
            if as_json:
                print_json({"output": str(folder), **report.data})
            else:
                out.print(str(report))
                out.print(f"written to {folder}; open {folder / 'report.html'}", soft_wrap=True)
        if report.verdict["kind"] != "none_detectable" and "RANK" not in os.environ:
            raise typer.Exit(WITH_RESERVATIONS)


@app.command(epilog="Example:  nabla-tau env --json")
def env(as_json: JsonOption = False) -> None:
    """Versions and hardware, for a bug report."""
    with reported(as_json) as (out, _):
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
            out.print(f"{name:<14} {', '.join(value) if isinstance(value, list) else value}")


@app.command(
    epilog="Example:\n\n  nabla-tau tune scrub my_project.py:sets --trials 50\n\n"
    "It sees forget, retain and validation data: 'test' and 'retrained' of the dict are not read. Exit code 3: no "
    "settings gave a model with enough utility left. A method of your own is searched in Python: nabla_tau.tuning.tune."
)
def tune(
    method: Annotated[str, typer.Argument(help="A baseline, one of nabla_tau.methods.")],
    target: Annotated[
        str,
        typer.Argument(
            help="As for unlearn; where a group is to be forgotten, 'own_validation' has validation rows of it.",
            metavar="FILE.py:FUNCTION",
            callback=well_formed,
        ),
    ],
    trials: Annotated[int, typer.Option(help="Settings to try; the first are the defaults.")] = 20,
    forget: IdsOption = None,
    id_column: ColumnOption = None,
    skip_unknown: SkipOption = False,
    forgotten: ForgottenOption = None,
    seed: Annotated[int | None, typer.Option(help="Of the search, and of every run in it.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Samples per global batch (default: 256); best that of training.")
    ] = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search a baseline's settings fairly, and say what the search cost. ∇τ needs none."""
    require_together(forget, id_column, skip_unknown, forgotten)
    with reported(as_json) as (out, err):
        from nabla_tau.methods import find_method
        from nabla_tau.project import read_project
        from nabla_tau.terminal import progress_bar
        from nabla_tau.tuning import tune as search
        from nabla_tau.unlearning import Request

        problems, arguments = Problems(), {}
        with problems.gathered("METHOD", "a method", "name another."):
            find_method(method, "METHOD")
        with problems.gathered("target", f"a dict from {target}", "mend it."):
            arguments = read_project(
                target,
                ids_file=forget,
                id_column=id_column,
                skip_unknown=skip_unknown,
                forgotten=forgotten,
                command="tune",
            )
        problems.refuse()
        options = {"seed": seed, "batch_size": batch_size, "device": device}
        arguments.update({name: value for name, value in options.items() if value is not None})
        own_validation = arguments.pop("own_validation", None)
        with progress_bar(err) as (say, step):
            say("nabla_tau first, then trials")
            tuned = search(method, Request(**arguments), trials=trials, own_validation=own_validation, on_trial=step)
        if is_main():
            print_json(tuned.record()) if as_json else out.print(str(tuned), soft_wrap=True)
        if not (tuned.best and tuned.best.allowed) and "RANK" not in os.environ:
            raise typer.Exit(WITH_RESERVATIONS)


def read_fields(fields: list[str]) -> dict[str, str]:
    """NAME=VALUE, taken apart."""
    pairs = [field.partition("=") for field in fields]
    if wrong := [field for field, (name, sign, _) in zip(fields, pairs, strict=True) if not name or not sign]:
        raise ValueError(f"Expected --request NAME=VALUE, got {', '.join(wrong)}.")
    names = [name for name, _, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"Expected each --request NAME once, got {', '.join(twice)} more often.")
    return {name: value for name, _, value in pairs}


def require_output(output: Path | None, checkpoint: Path | None) -> None:
    """Make sure that a result can be saved, if it is to be; what this very run had saved is saved again."""
    from nabla_tau.checkpoint import saved_before
    from nabla_tau.storage import require_free

    if output is not None and (checkpoint is None or not saved_before(output, checkpoint)):
        require_free(output)


def save(result: "Unlearned | Report", output: Path, warned: list[str], again: str = "") -> Path:
    """Save where it was asked for; if that fails, where it can be found, and say how to have it there after all."""
    try:
        return result.save(output)
    except OSError as error:
        folder = Path(tempfile.mkdtemp(prefix="nabla-tau-"))
        warned.append(f"{output} could not be written ({error}); the result is in {folder}{again}.")
        warnings.warn(warned[-1], stacklevel=2)
        return result.save(folder)


def first_free(folder: Path) -> Path:
    """The folder, or the first of folder-2, folder-3, … that is not there yet."""
    names = (folder.with_name(f"{folder.name}-{number}") if number > 1 else folder for number in itertools.count(1))
    return next(name for name in names if not name.exists())


def require_together(forget: Path | None, id_column: str | None, skip_unknown: bool, forgotten: Path | None) -> None:
    """Refuse options about ids that say nothing without each other."""
    needed = {"--forget FILE": forget is not None, "--id-column NAME": id_column is not None}
    others = {"--skip-unknown": skip_unknown, "--forgotten": forgotten is not None}
    given = [name.partition(" ")[0] for name, is_given in {**needed, **others}.items() if is_given]
    missing = [name for name, is_given in needed.items() if not is_given]
    if given and missing:
        raise typer.BadParameter(
            f"expected {' and '.join(missing)} as well, got {' and '.join(given)} alone", param_hint=given[0]
        )


def plain_scores(scores: Any) -> dict[str, Any]:
    """Scores as JSON takes them."""
    from dataclasses import asdict

    return {key: value for key, value in asdict(scores).items() if not key.endswith("_losses")}


def main() -> None:
    """Entry point of the `nabla-tau` command. A terminal that has no α shows a mark in its place."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app()
