"""What a person starts; the command line only parses and shows."""
