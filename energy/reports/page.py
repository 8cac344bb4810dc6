"""Fills the page templates: one self-contained file, light and dark, no script, no network.

Every text from a record passes through Jinja's autoescaping, and a content security policy in the page refuses
anything that would load or run.
"""

from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

import budjoule
from budjoule.energy.reports.charts import MOST_ROWS
from budjoule.energy.reports.words import tied


def render(template: str, **values: Any) -> str:
    """Fill one of this folder's templates; an undefined name in it is an error."""
    style = files("budjoule.energy.reports").joinpath("style.css").read_text(encoding="utf-8")
    values |= {"version": budjoule.__version__, "style": style, "most_rows": MOST_ROWS}
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("budjoule.energy", "reports"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["tied"] = tied
    return environment
