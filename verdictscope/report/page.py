"""From a run folder to one HTML file: nothing outside it is loaded, and nothing inside it runs but our own script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import verdictscope.report.compare as compare
import verdictscope.report.provenance as origin
import verdictscope.report.tables as tables
import verdictscope.report.words as words
from verdictscope import provenance
from verdictscope.report.glossary import TERMS
from verdictscope.report.marks import mark
from verdictscope.report.terminal import warnings
from verdictscope.report.tokens import token_view
from verdictscope.report.wording import wording_of
from verdictscope.study.criteria import Evidence, assess
from verdictscope.study.criteria.criterion import STATUSES
from verdictscope.study.folder import RunFolder

TEMPLATES = Path(__file__).parent / "templates"


def write_report(run: RunFolder, out: Path) -> dict[str, Any]:
    """Write the report of a run.

    Args:
        run: a run folder, finished or not.
        out: the HTML file, written whole or not at all.

    Returns:
        what ``verdictscope report --json`` prints: the file, its size, the missing stages, the evidence ladder.
    """
    ladder = assess(run.study.task, run.results())
    text = render("report.html", report_context(run) | {"ladder": ladder})
    provenance.write_text(out, text)
    return {
        "report": str(out),
        "bytes": len(text.encode()),
        "missing": run.missing,
        "ladder": [a.to_dict() for a in ladder],
    }


def write_comparison(runs: Sequence[RunFolder], out: Path) -> dict[str, Any]:
    """Write several runs side by side.

    Args:
        runs: two or more run folders of one kind of study, finished or not; the first two are compared as replications
            of each other.
        out: the HTML file, written whole or not at all.

    Returns:
        what ``verdictscope report --json`` prints: the file, its size, missing stages and ladder of each, the numbers.

    Raises:
        InputError: the runs are of different kinds, or one is given twice.
    """
    names, ladders, rows = compare.run_names(runs), compare.ladders(runs), compare.numbers(runs)
    figures = [{f["name"]: f for f in figure_list(run)} for run in runs]
    every = list(dict.fromkeys(name for of_run in figures for name in of_run))
    context = {
        "title": " and ".join(run.study.name for run in runs),
        "runs": runs,
        "labels": names,
        "prompts": compare.shared_prompts(runs),
        "differences": compare.study_differences(runs),
        "numbers": rows,
        "ladders": list(zip(*ladders, strict=True)),
        "figures": [(next(f[n]["title"] for f in figures if n in f), [f.get(n) for f in figures]) for n in every],
        "models": [origin.model_table(run) for run in runs],
        "software": [origin.software_table(run) for run in runs],
        "commands": [origin.command(run.study) for run in runs],
        "csp_more": {},
    }
    text = render("compare.html", context)
    provenance.write_text(out, text)
    return {
        "report": str(out),
        "bytes": len(text.encode()),
        "runs": [
            {"folder": str(run.out), "missing": run.missing, "ladder": [a.to_dict() for a in ladder]}
            for run, ladder in zip(runs, ladders, strict=True)
        ],
        "numbers": [row.to_dict() for row in rows],
    }


def report_context(run: RunFolder) -> dict[str, Any]:
    """Everything the template shows, the ladder apart."""
    wording, results = wording_of(run.study.task), run.results()
    tokens, csp = token_view(run)
    cards = (tables.card(group, results) for group in wording.groups)
    return {
        "title": run.study.name,
        "run": run,
        "study": run.study,
        "summary": wording.summary(results),
        "warnings": warnings(results, wording.counts),
        "facts": [*origin.study_facts(run.study), *wording.facts(run)],
        "cards": [card for card in cards if card is not None],
        "counts": tables.counts(wording.counts, results),
        "examples": wording.examples(run),
        "about_examples": wording.about_examples,
        "figures": figure_list(run),
        "tokens": tokens,
        "models": origin.model_table(run),
        "software": origin.software_table(run),
        "seconds": origin.seconds_table(run),
        "command": origin.command(run.study),
        "terms": TERMS,
        "csp_more": csp,
    }


def figure_list(run: RunFolder) -> list[dict[str, Any]]:
    """The run's figures as data URIs, known ones first, each with title and caption."""
    found, titles = run.figure_files(), wording_of(run.study.task).figures
    known = {}
    for key, title in titles.items():
        for name in (n for n in found if (n.startswith(key) if key.endswith("_") else n == key)):
            rest = name.removeprefix(key).replace("_", " ")  # of figures that share a title
            known[name] = title + (f" ({rest})" if rest else "")
    names = [*known, *(n for n in found if n not in known)]
    return [
        {
            "name": name,
            "key": f"figure-{place}",
            "title": known.get(name, name.replace("_", " ")),
            "known": name in known,
            "uri": Markup("data:image/png;base64,") + base64.b64encode(found[name][0].read_bytes()).decode("ascii"),
            "caption": found[name][1],
        }
        for place, name in enumerate(names, 1)
    ]


def render(template: str, context: Mapping[str, Any]) -> str:
    """Fill a template. Every text is escaped and freed of hidden characters; only markup made here is not."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_final,
    )
    environment.filters |= {"mark": mark, "evidence": _evidence, "counted": words.counted, "estimate": words.estimate}
    environment.globals |= {"STATUSES": STATUSES}
    css, js = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    more = context.get("csp_more") or {}
    page = {
        "css": Markup(css),
        "js": Markup(js),
        "csp": policy(css, js, more.get("style-src", ""), more.get("script-src", "")),
        "version": version("verdictscope"),
    }
    return environment.get_template(template).render(**context, **page)


def _evidence(evidence: Evidence) -> dict[str, str]:
    """The cells of a comparison."""
    row = evidence.result
    if row is None:
        return dict.fromkeys(("estimate", "unit", "n", "of", "file"), "") | {"estimate": "not measured"}
    unit = "" if row.unit in ("rate", "") else row.unit
    n = "" if row.n is None else f"{row.n:,}"
    return {"estimate": words.estimate(row), "unit": unit, "n": n, "of": row.of, "file": row.file}


def _final(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(value, Markup):
        return words.visible(words.clip(value, words.LONGEST))
    return value


def policy(css: str, js: str, more_css: str = "", more_js: str = "") -> str:
    """The content security policy: this style, this script, embedded images, and nothing else."""
    return (
        f"default-src 'none'; img-src data:; style-src {_hash(css)} {more_css}".rstrip()
        + f"; script-src {_hash(js)} {more_js}".rstrip()
        + "; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
