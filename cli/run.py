"""`budjoule run --budget 5kJ -- CMD`: runs a command that knows nothing of it, until its joules are spent."""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Annotated, Any

import typer

from budjoule.cli.child import Child, run_child
from budjoule.cli.measured import idle_power, unmet
from budjoule.cli.output import check_output, note, print_json, save_measured, to_json
from budjoule.cli.tree import Tree
from budjoule.energy.errors import BudgetExhausted, MeterError, UsageError
from budjoule.energy.measurement import Measurement
from budjoule.energy.units import joules, seconds, show
from budjoule.energy.windows.choose import choose
from budjoule.energy.windows.window import Window
from budjoule.training.guard import Guard, Look
from budjoule.training.ledger.ledger import Ledger

_STDERR = 2
_DAY_S = 86400.0
_SHOWN = 10  # lines of progress over a budget, unless an interval is given


def run(
    ctx: typer.Context,
    budget: Annotated[
        str | None, typer.Option(help="What may be spent, such as '5 kJ'; a ledger keeps its own.")
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option(help="Keep the budget in this file: runs share it, and what is left outlives them.")
    ] = None,
    per: Annotated[
        str | None,
        typer.Option(help="The ledger's budget comes back: 'day', 'charge' (of the battery), or every '6 h'."),
    ] = None,
    battery_floor: Annotated[
        float | None, typer.Option(help="Stop where the battery holds less than this share, such as 0.2.")
    ] = None,
    grace: Annotated[
        str, typer.Option(help="Time between SIGTERM and SIGKILL; at most a tenth of the joules is kept for it.")
    ] = "5 s",
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document on stdout; the command's own stdout goes to stderr.")
    ] = False,
    require_measured: Annotated[
        bool, typer.Option("--require-measured", help="Refuse an estimate, before the command is run.")
    ] = False,
    meter: Annotated[str | None, typer.Option(help="The meter to read, such as rapl; see 'budjoule doctor'.")] = None,
    idle: Annotated[
        str | None,
        typer.Option(
            help="Spend only what comes on top of an idle machine: its power '12 W', or '10 s' to measure it."
        ),
    ] = None,
    interval: Annotated[
        str | None, typer.Option(help="Show progress on stderr every so often, such as '1 s', not every tenth.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Also write the JSON document to this file.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output file.")] = False,
) -> None:
    """Run a command within a joule budget: budjoule run --budget 5kJ [OPTIONS] -- CMD [ARGS]...

    The whole machine's joules count, the command's children among them, as the meters say or, without any, as estimated from
    processor load. When what is left only pays for its ending the command gets SIGTERM, and SIGKILL when that is spent or the
    grace is over. Exit code 3 if it was stopped, else the command's own.
    """
    command = _command(ctx.args)
    grace_s, every_s = seconds(grace), None if interval is None else seconds(interval)
    if budget is None and ledger is None:
        raise UsageError("no budget; give --budget '5 kJ', or --ledger FILE with one")
    if per is not None and ledger is None:
        raise UsageError(f"a budget that comes back every {per} must outlive this run; keep it with --ledger FILE")
    if output is not None:
        check_output(output, force=force)
    try:
        floor = idle_power(idle, meter, require_measured)
        domains = choose(meter, require_measured=require_measured).watch.meter.domains
    except MeterError:
        if as_json and require_measured:
            print_json(unmet(" ".join(command)))
        raise
    with tempfile.TemporaryDirectory() as folder:
        path = ledger or Path(folder) / "run.db"
        budget_j = None if budget is None else joules(budget)
        with Ledger.open(path, budget_j=budget_j, floor_frac=battery_floor, **_period(per)) as books:
            books.settle_abandoned()
            guard = Guard(
                books,
                grace_s=grace_s,
                lag_s=max((domain.update_s for domain in domains), default=0.0),
                unit_j=sum(domain.unit_j for domain in domains),
                most_w=sum(domain.limit_w for domain in domains if domain.parent is None),
            )
            window = Window(" ".join(command), meter=meter, require_measured=require_measured, idle=floor)
            exit_code, whole = _held(command, guard, window, _shower(every_s), stdout=_STDERR if as_json else None)
            document = _document(command, exit_code, whole, guard, books, ledger)
    unsaved = save_measured(output, document, force=force)
    print(to_json(document) if as_json else _lines(document, whole, guard), flush=True)
    raise typer.Exit(BudgetExhausted.exit_code if guard.reason else exit_code or unsaved)


def _command(args: list[str]) -> list[str]:
    if not args:
        raise UsageError("no command to run; write it after '--', as in 'budjoule run --budget 5kJ -- python train.py'")
    if args[0].startswith("-"):
        raise UsageError(f"unknown option {args[0]!r}; put the command after '--', and see 'budjoule run --help'")
    return args


def _period(per: str | None) -> dict[str, Any]:
    """When the budget comes back, as a ledger takes it; nothing keeps what the ledger was made with."""
    if per is None:
        return {}
    if per == "charge":
        return {"per_charge": True, "period_s": 0.0}
    return {"period_s": _DAY_S if per == "day" else seconds(per), "per_charge": False}


def _held(
    command: list[str],
    guard: Guard,
    window: Window,
    show_progress: Callable[[Look, float], None],
    *,
    stdout: int | None,
) -> tuple[int, Measurement]:
    """Run the command under the guard; its own exit code, and what it cost."""
    tree = Tree()

    def wait(child: Child) -> int:
        while True:
            now = window.read()
            look = guard.look(now)
            show_progress(look, now.duration_s)
            if look.over:
                tree.kill()
            elif look.stopping:
                tree.terminate(child)
            with suppress(TimeoutExpired):
                code = child.wait(look.wait_s)
                # A command that was stopped has ended when all that it started has.
                if not look.stopping or tree.wait(look.wait_s):
                    return code

    guard.begin()
    window.begin()
    try:
        exit_code = run_child(command, stdout=stdout, in_child=tree.in_child, wait=wait)
    finally:
        whole = window.end()
        guard.finish(whole)
    return exit_code, whole


def _shower(every_s: float | None) -> Callable[[Look, float], None]:
    """Shows progress every so often, or at every tenth of the budget."""
    next_shown = every_s if every_s is not None else 1.0 / _SHOWN

    def show_progress(look: Look, duration_s: float) -> None:
        nonlocal next_shown
        whole_j = look.spent_j + look.left_j
        at = duration_s if every_s is not None else look.spent_j / whole_j if whole_j else 1.0
        if at < next_shown:
            return
        step = every_s or 1.0 / _SHOWN
        next_shown = step * (at // step + 1)
        lasts = f", lasts {show(look.left_j / look.power_w, 's')} at {show(look.power_w, 'W')}" if look.power_w else ""
        note(f"budjoule: {show(look.spent_j, 'J')} spent, {show(look.left_j, 'J')} left{lasts}")

    return show_progress


def _document(
    command: list[str], exit_code: int, whole: Measurement, guard: Guard, books: Ledger, path: Path | None
) -> dict[str, Any]:
    balance = books.balance()
    return {
        **whole.to_dict(),
        "command": command,
        "exit_code": exit_code,
        "stopped_by": "budget" if guard.reason else None,
        "reason": guard.reason or None,
        "run_spent_j": guard.spent_j,
        "ledger": None if path is None else str(path),
        **balance._asdict(),
    }


def _lines(document: dict[str, Any], whole: Measurement, guard: Guard) -> str:
    left = f"{show(document['spent_j'], 'J')} of {show(document['budget_j'], 'J')} spent"
    over = f", {show(document['overspent_j'], 'J')} too much" if document["overspent_j"] else ""
    rows = [str(whole), f"  budget  {left}{over}, {show(document['remaining_j'], 'J')} left"]
    rows += [f"  stopped  {guard.reason}"] if guard.reason else []
    rows += [f"  note: {text}" for text in whole.notes]
    path = document["ledger"]
    rows.append(
        f"next: budjoule report {path}" if path else "next: --ledger FILE keeps the budget, for runs that share it"
    )
    return "\n".join(rows)
