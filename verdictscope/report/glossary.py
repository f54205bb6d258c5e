"""The terms a report uses, defined on the page; ``docs/glossary.md`` defines all of the package's."""

TERMS = (
    ("Variant", "The model under study, its reference model, or the model under study with an edit."),
    ("Reference model", "A related model without the mechanism, run on the same prompts as a control."),
    ("Test split", "Prompt groups used neither to fit nor to select; every reported number comes from them."),
    ("Score", "The logit of a probe at one token; positive where the state is as before a refusal."),
    (
        "Normalised score",
        "(s − c) / (r − c), where c and r are the mean scores, at the same aligned position, of complied and of "
        "refused training rollouts: 0 as in complied, 1 as in refused rollouts.",
    ),
    (
        "Normalised drop",
        "The mean normalised score over the end of thinking minus that at the last token before the answer.",
    ),
    ("Log-odds", "The logarithm of the odds of one outcome against the other, in nats: +1 multiplies the odds by 2.7."),
    (
        "Contrast",
        "A weighted sum of log-odds over the rollouts of an item. Content: towards the better answer; position: "
        "towards the answer shown first; a cue: towards the side it names, minus the same with the control sentence.",
    ),
    ("Selected heads", "The heads with the largest effects on one half of the data; the other half confirms them."),
    ("Ablated", "The head's output is replaced by zeros at every position, unless another replacement is named."),
    ("Random sets", "As many heads of the same layers, drawn from those that are not selected."),
    ("Direct logit attribution", "The exact part of a logit that a head writes to the residual stream itself."),
    ("Refit with permuted labels", "The whole fit, selection included, repeated with labels exchanged between groups."),
    ("Interval", "95 %, by bootstrap over prompt or item groups; Wilson's where all units agree."),
)
