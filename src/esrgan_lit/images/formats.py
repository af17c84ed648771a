"""Name the formats that images are written in. Nothing is imported, so that a command reads its options at once."""

FORMATS = ("png", "jpg", "webp", "tif", "bmp", "avif")
SUFFIXES_WRITTEN = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".avif")
SUFFIXES_WITH_ALPHA = (".png", ".tif", ".tiff", ".webp", ".avif")
DEFAULT_QUALITY = 95
