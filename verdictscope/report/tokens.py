"""The token view of a run: target requests that the model complied with come first."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from markupsafe import Markup

from verdictscope.report.wording import wording_of
from verdictscope.report.words import variant_name
from verdictscope.study.folder import RunFolder

TITLE = "The first rollouts of each cell of the test split, target requests first"


def token_view(run: RunFolder) -> tuple[Markup | None, Mapping[str, str]]:
    """The token view as a sandboxed frame, with the hashes its own script and style need; nothing without its table."""
    table = run.find_table("tokens")
    if table is None:
        return None, {}
    from verdictscope import figures
    from verdictscope.figures.token_view.view import csp

    layer = run.find_json("probe").get("layer")
    names = set(table["readout"].astype(str))
    start = ("probe", layer) if "probe" in names and isinstance(layer, int) else None
    view = figures.token_view(
        in_order(table), start=start, ends=wording_of(run.study.task).scale, title=TITLE, facts=("cell", "variant")
    )
    # The view escapes its own data; its frame has no origin and inherits this page's policy.
    return Markup(view.fragment()), csp()


def in_order(tokens: pd.DataFrame) -> pd.DataFrame:
    """Target requests that were complied with first, those that think before those that do not, then all others.

    A rollout is followed by its scores with heads ablated; variants and cells are named as in the page.

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
    other = cell.str.replace("_", " request, ", n=1).where(~target | ~cell.str.contains("_"), asked)
    named = {"variant": variant.map(variant_name), "cell": other}
    return tokens.assign(**{name: text for name, text in named.items() if name in tokens}).iloc[order]
