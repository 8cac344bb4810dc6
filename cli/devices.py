"""`budjoule devices [NAME]`: the device profiles, what each rests on and how wrong it was."""

from typing import Annotated

import typer

from budjoule.cli.output import note, print_json, result_console


def devices(
    name: Annotated[str | None, typer.Argument(help="A profile's name or path, to see all that it rests on.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """List the device profiles, or show one."""
    from budjoule.energy.reports.device_list import profile_rows, render_profile, render_profiles

    if name is not None:
        from budjoule.energy.device import load_profile

        found = load_profile(name)
        if as_json:
            print_json(found.to_dict())
        else:
            render_profile(found, result_console())
        return
    rows = profile_rows()
    if as_json:
        print_json(rows)
    else:
        render_profiles(rows, result_console())
        note("next: budjoule devices NAME")
