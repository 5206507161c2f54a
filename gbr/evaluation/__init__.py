"""Metrics, baselines and the official protocols."""
