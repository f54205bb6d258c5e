"""One study in one run folder: schema, stages, tasks."""
