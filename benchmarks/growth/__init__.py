"""What each role costs as the number of tasks ever run grows: `python -m benchmarks.growth --tasks 1000000`."""
