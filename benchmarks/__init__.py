"""What the figures in README and docs were measured with, a module for each. Nobody imports it."""
