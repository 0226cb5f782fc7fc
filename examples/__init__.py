"""Task kinds that do real work, which ship with Headrace. Nobody imports it: it is loaded as users' kinds are."""
