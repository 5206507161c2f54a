"""What a report tells, gathered for :mod:`gbr.report` to draw."""
