"""What a report tells, gathered for :mod:`gbr.report.render` to draw."""
