"""The room ``judgments``: answers become verdicts, label strings become readouts."""

if __name__ != "verdictscope.judgments":
    raise ImportError("import this room as verdictscope.judgments: the bare folder name is not a package")
