"""The room ``rollouts``: prompts become what the model was shown and wrote, as token ids with segments."""

if __name__ != "verdictscope.rollouts":
    raise ImportError("import this room as verdictscope.rollouts: the bare folder name is not a package")
