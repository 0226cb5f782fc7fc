"""Processes that fault tests start in order to kill, freeze or outdate them."""
