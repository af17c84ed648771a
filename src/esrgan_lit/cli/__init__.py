"""The commands. They print names that are not UTF-8 as the bytes that they are."""

import sys

if hasattr(sys.stdout, "reconfigure"):
    sys.stdout.reconfigure(errors="surrogateescape")
