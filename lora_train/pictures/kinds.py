"""Kinds of picture files: by the endings of their names, and by the beginning of their content."""

from __future__ import annotations

EXTENSIONS = {
    *(".png", ".apng", ".jpg", ".jpeg", ".jfif", ".jpe", ".mpo", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".avif", ".avifs", ".heic", ".heif", ".hif", ".jxl"),
}
"""Endings of pictures' names, in lower case. Files of other names are pictures where their content says so."""
OTHER_PICTURES = {
    *(".psd", ".psb", ".xcf", ".kra", ".clip", ".svg", ".ico", ".icns", ".tga", ".dds", ".exr"),
    *(".hdr", ".jp2", ".j2k", ".jpx", ".pcx", ".ppm", ".pgm", ".pbm", ".pnm", ".qoi", ".jxr", ".wdp", ".fits"),
    *(".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".dng", ".orf", ".raf", ".rw2", ".pef", ".srw", ".raw", ".x3f"),
}
"""Pictures that are not read: layers, drawings, camera raw (which begins like a TIFF)."""
VIDEOS = {".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".wmv", ".flv", ".mpg", ".mpeg", ".3gp"}
ARCHIVES = {".zip", ".rar", ".7z", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".cbz", ".cbr"}
UNFINISHED = {".crdownload", ".part", ".partial", ".download", ".opdownload", ".filepart", ".tmp", ".temp", ".!qb"}
BACKUPS = {".bak", ".old", ".orig", ".swp"}
NO_PICTURES = {
    *(".txt", ".caption", ".json", ".jsonl", ".csv", ".tags", ".cap", ".md", ".yaml", ".yml", ".toml", ".xml", ".html"),
    *(".npz", ".npy", ".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".parquet", ".db", ".ini", ".py", ".log"),
}
"""Endings of files that hold other things; one that begins as a picture is left out and reported."""
START = 64
"""How many bytes show the kind."""
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}


def kind_of(start: bytes) -> str:
    """The kind of picture whose content begins like this ("JPEG", "HEIC", ...); "" for anything unknown."""
    for magic, kind in (
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"\xff\xd8\xff", "JPEG"),
        (b"GIF8", "GIF"),
        (b"II*\0", "TIFF"),
        (b"MM\0*", "TIFF"),
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    ):
        if start.startswith(magic):
            return kind
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WebP"
    if start[:2] == b"BM" and start[6:10] == bytes(4):
        return "BMP"
    if start[4:8] == b"ftyp":
        brands = {start[8:12], *(start[at : at + 4] for at in range(16, min(len(start), start[3]), 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        return "HEIC" if brands & _HEIC else ""
    return ""
