"""A run's model in other programs' formats."""
