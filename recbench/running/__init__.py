"""Running: plans, runs, suites, studies and their records."""
