"""The room ``activations``: a model and its rollouts become hidden states, on disk or scored on the fly."""

if __name__ != "verdictscope.activations":
    raise ImportError("import this room as verdictscope.activations: the bare folder name is not a package")
