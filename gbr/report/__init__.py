"""HTML reports of runs, predictions and explanations: summarise, then :func:`gbr.report.report.write_report`."""
