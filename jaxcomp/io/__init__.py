"""Readers and writers of signal files."""

from .photo import Photo as Photo
from .photo import image_bytes as image_bytes
from .photo import read_photo as read_photo
