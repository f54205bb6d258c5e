"""Stage ``tokens``: a few rollouts read token by token, by every layer's probe, to be looked at one by one.

Which ones is a rule, not a choice: of the test part, the first ``tokens.per_cell`` rollouts of every cell in the order
of the prompts, target requests apart. They illustrate; the numbers of the run come from all rollouts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import pandas as pd
import torch

from verdictscope.activations import BatchPlan, LogOddsReadout, Readout, forward
from verdictscope.activations.readouts import readout_from_dict
from verdictscope.interventions import HeadEdit
from verdictscope.interventions.edits.protocol import compile_edits
from verdictscope.rollouts import Rollout
from verdictscope.study.folder import RunFolder
from verdictscope.study.stages.heads import found_heads
from verdictscope.traces.tokens import token_table

MOST_LOGITS = 1 << 28
"""Numbers (rows x vocabulary) up to which the log-odds are read at every token: 1 GiB in float32."""
FEW = "thinking:16,think_end"
"""Where they are read beyond that."""


def run_tokens(run: RunFolder) -> None:
    """Write ``tokens.parquet``: chosen rollouts, and the target ones that were complied with also without the heads."""
    labels = chosen(run.labels(), run.study.tokens.per_cell)
    by_id = run.rollouts()
    ablated = labels[labels["target"] & labels["outcome"].eq(False).fillna(False).astype(bool)]
    tables = []
    with run.ticking("tokens: every layer's probe") as tick:
        variants = (("base", labels, ()), ("ablated_fixed", ablated, found_heads(run.read_json("heads"))))
        for variant, of_variant, heads in variants:
            rollouts = [by_id[i] for i in of_variant["rollout"]]
            if rollouts:
                tables.append(read(run, rollouts, heads).assign(variant=variant))
                tick(len(tables), len(variants))
    table = pd.concat(tables, ignore_index=True)
    table = pd.concat([table, normalised(run, table)], ignore_index=True)
    run.write("tokens", table.merge(labels[["rollout", "cell", "target"]], on="rollout", validate="many_to_one"))


def chosen(labels: pd.DataFrame, per_cell: int) -> pd.DataFrame:
    """The first rollouts of every cell of the test part, target requests apart, in the order of the labels."""
    return labels[labels["part"] == "test"].groupby(["cell", "target"], sort=False).head(per_cell)


def read(run: RunFolder, rollouts: list[Rollout], zeroed: Sequence[tuple[int, int]]) -> pd.DataFrame:
    """Every token's score by every layer's probe, and the refusal log-odds where they are cheap."""
    model = run.model()
    write = compile_edits(model, [HeadEdit(tuple(zeroed))]) if zeroed else {}
    readouts: list[Readout] = [readout_from_dict(data) for data in run.read_json("layer_probes")["readouts"]]
    log_odds = run.decision()
    vocab = cast(torch.Tensor, model.hf.get_input_embeddings().weight).shape[0]
    log_odds = replace(log_odds, positions=log_odds_positions(log_odds, rollouts, vocab))
    plan = BatchPlan.make([len(r) for r in rollouts], run.study.batch_tokens)
    scores = forward(model, rollouts, score=[*readouts, log_odds], write=write, plan=plan).scores
    return token_table(scores, rollouts, model.tokenizer, units={log_odds.name: "nats"})


def log_odds_positions(readout: LogOddsReadout, rollouts: Sequence[Rollout], vocab: int) -> str:
    """Where the log-odds are read: everywhere if the logits fit, at the answer alone if labels take further passes."""
    if any(len(string) > 1 for string in readout.strings):
        return "before_answer"
    return "all" if sum(map(len, rollouts)) * vocab <= MOST_LOGITS else FEW


def normalised(run: RunFolder, table: pd.DataFrame) -> pd.DataFrame:
    """The chosen probe's normalised scores at the same tokens, as a readout of their own."""
    trace = run.table("trace", edited=True)
    normaliser = run.normaliser()
    asked = table[["variant", "rollout"]].drop_duplicates()
    mine = trace.merge(asked, on=["variant", "rollout"])
    scored = pd.concat([normaliser.score(rows) for _, rows in mine.groupby("variant", sort=False)])
    scored = scored[["variant", "rollout", "pos", "layer", "normalised"]].rename(columns={"normalised": "score"})
    texts = table.drop_duplicates(["variant", "rollout", "pos"]).drop(columns=["readout", "layer", "unit", "score"])
    both = texts.merge(scored[scored["score"].notna()], on=["variant", "rollout", "pos"], validate="one_to_one")
    return both.assign(readout="normalised", unit="normalised")
