"""The room ``probes``: hidden states and labels become directions, directions become one score per token."""

if __name__ != "verdictscope.probes":
    raise ImportError("import this room as verdictscope.probes: the bare folder name is not a package")
