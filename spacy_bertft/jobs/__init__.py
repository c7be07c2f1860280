"""The jobs that a user starts; the command line only parses options and shows results."""
