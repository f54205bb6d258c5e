"""The room ``interventions``: edits of heads, MLPs and directions become effects, each with its null."""

if __name__ != "verdictscope.interventions":
    raise ImportError("import this room as verdictscope.interventions: the bare folder name is not a package")
