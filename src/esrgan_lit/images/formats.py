"""Name the formats that images are written in. Nothing is imported, so that a command reads its options at once."""

FORMATS = ("png", "jpg", "webp", "tif", "bmp", "avif", "npy")
SUFFIXES_WRITTEN = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".avif", ".npy")
SUFFIXES_WITH_ALPHA = (".png", ".tif", ".tiff", ".webp", ".avif", ".npy")
SUFFIXES_WITH_BANDS = (".tif", ".tiff", ".npy")
DEFAULT_QUALITY = 95
