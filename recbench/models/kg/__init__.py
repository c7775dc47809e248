"""Knowledge-graph recommenders."""
