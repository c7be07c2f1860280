"""The report on a pipeline: its statistics, its charts and its page."""
