"""The room ``figures``: a tidy table becomes one figure."""

if __name__ != "verdictscope.figures":
    raise ImportError("import this room as verdictscope.figures: the bare folder name is not a package")
