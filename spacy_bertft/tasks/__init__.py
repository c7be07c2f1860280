"""The tasks: one file each, with the Task, its factory and its default config."""
