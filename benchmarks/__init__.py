"""Speed, measured: every ``bench_*`` module prints a table and leaves it in ``results/``."""
