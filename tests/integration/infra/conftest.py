"""What of the stack's tests can run on this machine."""

from infra.image.build import missing_tools

# The image takes tools of its own, which `make image` installs. A run without them says so (tests/conftest.py).
collect_ignore = ["test_image.py"] if missing_tools() else []
