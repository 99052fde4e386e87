"""Formats of encoded images: which are read, under which extensions they lie, and which are packed."""

# Pillow's names, with the extensions of each, the usual one first. Pillow opens PostScript and other programs' formats
# too; photos need none of them. PPM is read only where a field names its extension, and never packed.
READ: dict[str, tuple[str, ...]] = {
    "JPEG": ("jpg", "jpeg"),
    "PNG": ("png",),
    "WEBP": ("webp",),
    "BMP": ("bmp",),
    "GIF": ("gif",),
    "TIFF": ("tif", "tiff"),
    "PPM": (),
}
EXTENSIONS = tuple(extension for extensions in READ.values() for extension in extensions)
SUFFIXES = tuple(f".{extension}" for extension in EXTENSIONS)
# MPO is how Pillow calls a JPEG that holds further images, as phones write them.
PACKED = {name: extensions[0] for name, extensions in READ.items() if extensions} | {"MPO": "jpg"}
