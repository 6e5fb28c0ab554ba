"""`make report`: one HTML page of all results, which needs nothing but itself.

Exit code 0: written; 69: there is no result to write about.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from loadtests import readme_numbers, report_figures, report_views
from loadtests.result import PROJECT, RESULTS

TEMPLATE: Final = "report_page.html"
PAGE: Final = "report.html"


def render(views: Sequence[report_views.View]) -> str:
    """The page. Everything is escaped but the charts, which escape what they show."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": report_figures.figure,
        "when": report_figures.when,
        "cells": report_figures.columns,
    }
    return environment.get_template(TEMPLATE).render(
        views=views, machines=report_views.machines(views)
    )


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtests.report_page", description=__doc__)
    add = parser.add_argument
    add("--results", type=Path, default=RESULTS, help="folder of the result files")
    add("--out", type=Path, help=f"the page; else {PAGE} in that folder")
    add(
        "--readme",
        type=Path,
        nargs="?",
        const=PROJECT / "README.md",
        help="also write the ratios of these results into its block of numbers",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = read_options(arguments)
    documents = report_views.read(options.results)
    if not documents:
        print(f"no results in {options.results}: `make bench-access` writes one", file=sys.stderr)
        return os.EX_UNAVAILABLE
    page = options.out or options.results / PAGE
    page.write_text(render([report_views.View(document) for document in documents]))
    print(f"written to {page}")
    if options.readme is not None:
        readme_numbers.rewrite(options.readme, documents)
        print(f"numbers written into {options.readme}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
