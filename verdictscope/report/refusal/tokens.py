"""The token view of a run: what the study asks about comes first, in the words of the page."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from markupsafe import Markup

from verdictscope.report.record import Record
from verdictscope.report.shown import VARIANTS

TITLE = "The first of each cell of the test part, target requests first"


def token_view(run: Record) -> tuple[Markup | None, Mapping[str, str]]:
    """The token view as a sandboxed frame, with the hashes its own script and style need; nothing without its table."""
    table = run.table("tokens")
    if table is None:
        return None, {}
    from verdictscope import figures
    from verdictscope.figures.token_view.view import csp

    layer = run.json("probe").get("layer")
    names = set(table["readout"].astype(str))
    start = ("probe", layer) if "probe" in names and isinstance(layer, int) else None
    view = figures.token_view(
        in_order(table),
        start=start,
        ends=("reads like complying", "reads like refusing"),
        title=TITLE,
        facts=("cell", "variant"),
    )
    # The view escapes its own data; its frame has no origin and inherits this page's policy.
    return Markup(view.fragment()), csp()


def in_order(tokens: pd.DataFrame) -> pd.DataFrame:
    """Target requests that were complied with first, those that think before those that do not, then all others.

    A rollout and its reading with heads zeroed stand one after the other; variants and cells are named as in the page.

    Args:
        tokens: the table tokens.parquet.
    """
    rollout, nothing = tokens["rollout"].astype(str), pd.Series("", index=tokens.index)
    variant, cell = (tokens.get(column, nothing).astype(str) for column in ("variant", "cell"))
    target = tokens.get("target", nothing).eq(True).astype(bool)
    thinks = set(rollout[tokens["segment"].eq("thinking")])
    keys = {
        "other": ~(target & cell.str.endswith("_complied")),
        "silent": ~rollout.isin(thinks),
        "rollout": pd.factorize(rollout)[0],
        "variant": pd.factorize(variant)[0],
    }
    order = pd.DataFrame(keys).reset_index(drop=True).sort_values(list(keys), kind="stable").index
    asked = "target request, " + cell.str.partition("_")[2]
    told = cell.str.replace("_", " request, ", n=1).where(~target | ~cell.str.contains("_"), asked)
    named = {"variant": variant.map(lambda name: VARIANTS.get(name, name)), "cell": told}
    return tokens.assign(**{name: text for name, text in named.items() if name in tokens}).iloc[order]
