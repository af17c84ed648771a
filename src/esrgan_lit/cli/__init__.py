"""The commands. They print names that are not UTF-8 as the bytes that they are."""

import io
import sys

if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors="surrogateescape")
