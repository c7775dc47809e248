"""Tracking: MLflow, system metrics, the environment."""
