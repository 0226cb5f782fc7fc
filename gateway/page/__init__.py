"""The web page: its files and the routes that serve them. Imported by `gateway.app` and the statistics routes."""
