"""The programs that measured the figures in README and docs, a module for each. Nothing imports them."""
