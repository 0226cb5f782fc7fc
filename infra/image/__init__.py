"""The container image: the steps of the Dockerfile, a build without an engine, and a check of the built image.

Only the Dockerfile, the Makefile and tests use it.
"""
