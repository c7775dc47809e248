"""Debiased rating models."""
