"""The command line: parse, call, print.

Heavy imports happen inside the commands: ``recbench --help`` must answer at once.
"""

from __future__ import annotations

import gc
import json
import logging
import sys
import textwrap
from pathlib import Path
from typing import Annotated

import typer

from recbench.cli import data
from recbench.cli.explain import explain
from recbench.cli.options import AsJson, Out, Seed
from recbench.cli.score import score
from recbench.errors import RecbenchError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A benchmark suite for recommender systems whose numbers can be believed.",
)
leaderboard_app = typer.Typer(no_args_is_help=True, help="Pages from results of record.")
models_app = typer.Typer(no_args_is_help=True, help="Models: what there is, configuration, references.")
benchmarks_app = typer.Typer(no_args_is_help=True, help="Benchmarks: what there is, protocol, metrics.")
app.add_typer(leaderboard_app, name="leaderboard")
app.add_typer(data.app, name="data")
app.add_typer(models_app, name="models")
app.add_typer(benchmarks_app, name="benchmarks")
app.command()(score)
app.command()(explain)

_debug = False


def main() -> None:
    """Run the command line; a failure is one sentence on stderr and exit status 1, a wrong request 2."""
    # The collector would search the lasting objects of every import again and again: a tenth of a short run's time.
    gc.set_threshold(100_000)
    try:
        app()
    except RecbenchError as error:
        _fail(error, str(error), error.exit_status)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        # Some libraries' messages are pages long.
        said = textwrap.shorten(str(error).partition("\n")[0], 300, placeholder=" ...")
        _fail(error, f"{type(error).__name__}: {said} (recbench --debug shows where)", 1)
    finally:
        # Nothing is left to collect, but at exit the interpreter would search all imported objects once more: a second.
        gc.freeze()


def _fail(error: Exception, sentence: str, status: int) -> None:
    if _debug:
        raise error
    typer.echo(f"recbench: {sentence}", err=True)
    sys.exit(status)


def _version(value: bool) -> None:
    if value:
        from recbench import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    global _debug  # noqa: PLW0603  one process, one command line
    _debug = debug
    logging.getLogger("recbench").addHandler(_warnings())


def _warnings() -> logging.Handler:
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("recbench: %(levelname)s: %(message)s"))
    # A failed run raises its sentence anyway.
    handler.addFilter(lambda record: record.levelno < logging.ERROR)
    return handler


@app.command()
def run(
    benchmark: Annotated[str, typer.Argument(help="Full name, such as topn/ml-100k; or a result to run again.")],
    model: Annotated[str | None, typer.Argument(help="Name, file.py, or package.module:Class.")] = None,
    values: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Configuration.")] = None,
    seed: Seed = 1,
    out: Out = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Run a model on a benchmark, or run again exactly what a result records."""
    from recbench.errors import UsageError
    from recbench.reporting.console import print_run
    from recbench.running.plan import make_plan, parse_assignments, plan_again

    before = None
    if model is None:
        if not Path(benchmark).exists():
            raise UsageError(
                f"'{benchmark}' is not a result, and no model is named; expected BENCHMARK MODEL or RESULT"
            )
        plan, before = plan_again(Path(benchmark))
    else:
        plan = make_plan(benchmark, model, parse_assignments(values or []), seed)

    from recbench.reporting.progress import Display
    from recbench.running.run import execute

    with Display() as display:
        result = execute(plan, out, on_epoch=display.epoch)
    if as_json:
        typer.echo(result.model_dump_json(indent=2))
        return
    print_run(result, plan.directory(out), before)


@app.command()
def suite(
    name: Annotated[str, typer.Argument(help="Name of a suite, or a YAML file.")],
    jobs: Annotated[int | None, typer.Option("--jobs", min=1, help="Runs at once (default: one a core).")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the results (default: results/NAME).")] = None,
    tracking: Annotated[bool, typer.Option(help="Log to MLflow.")] = True,
    as_json: AsJson = False,
) -> None:
    """Run a whole suite; finished runs are skipped, failures become rows."""
    from recbench.reporting.progress import Display
    from recbench.running.suite import load_suite, run_suite
    from recbench.running.workers import default_jobs

    definition = load_suite(name)
    folder = out or Path("results") / Path(name).stem
    n_jobs = jobs or default_jobs()
    with Display() as display:
        display.line(f"{definition.title}: results in {folder}, {n_jobs} at a time")
        results = run_suite(definition, name, folder, jobs=n_jobs, tracking=tracking, on_done=display.done)
    from recbench.reporting.boards import collect_records
    from recbench.reporting.page import write_page
    from recbench.tracking.mlflow import tracking_uri

    page = write_page(
        collect_records([folder], f"recbench suite {name}"), folder / "index.html", title=definition.title
    )
    compare([folder], as_json=as_json)
    if not as_json:
        typer.echo(f"page:   {page}")
        if tracking:
            typer.echo(f"mlflow: mlflow ui --backend-store-uri {tracking_uri()}")
    if any(result.status == "failed" for result in results):
        raise typer.Exit(1)


@app.command(name="compare")
def compare(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders that hold results.")],
    metric: Annotated[str | None, typer.Option(help="Metric (default: each benchmark's primary one).")] = None,
    baseline: Annotated[str | None, typer.Option(help="Model to give differences to.")] = None,
    plots: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Draw plots (SVG) in this folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare models: means with 95 % intervals over seeds, costs, tests, groups that cannot be told apart."""
    from rich.console import Console

    from recbench.reporting.compare import compare as compare_results
    from recbench.reporting.compare_text import render

    comparison = compare_results(directories, metric, baseline, within_seeds=as_json)
    if as_json:
        typer.echo(comparison.to_json())
    else:
        Console(highlight=False).print(render(comparison))
    if plots is not None:
        from recbench.reporting.plots import write_plots

        for path in write_plots(comparison, plots):
            typer.echo(f"plot: {path}", err=as_json)


@app.command()
def tune(
    benchmark: str,
    model: str,
    values: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Keys held fixed.")] = None,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Trials of the study in all.")] = 50,
    tries: Annotated[
        list[str] | None,
        typer.Option(
            "--try",
            metavar="'KEY=VALUE ...'",
            help="Try this after the default, such as what is published; repeatable.",
        ),
    ] = None,
    timeout: Annotated[float | None, typer.Option(min=1, help="Seconds after which no new trial begins.")] = None,
    storage: Annotated[str | None, typer.Option(help="Journal file or database URL of the study.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Trials at once.")] = None,
    seed: Seed = 1,
    out: Annotated[Path, typer.Option("--out", help="configs/tuned/... is written in this folder.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Search a model's configuration on validation data; the default configuration is the first trial."""
    from recbench.reporting.progress import Display
    from recbench.running.plan import parse_assignments
    from recbench.running.tune import tune as search
    from recbench.running.workers import default_jobs

    with Display() as display:
        path, tuned = search(
            benchmark,
            model,
            trials=trials,
            given=parse_assignments(values or []),
            tries=[parse_assignments(words.split()) for words in tries or []],
            seed=seed,
            storage=storage or str(Path("results", "studies.journal")),
            workers=workers or default_jobs(),
            timeout=timeout,
            out=out,
            on_trial=display.trial,
        )
    if as_json:
        typer.echo(tuned.model_dump_json(indent=2))
        return
    default = "failed" if tuned.default_value is None else f"{tuned.default_value:.5f}"
    typer.echo(
        f"best {tuned.metric} on validation {tuned.value:.5f} (default configuration {default}) "
        f"after {tuned.trials} trials and {tuned.tune_s:.0f} s"
    )
    typer.echo(f"configuration: {path}; runs of {model} on {benchmark} from this folder now start from it")


@leaderboard_app.command("build")
def leaderboard_build(
    directories: Annotated[list[Path] | None, typer.Argument(metavar="[DIR]...", help="Results to record.")] = None,
    boards: Annotated[Path, typer.Option(help="Folder of the records and pages.")] = Path("leaderboards"),
    command: Annotated[str, typer.Option(help="Command that made the results, kept in the records.")] = "",
    suite: Annotated[str | None, typer.Option(help="Suite whose models without results say so.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make records of results, and the pages of all records (Markdown and one HTML file)."""
    from recbench.reporting.boards import build_pages, build_records
    from recbench.running.suite import load_suite

    planned = load_suite(suite) if suite else None
    written = build_records(directories, boards, command, planned) if directories else []
    pages = build_pages(boards)
    if as_json:
        typer.echo(json.dumps({"records": len(written), "pages": [str(page) for page in pages]}, indent=2))
        return
    if directories:
        typer.echo(f"{len(written)} records written in {boards}")
    for page in pages:
        typer.echo(f"page: {page}")


@models_app.command("list")
def models_list(
    task: Annotated[str | None, typer.Option(help="Only of this task.")] = None, as_json: AsJson = False
) -> None:
    """List the models."""
    from recbench.models.registry import load_model, model_names
    from recbench.reporting.console import print_rows

    models = [load_model(name) for name in model_names()]
    rows = [
        {
            "name": model.model_name(),
            "tasks": ", ".join(model.tasks),
            "what": (model.__doc__ or "").strip().splitlines()[0],
            "reference": f"{r.metric} {r.value:g} on {r.benchmark}" if (r := model.reference) else None,
        }
        for model in models
        if task is None or task in model.tasks
    ]
    print_rows(rows, ["name", "tasks", "what"], as_json)


@models_app.command("info")
def models_info(name: str, as_json: AsJson = False) -> None:
    """Show a model: its equations, its configuration with bounds and search space, its reference."""
    import inspect
    import shutil
    from dataclasses import asdict

    from recbench.models.registry import load_model
    from recbench.reporting.console import print_mapping, print_table, refit, search_range

    model = load_model(name)
    schema = model.Config.model_json_schema()
    document = inspect.getdoc(inspect.getmodule(model)) or ""
    if as_json:
        reference = None if model.reference is None else asdict(model.reference)
        information = {"name": model.model_name(), "tasks": model.tasks, "document": document}
        print_mapping(information | {"config": schema, "reference": reference}, as_json)
        return
    typer.echo(refit(document, shutil.get_terminal_size().columns) + "\n")
    space = model.Config.search_space()
    rows = [
        # As they are written on the command line.
        [key, json.dumps(field.get_default(call_default_factory=True)).strip('"'), search_range(space.get(key, {}))]
        for key, field in model.Config.model_fields.items()
    ]
    print_table(f"configuration of {model.model_name()}", ["key", "default", "search space"], rows)
    if model.reference is not None:
        r = model.reference
        typer.echo(f"reference: {r.metric} {r.value:g} ± {r.tolerance:g} on {r.benchmark} ({r.source})")


@benchmarks_app.command("list")
def benchmarks_list(as_json: AsJson = False) -> None:
    """List the benchmarks."""
    from recbench.reporting.console import print_rows
    from recbench.tasks.base import benchmark_names, load_benchmark

    rows = [
        {"name": name, "primary metric": benchmark.primary_metric, "title": benchmark.title}
        for name in benchmark_names()
        for benchmark in [load_benchmark(name)]
    ]
    print_rows(rows, ["name", "primary metric", "title"], as_json)


@benchmarks_app.command("info")
def benchmarks_info(name: str, as_json: AsJson = False) -> None:
    """Show a benchmark: dataset, protocol, metrics."""
    from recbench.reporting.console import print_mapping
    from recbench.tasks.base import load_benchmark

    print_mapping(load_benchmark(name).model_dump(mode="json"), as_json)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Show the environment: versions, devices, caches, and what is missing."""
    from recbench.reporting.console import print_mapping
    from recbench.reporting.doctor import examine

    print_mapping(examine(), as_json)
