"""Searching for better settings: trial trainings, suggested by Optuna from what the earlier ones scored."""
