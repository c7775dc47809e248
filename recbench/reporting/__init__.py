"""Reporting: comparisons, leaderboards, pages."""
